//! Crash matrix: the agent dies between any two operations of a plan, and another one continues from what it left.
//!
//! At every instant, of the plan and of its completion: packets are forwarded only where the configuration before or
//! after forwards them, what both have in common exists, and nothing of a tenant leaves its VRF.

use super::*;

/// What must hold at every instant between two configurations.
struct Bounds {
    /// Forwarding objects of both configurations.
    both: BTreeSet<String>,
    /// Forwarding objects of either configuration.
    either: BTreeSet<String>,
    /// Devices that have a bandwidth limit in both configurations, or are created with one.
    limited: BTreeSet<InterfaceName>,
}

impl Bounds {
    fn between(before: &Desired, after: &Desired) -> Self {
        let ways_of = |desired: &Desired| {
            let mut kernel = host();
            converge(&mut kernel, desired);
            let state = kernel.state();
            ways(&state.seen)
        };
        let had_none = |name: &&InterfaceName| before.vxlans.contains_key(*name) && !before.shapers.contains_key(*name);
        let limited = after.shapers.keys().filter(|name| !had_none(name)).copied().collect();
        let (before, after) = (ways_of(before), ways_of(after));
        Self {
            both: before.intersection(&after).cloned().collect(),
            either: before.union(&after).cloned().collect(),
            limited,
        }
    }

    fn hold(&self, kernel: &Memory) -> Result<(), String> {
        let state = kernel.state();
        let now = ways(&state.seen);
        if let Some(lost) = self.both.difference(&now).next() {
            return Err(format!("lost, though both have it: {lost}"));
        }
        if let Some(astray) = now.difference(&self.either).next() {
            return Err(format!("neither has it: {astray}"));
        }
        for device in state.seen.fdb.keys().map(|key| key.device).filter(|device| self.limited.contains(device)) {
            let limited = state.seen.egress.get(&device).is_some_and(|egress| egress.ours && egress.rate.is_some());
            if !limited {
                return Err(format!("{device} sends without a limit"));
            }
        }
        nothing_gets_past_its_vrf(&state.seen)
    }
}

/// A tenant's port that is up is in a VRF; a device that is up in a VRF hits the VRF's default before table main,
/// cannot reach the host's addresses, and accepts only the sources behind it.
fn nothing_gets_past_its_vrf(observed: &Observed) -> Result<(), String> {
    let up = observed.links.iter().filter(|(_, link)| link.up);
    for (name, link) in up.filter(|(name, _)| name.as_str().starts_with("port") || name.as_str().starts_with("cpspeer"))
    {
        let vrf = link.master.and_then(|master| observed.name_of(master)).map(|vrf| observed.links[&vrf].kind);
        let Some(LinkKind::Vrf(table)) = vrf else { return Err(format!("{name} is up and in no VRF")) };
        for default in [net("0.0.0.0/0"), net("::/0")] {
            let key = RouteKey::backstop(table, default);
            if !observed.routes.iter().any(|route| route.key == key && route.via == Via::Unreachable) {
                return Err(format!("{name} is up without {key}"));
            }
        }
        let first = |lookup| {
            let rules = observed.rules.iter().filter(|rule| rule.lookup == lookup);
            rules.map(|rule| rule.priority).min().unwrap_or(u32::MAX)
        };
        if first(Lookup::L3mdev) >= first(Lookup::Local) {
            return Err(format!("{name} is up and reaches the host: {:?}", observed.rules));
        }
        let filters = observed.ingress.get(name).map(|ingress| ingress.filters.values().cloned().collect::<Vec<_>>());
        if !filters.is_some_and(|filters| filters.contains(&Some(IngressFilter::DropRest))) {
            return Err(format!("{name} is up and takes anything in"));
        }
        let wrong = DeviceSetting::WANTED
            .iter()
            .find(|(setting, value)| link.settings.get(setting).is_some_and(|have| have != value));
        if let Some((setting, _)) = wrong {
            return Err(format!("{name} is up and {setting:?} is {}", link.settings[setting]));
        }
    }
    Ok(())
}

/// An agent that dies after this many operations, with a check after each. True if it had nothing more to do.
fn live(kernel: &mut Memory, desired: &Desired, bounds: &Bounds, operations: usize) -> Result<bool, String> {
    let mut left = operations;
    for round in 0.. {
        let plan = diff(desired, &kernel.observe_all().unwrap());
        if plan.operations.is_empty() {
            return Ok(true);
        }
        assert!(round < 4, "does not converge: {plan:#?}");
        for operation in &plan.operations {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            let refused = kernel.apply(std::slice::from_ref(operation)).unwrap();
            if let Some((_, refusal)) = refused.first() {
                return Err(format!("{} {operation}: {refusal}", operation.verb()));
            }
            bounds.hold(kernel).map_err(|broken| format!("after {} {operation}: {broken}", operation.verb()))?;
        }
    }
    unreachable!("it converges or fails above")
}

/// Goes from one configuration to another with agents that die again and again, each after this many operations, and
/// finally one that completes.
fn with_deaths(before: &Desired, after: &Desired, bounds: &Bounds, lives: &[usize]) -> Result<(), String> {
    let mut kernel = host();
    converge(&mut kernel, before);
    bounds.hold(&kernel).map_err(|broken| format!("before: {broken}"))?;
    for operations in lives {
        live(&mut kernel, after, bounds, *operations)?;
    }
    live(&mut kernel, after, bounds, usize::MAX)?;
    let state = kernel.state();
    let (now, fresh) = (meaning(&state.seen), fresh(after));
    match now.symmetric_difference(&fresh).next() {
        Some(difference) => Err(format!("not as a fresh host would be: {difference}")),
        None => Ok(()),
    }
}

/// Every point at which one agent can die; then agents that each die after their first operation.
fn matrix(before: &Desired, after: &Desired) {
    matrix_within(before, after, |_| ());
}

fn matrix_within(before: &Desired, after: &Desired, loosen: impl FnOnce(&mut Bounds)) {
    let mut kernel = host();
    converge(&mut kernel, before);
    let length = diff(after, &kernel.observe_all().unwrap()).operations.len();
    assert!(length > 0, "there is nothing to die in");
    let mut bounds = Bounds::between(before, after);
    loosen(&mut bounds);
    for place in 0..=length {
        with_deaths(before, after, &bounds, &[place])
            .unwrap_or_else(|broken| panic!("dead after {place} of {length}: {broken}"));
    }
    with_deaths(before, after, &bounds, &vec![1; 4 * length])
        .unwrap_or_else(|broken| panic!("dead after each operation: {broken}"));
}

/// The small topology without its peering.
fn unpeered() -> World {
    let mut world = small_world();
    world.peered[0][1] = false;
    world
}

/// The small topology beside a peering of two other VPCs.
fn crowded() -> World {
    let mut world = small_world();
    world.ports[2] = [true, false, false, true];
    world.ports[3] = [true, true, true, true];
    world.peered[2][3] = true;
    world
}

#[test]
fn crash_during_bring_up() {
    matrix(&Desired::default(), &small_world().desired());
    matrix(&unpeered().desired(), &small_world().desired());
    let mut other = crowded();
    other.peered[0][1] = false;
    matrix(&other.desired(), &crowded().desired());
}

#[test]
fn crash_during_a_change() {
    let mut moved = small_world();
    moved.ports[1] = [true, true, false, true];
    matrix(&small_world().desired(), &moved.desired());
    matrix(&moved.desired(), &small_world().desired());
    let mut swapped = crowded();
    swapped.peered[0][1] = false;
    swapped.peered[0][2] = true;
    matrix(&crowded().desired(), &swapped.desired());
}

#[test]
fn crash_during_a_change_of_the_hosts_own_address() {
    let mut config = small_world().config().into_inner();
    config.underlay = vtep(9);
    let after = compile(&config.try_into().unwrap(), SURROUNDINGS, &DirtySet::Everything);
    // Every tunnel must be recreated, so nothing through one can exist all the time.
    matrix_within(&small_world().desired(), &after, |bounds| bounds.both.clear());
}

#[test]
fn crash_during_teardown() {
    matrix(&small_world().desired(), &unpeered().desired());
    matrix(&small_world().desired(), &Desired::default());
    matrix(&crowded().desired(), &small_world().desired());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn crash_again_and_again_between_any_worlds(
        before in worlds(), after in worlds(), lives in proptest::collection::vec(0usize..60, 0..6),
    ) {
        let (before, after) = (before.desired(), after.desired());
        let died = with_deaths(&before, &after, &Bounds::between(&before, &after), &lives);
        prop_assert!(died.is_ok(), "{}", died.unwrap_err());
    }
}
