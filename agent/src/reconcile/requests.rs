//! The controller's requests besides configurations: shares of common limits, and counters. Neither waits for a pass,
//! and neither needs one.

use super::{
    Granted, Handle, Kernel, Reconciler, RequestError,
    message::{Message, Request},
};
use crate::{
    dirty_set::{DirtySet, Parts},
    kernel::KernelError,
    objects::Operation,
    ownership::DeviceName,
};
use cps_peering_config::{
    host_config::Limit,
    net::Vni,
    traffic::{Grants, TrafficReport},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::oneshot;

impl Handle {
    /// Sets this host's shares of common limits immediately.
    pub async fn grant(&self, grants: Grants, patience: Duration) -> Result<Granted, RequestError> {
        self.ask(patience, |answer| Request::Grant(grants, answer)).await
    }

    /// The traffic of each side.
    pub async fn traffic(&self, patience: Duration) -> Result<TrafficReport, RequestError> {
        self.ask(patience, Request::Traffic).await
    }

    /// Completes once the reconciler has processed it: it is neither stuck nor gone. During long work that may take a
    /// few seconds.
    pub async fn alive(&self) {
        let (answer, answered) = oneshot::channel();
        // The reconciler ends only with the process.
        let _ = self.wake.send(Message::Asked(Request::Alive(answer)));
        if answered.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn ask<T>(
        &self,
        patience: Duration,
        ask: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> Request,
    ) -> Result<T, RequestError> {
        let (answer, answered) = oneshot::channel();
        // The reconciler ends only with the process.
        let _ = self.wake.send(Message::Asked(ask(answer)));
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(RequestError::Busy),
        }
    }
}

impl<K: Kernel> Reconciler<K> {
    /// Answers; the requester may be gone.
    pub(super) fn answer(&mut self, ask: Request) {
        match ask {
            Request::Grant(grants, answer) => drop(answer.send(self.grant(&grants))),
            Request::Traffic(answer) => {
                let report = self.measure().map(|()| self.traffic(|_| true)).map_err(RequestError::from);
                drop(answer.send(report));
            }
            Request::Alive(answer) => drop(answer.send(())),
        }
    }

    fn grant(&mut self, grants: &Grants) -> Result<Granted, RequestError> {
        let config = self.goal.config().cloned();
        let changed = self.allocation.grant(grants, config.as_ref().map(|config| &***config));
        let changed = changed.map_err(|have| RequestError::Older { pushed: grants.revision, have })?;
        if !changed.is_empty() {
            self.set_rates(&changed)?;
        }
        self.measure()?;
        let limited =
            |vni| config.as_ref().is_some_and(|config| config.sides.get(&vni).is_some_and(|side| side.limit.is_some()));
        Ok(Granted { report: self.traffic(limited), shares: self.allocation.shares().clone() })
    }

    fn set_rates(&mut self, limits: &BTreeMap<Vni, Limit>) -> Result<(), KernelError> {
        let devices = limits.keys().map(|vni| DeviceName::peer(*vni)).collect();
        let dirty = DirtySet::Parts(Parts { devices, ..Parts::default() });
        let observed = self.kernel.observe(&dirty, &|| false)?;
        self.apply(&self.allocation.set_rates(limits, &observed))?;
        if self.goal.is_stored() {
            let seen = self.kernel.observe(&dirty, &|| false)?;
            self.allocation.confirm_rates(limits, &seen);
        } else {
            // After a crash the host has what is in the ledger, which may give it more than was granted since: others
            // must not use that.
            self.allocation.doubt(limits);
        }
        Ok(())
    }

    fn traffic(&self, only: impl Fn(Vni) -> bool) -> TrafficReport {
        let meter = self.counting.meter();
        let mut sides = meter.report(only);
        for (vni, side) in &mut sides {
            side.share = self.allocation.confirmed(*vni);
        }
        let host = self.goal.config().map(|config| config.host.clone());
        TrafficReport { host, grants: self.allocation.shares().revision, reading: Some(meter.reading()), sides }
    }

    /// Reads the counters, and stores them from time to time.
    fn measure(&mut self) -> Result<(), KernelError> {
        let Some(config) = self.goal.config() else { return Ok(()) };
        let readings = self.kernel.traffic()?;
        self.counting.take(config, &readings);
        Ok(())
    }

    /// Reads the counters if there was no request for a while.
    pub(super) fn measure_sometimes(&mut self) {
        if self.counting.is_due()
            && let Err(error) = self.measure()
        {
            tracing::warn!(%error, "traffic could not be counted");
        }
    }

    /// Deleting a device deletes its counters.
    pub(super) fn measure_before(&mut self, operations: &[Operation]) {
        if operations
            .iter()
            .any(|operation| matches!(operation, Operation::RemoveLinks(_) | Operation::RemoveShaper(_)))
        {
            match self.measure() {
                Ok(()) => self.counting.keep(),
                Err(error) => tracing::warn!(%error, "what passed lately is not counted"),
            }
        }
    }
}
