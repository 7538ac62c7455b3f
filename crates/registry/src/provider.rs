use std::io;

use async_trait::async_trait;
use rbuild_oci::{ByteStream, Descriptor, Provider};

use crate::Repository;

/// The blobs of a repository, fetched when they are needed.
#[derive(Debug, Clone)]
pub struct RegistryProvider {
    repository: Repository,
}

impl RegistryProvider {
    /// Fetches from `repository`, with the credentials it was opened with.
    pub fn new(repository: Repository) -> Self {
        Self { repository }
    }

    /// Where it fetches from.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}

#[async_trait]
impl Provider for RegistryProvider {
    async fn open(&self, desc: &Descriptor, offset: u64) -> io::Result<ByteStream> {
        Ok(self.repository.blob(desc, offset).await?)
    }
}
