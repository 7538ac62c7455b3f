use std::collections::BTreeMap;

use rbuild_digest::Digest;
use rbuild_oci::Descriptor;
use serde::{Deserialize, Serialize};

use crate::db::Table;
use crate::error::Result;
use crate::rows::{blob_need, from_json, now_ms, release_blobs, to_json};
use crate::store::{Garbage, Store, blocking};

/// A named image of the daemon's own store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Canonical reference.
    #[serde(skip)]
    pub name: String,
    /// The manifest or index.
    pub target: Descriptor,
    /// Everything the image consists of (manifests, configs, layers), kept as long as the image is.
    pub blobs: Vec<Digest>,
    /// When the name was given, milliseconds since 1970.
    pub created_ms: i64,
    /// Bytes of all blobs.
    pub size: u64,
    /// Free facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Owner of an image's blobs. No ref id begins like it.
fn owner(name: &str) -> Vec<u8> {
    [b"image:", name.as_bytes()].concat()
}

impl Store {
    /// Gives an image a name; what had it loses it. `blobs` is all that the image consists of, the target included;
    /// it is kept from now on.
    pub async fn put_image(&self, name: &str, target: Descriptor, blobs: &[Descriptor]) -> Result<()> {
        let mut digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).chain([target.digest]).collect();
        digests.sort_unstable();
        digests.dedup();
        let mut sizes: BTreeMap<Digest, u64> = blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
        sizes.insert(target.digest, target.size);
        let image = Image {
            name: name.to_owned(),
            target,
            blobs: digests,
            created_ms: now_ms(),
            size: sizes.values().sum(),
            labels: BTreeMap::new(),
        };
        let store = self.clone();
        blocking(move || {
            let owner = owner(&image.name);
            let free = store.inner.db.update(|tx| {
                let old = match tx.get(Table::Images, image.name.as_bytes())? {
                    Some(bytes) => from_json::<Image>(Table::Images, &bytes)?.blobs,
                    None => Vec::new(),
                };
                for digest in &image.blobs {
                    tx.put(Table::Blobs, &blob_need(digest, &owner), b"")?;
                }
                tx.put(Table::Images, image.name.as_bytes(), &to_json(&image))?;
                release_blobs(tx, old.into_iter().filter(|digest| !image.blobs.contains(digest)), &owner)
            })?;
            store.inner.janitor.remove(Garbage { blobs: free.into_iter().collect(), ..Garbage::default() });
            Ok(())
        })
        .await
    }

    /// The image called `name`.
    pub fn image(&self, name: &str) -> Result<Option<Image>> {
        let row = self.inner.db.get(Table::Images, name.as_bytes())?;
        row.map(|bytes| read(name.as_bytes(), &bytes)).transpose()
    }

    /// All images, by name.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.inner.db.scan(Table::Images, b"")?.iter().map(|(name, bytes)| read(name, bytes)).collect()
    }

    /// Takes a name away; blobs that nothing else needs go. False if there is no such image.
    pub async fn delete_image(&self, name: &str) -> Result<bool> {
        let (store, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let free = store.inner.db.update(|tx| {
                let Some(bytes) = tx.get(Table::Images, name.as_bytes())? else { return Ok(None) };
                let image = read(name.as_bytes(), &bytes)?;
                tx.delete(Table::Images, name.as_bytes())?;
                release_blobs(tx, image.blobs, &owner(&name)).map(Some)
            })?;
            let found = free.is_some();
            let blobs = free.into_iter().flatten().collect();
            store.inner.janitor.remove(Garbage { blobs, ..Garbage::default() });
            Ok(found)
        })
        .await
    }
}

fn read(name: &[u8], bytes: &[u8]) -> Result<Image> {
    let mut image: Image = from_json(Table::Images, bytes)?;
    image.name = String::from_utf8_lossy(name).into_owned();
    Ok(image)
}
