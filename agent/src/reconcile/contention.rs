//! What another program keeps changing back is left alone for a growing time. Pure: the time is an argument.
//!
//! Two programs that both insist keep each other busy and interrupt traffic with each change. So what was repaired
//! again and again is suspended, and reported. What isolates tenants is never suspended: it is repaired whenever it is
//! seen, or, for a device, the device is kept down meanwhile.

use crate::objects::{DeviceSetting, LinkChange, Operation, Via};
use cps_peering_config::{net::InterfaceName, retry::Backoff};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// This many repairs of one object, on average within [`FORGETS_ONE`] of each other, make it contested.
const CONTESTED: f64 = 15.0;
/// How long it takes until one repair is forgotten.
const FORGETS_ONE: Duration = Duration::from_secs(10);
/// How long repairs are suspended. Without jitter: a program that keeps changing it back is on this host only.
const RESTS: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_mins(10));
/// The most objects that are tracked.
const MOST: usize = 4096;

/// Recent repairs.
#[derive(Debug, Default)]
pub(super) struct Contention(BTreeMap<String, Record>);

#[derive(Debug)]
struct Record {
    /// Repairs that are not forgotten.
    repairs: f64,
    last: Instant,
    /// How often in a row it was suspended.
    rests: u32,
    until: Instant,
    kind: Kind,
    what: String,
}

/// What happens to an operation while its object is contested.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// It may be left undone: then less gets through.
    Rests,
    /// The device is kept down while the operation is suspended.
    Closes(InterfaceName),
    /// It is always carried out.
    Insists,
}

impl Contention {
    /// Something that was as it should be has been repaired.
    pub(super) fn note(&mut self, operation: &Operation, now: Instant) {
        if self.0.len() >= MOST {
            self.0.retain(|_, record| now < record.forgotten());
        }
        let key = key(operation);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            return;
        }
        let what = operation.to_string();
        let new = || Record { repairs: 0.0, last: now, rests: 0, until: now, kind: kind(operation), what };
        self.0.entry(key).or_insert_with(new).note(now);
    }

    /// Why an operation is suspended now; none if it is not.
    pub(super) fn rest(&self, operation: &Operation, now: Instant) -> Option<String> {
        let rests = matches!(kind(operation), Kind::Rests);
        self.0.get(&key(operation)).filter(|record| rests && now < record.until).map(Record::reason)
    }

    /// The devices that are kept down now, each with the reason.
    pub(super) fn closed(&self, now: Instant) -> BTreeMap<InterfaceName, String> {
        let resting = self.0.values().filter(|record| now < record.until);
        let closed = resting.filter_map(|record| match record.kind {
            Kind::Closes(device) => Some((device, record.reason())),
            Kind::Rests | Kind::Insists => None,
        });
        closed.collect()
    }

    /// Contested objects that are repaired each time all the same, each with the reason to report.
    pub(super) fn contested(&self, now: Instant) -> impl Iterator<Item = (&str, String)> {
        let insisted = move |record: &&Record| now < record.until && matches!(record.kind, Kind::Insists);
        self.0.values().filter(insisted).map(|record| (record.what.as_str(), record.reason()))
    }
}

impl Record {
    fn note(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.last);
        self.repairs = (self.repairs - passed.as_secs_f64() / FORGETS_ONE.as_secs_f64()).max(0.0) + 1.0;
        self.last = now;
        if now < self.until {
            return;
        }
        // Changed back soon after the retry: longer than before.
        let again = self.rests > 0 && now < self.until + self.pause();
        if again || self.repairs >= CONTESTED {
            self.rests = if again { self.rests + 1 } else { 1 };
            self.until = now + self.pause();
        } else {
            self.rests = 0;
        }
    }

    fn pause(&self) -> Duration {
        RESTS.after(self.rests)
    }

    /// When nothing of it matters any more.
    fn forgotten(&self) -> Instant {
        (self.until + self.pause()).max(self.last + FORGETS_ONE.mul_f64(self.repairs))
    }

    fn reason(&self) -> String {
        let pause = self.pause().as_secs();
        format!(
            "another program keeps changing it back: repaired {CONTESTED} times and more, tried again every {pause} s"
        )
    }
}

/// The same for each repair of one object, whatever numbers the kernel gives it.
fn key(operation: &Operation) -> String {
    match operation {
        Operation::ChangeLink(name, change) => {
            let change = match change {
                LinkChange::Enslave(_) => "master",
                LinkChange::Release => "nomaster",
                LinkChange::Mac(_) => "address",
                LinkChange::Mtu(_) => "mtu",
                LinkChange::Up(true) => "up",
                LinkChange::Up(false) => "down",
                LinkChange::Alias(_) => "alias",
                LinkChange::NoLinkLocal => "addrgenmode",
                LinkChange::NoProtodown => "protodown",
                LinkChange::Arp => "arp",
            };
            format!("link {name} {change}")
        }
        other => other.to_string(),
    }
}

fn kind(operation: &Operation) -> Kind {
    match operation {
        Operation::AddAddress(_)
        | Operation::RemoveAddress(_)
        | Operation::SetNeighbour(..)
        | Operation::SetFdb(..)
        | Operation::AddNexthop(..) => Kind::Rests,
        // A misdirecting route is never left alone.
        Operation::AddRoute(route) if route.via != Via::Unreachable => Kind::Rests,
        Operation::ChangeLink(_, change) => match change {
            LinkChange::Up(true)
            | LinkChange::Mac(_)
            | LinkChange::Mtu(_)
            | LinkChange::Alias(_)
            | LinkChange::NoLinkLocal
            | LinkChange::NoProtodown
            | LinkChange::Arp => Kind::Rests,
            LinkChange::Enslave(_) => closes(operation),
            LinkChange::Up(false) | LinkChange::Release => Kind::Insists,
        },
        Operation::Set(_, setting, _) => match setting {
            DeviceSetting::Ipv4Forwarding
            | DeviceSetting::Ipv4SendRedirects
            | DeviceSetting::Ipv4ArpIgnore
            | DeviceSetting::Ipv6Disable
            | DeviceSetting::Ipv6AcceptDad => Kind::Rests,
            DeviceSetting::Ipv4RpFilter
            | DeviceSetting::Ipv4AcceptRedirects
            | DeviceSetting::Ipv6AcceptRa
            | DeviceSetting::Ipv6AcceptRedirects => Kind::Insists,
        },
        Operation::AddVrf(..) | Operation::AddVxlan(..) => closes(operation),
        _ => Kind::Insists,
    }
}

fn closes(operation: &Operation) -> Kind {
    match operation {
        Operation::AddVrf(name, _) | Operation::AddVxlan(name, _) | Operation::ChangeLink(name, _) => {
            Kind::Closes(*name)
        }
        _ => Kind::Insists,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Address, Family, Lookup, Rule};

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    fn address() -> Operation {
        Operation::AddAddress(Address { device: name("eth1"), net: "10.1.0.1/24".parse().unwrap() })
    }

    /// Repairs whatever is not suspended, at this interval; returns the seconds at which it was repaired.
    fn repairs(operation: &Operation, every: Duration, during: Duration) -> Vec<u64> {
        let begin = Instant::now();
        let mut contention = Contention::default();
        let mut repaired = Vec::new();
        let mut passed = Duration::ZERO;
        while passed < during {
            let now = begin + passed;
            let closed = !contention.closed(now).is_empty();
            if contention.rest(operation, now).is_none() && !closed {
                contention.note(operation, now);
                repaired.push(passed.as_secs());
            }
            passed += every;
        }
        repaired
    }

    #[test]
    fn contested_repairs_are_suspended_longer_each_time() {
        let second = Duration::from_secs(1);
        let repaired = repairs(&address(), second, second * 3600);
        let gaps: Vec<u64> = repaired.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 1).collect();
        assert!(repaired.iter().filter(|at| **at < 60).count() < 25, "{repaired:?}");
        assert_eq!(gaps[..7], [10, 20, 40, 80, 160, 320, 600], "{repaired:?}");
        assert!(gaps.iter().all(|gap| *gap <= 600));
    }

    #[test]
    fn occasional_repairs_are_never_suspended() {
        let repaired = repairs(&address(), Duration::from_secs(11), Duration::from_hours(1));
        assert_eq!(repaired.len(), 328);
    }

    #[test]
    fn contention_is_forgotten_after_a_quiet_time() {
        let mut now = Instant::now();
        let mut contention = Contention::default();
        for _ in 0..20 {
            contention.note(&address(), now);
        }
        assert!(contention.rest(&address(), now).is_some());
        now += Duration::from_mins(10);
        assert!(contention.rest(&address(), now).is_none());
        contention.note(&address(), now);
        assert!(contention.rest(&address(), now).is_none());
    }

    #[test]
    fn repairs_that_isolate_tenants_are_never_suspended_and_reported() {
        let now = Instant::now();
        let mut contention = Contention::default();
        let rule = Rule { family: Family::V4, priority: 0, lookup: Lookup::Local, protocol: 2 };
        let operation = Operation::RemoveRule(rule);
        for _ in 0..50 {
            assert!(contention.rest(&operation, now).is_none());
            contention.note(&operation, now);
        }
        let contested: Vec<&str> = contention.contested(now).map(|(what, _)| what).collect();
        assert_eq!(contested, ["rule priority 0 lookup local"]);
    }

    #[test]
    fn a_port_that_keeps_leaving_its_vrf_is_kept_down() {
        let now = Instant::now();
        let mut contention = Contention::default();
        let enslave = Operation::ChangeLink(name("eth1"), LinkChange::Enslave(name("cpsvrf10")));
        for _ in 0..20 {
            contention.note(&enslave, now);
        }
        assert_eq!(contention.closed(now).into_keys().collect::<Vec<_>>(), [name("eth1")]);
        assert!(contention.closed(now + Duration::from_secs(11)).is_empty());
    }

    #[test]
    fn contention_is_bounded_in_memory() {
        let now = Instant::now();
        let mut contention = Contention::default();
        for number in 0..10_000u32 {
            let net = format!("10.{}.{}.1/24", number >> 8, number & 255).parse().unwrap();
            contention.note(&Operation::AddAddress(Address { device: name("eth1"), net }), now);
        }
        assert_eq!(contention.0.len(), MOST);
    }
}
