//! Access to etcd, and the leader.

use super::{
    Leader, WITHIN,
    client::{Client, Range},
    lease::Lease,
};
use crate::store::{EtcdError, StoreError};
use cps_peering_config::{format, settings::EtcdSettings};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Access to etcd, and what is known of the leader.
pub struct Cluster {
    pub(super) client: Arc<Client>,
    pub(super) settings: EtcdSettings,
    pub(super) place: PathBuf,
}

impl Cluster {
    /// Creates it, without contacting etcd.
    pub fn new(settings: &EtcdSettings) -> Result<Self, StoreError> {
        let place = PathBuf::from(format!("{} in etcd at {}", settings.prefix, settings.endpoints.join(", ")));
        let unusable = |source| StoreError::Etcd { path: place.clone(), what: "begin", source: Box::new(source) };
        let client = Arc::new(Client::new(settings).map_err(unusable)?);
        Ok(Self { client, settings: settings.clone(), place })
    }

    pub(in crate::store) fn place(&self) -> &Path {
        &self.place
    }

    pub(in crate::store) fn backups(&self) -> &Path {
        &self.settings.backups
    }

    /// How long a leader that is gone still counts as one.
    pub(in crate::store) fn patience(&self) -> Duration {
        Duration::from_secs(self.settings.lease_s + 2)
    }

    pub(super) fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.settings.prefix)
    }

    pub(super) fn failed(&self, what: &'static str) -> impl FnOnce(EtcdError) -> StoreError {
        let path = self.place.clone();
        move |source| StoreError::Etcd { path, what, source: Box::new(source) }
    }

    /// The current leader.
    pub fn leader(&self) -> Result<Option<Leader>, StoreError> {
        Ok(self.leader_and_lease()?.map(|(leader, _)| leader))
    }

    fn leader_and_lease(&self) -> Result<Option<(Leader, u64)>, StoreError> {
        let found =
            self.client.range(&Range::key(&self.key("leader")), WITHIN).map_err(self.failed("see who leads"))?;
        let Some(row) = found.kvs.first() else { return Ok(None) };
        let leader = format::read(&row.value).map_err(|source| StoreError::Record {
            path: self.place.clone(),
            key: "leader".to_owned(),
            source,
        })?;
        Ok(Some((leader, row.lease)))
    }

    /// Revokes the lease of a leader whose process is gone, if it still leads ([`Leader::id`]). Should it still run,
    /// it finds out with its next write, or when it renews the lease.
    pub fn depose(&self, id: &str) -> Result<(), StoreError> {
        match self.leader_and_lease()? {
            Some((leader, lease)) if leader.id == id && lease != 0 => {
                self.client.revoke(lease, WITHIN).map_err(self.failed("end the lease of who led"))
            }
            _ => Ok(()),
        }
    }

    /// The revision of the leader's last write.
    pub(in crate::store) fn last_written(&self) -> Result<u64, StoreError> {
        let last = self.client.ranges(&[Range::key(&self.key("last"))], WITHIN).map_err(self.failed("read it"))?;
        Ok(last.ranges().next().and_then(|found| found.kvs.first().map(|row| row.mod_revision)).unwrap_or_default())
    }

    /// Becomes leader if there is none. `url` is where the others find it.
    pub(super) fn claim(&self, url: Option<&str>) -> Result<Option<Lease>, StoreError> {
        let leader = Leader { id: format!("{:016x}", fastrand::u64(..)), url: url.map(str::to_owned) };
        let key = self.key("leader");
        Lease::claim(&self.client, &key, &leader, self.settings.lease_s).map_err(self.failed("lead"))
    }
}
