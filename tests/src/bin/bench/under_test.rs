//! The agent's own code as a process, on a kernel without VRF devices with a stand-in for them.

use crate::ground;
use anyhow::{Context, Result};
use cps_peering_agent::{
    daemon,
    dirty_set::DirtySet,
    kernel::{Kernel, KernelError, Netlink, NetlinkError},
    objects::{Link, LinkChange, LinkKind, Observed, Operation},
    ownership::{self, DeviceName, Role},
    traffic::Reading,
};
use cps_peering_config::{
    net::{InterfaceName, Vni},
    settings::AgentSettings,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};
use tracing_subscriber::EnvFilter;

/// Runs until it is killed.
pub(crate) fn run(settings: &Path) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let text = fs::read_to_string(settings).with_context(|| settings.display().to_string())?;
    let settings: AgentSettings = toml::from_str(&text)?;
    if ground::kernel_has_vrf() {
        daemon::run(Netlink::of_agent(&settings), &settings, || Ok(settings.clone()))
    } else {
        daemon::run(WithoutVrf::open(&settings)?, &settings, || Ok(settings.clone()))
    }
}

/// A kernel without VRF devices. They are kept in a file instead, so that they outlive the process as they would in a
/// kernel. Everything else is the kernel's.
struct WithoutVrf {
    kernel: Netlink,
    file: PathBuf,
    kept: Standins,
}

/// What the kernel lacks.
#[derive(Default, Serialize, Deserialize)]
struct Standins {
    /// VRFs with their aliases.
    vrfs: BTreeMap<InterfaceName, String>,
    /// Which VRF a device is enslaved to.
    masters: BTreeMap<InterfaceName, InterfaceName>,
}

/// No device has such an index.
const FIRST_INDEX: u32 = 0x4000_0000;

impl WithoutVrf {
    fn open(settings: &AgentSettings) -> Result<Self> {
        let file = settings.ledger.with_extension("standins");
        let kept = if file.exists() { serde_json::from_slice(&fs::read(&file)?)? } else { Standins::default() };
        Ok(Self { kernel: Netlink::of_agent(settings), file, kept })
    }

    fn store(&self) -> io::Result<()> {
        fs::write(&self.file, serde_json::to_vec(&self.kept)?)
    }

    /// Handles an operation if it is about something that the kernel lacks.
    fn stand_in(&mut self, operation: &Operation) -> bool {
        let kept = &mut self.kept;
        let is_vrf = |name: &InterfaceName| matches!(DeviceName::parse(name), Some(device) if device.role == Role::Vrf);
        match operation {
            Operation::AddVrf(name, vrf) => drop(kept.vrfs.insert(*name, vrf.alias.clone())),
            Operation::ChangeLink(name, LinkChange::Alias(alias)) if is_vrf(name) => {
                kept.vrfs.insert(*name, alias.to_string());
            }
            Operation::ChangeLink(name, LinkChange::Up(_)) => return is_vrf(name),
            Operation::ChangeLink(name, LinkChange::Enslave(vrf)) => drop(kept.masters.insert(*name, *vrf)),
            Operation::ChangeLink(name, LinkChange::Release) => drop(kept.masters.remove(name)),
            _ => return false,
        }
        true
    }

    /// Follows operations that the kernel carries out.
    fn follow(&mut self, operation: &Operation) -> bool {
        match operation {
            Operation::AddVxlan(name, vxlan) => drop(self.kept.masters.insert(*name, vxlan.vrf)),
            Operation::RemoveLinks(names) => {
                for name in names {
                    self.kept.vrfs.remove(name);
                    self.kept.masters.remove(name);
                }
            }
            _ => return false,
        }
        true
    }

    fn index(name: &InterfaceName) -> u32 {
        DeviceName::parse(name).map_or(0, |device| FIRST_INDEX + device.vni.get())
    }

    /// Adds what the kernel lacks to what it has; only a part if only a part is observed, so that the stand-in costs no
    /// more than the kernel would.
    fn overlay(&mut self, observed: &mut Observed, dirty: &DirtySet) {
        for (name, alias) in within(&self.kept.vrfs, dirty) {
            let Some(device) = DeviceName::parse(name) else { continue };
            let link = Link {
                index: Self::index(name),
                kind: LinkKind::Vrf(ownership::table(device.vni)),
                mac: None,
                mtu: 65_575,
                up: true,
                carrier: true,
                master: None,
                group: ownership::GROUP,
                alias: Some(alias.clone()),
                arp: true,
                protodown: false,
                xdp: None,
                takes_from: None,
                generates_link_local: false,
                alternative_names: BTreeSet::new(),
                permanent_mac: None,
                may_be_renamed: false,
                vlan: None,
                settings: BTreeMap::new(),
                exempt: BTreeSet::new(),
            };
            observed.links.insert(*name, link);
            self.kernel.assume(*name, 0);
        }
        for (name, vrf) in within(&self.kept.masters, dirty) {
            if let Some(link) = observed.links.get_mut(name) {
                link.master = Some(Self::index(vrf));
            }
        }
    }
}

/// The entries of the devices in a dirty set.
fn within<'a, T>(
    map: &'a BTreeMap<InterfaceName, T>,
    dirty: &'a DirtySet,
) -> Box<dyn Iterator<Item = (&'a InterfaceName, &'a T)> + 'a> {
    match dirty {
        DirtySet::Everything => Box::new(map.iter()),
        DirtySet::Parts(parts) => Box::new(parts.devices.iter().filter_map(|name| map.get_key_value(name))),
    }
}

impl Kernel for WithoutVrf {
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
        let mut observed = self.kernel.observe(dirty, stop)?;
        self.overlay(&mut observed, dirty);
        if let DirtySet::Parts(parts) = dirty {
            parts.restrict(&mut observed);
        }
        Ok(observed)
    }

    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError> {
        self.kernel.traffic()
    }

    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        self.kernel.devices()
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let mut refused = Vec::new();
        let mut changed = false;
        // Operations for the kernel stay together, as they would come from the agent.
        let mut begin = 0;
        for (place, operation) in operations.iter().enumerate() {
            // There may be a million of them, and none needs a stand-in.
            if matches!(operation, Operation::AddRoute(_)) {
                continue;
            }
            if self.stand_in(operation) {
                let done = self.kernel.apply(&operations[begin..place])?;
                refused.extend(done.into_iter().map(|(at, refusal)| (begin + at, refusal)));
                begin = place + 1;
                changed = true;
                if let Operation::AddVrf(name, _) = operation {
                    self.kernel.assume(*name, 0);
                }
            } else {
                changed |= self.follow(operation);
            }
        }
        let done = self.kernel.apply(&operations[begin..])?;
        refused.extend(done.into_iter().map(|(at, refusal)| (begin + at, refusal)));
        if changed {
            self.store().map_err(|source| KernelError::Socket { what: "store the stand-ins", source })?;
        }
        Ok(refused)
    }
}
