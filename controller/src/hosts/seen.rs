//! The certificates that agents have shown in handshakes, and when they are due for renewal.

use crate::digest::sha256;
use cps_peering_config::id::HostId;
use reqwest::{Response, tls::TlsInfo};
use rustls::pki_types::CertificateDer;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// A certificate that an agent has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its SHA-256.
    fingerprint: [u8; 32],
    /// Its validity, in seconds since 1970.
    not_before: i64,
    not_after: i64,
}

impl Seen {
    /// None if it cannot be parsed.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Some(Self { fingerprint: sha256(certificate), not_before, not_after })
    }

    /// Whether it is due for renewal at a time in seconds since 1970: when a third of its lifetime is left, or up to a quarter of the
    /// third later. The delay is derived from the certificate's hash, so that many that were issued together are not renewed together.
    pub(super) fn is_due(&self, now: i64) -> bool {
        let third = self.not_after.saturating_sub(self.not_before) / 3;
        let later = third / 4 * i64::from(self.fingerprint[0]) / 256;
        let left = self.not_after.saturating_sub(now);
        left > 0 && left < third - later
    }
}

/// The last certificate of each host's agent. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenCertificates(Arc<Mutex<BTreeMap<HostId, Seen>>>);

impl SeenCertificates {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the certificate with which an agent has answered.
    pub(super) fn note(&self, host: &HostId, answer: &Response) {
        let Some(certificate) = certificate_of(answer) else { return };
        let fingerprint = sha256(&certificate);
        let mut all = self.lock();
        if all.get(host).is_some_and(|seen| seen.fingerprint == fingerprint) {
            return;
        }
        if let Some(seen) = Seen::of(&certificate) {
            all.insert(host.clone(), seen);
        }
    }

    /// When the last certificate of a host's agent expires, in seconds since 1970; none if it has shown none.
    pub(super) fn not_after(&self, host: &HostId) -> Option<i64> {
        self.lock().get(host).map(|seen| seen.not_after)
    }

    /// Of hosts and their agents' URLs, those whose certificates are due. Other hosts are forgotten.
    pub(super) fn due(&self, hosts: &BTreeMap<HostId, String>, now: i64) -> Vec<(HostId, String)> {
        let mut all = self.lock();
        all.retain(|host, _| hosts.contains_key(host));
        let is_due = |host: &HostId| all.get(host).is_some_and(|seen| seen.is_due(now));
        hosts.iter().filter(|(host, _)| is_due(host)).map(|(host, agent)| (host.clone(), agent.clone())).collect()
    }
}

/// The certificate that an agent has shown in the handshake of the connection on which it has answered; none without TLS.
pub(super) fn certificate_of(answer: &Response) -> Option<CertificateDer<'static>> {
    let info = answer.extensions().get::<TlsInfo>()?;
    Some(CertificateDer::from(info.peer_certificate()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_when_a_third_is_left_at_its_own_time_and_never_after_its_end() {
        const DAY: i64 = 24 * 60 * 60;
        let seen = |first: u8| Seen { fingerprint: [first; 32], not_before: 0, not_after: 30 * DAY };
        for first in [0, 1, 128, 255] {
            assert!(!seen(first).is_due(20 * DAY), "a third is left");
            assert!(seen(first).is_due(22 * DAY + DAY / 2 + 1), "a quarter is left");
            assert!(seen(first).is_due(30 * DAY - 1) && !seen(first).is_due(30 * DAY));
        }
        let since = |first: u8| (0..30 * DAY).step_by(600).find(|now| seen(first).is_due(*now)).unwrap();
        let (one, other) = (since(0), since(255));
        assert!(one < 20 * DAY + 601 && other > 22 * DAY, "{one} {other}");
        // Validities that no certificate should have.
        let odd = Seen { fingerprint: [9; 32], not_before: i64::MAX, not_after: i64::MIN };
        assert!(!odd.is_due(0));
    }
}
