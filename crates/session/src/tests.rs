//! Both ends of a session against each other, over streams in memory.

mod calls;
mod content;
mod lifetime;
mod policy;
mod upload;

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use rbuild_api::moby::buildkit::v1::BytesMessage;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::ClientSession;
use crate::{Registration, Session, SessionManager};

/// A manager, and the clients that are connected to it.
struct World {
    manager: SessionManager,
    clients: JoinSet<crate::Result<()>>,
}

impl World {
    fn new() -> Self {
        Self { manager: SessionManager::new(), clients: JoinSet::new() }
    }

    fn connect(&mut self, client: ClientSession) {
        let manager = self.manager.clone();
        self.clients.spawn(async move {
            client
                .run_with(|outbound, map| async move {
                    let inbound =
                        ReceiverStream::new(outbound).map(|chunk: Bytes| Ok(BytesMessage { data: chunk }));
                    let answer = manager.accept(Registration::from_metadata(&map)?, inbound)?;
                    Ok(answer.map(|item| item.map(|message| message.data).map_err(std::io::Error::other)))
                })
                .await
        });
    }

    async fn session(&mut self, client: ClientSession) -> Session {
        let id = client.id().to_owned();
        self.connect(client);
        self.manager.get(&id, Some(std::time::Duration::from_secs(10))).await.unwrap()
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
