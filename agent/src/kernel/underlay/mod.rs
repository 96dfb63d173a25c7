//! The underlay filter in the kernel: a program in front of everything that the host receives, and the set of VTEPs
//! that may send with each VNI.
//!
//! Kernels accept VXLAN packets on every interface and from every source. The program, on the ingress of every device
//! that is not ours, drops those whose VNI is ours and whose source may not send with it. Others' VNIs on the same port
//! pass, and so do packets for another Ethernet address or a VLAN. Members of bonds and bridges have a second program,
//! which only examines what they deliver themselves.
//!
//! The first fragment decides: it holds the VNI, and no packet is reassembled without it.
//!
//! The set belongs to the agent that made it: a new agent starts with a set and a program of its own, fills the set,
//! and replaces the former program on each device atomically. Changing the set from outside requires `CAP_SYS_ADMIN`.

mod program;

use super::{bpf, bpf::Set};
use crate::{
    objects::{GuardKind, Ingress, UnderlayState},
    ownership::{DeviceName, Role},
};
use cps_peering_config::net::{InterfaceName, Vni};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, PoisonError},
};

/// The name by which `tc` shows the program.
pub(super) const NAME: &str = "cps_underlay";

/// A VNI in network order, the family of the outer packet, and its source: IPv4 ones as mapped addresses. Zeros behind
/// the VNI mark the VNI as one of ours.
const KEY_LEN: usize = 20;
type Key = [u8; KEY_LEN];
/// Families in the key.
const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// Who may send with which VNI.
pub(super) type Senders = BTreeMap<Vni, BTreeSet<IpAddr>>;

#[derive(Debug)]
pub(super) struct UnderlayFilter {
    set: Set<KEY_LEN>,
    /// For each kind of device the program and its id, by which the kernel reports what is on a device.
    programs: [(GuardKind, OwnedFd, u32); 2],
}

/// The parameters of the filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameters {
    /// The UDP port of VXLAN.
    pub(super) vxlan_port: u16,
    /// The most entries: each VNI that arrives has one, and each VTEP that may send with it.
    pub(super) max_entries: u32,
}

impl UnderlayFilter {
    /// A new one, with an empty set and on no device.
    pub(super) fn load(parameters: Parameters) -> io::Result<Self> {
        let set = Set::create(parameters.max_entries)?;
        let load = |kind| {
            let (program, id) = bpf::load(&program::program(kind, parameters.vxlan_port, set.fd()), NAME)?;
            Ok::<_, io::Error>((kind, program, id))
        };
        let programs = [load(GuardKind::Device)?, load(GuardKind::Member)?];
        Ok(Self { set, programs })
    }

    /// The program for a kind of device, for attaching it.
    pub(super) fn program(&self, wanted: GuardKind) -> RawFd {
        let [(kind, first, _), (_, second, _)] = &self.programs;
        if *kind == wanted { first.as_raw_fd() } else { second.as_raw_fd() }
    }

    /// Which of the two programs this is, if any.
    fn kind(&self, program: u32) -> Option<GuardKind> {
        self.programs.iter().find(|(_, _, id)| *id == program).map(|(kind, ..)| *kind)
    }

    /// The devices that have one of the two, and which.
    fn guarded(&self, ingress: &BTreeMap<InterfaceName, Ingress>) -> Guarded {
        let on = ingress.iter().filter_map(|(device, ingress)| Some((*device, ingress.underlay_program?)));
        on.filter_map(|(device, program)| Some((device, Some(self.kind(program)?)))).collect()
    }

    /// Everything in the set, and which VNIs are marked as ours.
    fn entries(&self) -> io::Result<(Senders, BTreeSet<Vni>)> {
        let (mut senders, mut ours) = (Senders::new(), BTreeSet::new());
        self.set.each(|key| match read(key) {
            Some((vni, Some(sender))) => drop(senders.entry(vni).or_default().insert(sender)),
            Some((vni, None)) => {
                senders.entry(vni).or_default();
                ours.insert(vni);
            }
            None => {}
        })?;
        Ok((senders, ours))
    }

    /// Lets exactly these send with a VNI of ours. `had` are those that may be in the set now.
    pub(super) fn set(&self, vni: Vni, had: &BTreeSet<IpAddr>, now: &BTreeSet<IpAddr>) -> io::Result<()> {
        // The VNI is marked as ours first, so that no other sender's packets are accepted meanwhile.
        self.set.insert(&key(vni, None))?;
        for gone in had.difference(now) {
            self.set.remove(&key(vni, Some(*gone)))?;
        }
        now.iter().try_for_each(|sender| self.set.insert(&key(vni, Some(*sender))))
    }

    /// Removes a VNI that is no longer ours.
    pub(super) fn forget(&self, vni: Vni, had: &BTreeSet<IpAddr>) -> io::Result<()> {
        for sender in had {
            self.set.remove(&key(vni, Some(*sender)))?;
        }
        self.set.remove(&key(vni, None))
    }

    /// Whether the set is right for a VNI, as far as that can be seen without reading all of it.
    pub(super) fn has(&self, vni: Vni, senders: &BTreeSet<IpAddr>) -> io::Result<bool> {
        for sender in senders.iter().copied().map(Some).chain([None]) {
            if !self.set.contains(&key(vni, sender))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

type Guarded = BTreeMap<InterfaceName, Option<GuardKind>>;

/// The devices that have a program. Only the agent that made it can tell which one is right.
fn guarded_by_another(ingress: &BTreeMap<InterfaceName, Ingress>) -> Guarded {
    let on = ingress.iter().filter(|(_, ingress)| ingress.underlay_program.is_some());
    on.map(|(device, _)| (*device, None)).collect()
}

/// The filter that a [`Keeper`] of this process maintains, for readers on other threads.
#[derive(Debug, Clone, Default)]
pub struct UnderlayView(Arc<Mutex<Option<Arc<UnderlayFilter>>>>);

impl UnderlayView {
    fn filter(&self) -> Option<Arc<UnderlayFilter>> {
        // The value is complete at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, filter: &Arc<UnderlayFilter>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(filter));
    }

    /// Which of these may send with the VNIs of ours, and the kind of program on each device. VNIs that were not
    /// queried are not in the result.
    pub(super) fn state(
        &self,
        ingress: &BTreeMap<InterfaceName, Ingress>,
        wanted: &BTreeMap<Vni, BTreeSet<IpAddr>>,
    ) -> UnderlayState {
        let Some(filter) = self.filter() else {
            return UnderlayState { guarded: guarded_by_another(ingress), ..UnderlayState::default() };
        };
        let guarded = filter.guarded(ingress);
        let is_in = |vni: Vni, sender| filter.set.contains(&key(vni, sender)).unwrap_or_default();
        let known = wanted.iter().filter(|(vni, _)| is_in(**vni, None));
        let admitted = known.map(|(vni, senders)| {
            (*vni, senders.iter().copied().filter(|sender| is_in(*vni, Some(*sender))).collect())
        });
        UnderlayState { senders: Some(admitted.collect()), guarded, unavailable: false }
    }
}

/// Maintains the underlay filter for a process that should have one.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// None if another process has the filter.
    parameters: Option<Parameters>,
    filter: Option<Arc<UnderlayFilter>>,
    /// For other readers.
    view: UnderlayView,
    /// What was last written to the set, or read from it.
    known: Senders,
    /// Devices that the program could not be attached to since the last full observation. It is retried only after the
    /// next one.
    unguarded: BTreeSet<InterfaceName>,
    /// How often in a row that failed on a device which still exists.
    failures: BTreeMap<InterfaceName, u32>,
    /// Devices whose senders could not be added to the filter so far.
    unadmitted: BTreeSet<InterfaceName>,
}

impl Keeper {
    pub(super) fn new(parameters: Parameters) -> Self {
        Self { parameters: Some(parameters), ..Self::default() }
    }

    /// The same for readers.
    pub(super) fn view(&self) -> UnderlayView {
        self.view.clone()
    }

    /// The filter, loaded if need be.
    pub(super) fn filter(&mut self) -> io::Result<&UnderlayFilter> {
        let parameters = self.parameters.ok_or(io::ErrorKind::Unsupported)?;
        if self.filter.is_none() {
            let filter = Arc::new(UnderlayFilter::load(parameters)?);
            self.view.show(&filter);
            self.filter = Some(filter);
            self.known.clear();
        }
        self.filter.as_deref().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// The filter in the kernel: all of it, or what concerns some devices. `is_there` tells which devices exist.
    pub(super) fn observe(
        &mut self,
        ingress: &BTreeMap<InterfaceName, Ingress>,
        is_there: impl Fn(&InterfaceName) -> bool,
        devices: Option<&BTreeSet<InterfaceName>>,
    ) -> UnderlayState {
        if devices.is_none() {
            self.unguarded.clear();
            self.unadmitted.clear();
            let is_guarded = |ingress: &Ingress| ingress.underlay_program.is_some_and(|program| program != 0);
            self.failures.retain(|device, _| is_there(device) && !ingress.get(device).is_some_and(is_guarded));
        }
        if self.parameters.is_none() {
            return UnderlayState { guarded: guarded_by_another(ingress), ..UnderlayState::default() };
        }
        let (Ok(()), Some(filter)) = (self.filter().map(drop), &self.filter) else {
            // No host may send. The operations that follow report why there is none.
            return UnderlayState { senders: Some(Senders::new()), unavailable: true, ..UnderlayState::default() };
        };
        let guarded = filter.guarded(ingress);
        let senders = match devices {
            None => {
                // If it cannot be read all is set again, and what was known is what is to be removed.
                let read = filter.entries().inspect(|(senders, _)| self.known.clone_from(senders));
                let (mut senders, ours) = read.unwrap_or_default();
                // Without the VNI itself, the program takes it for another program's.
                senders.retain(|vni, _| ours.contains(vni));
                senders
            }
            Some(devices) => {
                let vnis = devices.iter().filter_map(DeviceName::parse).filter(|device| device.role != Role::Vrf);
                let known = vnis.filter_map(|device| self.known.get_key_value(&device.vni));
                let right = known.filter(|(vni, senders)| filter.has(**vni, senders).unwrap_or_default());
                right.map(|(vni, senders)| (*vni, senders.clone())).collect()
            }
        };
        UnderlayState { senders: Some(senders), guarded, unavailable: false }
    }

    /// Lets exactly these send with a VNI of ours.
    pub(super) fn set(&mut self, vni: Vni, senders: &BTreeSet<IpAddr>) -> io::Result<()> {
        let had = self.known.get(&vni).cloned().unwrap_or_default();
        let result = self.filter().and_then(|filter| filter.set(vni, &had, senders));
        if result.is_ok() {
            self.known.insert(vni, senders.clone());
            self.unadmitted.retain(|device| ![DeviceName::vpc(vni), DeviceName::peer(vni)].contains(device));
        } else {
            // Which of both are in the set is unknown.
            self.known.insert(vni, had.union(senders).copied().collect());
            self.unadmitted.extend([DeviceName::vpc(vni), DeviceName::peer(vni)]);
        }
        result
    }

    /// Forgets a VNI.
    pub(super) fn forget(&mut self, vni: Vni) -> io::Result<()> {
        let had = self.known.get(&vni).cloned().unwrap_or_default();
        self.filter()?.forget(vni, &had)?;
        self.known.remove(&vni);
        Ok(())
    }

    /// The program could not be attached to a device.
    pub(super) fn failed_on(&mut self, device: InterfaceName) {
        self.unguarded.insert(device);
        *self.failures.entry(device).or_default() += 1;
    }

    /// The VXLAN devices that must be down, because packets may arrive on a device without the filter. A device that is
    /// changed at the same moment makes the attachment fail once; a second failure, after another observation, is no
    /// coincidence.
    pub(super) fn exposed(&self) -> Vec<InterfaceName> {
        let again = |device| self.failures.get(device).is_some_and(|times| *times > 1);
        if !self.unguarded.iter().any(again) {
            return Vec::new();
        }
        self.known.keys().flat_map(|vni| [DeviceName::vpc(*vni), DeviceName::peer(*vni)]).collect()
    }

    /// Why a VXLAN device may not be set up, if so.
    pub(super) fn why_not_up(&self, device: &InterfaceName) -> Option<&'static str> {
        if self.unadmitted.contains(device) {
            Some("its senders could not be added to the underlay filter")
        } else if !self.unguarded.is_empty() && DeviceName::parse(device).is_some_and(|device| device.role != Role::Vrf)
        {
            Some("the underlay filter could not be attached to every device")
        } else {
            None
        }
    }
}

fn key(vni: Vni, sender: Option<IpAddr>) -> Key {
    let mut key = [0; KEY_LEN];
    key[..4].copy_from_slice(&(vni.get() << 8).to_be_bytes());
    let (family, sender) = match sender {
        Some(IpAddr::V4(sender)) => (IPV4, sender.to_ipv6_mapped()),
        Some(IpAddr::V6(sender)) => (IPV6, sender),
        None => (0, Ipv6Addr::UNSPECIFIED),
    };
    key[3] = family;
    key[4..].copy_from_slice(&sender.octets());
    key
}

fn read(key: &Key) -> Option<(Vni, Option<IpAddr>)> {
    let vni = u32::from_be_bytes(key[..4].try_into().ok()?) >> 8;
    let sender = Ipv6Addr::from(<[u8; 16]>::try_from(&key[4..]).ok()?);
    let sender = match key[3] {
        0 => None,
        IPV4 => Some(IpAddr::V4(sender.to_ipv4_mapped()?)),
        _ => Some(IpAddr::V6(sender)),
    };
    Some((vni.try_into().ok()?, sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_attachments_are_remembered_until_the_retry() {
        let mut keeper = Keeper::default();
        let tunnel = DeviceName::peer(Vni::try_from(7).unwrap());
        keeper.failed_on("eth9".parse().unwrap());
        keeper.unadmitted.insert(tunnel);
        assert!(keeper.why_not_up(&tunnel).is_some());
        // A push or a grant observes parts, and retries nothing.
        keeper.observe(&BTreeMap::new(), |_| true, Some(&[tunnel].into()));
        assert!(keeper.why_not_up(&tunnel).is_some());
        keeper.observe(&BTreeMap::new(), |_| true, None);
        assert_eq!(keeper.why_not_up(&tunnel), None);
    }

    #[test]
    fn tunnels_that_are_up_go_down_when_a_device_cannot_be_guarded_twice() {
        let vni = Vni::try_from(7).unwrap();
        let mut keeper = Keeper { known: [(vni, BTreeSet::new())].into(), ..Keeper::default() };
        let [eth8, eth9] = ["eth8", "eth9"].map(|name| name.parse().unwrap());
        // One has a qdisc that takes no filter, the other takes none at all.
        let both = BTreeMap::from([(eth8, Ingress::default())]);
        keeper.failed_on(eth8);
        assert_eq!(keeper.exposed(), []);
        keeper.observe(&both, |_| true, None);
        keeper.failed_on(eth9);
        assert_eq!(keeper.exposed(), [], "of each it was the first time");
        // A pass ends with an observation after which nothing is tried.
        keeper.observe(&both, |_| true, None);
        keeper.observe(&both, |_| true, None);
        keeper.failed_on(eth9);
        assert_eq!(keeper.exposed(), [DeviceName::vpc(vni), DeviceName::peer(vni)]);
        keeper.observe(&both, |_| true, None);
        assert_eq!(keeper.exposed(), []);
        // One that was gone meanwhile, or had it, starts over.
        keeper.observe(&both, |device| *device != eth9, None);
        keeper.failed_on(eth9);
        assert_eq!(keeper.exposed(), []);
        let guarded = BTreeMap::from([(eth9, Ingress { underlay_program: Some(7), ..Ingress::default() })]);
        keeper.observe(&guarded, |_| true, None);
        keeper.failed_on(eth9);
        assert_eq!(keeper.exposed(), []);
    }

    #[test]
    fn keys_read_back_and_keep_families_apart() {
        let vni = Vni::try_from(0x00ab_cdef).unwrap();
        let senders = ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"].map(|it| Some(it.parse().unwrap()));
        let keys: BTreeSet<Key> = senders.into_iter().chain([None]).map(|sender| key(vni, sender)).collect();
        assert_eq!(keys.len(), 4);
        for sender in senders.into_iter().chain([None]) {
            assert_eq!(read(&key(vni, sender)), Some((vni, sender)));
        }
    }
}
