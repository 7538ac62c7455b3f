use std::io::{self, Read};

use super::*;
use crate::client::Uploads;

async fn all(session: &Session, path: &str) -> crate::Result<Vec<u8>> {
    let mut upload = session.upload(path).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = upload.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Fails after its first bytes.
struct Broken(bool);

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match std::mem::replace(&mut self.0, true) {
            false => {
                buf[0] = 1;
                Ok(1)
            }
            true => Err(io::Error::other("unplugged")),
        }
    }
}

#[tokio::test]
async fn an_upload_is_given_once_and_whole() {
    let uploads = Uploads::new();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    let url = uploads.add(io::Cursor::new(sent.clone()));
    let broken = uploads.add(Broken(false));
    let path = |url: &str| url.strip_prefix("http://buildkit-session").unwrap().to_owned();
    let mut world = World::new();
    let session = world.session(ClientSession::builder().uploads(uploads).build()).await;
    assert!(
        all(&session, "/unknown").await.unwrap_err().to_string().contains("nothing is uploaded as /unknown")
    );
    assert!(all(&session, &path(&url)).await.unwrap() == sent);
    let again = all(&session, &path(&url)).await.unwrap_err().to_string();
    assert!(again.contains("taken already"), "{again}");
    let cut = all(&session, &path(&broken)).await.unwrap_err().to_string();
    assert!(cut.contains("unplugged"), "{cut}");
}

#[tokio::test]
async fn clients_that_upload_nothing_are_not_called() {
    let mut world = World::new();
    let session = world.session(ClientSession::builder().build()).await;
    assert!(session.upload("/x").await.unwrap_err().is_unsupported());
}
