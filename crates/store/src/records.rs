//! Rows about finished executions: what the local cache is made of. Binary, as there may be millions.

use rbuild_digest::Digest;

use crate::codec::{Decoder, Encoder};
use crate::db::{Table, Tx};
use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::refs::Ref;
use crate::rows::now_ms;
use crate::store::{Store, blocking};

/// First byte of a record row: the layout of the rest.
const LAYOUT: u8 = 1;

/// A finished execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    /// Its identity.
    pub id: Digest,
    /// Digest of the vertex.
    pub vertex: Digest,
    /// Digest of the op before its inputs are considered.
    pub op: Digest,
    /// Name of the vertex, for people.
    pub name: String,
    /// When it was committed, milliseconds since 1970.
    pub created_ms: i64,
    /// What it was made from.
    pub inputs: Vec<RecordInputRow>,
    /// One ref per output.
    pub outputs: Vec<RefId>,
}

/// An input of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInputRow {
    /// The record that gave it, if that one has a lasting identity.
    pub record: Option<Digest>,
    /// Which output.
    pub output: u32,
    /// The part that is used.
    pub selector: Option<Digest>,
    /// Its content digest.
    pub content: Option<Digest>,
}

impl RecordRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(vec![LAYOUT]);
        out.digest(&self.vertex).digest(&self.op).bytes(self.name.as_bytes());
        out.number(self.created_ms.unsigned_abs()).number(self.inputs.len() as u64);
        for input in &self.inputs {
            out.maybe_digest(input.record.as_ref()).number(u64::from(input.output));
            out.maybe_digest(input.selector.as_ref()).maybe_digest(input.content.as_ref());
        }
        out.number(self.outputs.len() as u64);
        for output in &self.outputs {
            out.bytes(output.as_bytes());
        }
        out.0
    }

    fn decode(id: Digest, bytes: &[u8]) -> Option<Self> {
        let mut input = Decoder(bytes);
        if input.take(1)? != [LAYOUT] {
            return None;
        }
        let mut row = Self {
            id,
            vertex: input.digest()?,
            op: input.digest()?,
            name: input.text()?,
            created_ms: i64::try_from(input.number()?).ok()?,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        for _ in 0..input.count()? {
            row.inputs.push(RecordInputRow {
                record: input.maybe_digest()?,
                output: u32::try_from(input.number()?).ok()?,
                selector: input.maybe_digest()?,
                content: input.maybe_digest()?,
            });
        }
        for _ in 0..input.count()? {
            row.outputs.push(RefId::from_bytes(input.bytes()?)?);
        }
        Some(row)
    }
}

fn decode(id: Digest, bytes: &[u8]) -> Result<RecordRow> {
    RecordRow::decode(id, bytes).ok_or_else(|| StoreError::corrupt(Table::Records.name(), id))
}

fn pair(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

impl Store {
    /// The record that a key leads to. Reads the database only: microseconds.
    pub fn record_by_key(&self, key: &Digest) -> Result<Option<RecordRow>> {
        let Some(id) = self.inner.db.get(Table::Keys, key.as_bytes())? else { return Ok(None) };
        match id.try_into() {
            Ok(id) => self.record(&Digest::from_bytes(id)),
            Err(_) => Err(StoreError::corrupt(Table::Keys.name(), key)),
        }
    }

    /// The record called `id`.
    pub fn record(&self, id: &Digest) -> Result<Option<RecordRow>> {
        let row = self.inner.db.get(Table::Records, id.as_bytes())?;
        row.map(|bytes| decode(*id, &bytes)).transpose()
    }

    /// All keys that lead to a record.
    pub fn record_keys(&self, id: &Digest) -> Result<Vec<Digest>> {
        let rows = self.inner.db.scan(Table::RecordKeys, id.as_bytes())?;
        Ok(rows.iter().filter_map(|(key, _)| second_digest(key)).collect())
    }

    /// Remembers a record under all its keys, in one transaction.
    ///
    /// Keys lose their older meaning, and a record without keys goes. If one of the keys led to a record with the
    /// same outputs, and `fixed` is not set, that record's identity is kept, so that what was built upon it is still
    /// found. Gives back the identity. `outputs` are the refs that the row names; they stay as they are from now on (a local context loses its name).
    pub async fn put_record(
        &self,
        row: RecordRow,
        outputs: &[Ref],
        keys: &[Digest],
        fixed: bool,
    ) -> Result<Digest> {
        let (store, keys, outputs) = (self.clone(), keys.to_vec(), outputs.to_vec());
        blocking(move || {
            for output in &outputs {
                store.make_permanent(&output.node)?;
            }
            store.inner.db.update(|tx| write_record(tx, row, &keys, fixed))
        })
        .await
    }

    /// Lets further keys lead to a record. A record that is gone meanwhile is no error.
    pub async fn alias_record(&self, id: &Digest, keys: &[Digest]) -> Result<()> {
        let (core, id, keys) = (self.inner.core.clone(), *id, keys.to_vec());
        blocking(move || {
            core.db.update(|tx| {
                if tx.get(Table::Records, id.as_bytes())?.is_none() {
                    return Ok(());
                }
                point_keys(tx, &id, &keys)
            })
        })
        .await
    }
}

fn write_record(tx: &mut Tx<'_>, mut row: RecordRow, keys: &[Digest], fixed: bool) -> Result<Digest> {
    if !fixed {
        for key in keys {
            let Some(old) = tx.get(Table::Keys, key.as_bytes())? else { continue };
            let Some(old) = old.try_into().ok().map(Digest::from_bytes) else { continue };
            let Some(bytes) = tx.get(Table::Records, old.as_bytes())? else { continue };
            if decode(old, &bytes)?.outputs == row.outputs {
                row.id = old;
                break;
            }
        }
    }
    if row.created_ms <= 0 {
        row.created_ms = now_ms();
    }
    for output in &row.outputs {
        if tx.get(Table::Refs, output.as_bytes())?.is_none() {
            return Err(StoreError::Missing { id: *output });
        }
        tx.put(Table::Outputs, &pair(output.as_bytes(), row.id.as_bytes()), b"")?;
    }
    tx.put(Table::Records, row.id.as_bytes(), &row.encode())?;
    point_keys(tx, &row.id, keys)?;
    Ok(row.id)
}

fn point_keys(tx: &mut Tx<'_>, id: &Digest, keys: &[Digest]) -> Result<()> {
    for key in keys {
        let old = tx.get(Table::Keys, key.as_bytes())?;
        if old.as_deref() == Some(&id.as_bytes()[..]) {
            continue;
        }
        tx.put(Table::Keys, key.as_bytes(), id.as_bytes())?;
        tx.put(Table::RecordKeys, &pair(id.as_bytes(), key.as_bytes()), b"")?;
        if let Some(old) = old {
            tx.delete(Table::RecordKeys, &pair(&old, key.as_bytes()))?;
            if tx.scan(Table::RecordKeys, &old)?.is_empty() {
                delete_record(tx, &old)?;
            }
        }
    }
    Ok(())
}

/// Removes a record and its keys.
pub(crate) fn delete_record(tx: &mut Tx<'_>, id: &[u8]) -> Result<()> {
    for (row, _) in tx.scan(Table::RecordKeys, id)? {
        if let Some(key) = second_digest(&row)
            && tx.get(Table::Keys, key.as_bytes())?.as_deref() == Some(id)
        {
            tx.delete(Table::Keys, key.as_bytes())?;
        }
        tx.delete(Table::RecordKeys, &row)?;
    }
    if let (Some(bytes), Ok(digest)) = (tx.get(Table::Records, id)?, id.try_into()) {
        for output in decode(Digest::from_bytes(digest), &bytes)?.outputs {
            tx.delete(Table::Outputs, &pair(output.as_bytes(), id))?;
        }
    }
    tx.delete(Table::Records, id)
}

fn second_digest(row: &[u8]) -> Option<Digest> {
    row.get(32..)?.try_into().ok().map(Digest::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_row_round_trips_and_damage_never_panics(
            name in ".{0,40}", count in 0usize..4, outputs in 0usize..3, cut in 0usize..200,
        ) {
            let digest = |n: usize| Digest::of(n.to_string());
            let row = RecordRow {
                id: digest(0),
                vertex: digest(1),
                op: digest(2),
                name,
                created_ms: 17,
                inputs: (0..count)
                    .map(|n| RecordInputRow {
                        record: (n % 2 == 0).then(|| digest(n)),
                        output: n as u32,
                        selector: (n % 3 == 0).then(|| digest(n + 10)),
                        content: None,
                    })
                    .collect(),
                outputs: (0..outputs).map(|_| RefId::fresh()).collect(),
            };
            let bytes = row.encode();
            prop_assert_eq!(RecordRow::decode(row.id, &bytes), Some(row.clone()));
            let cut = cut.min(bytes.len() - 1);
            prop_assert_eq!(RecordRow::decode(row.id, &bytes[..cut]), None);
        }
    }
}
