//! The content store as a source of blobs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rbuild_oci::{ByteStream, Descriptor, Provider};
use tokio::task::spawn_blocking;

use crate::ContentStore;

/// Bytes per chunk: one disk read and one hop between threads each.
const CHUNK: usize = 256 * 1024;

#[async_trait]
impl Provider for ContentStore {
    async fn open(&self, desc: &Descriptor, offset: u64) -> io::Result<ByteStream> {
        let (store, digest) = (self.clone(), desc.digest);
        let file = spawn_blocking(move || {
            let mut file = store.open_blob(&digest).map_err(io::Error::from)?;
            let size = file.metadata()?.len();
            if offset > size {
                let text = format!("offset {offset} is beyond the {size} bytes of {digest}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        });
        let file = file.await.map_err(io::Error::other)??;
        Ok(futures::stream::try_unfold(file, next_chunk).boxed())
    }
}

async fn next_chunk(file: File) -> io::Result<Option<(Bytes, File)>> {
    spawn_blocking(move || {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&file).take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(None);
        }
        Ok(Some((Bytes::from(chunk), file)))
    })
    .await
    .map_err(io::Error::other)?
}
