use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rbuild_digest::Digest;
use rbuild_oci::{ByteStream, Descriptor, Provider};

use super::bucket::Bucket;
use super::options::S3Options;
use crate::backend::http::{Http, Piece, download};
use crate::backend::{Address, Documents, Place, Records, Sent};
use crate::error::Result;

/// What documents are stored as.
const DOCUMENT_TYPE: &str = "application/json";

/// A cache in a bucket.
#[derive(Debug)]
pub(crate) struct S3Place {
    shown: String,
    objects: Arc<Objects>,
}

/// Blobs and documents of a bucket.
#[derive(Debug)]
struct Objects {
    bucket: Bucket,
    options: Arc<S3Options>,
}

impl S3Place {
    pub(crate) fn new(http: Http, options: S3Options) -> Self {
        let shown = options.shown();
        let options = Arc::new(options);
        let bucket = Bucket::new(http, options.clone());
        Self { shown, objects: Arc::new(Objects { bucket, options }) }
    }
}

impl S3Place {
    fn record_key(&self, key: &Digest) -> String {
        format!("{}keys-v1/{}", self.objects.options.manifests, key.hex())
    }
}

#[async_trait]
impl Records for S3Place {
    async fn record(&self, key: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.objects.bucket.get(&self.record_key(key), limit, 1).await {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn has_record(&self, key: &Digest) -> Result<bool> {
        let (bucket, key) = (&self.objects.bucket, self.record_key(key));
        let Some(age) = bucket.head(&key).await? else { return Ok(false) };
        if age.is_some_and(|age| age >= self.objects.options.touch_refresh) {
            bucket.touch(&key, 0).await?;
        }
        Ok(true)
    }

    async fn put_record(&self, key: &Digest, record: &Bytes, _blobs: &[Descriptor]) -> Result<()> {
        Ok(self.objects.bucket.put(&self.record_key(key), record, DOCUMENT_TYPE).await?)
    }
}

impl Objects {
    fn blob(&self, desc: &Descriptor) -> String {
        format!("{}{}", self.options.blobs, desc.digest)
    }

    fn document(&self, name: &str) -> String {
        format!("{}{name}", self.options.manifests)
    }
}

#[async_trait]
impl Place for S3Place {
    fn name(&self) -> &str {
        &self.shown
    }

    fn address(&self) -> Address<'_> {
        Address::Documents(self)
    }

    async fn has(&self, desc: &Descriptor) -> Result<bool> {
        Ok(self.objects.bucket.head(&self.objects.blob(desc)).await?.is_some())
    }

    fn provider(&self) -> Arc<dyn Provider> {
        self.objects.clone()
    }

    async fn put(&self, desc: &Descriptor, bytes: &dyn Provider, sent: Option<Sent>) -> Result<()> {
        let (bucket, key) = (&self.objects.bucket, self.objects.blob(desc));
        match bucket.head(&key).await {
            Ok(Some(age)) => {
                if age.is_some_and(|age| age >= self.objects.options.touch_refresh) {
                    bucket.touch(&key, desc.size).await?;
                }
                return Ok(());
            }
            Ok(None) => {}
            // Who may write but not list is not told what is missing.
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(bucket.put_blob(&key, Piece { desc, bytes, offset: 0, size: desc.size, sent }).await?)
    }
}

#[async_trait]
impl Documents for S3Place {
    async fn read(&self, limit: u64) -> Result<Vec<Vec<u8>>> {
        let mut documents = Vec::new();
        for name in &self.objects.options.names {
            // Asked once: a cache that is not there at once is not worth waiting for.
            match self.objects.bucket.get(&self.objects.document(name), limit, 1).await {
                Ok(document) => documents.push(document),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(documents)
    }

    async fn write(&self, document: Bytes) -> Result<()> {
        for name in &self.objects.options.names {
            self.objects.bucket.put(&self.objects.document(name), &document, DOCUMENT_TYPE).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Provider for Objects {
    async fn open(&self, desc: &Descriptor, offset: u64) -> std::io::Result<ByteStream> {
        Ok(download(self.bucket.object(self.blob(desc)), offset, desc.size).await?)
    }
}
