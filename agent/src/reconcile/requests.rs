//! What the controller asks for besides configurations: shares of common limits, and counters. Neither waits for a pass, and
//! neither needs one.

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
    SharedHostConfig,
    host_config::Limit,
    net::{InterfaceName, Vni},
    traffic::{Grants, TrafficReport},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// How often counters are read without being asked for, and how often they are kept.
const MEASURE_EVERY: Duration = Duration::from_secs(30);

impl Handle {
    /// Sets what this host may use of common limits, at once.
    pub async fn grant(&self, grants: Grants, patience: Duration) -> Result<Granted, RequestError> {
        self.ask(patience, |answer| Request::Grant(grants, answer)).await
    }

    /// What has passed for each side.
    pub async fn traffic(&self, patience: Duration) -> Result<TrafficReport, RequestError> {
        self.ask(patience, Request::Traffic).await
    }

    /// Completes when the reconciler has heard of it: it is neither stuck nor gone. In the middle of much work that may take
    /// a few seconds.
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
    /// Answers; whoever asked may have gone.
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
        let pushed = grants.revision;
        self.kept.shares.grant(grants).map_err(|have| RequestError::Older { pushed, have })?;
        self.shares.send_replace(self.kept.shares.clone());
        if let Some(config) = self.config.clone() {
            let shares = &self.kept.shares;
            let limits = grants.sides.keys().filter_map(|vni| Some((*vni, config.sides.get(vni)?.limit?)));
            let changed =
                limits.filter(|(vni, limit)| self.confirmed.get(vni).copied() != Some(shares.of(*vni, *limit)));
            let changed: BTreeMap<Vni, Limit> = changed.collect();
            if !changed.is_empty() {
                self.set_rates(&changed)?;
            }
        }
        self.measure()?;
        let config = self.config.clone();
        let limited =
            |vni| config.as_ref().is_some_and(|config| config.sides.get(&vni).is_some_and(|side| side.limit.is_some()));
        let report = self.traffic(limited);
        Ok(Granted { report, shares: self.kept.shares.clone() })
    }

    /// Sets the rates of devices that have a shaper; where there is none yet, a pass makes it with its rate.
    fn set_rates(&mut self, limits: &BTreeMap<Vni, Limit>) -> Result<(), KernelError> {
        let devices = limits.keys().map(|vni| DeviceName::peer(*vni)).collect();
        let dirty = DirtySet::Parts(Parts { devices, ..Parts::default() });
        let observed = self.kernel.observe(&dirty, &|| false)?;
        let mut operations = Vec::new();
        for (vni, limit) in limits {
            let device = DeviceName::peer(*vni);
            let Some(link) = observed.links.get(&device).filter(|_| observed.owns(&device)) else { continue };
            let Some(egress) = observed.egress.get(&device).filter(|egress| egress.ours) else { continue };
            let shaper = self.kept.shares.shaper(*vni, *limit, link.mtu);
            if egress.rate != Some(shaper.rate) {
                operations.push(Operation::SetRate(device, shaper.rate));
            }
            if egress.queue != Some(shaper.queue) {
                operations.push(Operation::SetQueue(device, shaper.queue));
            }
        }
        let refused = self.kernel.apply(&operations)?;
        self.counters.operations += (operations.len() - refused.len()) as u64;
        let seen = self.kernel.observe(&dirty, &|| false)?;
        for (vni, limit) in limits {
            let device = DeviceName::peer(*vni);
            let wanted = |mtu| self.kept.shares.shaper(*vni, *limit, mtu).rate;
            let egress = seen.egress.get(&device).filter(|egress| egress.ours && !egress.bypassed);
            let confirmed = seen.links.get(&device).zip(egress).is_some_and(|(link, egress)| {
                // The rate alone: a queue lets nothing pass.
                egress.rate == Some(wanted(link.mtu))
            });
            if confirmed {
                self.confirmed.insert(*vni, self.kept.shares.of(*vni, *limit));
            } else {
                self.confirmed.remove(vni);
            }
        }
        Ok(())
    }

    /// A look at a dirty set has seen that all limits in it are as they should be.
    pub(super) fn confirm_shares(&mut self, config: &SharedHostConfig, dirty: &DirtySet) {
        let looked_at = |vni: &Vni| match dirty {
            DirtySet::Everything => true,
            DirtySet::Parts(parts) => parts.sides.contains(vni),
        };
        for (vni, side) in config.sides.iter().filter(|(vni, _)| looked_at(vni)) {
            match side.limit {
                Some(limit) => self.confirmed.insert(*vni, self.kept.shares.of(*vni, limit)),
                None => self.confirmed.remove(vni),
            };
        }
    }

    /// The same operations with the rates of now: what was granted after the plan was made must not be taken back by it.
    /// None where nothing was.
    pub(super) fn with_rates_of_now(&self, operations: &[Operation]) -> Option<Vec<Operation>> {
        let is_rate = |operation: &Operation| matches!(operation, Operation::SetRate(..) | Operation::SetQueue(..));
        let config = self.config.as_ref().filter(|_| self.regranted && operations.iter().any(is_rate))?;
        let shaper = |device: &InterfaceName| {
            let vni = DeviceName::parse(device)?.vni;
            let side = config.sides.get(&vni)?;
            let params = self.underlay_params.map(|params| params.limited_to(side.path_mtu));
            let mtu = params.map_or(0, |params| params.device_mtu(config.underlay));
            Some(self.kept.shares.shaper(vni, side.limit?, mtu))
        };
        let of_now = |operation: &Operation| match operation {
            Operation::SetRate(device, _) => shaper(device).map(|shaper| Operation::SetRate(*device, shaper.rate)),
            Operation::SetQueue(device, _) => shaper(device).map(|shaper| Operation::SetQueue(*device, shaper.queue)),
            _ => None,
        };
        Some(operations.iter().map(|operation| of_now(operation).unwrap_or_else(|| operation.clone())).collect())
    }

    fn traffic(&self, only: impl Fn(Vni) -> bool) -> TrafficReport {
        let mut sides = self.kept.meter.report(only);
        for (vni, side) in &mut sides {
            side.share = self.confirmed.get(vni).copied();
        }
        let host = self.config.as_ref().map(|config| config.host.clone());
        TrafficReport { host, grants: self.kept.shares.revision, reading: Some(self.kept.meter.reading()), sides }
    }

    /// Reads the counters, and keeps them from time to time.
    pub(super) fn measure(&mut self) -> Result<(), KernelError> {
        let Some(config) = &self.config else { return Ok(()) };
        let readings = self.kernel.traffic()?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.kept.meter.take(&self.kept.boot, config, &readings, now_ms.try_into().unwrap_or(u64::MAX));
        if self.measured.is_none_or(|before| before.elapsed() >= MEASURE_EVERY) {
            self.save_counters();
        }
        Ok(())
    }

    /// Reads the counters when nobody has asked for a while.
    pub(super) fn measure_sometimes(&mut self) {
        if self.measured.is_none_or(|before| before.elapsed() >= MEASURE_EVERY)
            && let Err(error) = self.measure()
        {
            tracing::warn!(%error, "traffic could not be counted");
        }
    }

    /// What is about to be removed takes its counters with it.
    pub(super) fn measure_before(&mut self, operations: &[Operation]) {
        if operations
            .iter()
            .any(|operation| matches!(operation, Operation::RemoveLinks(_) | Operation::RemoveShaper(_)))
        {
            match self.measure() {
                Ok(()) => self.save_counters(),
                Err(error) => tracing::warn!(%error, "what passed lately is not counted"),
            }
        }
    }

    fn save_counters(&mut self) {
        self.measured = Some(Instant::now());
        (self.kept.save)(self.kept.meter.clone());
    }
}
