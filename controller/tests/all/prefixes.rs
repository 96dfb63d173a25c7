//! Peerings of parts of VPCs: what is reachable, what is refused, and the configurations of hosts.

use crate::common::{Model, REGIONS, create, delete, host, locate, peering, port, vpc};
use cps_peering_config::{
    ValidHostConfig,
    id::{HostId, PeeringId},
    net::overlap,
    prefix_set::{difference, intersection},
};
use cps_peering_controller::{
    api::view::inventory,
    model::{
        Command, CommandError, Outcome,
        inventory::Apply,
        peering::{Accept, Create},
        prefixes::{MAX_PREFIXES, PrefixLists, SetPrefixes},
        record::{Peering, Role},
    },
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn lists(export: &[&str], import: &[&str]) -> PrefixLists {
    PrefixLists { export: nets(export), import: nets(import) }
}

fn set(id: &PeeringId, vpc: &str, export: Option<&[&str]>, import: Option<&[&str]>) -> Command {
    let (export, import) = (export.map(nets), import.map(nets));
    Command::SetPrefixes(SetPrefixes { which: locate(id), vpc: Some(vpc.parse().unwrap()), export, import })
}

/// VPCs `a` and `b` whose rest overlaps, `c`, which has most of what `b` has, each with ports, and `d` of another account.
fn overlapping() -> Model {
    let mut model = Model::default();
    let text = [
        REGIONS.to_owned(),
        host(1, "north"),
        host(2, "north"),
        vpc("a", "north", "'10.1.0.0/16', '10.9.0.0/16', 'fd00:1::/48'"),
        vpc("b", "north", "'10.2.0.0/16', '10.9.0.0/16', 'fd00:2::/48'"),
        vpc("c", "north", "'10.2.0.0/16', '10.3.0.0/16'"),
        vpc("d", "north", "'10.4.0.0/16', '10.1.0.0/16'").replace("acme", "zeta"),
        port("h1", "eth1", "a", "10.1.0.1/24"),
        port("h1", "eth2", "b", "10.2.0.1/24"),
        port("h2", "eth2", "b", "10.2.1.1/24"),
    ];
    model.apply(&text.concat()).unwrap();
    model
}

fn scoped(vpc: &str, peer: &str, prefixes: PrefixLists, peer_prefixes: PrefixLists) -> Command {
    Command::CreatePeering(Create { prefixes, peer_prefixes, ..create(vpc, peer) })
}

fn reason(result: Result<impl Sized, CommandError>) -> (&'static str, String) {
    let refusal = result.err().unwrap();
    (refusal.violations[0].reason, refusal.to_string())
}

/// What of each side the other one reaches, the initiator's first.
fn reached(model: &Model, id: &PeeringId) -> [Vec<IpNet>; 2] {
    let peering = &model.state.peerings()[id];
    peering.views().map(|(own, peer)| own.effective(peer).into_owned())
}

/// C9, L6: VPCs that overlap elsewhere are peered by the parts that do not overlap.
#[test]
fn l6_only_counts_connected_parts() {
    let mut model = overlapping();
    let shown = lists(&["10.1.0.0/16", "fd00:1::/48"], &["10.2.0.0/16", "fd00:2::/48"]);
    for (own, peer) in [
        (PrefixLists::default(), PrefixLists::default()),
        (lists(&["10.1.0.0/16"], &[]), PrefixLists::default()),
        (lists(&[], &["10.2.0.0/16"]), PrefixLists::default()),
        // What one exports overlaps what the other has, although that is not exported.
        (lists(&["10.9.7.0/24"], &["10.2.0.0/16"]), PrefixLists::default()),
    ] {
        assert_eq!(reason(model.run(&scoped("a", "b", own, peer))).0, "VpcPeerCidrConflict");
    }
    let id = peering(&model.run(&scoped("a", "b", shown, PrefixLists::default())).unwrap());
    assert_eq!(reached(&model, &id), [nets(&["10.1.0.0/16", "fd00:1::/48"]), nets(&["10.2.0.0/16", "fd00:2::/48"])]);
    // Importing or exporting less is never refused; importing more is, if it overlaps.
    model.run(&set(&id, "b", Some(&["10.2.0.0/24"]), None)).unwrap();
    assert_eq!(reached(&model, &id)[1], nets(&["10.2.0.0/24"]));
    assert_eq!(reason(model.run(&set(&id, "a", Some(&[]), None))).0, "VpcPeerCidrConflict");
    assert_eq!(reason(model.run(&set(&id, "a", Some(&["10.9.0.0/24"]), None))).0, "VpcPeerCidrConflict");
    model.run(&set(&id, "a", None, Some(&[]))).unwrap();
    assert_eq!(reached(&model, &id)[1], nets(&["10.2.0.0/24"]), "all of what the other side shows");
}

/// L7, L13: another peer of the same VPC can have the same addresses, as long as only one of them is reached.
#[test]
fn l7_only_counts_connected_parts_also_when_lists_grow() {
    let mut model = overlapping();
    let ab = scoped("a", "b", lists(&["10.1.0.0/16"], &["10.2.0.0/24"]), PrefixLists::default());
    let ab = peering(&model.run(&ab).unwrap());
    assert_eq!(
        reason(model.run(&scoped("a", "c", PrefixLists::default(), PrefixLists::default()))).0,
        "VpcPeerCidrConflict"
    );
    let ac = scoped("a", "c", lists(&["10.1.0.0/16"], &["10.2.128.0/17", "10.3.0.0/16"]), PrefixLists::default());
    let ac = peering(&model.run(&ac).unwrap());
    // Neither grows into the other, whichever side changes its list.
    for command in [
        set(&ab, "a", None, Some(&["10.2.0.0/16"])),
        set(&ac, "a", None, Some(&[])),
        set(&ac, "a", None, Some(&["10.2.0.0/25"])),
    ] {
        let (reason, text) = reason(model.run(&command));
        assert!(reason == "VpcPeerCidrConflict" && text.contains("overlaps"), "{text}");
    }
    model.run(&set(&ac, "c", Some(&["10.3.0.0/16"]), None)).unwrap();
    model.run(&set(&ab, "a", None, Some(&["10.2.0.0/16"]))).unwrap();
    assert_eq!(reason(model.run(&set(&ac, "c", Some(&[]), None))).0, "VpcPeerCidrConflict", "c would show what b has");
    assert_eq!(reached(&model, &ac)[1], nets(&["10.3.0.0/16"]));
}

/// L10, L13: a list does not grow with its VPC, while no list does; parts outside the CIDRs have no effect.
#[test]
fn added_and_removed_cidrs_are_checked_by_what_is_connected() {
    let mut model = overlapping();
    let ab = scoped("a", "b", lists(&["10.1.0.0/16"], &["10.2.0.0/16"]), PrefixLists::default());
    let ab = peering(&model.run(&ab).unwrap());
    let with = |id: &str, more: &str| vpc(id, "north", &format!("'10.1.0.0/16', '10.9.0.0/16', 'fd00:1::/48'{more}"));
    // It is not exported: it can be what b has and does not export, but not what a reaches of b.
    model.apply(&with("a", ", '10.77.0.0/16'")).unwrap();
    assert_eq!(reached(&model, &ab)[0], nets(&["10.1.0.0/16"]));
    model.run(&set(&ab, "b", Some(&["10.2.0.0/17"]), None)).unwrap();
    model.apply(&with("a", ", '10.2.128.0/17'")).unwrap();
    assert_eq!(reason(model.apply(&with("a", ", '10.2.0.0/24'"))).0, "VpcPeerCidrConflict");
    assert_eq!(reason(model.run(&set(&ab, "b", Some(&["10.2.0.0/16"]), None))).0, "VpcPeerCidrConflict");
    // Without a list a new CIDR is exported immediately.
    let mut model = overlapping();
    let ab = scoped("a", "b", lists(&[], &["10.2.0.0/16"]), lists(&[], &["10.1.0.0/16", "10.77.0.0/16"]));
    let ab = peering(&model.run(&ab).unwrap());
    model.apply(&with("a", ", '10.77.0.0/16'")).unwrap();
    assert_eq!(reached(&model, &ab)[0], nets(&["10.1.0.0/16", "10.77.0.0/16"]));
    // A removed exported CIDR takes effect again when it is added again; the list does not become "all" meanwhile.
    model.run(&set(&ab, "a", Some(&["10.77.0.0/24"]), None)).unwrap();
    model.apply(&with("a", "")).unwrap();
    assert_eq!(reached(&model, &ab)[0], nets(&[]));
    model.apply(&with("a", ", '10.77.0.0/16'")).unwrap();
    assert_eq!(reached(&model, &ab)[0], nets(&["10.77.0.0/24"]));
}

/// L13: an invalid list is refused with its index, value and rule.
#[test]
fn lists_are_bounded_canonical_and_without_overlaps() {
    type Case<'a> = (Option<&'a [&'a str]>, Option<&'a [&'a str]>, &'a str);
    let mut model = overlapping();
    let ab = scoped("a", "b", lists(&["10.1.0.0/16"], &["10.2.0.0/16"]), PrefixLists::default());
    let ab = peering(&model.run(&ab).unwrap());
    let many: Vec<String> = (0..=MAX_PREFIXES).map(|nth| format!("10.1.{nth}.0/24")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: [Case<'_>; 6] = [
        (
            Some(&["10.1.0.1/16"][..]),
            None,
            "exportPrefixes[0]: 10.1.0.1/16 has bits set behind its length; it would be 10.1.0.0/16",
        ),
        (Some(&["10.7.0.0/24"]), None, "exportPrefixes: 10.7.0.0/24 is in none of the CIDRs of a"),
        (Some(&["10.0.0.0/8"]), None, "10.0.0.0/8 is in none of the CIDRs of a"),
        (Some(&["10.1.0.0/24", "fd00:1::/64", "10.1.0.0/24"]), None, "exportPrefixes: 10.1.0.0/24 is there twice"),
        (
            None,
            Some(&["10.2.7.0/24", "10.2.0.0/16"]),
            "importPrefixes: 10.2.7.0/24 lies within 10.2.0.0/16: leave one out",
        ),
        (None, Some(&many[..]), "importPrefixes: 65 prefixes: at most 64 are allowed"),
    ];
    for (export, import, said) in cases {
        let (reason, text) = reason(model.run(&set(&ab, "a", export, import)));
        assert!(reason == "InvalidPrefix" && text.contains(said), "{text}");
    }
    model.run(&set(&ab, "a", Some(&many[..MAX_PREFIXES]), None)).unwrap();
    assert_eq!(reached(&model, &ab)[0].len(), MAX_PREFIXES);
    // Whatever the other side may have one day can be imported, and what it never has as well.
    model.run(&set(&ab, "a", None, Some(&["10.2.0.0/16", "192.168.0.0/16", "2001:db8::/32"]))).unwrap();
    assert_eq!(reached(&model, &ab)[1], nets(&["10.2.0.0/16"]));
    assert_eq!(reason(model.run(&set(&ab, "c", None, Some(&[])))).0, "VpcPeerPurviewError");
    model.run(&delete(&ab)).unwrap();
    assert_eq!(reason(model.run(&set(&ab, "a", None, Some(&["10.2.0.0/24"])))).0, "VpcPeerInvalidStateChange");
}

/// L13, L11: a request shows what it exports; the receiver imports a part of it, and exports a part. Each changes its own lists only.
#[test]
fn the_receiver_chooses_its_own_lists() {
    let mut model = overlapping();
    let ask = |prefixes: PrefixLists| {
        let peer_account = Some("zeta".parse().unwrap());
        Command::CreatePeering(Create {
            prefixes,
            peer_account,
            region: Some("north".parse().unwrap()),
            ..create("a", "d")
        })
    };
    // d has 10.1.0.0/16 as well: a exports something else.
    assert_eq!(reason(model.run_as("acme", ask(PrefixLists::default()))).0, "VpcPeerCidrConflict");
    let id = peering(&model.run_as("acme", ask(lists(&["fd00:1::/48", "10.9.0.0/16"], &["10.4.0.0/16"]))).unwrap());
    // Before acceptance, only the initiator changes its own.
    let receivers = set(&id, "d", None, Some(&["10.9.0.0/24"]));
    assert_eq!(reason(model.run_as("zeta", receivers.clone())).0, "VpcPeerInvalidStateChange");
    assert_eq!(reason(model.run_as("acme", receivers)).0, "VpcPeerPurviewError");
    model.run_as("acme", set(&id, "a", Some(&["10.9.0.0/16"]), None)).unwrap();
    let accept = |prefixes| Command::AcceptPeering(Accept { which: locate(&id), prefixes });
    assert_eq!(reason(model.run_as("zeta", accept(lists(&["10.9.0.0/24"], &[])))).0, "InvalidPrefix");
    let taken = lists(&["10.4.4.0/24"], &["10.9.128.0/17"]);
    model.run_as("zeta", accept(taken.clone())).unwrap();
    assert_eq!(reached(&model, &id), [nets(&["10.9.128.0/17"]), nets(&["10.4.4.0/24"])]);
    // Accepting again changes nothing, unless the lists differ.
    for again in [taken, PrefixLists::default()] {
        model.run_as("zeta", accept(again)).unwrap();
    }
    assert_eq!(reason(model.run_as("zeta", accept(lists(&[], &["10.9.0.0/24"])))).0, "VpcPeerInvalidStateChange");
    assert_eq!(reached(&model, &id), [nets(&["10.9.128.0/17"]), nets(&["10.4.4.0/24"])]);
    model.run_as("zeta", set(&id, "d", None, Some(&[]))).unwrap();
    assert_eq!(reached(&model, &id)[0], nets(&["10.9.0.0/16"]));
}

/// C9: hosts get what is connected, and nothing of the rest; the configuration of a peering without lists is unchanged.
#[test]
fn hosts_get_what_is_connected() {
    let mut model = overlapping();
    let whole = lists(&["10.1.0.0/16"], &["10.2.0.0/16"]);
    let ab = peering(&model.run(&scoped("a", "b", whole, PrefixLists::default())).unwrap());
    model.run(&set(&ab, "b", Some(&["10.2.0.128/25", "10.2.1.0/25"]), None)).unwrap();
    let plans = model.plans();
    let side = |host: &str, vpc: &str| {
        plans[&host.parse::<HostId>().unwrap()].sides.values().find(|side| side.vpc.as_str() == vpc).unwrap().clone()
    };
    let (a, b) = (side("h1", "a"), side("h2", "b"));
    assert_eq!(
        (&a.peer_cidrs, a.own_prefixes.as_ref().unwrap()),
        (&nets(&["10.2.0.128/25", "10.2.1.0/25"]), &nets(&["10.1.0.0/16"]))
    );
    assert_eq!(a.remotes.values().flatten().copied().collect::<Vec<_>>(), nets(&["10.2.1.0/25"]));
    assert_eq!(b.own_prefixes.as_ref().unwrap(), &nets(&["10.2.0.128/25", "10.2.1.0/25"]));
    assert_eq!(b.remotes.values().flatten().copied().collect::<Vec<_>>(), nets(&["10.1.0.0/24"]));
    // A host without anything connected must not send for it.
    model.run(&set(&ab, "b", Some(&["10.2.0.0/24"]), None)).unwrap();
    let plans = model.plans();
    let a = plans[&"h1".parse::<HostId>().unwrap()].sides.values().find(|side| side.vpc.as_str() == "a").unwrap();
    assert!(a.remotes.is_empty(), "{a:?}");
}

/// L13: a document contains the lists of both sides; what it does not mention stays, and narrowing stops traffic.
#[test]
fn inventories_have_the_lists_of_both_sides() {
    let mut model = overlapping();
    let text = |more: &str| format!("[[peerings]]\nname = 'a-b'\nvpc = 'a'\npeer_vpc = 'b'\n{more}");
    let part = "export_prefixes = ['10.1.0.0/16']\nimport_prefixes = ['10.2.0.0/16', '10.5.0.0/16']\n";
    assert_eq!(reason(model.apply(&text(""))).0, "VpcPeerCidrConflict");
    model.apply(&text(part)).unwrap();
    let id = model.state.peerings().keys().next().unwrap().clone();
    assert_eq!(reached(&model, &id), [nets(&["10.1.0.0/16"]), nets(&["10.2.0.0/16"])]);
    let changes = |model: &mut Model, text: &str| {
        let Outcome::Applied(differences) = model.apply(text).unwrap() else { panic!() };
        let fields = differences.iter().flat_map(|it| &it.fields).map(|it| it.field.clone()).collect::<Vec<_>>();
        (fields, differences.iter().any(|it| it.stops_traffic))
    };
    for again in [text(part), text(""), text("import_prefixes = ['10.5.0.0/16', '10.2.0.0/16']\n")] {
        assert_eq!(changes(&mut model, &again), (Vec::new(), false), "{again}");
    }
    let narrower = text("peer_export_prefixes = ['10.2.7.0/24']\npeer_import_prefixes = ['10.0.0.0/8']\n");
    let fields = ["peer_export_prefixes", "peer_import_prefixes"].map(str::to_owned).to_vec();
    assert_eq!(changes(&mut model, &narrower), (fields, true));
    assert_eq!(reached(&model, &id)[1], nets(&["10.2.7.0/24"]));
    let wider = text("peer_export_prefixes = []\n");
    assert_eq!(changes(&mut model, &wider), (vec!["peer_export_prefixes".to_owned()], false));
    assert_eq!(reason(model.apply(&text("export_prefixes = []\n"))).0, "VpcPeerCidrConflict");
    let outside = model.apply(&text("export_prefixes = ['10.7.0.0/16']\n")).unwrap_err().to_string();
    assert!(
        outside.contains("peerings[0] (a-b)") && outside.contains("10.7.0.0/16 is in none of the CIDRs of a"),
        "{outside}"
    );
    // The exported document leads to the same elsewhere.
    let exported = inventory(&model.state);
    let mut other = Model::default();
    other.run(&Command::Apply(Apply::of(exported.clone()))).unwrap();
    assert_eq!(inventory(&other.state), exported);
    assert!(exported.peerings[0].peer_import_prefixes.is_some() && exported.peerings[0].peer_export_prefixes.is_none());
}

/// What one peering gives up another can have, in any order in the document.
#[test]
fn the_order_of_an_inventory_does_not_matter() {
    let document = |order: [usize; 2], takes: [&str; 2]| {
        let entry = |nth: usize| {
            let peer = ["b", "c"][nth];
            format!(
                "[[peerings]]\nname = 'a-{peer}'\nvpc = 'a'\npeer_vpc = '{peer}'\nexport_prefixes = ['10.1.0.0/16']\n\
                 import_prefixes = [{}]\n",
                takes[nth]
            )
        };
        order.map(entry).concat()
    };
    let parts = [["'10.2.0.0/24'", "'10.2.1.0/24', '10.2.8.0/24'"], ["'10.2.1.0/24'", "'10.2.0.0/24', '10.2.8.0/24'"]];
    for order in [[0, 1], [1, 0]] {
        let mut model = overlapping();
        model.apply(&document(order, parts[0])).unwrap();
        let ids: Vec<PeeringId> = model.state.peerings().keys().cloned().collect();
        let both = |model: &Model| ids.iter().flat_map(|id| reached(model, id)[1].clone()).collect::<BTreeSet<_>>();
        let before = both(&model);
        let Outcome::Applied(differences) = model.apply(&document(order, parts[1])).unwrap() else { panic!() };
        let fields: Vec<_> = differences.iter().map(|it| (it.fields.len(), it.stops_traffic)).collect();
        assert_eq!(fields, [(1, true), (1, true)]);
        let field = &differences[0].fields[0];
        assert!(!format!("{field:?}").contains("::"), "nothing is told of what it was in between: {field:?}");
        assert_eq!(both(&model), before);
        // What both of them want is refused, and changes nothing.
        let one = ["'10.2.0.0/24'", "'10.2.0.0/24'"];
        assert_eq!(reason(model.apply(&document(order, one))).0, "VpcPeerCidrConflict");
        assert_eq!(both(&model), before);
    }
}

/// A list out of six prefixes of two VPCs and one of neither.
fn list() -> impl Strategy<Value = Vec<IpNet>> {
    let pool = ["10.1.0.0/24", "10.1.1.0/25", "10.2.0.0/24", "10.2.0.0/16", "10.3.0.0/17", "10.0.0.0/14", "fd00::/16"];
    proptest::collection::vec(0..pool.len(), 0..4).prop_map(move |picked| {
        let mut list: Vec<IpNet> = Vec::new();
        for prefix in picked.into_iter().map(|nth| pool[nth].parse::<IpNet>().unwrap()) {
            if !list.iter().any(|other| overlap(other, &prefix)) {
                list.push(prefix);
            }
        }
        list
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// C9, L13: whatever the lists, no VPC reaches an address twice or its own, and hosts can apply their configurations.
    #[test]
    fn no_lists_make_a_vpc_reach_an_address_twice(
        steps in proptest::collection::vec((0u8..4, 0u8..4, list(), list(), any::<u8>()), 1..24),
    ) {
        let mut model = Model::default();
        let mut text = [REGIONS.to_owned(), host(1, "north"), host(2, "north")].concat();
        // All overlap in part.
        let cidrs = [
            "'10.1.0.0/16', '10.2.0.0/16', 'fd00:1::/48'",
            "'10.2.0.0/16', '10.3.0.0/16', 'fd00:2::/48'",
            "'10.1.0.0/17', '10.3.0.0/16'",
            "'10.2.0.0/15', 'fd00:1::/48'",
        ];
        for (nth, cidrs) in cidrs.iter().enumerate() {
            text += &vpc(&format!("v{nth}"), "north", cidrs);
        }
        text += &port("h1", "eth0", "v0", "10.1.0.1/24");
        text += &port("h2", "eth1", "v1", "10.2.0.1/24");
        text += &port("h1", "eth2", "v2", "10.1.1.1/24");
        text += &port("h1", "eth3", "v3", "10.2.0.1/24");
        model.apply(&text).unwrap();
        for (a, b, export, import, kind) in steps {
            let id = model.state.peerings().keys().nth(usize::from(kind) % model.state.peerings().len().max(1)).cloned();
            let _ = match (kind % 3, id) {
                (0, Some(id)) => {
                    let side = model.state.peerings()[&id].sides()[usize::from(a % 2)].vpc.clone();
                    let set = SetPrefixes { which: locate(&id), vpc: Some(side), export: Some(export), import: Some(import) };
                    model.run(&Command::SetPrefixes(set))
                }
                (1, Some(id)) if kind % 5 == 0 => model.run(&delete(&id)),
                _ => {
                    let lists = PrefixLists { export, import };
                    let (vpc, peer) = (format!("v{a}"), format!("v{b}"));
                    model.run(&scoped(&vpc, &peer, lists, PrefixLists::default()))
                }
            };
            let state = &model.state;
            for vpc in state.vpcs().values() {
                let mut claimed = vpc.cidrs.clone();
                let forwarding = state.peerings_of(&vpc.id).filter(|peering| peering.forwards());
                for (own, peer) in forwarding.flat_map(Peering::views).filter(|(own, _)| own.vpc == vpc.id) {
                    for prefix in peer.effective(own).iter() {
                        prop_assert!(!claimed.iter().any(|other| overlap(other, prefix)), "{} {prefix}", vpc.id);
                        claimed.push(*prefix);
                    }
                }
            }
            for peering in state.peerings().values() {
                for role in [Role::Initiator, Role::Receiver] {
                    let (own, peer) = peering.view(role);
                    let reached = own.effective(peer);
                    // The same by the meaning of the lists, address by address.
                    let mut expected = own.cidrs.clone();
                    for list in [&own.export_prefixes, &peer.import_prefixes].into_iter().filter(|list| !list.is_empty()) {
                        expected = intersection(&expected, list);
                    }
                    prop_assert!(difference(&expected, &reached).is_empty() && difference(&*reached, &expected).is_empty());
                }
            }
            for config in model.plans().into_values() {
                let text = format!("{config:?}");
                prop_assert!(ValidHostConfig::try_from(config).is_ok(), "{}", text);
            }
        }
    }
}
