//! Records as rows: the key is their kind and id, the value JSON.

use super::{StoreError, raw::MAX_VALUE, retained::Retained};
use crate::model::{
    record::{Account, Host, Peering, Port, PortKey, Region, TokenKey, TokenUse, Vpc, Webhook},
    record::{Hourly, HourlyKey},
    state::{Change, Meta},
};
use cps_peering_config::format::{self, FormatError};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// The key of the record that exists once.
pub(super) const META: &str = "meta";
/// The kinds of records.
const KINDS: [&str; 11] =
    ["region", "host", "vpc", "port", "peering", "account", "token", "signature", "webhook", "hourly", META];

/// A record that a release which does not know a format must not read.
#[derive(Serialize)]
struct Marked<'a, T> {
    format: u32,
    #[serde(flatten)]
    record: &'a T,
}

/// Encodes and decodes rows.
#[derive(Clone, Copy)]
pub(super) struct RowCodec<'a> {
    /// The store's place, for errors.
    pub(super) place: &'a Path,
    /// Unknown fields of records, written by a newer release.
    pub(super) retained: &'a Retained,
}

impl RowCodec<'_> {
    pub(super) fn encode(&self, change: &Change) -> Result<(String, Option<Vec<u8>>), StoreError> {
        match change {
            Change::Region(id, value) => self.row(format!("region/{id}"), value.as_ref()),
            Change::Host(id, value) => self.row(format!("host/{id}"), value.as_ref()),
            Change::Vpc(id, value) => self.row(format!("vpc/{id}"), value.as_ref()),
            Change::Port(key, value) => self.row(format!("port/{key}"), value.as_ref()),
            // A release without prefix lists would connect all of both VPCs; for an ended peering it does not matter.
            Change::Peering(id, Some(peering)) if peering.is_scoped() && peering.is_live() => {
                self.row(format!("peering/{id}"), Some(&Marked { format: format::SCOPED_PEERINGS, record: peering }))
            }
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
            Change::Webhook(id, value) => self.row(format!("webhook/{id}"), value.as_ref()),
            Change::Hourly(key, value) => {
                let receiver = key.receiver.iter().map(|receiver| format!("/{receiver}"));
                let id: String = std::iter::once(key.account.to_string()).chain(receiver).collect();
                let row = value.as_ref().map(|value| (key, value));
                self.row(format!("hourly/{id}"), row.as_ref())
            }
            Change::Meta(meta) => self.row(META.to_owned(), Some(meta)),
        }
    }

    pub(super) fn row<T: Serialize>(
        &self,
        key: String,
        value: Option<&T>,
    ) -> Result<(String, Option<Vec<u8>>), StoreError> {
        if value.is_none() {
            self.retained.remove(&key);
        }
        let value = value.map(|value| self.retained.put_back(&key, value));
        let path = || self.place.to_owned();
        let value = value.transpose().map_err(|error| self.unreadable(&key, error.into()))?;
        // Before anything of it is sent.
        match value.as_ref().map(Vec::len) {
            Some(length) if length > MAX_VALUE => {
                Err(StoreError::TooLarge { path: path(), key, length, most: MAX_VALUE })
            }
            _ => Ok((key, value)),
        }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T, StoreError> {
        format::read(value).map_err(|source| self.unreadable(key, source))
    }

    /// The same for a record, which may be written again: its unknown fields are retained.
    fn record<T: DeserializeOwned + Serialize>(&self, key: &str, value: &[u8]) -> Result<T, StoreError> {
        let decoded = format::decode::<T>(value).map_err(|source| self.unreadable(key, source))?;
        if decoded.unknown.is_some() {
            let kept = self.retained.keep(key, value, &decoded.value);
            kept.map_err(|error| self.unreadable(key, error.into()))?;
        } else {
            self.retained.nothing_of(key);
        }
        Ok(decoded.value)
    }

    /// The record that exists once.
    pub(super) fn meta(&self, value: &[u8]) -> Result<Meta, StoreError> {
        self.record(META, value)
    }

    fn unreadable(&self, key: &str, source: FormatError) -> StoreError {
        StoreError::Record { path: self.place.to_owned(), key: key.to_owned(), source }
    }

    fn unknown(&self, key: &str) -> StoreError {
        StoreError::UnknownRecord { path: self.place.to_owned(), key: key.to_owned() }
    }

    /// The change that a row makes; without a value, a removal. None for a kind that this release does not
    /// know: a newer one wrote it, and it stays as it is.
    pub(super) fn change(&self, key: &str, value: Option<&[u8]>) -> Result<Option<Change>, StoreError> {
        let kind = key.split('/').next().unwrap_or_default();
        if !KINDS.contains(&kind) {
            return Ok(None);
        }
        let Some(value) = value else {
            self.retained.nothing_of(key);
            return removal(key).ok_or_else(|| self.unknown(key)).map(Some);
        };
        Ok(Some(match kind {
            "region" => self.record::<Region>(key, value).map(|it| Change::Region(it.id.clone(), Some(it)))?,
            "host" => self.record::<Host>(key, value).map(|it| Change::Host(it.id.clone(), Some(it)))?,
            "vpc" => self.record::<Vpc>(key, value).map(|it| Change::Vpc(it.id.clone(), Some(it)))?,
            "port" => self.record::<Port>(key, value).map(|it| Change::Port(it.key.clone(), Some(it)))?,
            "peering" => self.record::<Peering>(key, value).map(|it| Change::Peering(it.id.clone(), Some(it)))?,
            "account" => self.record::<Account>(key, value).map(|it| Change::Account(it.id.clone(), Some(it)))?,
            "token" => self.record::<(TokenKey, TokenUse)>(key, value).map(|(key, it)| Change::Token(key, Some(it)))?,
            "signature" => {
                self.record::<(String, u64)>(key, value).map(|(it, until_ms)| Change::Signature(it, Some(until_ms)))?
            }
            "webhook" => self.record::<Webhook>(key, value).map(|it| Change::Webhook(it.id.clone(), Some(it)))?,
            "hourly" => {
                self.record::<(HourlyKey, Hourly)>(key, value).map(|(key, it)| Change::Hourly(key, Some(it)))?
            }
            META => Change::Meta(self.meta(value)?),
            _ => return Err(self.unknown(key)),
        }))
    }
}

/// The removal of a record; none if the key is not that of a record.
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
        "webhook" => Change::Webhook(id.to_owned(), None),
        "hourly" => {
            let (account, receiver) = id.split_once('/').map_or((id, None), |(account, to)| (account, Some(to)));
            let receiver = receiver.map(str::parse).transpose().ok()?;
            Change::Hourly(HourlyKey { account: account.parse().ok()?, receiver }, None)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_decoded_from_its_key_alone() {
        let retained = Retained::default();
        let rows = RowCodec { place: Path::new("test"), retained: &retained };
        let changes = [
            Change::Region("north".parse().unwrap(), None),
            Change::Host("h1".parse().unwrap(), None),
            Change::Vpc("vpc-a".parse().unwrap(), None),
            Change::Port(PortKey { host: "h1".parse().unwrap(), interface: "eth1.7".parse().unwrap() }, None),
            Change::Peering("vpcpr-1".parse().unwrap(), None),
            Change::Account("account-1".parse().unwrap(), None),
            Change::Token(TokenKey { account: "account-1".parse().unwrap(), token: "a/b c".to_owned() }, None),
            Change::Signature("0a/b".to_owned(), None),
            Change::Webhook("wh-1".to_owned(), None),
            Change::Hourly(HourlyKey { account: "one".parse().unwrap(), receiver: None }, None),
            Change::Hourly(HourlyKey { account: "one".parse().unwrap(), receiver: "two".parse().ok() }, None),
        ];
        for change in changes {
            let (key, value) = rows.encode(&change).unwrap();
            assert_eq!(value, None);
            assert_eq!(rows.change(&key, None).unwrap(), Some(change));
        }
        assert_eq!(rows.change(META, None).unwrap(), Some(Change::Meta(Meta::default())));
        assert!(rows.change("host/", None).is_err() && rows.change("host/x", Some(b"7")).is_err());
        // A kind of a newer release.
        assert_eq!(rows.change("planet/x", None).unwrap(), None);
        assert_eq!(rows.change("planet/x", Some(b"{}")).unwrap(), None);
    }

    /// Release 0.2.0 skips unknown kinds of records, but not unknown quotas.
    #[test]
    fn what_is_counted_by_the_hour_is_read_again_and_holds_no_earlier_release_up() {
        let retained = Retained::default();
        let rows = RowCodec { place: Path::new("test"), retained: &retained };
        for (key, row) in [
            ("hourly/one", r#"[{"account":"one"},{"minutes":{"29400000":7,"29400001":2}}]"#),
            ("hourly/one/two", r#"[{"account":"one","receiver":"two"},{"minutes":{"29400000":1}}]"#),
        ] {
            let change = rows.change(key, Some(row.as_bytes())).unwrap().unwrap();
            assert_eq!(rows.encode(&change).unwrap(), (key.to_owned(), Some(row.as_bytes().to_owned())));
        }
        let mut account = Account::new("one".parse().unwrap());
        account.bandwidth_changes.insert("north".parse().unwrap(), 9);
        let (key, value) = rows.encode(&Change::Account(account.id.clone(), Some(account.clone()))).unwrap();
        let json: serde_json::Value = serde_json::from_slice(value.as_deref().unwrap()).unwrap();
        assert_eq!((&json["limits"], &json["bandwidth_changes"]["north"]), (&serde_json::Value::Null, &9.into()));
        assert_eq!(
            rows.change(&key, value.as_deref()).unwrap(),
            Some(Change::Account(account.id.clone(), Some(account)))
        );
    }

    #[test]
    fn unknown_fields_of_a_newer_release_survive_a_change() {
        let retained = Retained::default();
        let rows = RowCodec { place: Path::new("test"), retained: &retained };
        let text = r#"{"id":"h1","region":"north","underlay":"192.0.2.1","agent":"http://x","config_number":7,"rack":{"row":5}}"#;
        let Some(Change::Host(id, Some(mut host))) = rows.change("host/h1", Some(text.as_bytes())).unwrap() else {
            panic!("it is a host")
        };
        host.config_number = 8;
        let (_, value) = rows.encode(&Change::Host(id, Some(host))).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&value.unwrap()).unwrap();
        assert_eq!((&value["config_number"], &value["rack"]["row"]), (&8.into(), &5.into()));
        let newer = text.replace("\"id\"", "\"format\":3,\"id\"");
        let error = rows.change("host/h1", Some(newer.as_bytes())).unwrap_err().to_string();
        assert!(error.contains("record host/h1") && error.contains("a newer release wrote it"), "{error}");
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::{audit::Entry, fuzz::fuzz, model::state::State};

    #[test]
    fn record() {
        let retained = Retained::default();
        let codec = RowCodec { place: Path::new("test"), retained: &retained };
        fuzz("record", |input| {
            let text = String::from_utf8_lossy(input);
            let (key, value) = text.split_once('\n').unwrap_or((&text, ""));
            let _ = codec.change(key, None);
            let _ = serde_json::from_str::<Entry>(value);
            if let Ok(Some(change)) = codec.change(key, Some(value.as_bytes())) {
                let (key, value) = codec.encode(&change).unwrap();
                assert_eq!(codec.change(&key, value.as_deref()).unwrap(), Some(change.clone()));
                State::default().apply(change);
            }
        });
    }
}
