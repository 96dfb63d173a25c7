//! Records as rows: a key of their kind and id, and JSON.

use super::{StoreError, raw::MAX_VALUE};
use crate::model::{
    record::{Account, Host, Peering, Port, PortKey, Region, TokenKey, TokenUse, Vpc},
    state::{Change, Meta},
};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// The key of the record that there is one of.
pub(super) const META: &str = "meta";

/// Makes rows, and reads them.
pub(super) struct RowCodec<'a> {
    /// The store's place, for errors.
    pub(super) place: &'a Path,
}

impl RowCodec<'_> {
    pub(super) fn encode(&self, change: &Change) -> Result<(String, Option<Vec<u8>>), StoreError> {
        match change {
            Change::Region(id, value) => self.row(format!("region/{id}"), value.as_ref()),
            Change::Host(id, value) => self.row(format!("host/{id}"), value.as_ref()),
            Change::Vpc(id, value) => self.row(format!("vpc/{id}"), value.as_ref()),
            Change::Port(key, value) => self.row(format!("port/{key}"), value.as_ref()),
            Change::Peering(id, value) => self.row(format!("peering/{id}"), value.as_ref()),
            Change::Account(id, value) => self.row(format!("account/{id}"), value.as_ref()),
            Change::Token(key, value) => {
                let row = value.as_ref().map(|value| (key, value));
                self.row(format!("token/{}/{}", key.account, key.token), row.as_ref())
            }
            Change::Signature(signature, value) => {
                let row = value.map(|until_ms| (signature, until_ms));
                self.row(format!("signature/{signature}"), row.as_ref())
            }
            Change::Meta(meta) => self.row(META.to_owned(), Some(meta)),
        }
    }

    pub(super) fn row<T: Serialize>(
        &self,
        key: String,
        value: Option<&T>,
    ) -> Result<(String, Option<Vec<u8>>), StoreError> {
        let value = value.map(serde_json::to_vec).transpose();
        let path = || self.place.to_owned();
        let value = value.map_err(|source| StoreError::Record { path: path(), key: key.clone(), source })?;
        // Before anything of it is on its way.
        match value.as_ref().map(Vec::len) {
            Some(length) if length > MAX_VALUE => {
                Err(StoreError::TooLarge { path: path(), key, length, most: MAX_VALUE })
            }
            _ => Ok((key, value)),
        }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(value).map_err(|source| StoreError::Record {
            path: self.place.to_owned(),
            key: key.to_owned(),
            source,
        })
    }

    fn unknown(&self, key: &str) -> StoreError {
        StoreError::UnknownRecord { path: self.place.to_owned(), key: key.to_owned() }
    }

    /// What a row says; without a value, that there is no such record any more.
    pub(super) fn change(&self, key: &str, value: Option<&[u8]>) -> Result<Change, StoreError> {
        let Some(value) = value else { return removal(key).ok_or_else(|| self.unknown(key)) };
        let kind = key.split('/').next().unwrap_or_default();
        Ok(match kind {
            "region" => self.parse::<Region>(key, value).map(|it| Change::Region(it.id.clone(), Some(it)))?,
            "host" => self.parse::<Host>(key, value).map(|it| Change::Host(it.id.clone(), Some(it)))?,
            "vpc" => self.parse::<Vpc>(key, value).map(|it| Change::Vpc(it.id.clone(), Some(it)))?,
            "port" => self.parse::<Port>(key, value).map(|it| Change::Port(it.key.clone(), Some(it)))?,
            "peering" => self.parse::<Peering>(key, value).map(|it| Change::Peering(it.id.clone(), Some(it)))?,
            "account" => self.parse::<Account>(key, value).map(|it| Change::Account(it.id.clone(), Some(it)))?,
            "token" => self.parse::<(TokenKey, TokenUse)>(key, value).map(|(key, it)| Change::Token(key, Some(it)))?,
            "signature" => {
                self.parse::<(String, u64)>(key, value).map(|(it, until_ms)| Change::Signature(it, Some(until_ms)))?
            }
            META => Change::Meta(self.parse(key, value)?),
            _ => return Err(self.unknown(key)),
        })
    }
}

/// That a record is gone; none where the key names no record.
fn removal(key: &str) -> Option<Change> {
    if key == META {
        return Some(Change::Meta(Meta::default()));
    }
    let (kind, id) = key.split_once('/')?;
    Some(match kind {
        "region" => Change::Region(id.parse().ok()?, None),
        "host" => Change::Host(id.parse().ok()?, None),
        "vpc" => Change::Vpc(id.parse().ok()?, None),
        "port" => {
            let (host, interface) = id.split_once('/')?;
            Change::Port(PortKey { host: host.parse().ok()?, interface: interface.parse().ok()? }, None)
        }
        "peering" => Change::Peering(id.parse().ok()?, None),
        "account" => Change::Account(id.parse().ok()?, None),
        "token" => {
            let (account, token) = id.split_once('/')?;
            Change::Token(TokenKey { account: account.parse().ok()?, token: token.to_owned() }, None)
        }
        "signature" => Change::Signature(id.to_owned(), None),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_told_by_its_key_alone() {
        let rows = RowCodec { place: Path::new("test") };
        let changes = [
            Change::Region("north".parse().unwrap(), None),
            Change::Host("h1".parse().unwrap(), None),
            Change::Vpc("vpc-a".parse().unwrap(), None),
            Change::Port(PortKey { host: "h1".parse().unwrap(), interface: "eth1.7".parse().unwrap() }, None),
            Change::Peering("vpcpr-1".parse().unwrap(), None),
            Change::Account("account-1".parse().unwrap(), None),
            Change::Token(TokenKey { account: "account-1".parse().unwrap(), token: "a/b c".to_owned() }, None),
            Change::Signature("0a/b".to_owned(), None),
        ];
        for change in changes {
            let (key, value) = rows.encode(&change).unwrap();
            assert_eq!(value, None);
            assert_eq!(rows.change(&key, None).unwrap(), change);
        }
        assert_eq!(rows.change(META, None).unwrap(), Change::Meta(Meta::default()));
        assert!(rows.change("host/", None).is_err() && rows.change("planet/x", None).is_err());
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::{audit::Entry, fuzz::fuzz, model::state::State};

    #[test]
    fn record() {
        let codec = RowCodec { place: Path::new("test") };
        fuzz("record", |input| {
            let text = String::from_utf8_lossy(input);
            let (key, value) = text.split_once('\n').unwrap_or((&text, ""));
            let _ = codec.change(key, None);
            let _ = serde_json::from_str::<Entry>(value);
            if let Ok(change) = codec.change(key, Some(value.as_bytes())) {
                let (key, value) = codec.encode(&change).unwrap();
                assert_eq!(codec.change(&key, value.as_deref()).unwrap(), change);
                State::default().apply(change);
            }
        });
    }
}
