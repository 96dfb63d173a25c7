//! Random stores and random documents: the dry run shows exactly what happens.

use crate::common::{Model, apply, built};
use cps_peering_config::{
    id::{HostId, VpcId},
    inventory::{Host, Inventory, Peering, Port, Region, Vpc},
};
use cps_peering_controller::{
    api::view,
    model::{
        Command, Outcome,
        host::{Change as HostChange, Removal, What},
        inventory::{Action, Apply, Approval, Difference, needs_approval},
        peering::{Accept, Create, Locator},
        record::{self, Manager, PeeringState},
        state::State,
        vpc,
    },
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A random step: a kind, and three choices.
type Step = (u8, u8, u8, u8);

const REGIONS: [&str; 2] = ["north", "east"];
const ACCOUNTS: [&str; 2] = ["acme", "zeta"];
const INVENTORIES: [Option<&str>; 3] = [None, Some("default"), Some("second")];

fn pick<T: Clone>(from: &[T], which: u8) -> Option<T> {
    from.get(usize::from(which) % from.len().max(1)).cloned()
}

fn host(number: u8, region: u8, address: u8) -> Host {
    Host {
        id: format!("h{}", number % 5).parse().unwrap(),
        region: REGIONS[usize::from(region % 2)].parse().unwrap(),
        underlay: format!("192.0.2.{}", address % 7).parse().unwrap(),
        agent: format!("http://192.0.2.{}:7401", address % 7),
        maintenance: address.is_multiple_of(3),
    }
}

fn cidr(number: u8, more: u8) -> Vec<ipnet::IpNet> {
    let mut cidrs = vec![format!("10.{}.0.0/16", number % 6).parse().unwrap()];
    if more.is_multiple_of(2) {
        cidrs.push(format!("fd00:{}::/48", number % 6).parse().unwrap());
    }
    cidrs
}

fn vpc_entry(number: u8, net: u8, more: u8) -> Vpc {
    Vpc {
        id: format!("v{}", number % 6).parse().unwrap(),
        name: more.is_multiple_of(3).then(|| format!("name{more}")),
        account: ACCOUNTS[usize::from(number % 2)].parse().unwrap(),
        region: REGIONS[usize::from(number / 2 % 2)].parse().unwrap(),
        cidrs: cidr(net, more),
    }
}

/// One change of a document.
fn edit(document: &mut Inventory, (kind, a, b, c): Step) {
    fn drop_one<T>(list: &mut Vec<T>, which: u8) {
        if !list.is_empty() {
            list.remove(usize::from(which) % list.len());
        }
    }
    match kind % 18 {
        0 => drop_one(&mut document.hosts, a),
        1 => drop_one(&mut document.vpcs, a),
        2 | 3 => drop_one(&mut document.ports, a),
        4 => drop_one(&mut document.peerings, a),
        5 => drop_one(&mut document.regions, a),
        6 => document.hosts.push(host(a, b, c)),
        7 => document.vpcs.push(vpc_entry(a, b, c)),
        8 => {
            let (Some(vpc), Some(host)) = (pick(&document.vpcs, a), pick(&document.hosts, b)) else { return };
            document.ports.push(Port {
                vpc: vpc.id.clone(),
                host: host.id,
                interface: format!("eth{}", c % 4).parse().unwrap(),
                gateways: vec![
                    vpc.cidrs.first().unwrap().to_string().replace(".0.0/16", &format!(".{c}.1/24")).parse().unwrap(),
                ],
                prefixes: None,
            });
        }
        9 => {
            let (Some(one), Some(other)) = (pick(&document.vpcs, a), pick(&document.vpcs, b)) else { return };
            let bandwidth = (one.region != other.region && c.is_multiple_of(2)).then(|| u32::from(c) + 1);
            document.peerings.push(Peering {
                name: format!("p{}", c % 8),
                vpc: one.id,
                peer_vpc: other.id,
                bandwidth,
                export_prefixes: None,
                import_prefixes: None,
                peer_export_prefixes: None,
                peer_import_prefixes: None,
            });
        }
        10 => {
            let length = document.hosts.len().max(1);
            if let Some(host) = document.hosts.get_mut(usize::from(a) % length) {
                host.underlay = format!("192.0.2.{}", 20 + b % 5).parse().unwrap();
            }
        }
        11 => {
            let length = document.vpcs.len().max(1);
            if let Some(vpc) = document.vpcs.get_mut(usize::from(a) % length) {
                vpc.cidrs = cidr(b, c);
            }
        }
        12 => {
            let length = document.vpcs.len().max(1);
            if let Some(vpc) = document.vpcs.get_mut(usize::from(a) % length) {
                vpc.name = b.is_multiple_of(2).then(|| format!("renamed{b}"));
            }
        }
        13 | 14 => {
            let length = document.peerings.len().max(1);
            if let Some(peering) = document.peerings.get_mut(usize::from(a) % length) {
                match b % 4 {
                    0 => peering.name = format!("q{}", c % 4),
                    1 => peering.bandwidth = None,
                    2 => peering.bandwidth = Some(u32::from(c)),
                    _ => std::mem::swap(&mut peering.vpc, &mut peering.peer_vpc),
                }
            }
        }
        15 => {
            let length = document.ports.len().max(1);
            if let Some(port) = document.ports.get_mut(usize::from(a) % length) {
                if b.is_multiple_of(2) {
                    port.prefixes = None;
                } else if let Some(vpc) = pick(&document.vpcs, c) {
                    port.vpc = vpc.id;
                }
            }
        }
        16 => document.name = INVENTORIES[usize::from(a % 3)].map(str::to_owned),
        _ => document.regions.push(Region { id: "west".parse().unwrap() }),
    }
}

/// One command, whether or not it is refused.
fn command(model: &mut Model, document: &mut Inventory, step: Step) {
    let (kind, a, b, c) = step;
    let hosts: Vec<HostId> = model.state.hosts().keys().cloned().collect();
    let peerings: Vec<record::Peering> = model.state.peerings().values().cloned().collect();
    let vpcs: Vec<record::Vpc> = model.state.vpcs().values().cloned().collect();
    let locate = |peering: &record::Peering| Locator { region: None, id: peering.id.clone() };
    let account = ACCOUNTS[usize::from(a % 2)];
    let _ = match kind % 10 {
        0 => {
            let create = vpc::Create {
                account: account.parse().unwrap(),
                region: REGIONS[usize::from(b % 2)].parse().unwrap(),
                name: format!("own{c}"),
                description: String::new(),
                cidr: format!("10.{}.0.0/16", 50 + c % 4).parse().unwrap(),
                ipv6: false,
            };
            model.run_as(account, Command::CreateVpc(create))
        }
        1 | 2 => {
            let (Some(one), Some(other)) = (pick(&vpcs, a), pick(&vpcs, b)) else { return };
            let create = Create {
                name: format!("r{c}"),
                bandwidth: (one.region != other.region).then_some(u32::from(c) + 1),
                region: Some(one.region.clone()),
                ..crate::common::create(&one.id.to_string(), &other.id.to_string())
            };
            if kind % 10 == 1 {
                model.run_as(&one.account.to_string(), Command::CreatePeering(create))
            } else {
                model.run(&Command::CreatePeering(create))
            }
        }
        3 => {
            let Some(peering) = pick(&peerings, a) else { return };
            model.run(&Command::AcceptPeering(Accept::in_full(locate(&peering))))
        }
        4 => {
            let Some(peering) = pick(&peerings, a) else { return };
            let command = if b.is_multiple_of(4) {
                Command::DeletePeering(locate(&peering))
            } else {
                Command::Activate(peering.id)
            };
            model.run(&command)
        }
        5 => {
            let Some(id) = pick(&hosts, a) else { return };
            let removal = Removal { dead: c.is_multiple_of(2), approval: Approval::NotNeeded };
            let what = match b % 5 {
                0 => What::Remove(removal),
                1 => What::Replace { by: pick(&hosts, c).unwrap(), removal },
                2 => What::Uncordon,
                3 => What::Pause,
                _ => What::Drain,
            };
            model.run(&Command::Host(HostChange { id, what }))
        }
        6 => {
            let Some(host) = model.state.retiring().next() else { return };
            let forget = Command::Forget(host.id.clone());
            model.run(&forget)
        }
        _ => {
            edit(document, step_of(step));
            let apply = Apply { prune: b.is_multiple_of(4), adopt: c.is_multiple_of(5), ..Apply::of(document.clone()) };
            let applied = model.run(&Command::Apply(apply));
            if applied.is_err() {
                *document = view::inventory(&model.state);
            }
            applied
        }
    };
}

fn step_of((kind, a, b, c): Step) -> Step {
    (a.wrapping_add(kind / 10), a, b, c)
}

fn changes(outcome: Outcome) -> Vec<Difference> {
    match outcome {
        Outcome::Applied(differences) => differences,
        other => panic!("{other:?}"),
    }
}

fn json(record: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(record).unwrap()
}

/// Records as people see them: what an operator or account can set, by kind and id.
fn seen(state: &State) -> BTreeMap<(&'static str, String), serde_json::Value> {
    let mut all = BTreeMap::new();
    for it in state.regions().values() {
        all.insert(("region", it.id.to_string()), json(it));
    }
    for it in state.accounts().values() {
        all.insert(("account", it.id.to_string()), serde_json::json!(it.quotas));
    }
    for it in state.hosts().values() {
        all.insert(("host", it.id.to_string()), json(it));
    }
    for it in state.vpcs().values() {
        all.insert(("vpc", it.id.to_string()), json(it));
    }
    for it in state.ports().values() {
        all.insert(("port", it.key.to_string()), json(it));
    }
    for it in state.peerings().values() {
        let state = cps_peering_controller::model::peering::state_word(&it.state);
        let said = serde_json::json!([it.name, it.bandwidth, state, json(&it.managed_by)]);
        all.insert(("peering", it.id.to_string()), said);
    }
    all
}

fn id_of(difference: &Difference) -> (&'static str, String) {
    (difference.kind, difference.id.split(' ').next().unwrap_or_default().to_owned())
}

/// The plan shows exactly what has changed.
fn plan_is_true(before: &State, after: &State, plan: &[Difference]) {
    let (old, new) = (seen(before), seen(after));
    let mut changed = BTreeMap::new();
    for key in old.keys().chain(new.keys()) {
        let action = match (old.get(key), new.get(key)) {
            (None, Some(_)) => Action::Create,
            (Some(_), None) => Action::Delete,
            (one, other) if one != other => Action::Update,
            _ => continue,
        };
        changed.insert(key.clone(), action);
    }
    for difference in plan {
        let found = changed.remove(&id_of(difference));
        // A removed peering or host keeps its record for a while; an account's record may be created implicitly.
        let expected = match (difference.kind, difference.action) {
            ("peering" | "host", Action::Delete) => found == Some(Action::Update) || found == Some(Action::Delete),
            (_, action) => found == Some(action),
        };
        assert!(expected, "{difference:?} is told, and {found:?} was done");
    }
    assert!(changed.is_empty(), "done and not told: {changed:?}");
}

/// What others created, and the document does not name, is unchanged.
fn nothing_foreign_is_touched(before: &State, after: &State, document: &Inventory) {
    let own = |manager: &Manager| *manager == Manager::Inventory(document.name().to_owned());
    let pair = |a: &VpcId, b: &VpcId| BTreeSet::from([a.clone(), b.clone()]);
    for it in before.regions().values().filter(|it| !own(&it.managed_by)) {
        assert!(document.regions.iter().any(|region| region.id == it.id) || after.regions().get(&it.id) == Some(it));
    }
    for it in before.hosts().values().filter(|it| !own(&it.managed_by) && !it.dead) {
        assert!(document.hosts.iter().any(|host| host.id == it.id) || after.hosts().get(&it.id) == Some(it));
    }
    for it in before.vpcs().values().filter(|it| !own(&it.managed_by)) {
        assert!(document.vpcs.iter().any(|vpc| vpc.id == it.id) || after.vpcs().get(&it.id) == Some(it));
    }
    for it in before.ports().values().filter(|it| !own(&it.managed_by)) {
        let named = document.ports.iter().any(|port| port.host == it.key.host && port.interface == it.key.interface);
        assert!(named || after.ports().get(&it.key) == Some(it));
    }
    let named: BTreeSet<_> = document.peerings.iter().map(|it| pair(&it.vpc, &it.peer_vpc)).collect();
    for it in before.peerings().values().filter(|it| !own(&it.managed_by)) {
        let vpc_gone = it.state == PeeringState::Pending && !after.vpcs().contains_key(&it.receiver.vpc);
        if named.contains(&pair(&it.initiator.vpc, &it.receiver.vpc)) || vpc_gone {
            continue;
        }
        let now = &after.peerings()[&it.id];
        assert_eq!((&now.name, now.bandwidth, &now.state), (&it.name, it.bandwidth, &it.state));
        assert_eq!(now.managed_by, it.managed_by);
    }
    for it in before.vpcs().values().filter(|it| it.managed_by == Manager::Account) {
        let said = document.vpcs.iter().find(|vpc| vpc.id == it.id).and_then(|vpc| vpc.name.clone());
        assert_eq!(after.vpcs()[&it.id].name, said.unwrap_or_else(|| it.name.clone()), "the account's name stays");
    }
    for it in before.peerings().values().filter(|it| it.managed_by == Manager::Account && it.bandwidth.is_some()) {
        assert!(after.peerings()[&it.id].bandwidth.is_some(), "an account's limit is not lifted");
    }
}

fn whole(state: &State) {
    for port in state.ports().values() {
        assert!(state.vpcs().contains_key(&port.vpc), "{port:?}");
        assert!(state.hosts().get(&port.key.host).is_some_and(|host| !host.retiring), "{port:?}");
    }
    for vpc in state.vpcs().values() {
        assert!(state.regions().contains_key(&vpc.region), "{vpc:?}");
    }
    for host in state.hosts().values() {
        assert!(host.retiring || state.regions().contains_key(&host.region), "{host:?}");
        assert!(!host.dead || host.retiring, "{host:?}");
    }
    for peering in state.peerings().values().filter(|peering| peering.is_live()) {
        assert!(peering.sides().iter().all(|side| state.vpcs().contains_key(&side.vpc)), "{peering:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_dry_run_shows_what_apply_does(
        store in proptest::collection::vec(any::<Step>(), 0..24),
        document in proptest::collection::vec(any::<Step>(), 0..5),
        name in 0_usize..3,
        (prune, adopt, empty) in (any::<bool>(), any::<bool>(), 0_u8..8),
    ) {
        let mut model = built();
        let mut inventory = view::inventory(&model.state);
        for step in store {
            command(&mut model, &mut inventory, step);
            whole(&model.state);
        }
        // The inventory, exported and applied again, changes nothing, whoever created it.
        let exported = view::inventory(&model.state);
        let again = model.clone().run(&Command::Apply(Apply::of(exported.clone())));
        assert_eq!(again, Ok(Outcome::Applied(Vec::new())));

        let mut wanted = if empty == 0 { Inventory::default() } else { exported };
        for step in document {
            edit(&mut wanted, step);
        }
        wanted.name = INVENTORIES[name].map(str::to_owned);
        let plain = Apply { prune, adopt, ..Apply::of(wanted.clone()) };
        let before = model.state.clone();
        let mut dry = model.clone();
        // Other ids are drawn when it is applied.
        dry.made += 1000;
        let plan = match dry.run(&Command::Apply(plain.clone())) {
            // The model has checked that nothing was changed.
            Err(refusal) => {
                let applied = Apply { approval: Approval::Given(Some(1)), ..plain };
                assert_eq!(model.run(&Command::Apply(applied)).unwrap_err().code, refusal.code);
                return Ok(());
            }
            Ok(outcome) => changes(outcome),
        };
        let needed = needs_approval(&before, &plan, &model.limits);
        let with = |number| Command::Apply(Apply { approval: Approval::Given(number), ..plain.clone() });
        if let Some(number) = needed {
            for wrong in [None, Some(number + 1), number.checked_sub(1)] {
                let refusal = model.run(&with(wrong)).unwrap_err();
                assert_eq!(refusal.violations[0].reason, "ConfirmationRequired");
            }
        }
        let done = changes(model.run(&with(needed)).unwrap());
        let told = |plan: &[Difference]| -> Vec<Difference> {
            let told = plan.iter().cloned().map(|it| match (it.kind, it.action) {
                ("peering", Action::Create) => {
                    Difference { id: it.id.split_once(' ').unwrap().1.to_owned(), ..it }
                }
                _ => it,
            });
            told.collect()
        };
        assert_eq!(told(&plan), told(&done));
        plan_is_true(&before, &model.state, &done);
        nothing_foreign_is_touched(&before, &model.state, &wanted);
        whole(&model.state);
        let after = model.state.clone();
        assert_eq!(model.run(&with(None)).map(changes), Ok(Vec::new()), "it is so now");
        assert_eq!(model.state, after);
    }
}

#[test]
fn fields_of_an_accounts_objects_that_are_not_mentioned_stay() {
    let mut model = built();
    let own = |name: &str| Create { name: name.to_owned(), bandwidth: Some(100), ..crate::common::create("a", "c") };
    let own = Create { region: Some("north".parse().unwrap()), ..own("mine") };
    model.run_as("acme", Command::CreatePeering(own)).unwrap();
    let named = "[[peerings]]\nname = \"mine\"\nvpc = \"a\"\npeer_vpc = \"c\"\n";
    let refusal = model.apply(named).unwrap_err();
    assert!(refusal.to_string().contains("`bandwidth = 100`"), "{refusal}");
    for (mbit, expected) in [(100, &[][..]), (200, &["bandwidth"])] {
        let done = changes(model.apply(&format!("{named}bandwidth = {mbit}\n")).unwrap());
        let fields: Vec<_> = done.iter().flat_map(|it| &it.fields).map(|it| it.field.as_str()).collect();
        assert_eq!(fields, expected);
    }
    let peering = model.state.peerings().values().next().unwrap();
    assert_eq!((peering.bandwidth, &peering.managed_by), (Some(200), &Manager::Account));
}

#[test]
fn a_request_that_a_document_accepts_gets_the_documents_fields() {
    let other = crate::common::vpc("z", "east", "\"10.9.0.0/16\"").replace("acme", "zeta");
    let mut model = built();
    model.apply(&other).unwrap();
    let wish = Create {
        name: "asked".to_owned(),
        bandwidth: Some(100),
        region: Some("north".parse().unwrap()),
        peer_region: Some("east".parse().unwrap()),
        peer_account: Some("zeta".parse().unwrap()),
        ..crate::common::create("a", "z")
    };
    model.run_as("acme", Command::CreatePeering(wish)).unwrap();
    let said = "[[peerings]]\nname = \"said\"\nvpc = \"a\"\npeer_vpc = \"z\"\nbandwidth = 50\n";
    let done = changes(model.apply(said).unwrap());
    let fields: Vec<_> = done[0].fields.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["name", "bandwidth", "state"]);
    let peering = model.state.peerings().values().next().unwrap();
    assert_eq!((peering.name.as_str(), peering.bandwidth), ("said", Some(50)));
    assert_eq!(peering.state, PeeringState::Provisioning);
}

#[test]
fn a_changed_underlay_address_or_gateway_needs_confirmation_if_packets_pass() {
    let mut model = built();
    model.apply("[[peerings]]\nname = \"a-b\"\nvpc = \"a\"\npeer_vpc = \"b\"\n").unwrap();
    let stops = |model: &Model, text: &str| {
        let Command::Apply(command) = apply(text, false) else { panic!() };
        let done = changes(model.clone().run(&Command::Apply(command.clone())).unwrap());
        let confirmed = Apply { approval: Approval::Given(None), ..command };
        assert_eq!(model.clone().run(&Command::Apply(confirmed)).is_err(), done.iter().any(|it| it.stops_traffic));
        done.iter().filter(|it| it.stops_traffic).map(|it| it.id.clone()).collect::<Vec<_>>()
    };
    let moved = |number: u8, region: &str| {
        crate::common::host(number, region).replace(&format!("192.0.2.{number}\""), &format!("192.0.2.4{number}\""))
    };
    assert_eq!(stops(&model, &moved(2, "north")), ["h2"]);
    assert_eq!(stops(&model, &moved(3, "east")), [""; 0], "nobody is peered with what is there");
    let gateway = crate::common::port("h1", "eth1", "a", "10.1.0.254/24");
    assert_eq!(stops(&model, &gateway), ["h1/eth1"]);
}

#[test]
fn adoption_is_explicit_and_reported() {
    let mut model = built();
    let theirs = "name = \"second\"\n".to_owned() + &crate::common::vpc("z", "north", "\"10.60.0.0/16\"");
    model.apply(&theirs).unwrap();
    let named = crate::common::vpc("z", "north", "\"10.60.0.0/16\"").replace("cidrs", "name = \"z\"\ncidrs");
    assert_eq!(changes(model.apply(&named).unwrap()), []);
    let Command::Apply(command) = apply(&named, false) else { panic!() };
    let done = changes(model.run(&Command::Apply(Apply { adopt: true, ..command })).unwrap());
    assert_eq!(done[0].fields[0].field, "managed_by");
    let vpc = model.state.vpcs().values().find(|vpc| vpc.id.to_string() == "z").unwrap();
    assert_eq!(vpc.managed_by, Manager::Inventory("default".to_owned()));
}
