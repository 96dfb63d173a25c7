//! Commits that are too large for one transaction. Their parts are staged first, where no reader looks; one fenced transaction
//! makes them valid together with the commit's number; then they are brought into place. From the second step on the commit
//! is effective, whichever leader does the third.

use super::{Etcd, MAX_BYTES, Operation, PAGE_WITHIN, Range, Writer};
use crate::store::StoreError;
use cps_peering_config::format;
use serde::{Deserialize, Serialize};
use std::sync::PoisonError;

/// The content of the key `pending`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    /// The number of parts.
    parts: usize,
}

/// Encodes operations in sequence: the key's length and the key, then 0, or 1 with the value's length and the value.
fn encode(operations: &[Operation]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |part: &[u8]| {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(part);
    };
    for operation in operations {
        match operation {
            Operation::Put(key, value) => {
                add(&[&[1], key.as_bytes()].concat());
                add(value);
            }
            Operation::Delete(key) => add(&[&[0], key.as_bytes()].concat()),
            Operation::DeleteAll(prefix) => add(&[&[2], prefix.as_bytes()].concat()),
        }
    }
    bytes
}

/// None if the bytes are not the output of [`encode`].
fn decode(mut bytes: &[u8]) -> Option<Vec<Operation>> {
    fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
        *bytes = rest;
        Some(part)
    }
    let mut operations = Vec::new();
    while !bytes.is_empty() {
        let (kind, key) = take(&mut bytes)?.split_first()?;
        let key = String::from_utf8(key.to_vec()).ok()?;
        operations.push(match kind {
            0 => Operation::Delete(key),
            1 => Operation::Put(key, take(&mut bytes)?.to_vec()),
            2 => Operation::DeleteAll(key),
            _ => return None,
        });
    }
    Some(operations)
}

impl Etcd {
    pub(super) fn commit_staged(&self, writer: &mut Writer, operations: &[Operation]) -> Result<(), StoreError> {
        let pending = self.stage(writer, operations)?;
        // From here on readers wait until all of it is in place.
        let _whole = self.whole.write().unwrap_or_else(PoisonError::into_inner);
        self.make_valid(writer, operations, &pending)?;
        self.bring_into_place(writer, operations)
    }

    pub(super) fn stage(&self, writer: &mut Writer, operations: &[Operation]) -> Result<Pending, StoreError> {
        let mut parts = 0;
        for part in super::parts(operations, usize::MAX) {
            self.write(writer, "stage a large commit", &[self.put(&format!("staged/{parts:08}"), encode(part))])?;
            parts += 1;
        }
        tracing::debug!(parts, operations = operations.len(), "a large commit is staged");
        Ok(Pending { parts })
    }

    pub(super) fn make_valid(
        &self,
        writer: &mut Writer,
        operations: &[Operation],
        pending: &Pending,
    ) -> Result<(), StoreError> {
        let number = self.cluster.key("records/meta");
        let number = operations.iter().filter(|it| matches!(it, Operation::Put(key, _) if *key == number));
        let mut valid: Vec<Operation> = number.cloned().collect();
        valid.push(self.put("pending", serde_json::to_vec(pending).unwrap_or_default()));
        self.write(writer, "make a large commit valid", &valid)
    }

    /// Completes what a previous leader has made valid.
    pub(super) fn roll_forward(&self, writer: &mut Writer, pending: &[u8]) -> Result<(), StoreError> {
        let operations = self.staged(pending, 0)?;
        tracing::info!(operations = operations.len(), "a large commit of the leader before is brought into place");
        self.bring_into_place(writer, &operations)?;
        let newest = operations.iter().filter_map(|it| match it {
            Operation::Put(key, _) if key.starts_with(&self.cluster.key("audit/")) => self.tail_number(key).ok(),
            _ => None,
        });
        writer.entry = newest.fold(writer.entry, u64::max);
        Ok(())
    }

    fn bring_into_place(&self, writer: &mut Writer, operations: &[Operation]) -> Result<(), StoreError> {
        self.write_in_parts(writer, "bring a large commit into place", operations)?;
        self.write(writer, "finish a large commit", &[self.delete("pending"), self.delete_all("staged/")])
    }

    /// What is valid and perhaps not in place.
    pub(super) fn staged(&self, pending: &[u8], revision: u64) -> Result<Vec<Operation>, StoreError> {
        let failed = || self.cluster.failed("read what is staged");
        let broken = || StoreError::UnknownRecord { path: self.cluster.place.clone(), key: "staged".to_owned() };
        let Pending { parts } = format::read(pending).map_err(|_| broken())?;
        let mut operations = Vec::new();
        for part in 0..parts {
            let key = self.cluster.key(&format!("staged/{part:08}"));
            let range = Range { revision, ..Range::key(&key) };
            let found = self.cluster.client.range(&range, PAGE_WITHIN).map_err(failed())?;
            let row = found.kvs.first().ok_or_else(broken)?;
            operations.extend(decode(&row.value).ok_or_else(broken)?);
        }
        Ok(operations)
    }
}

// The parts are values: they must fit into a transaction.
const _: () = assert!(MAX_BYTES <= crate::store::raw::MAX_VALUE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_and_nothing_else_does() {
        let operations = [
            Operation::Put("a".into(), vec![0, 255]),
            Operation::Delete("b/c".into()),
            Operation::Put("d".into(), Vec::new()),
            Operation::DeleteAll("e/".into()),
        ];
        let bytes = encode(&operations);
        assert_eq!(decode(&bytes).unwrap(), operations);
        for cut in 1..bytes.len() {
            assert_ne!(decode(&bytes[..cut]).as_deref(), Some(&operations[..]), "{cut}");
        }
    }
}
