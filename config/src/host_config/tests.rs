//! Configurations, patches and rules.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn sample() -> HostConfig {
    toml::from_str(
        r#"
        revision = { epoch = 1, number = 7 }
        host = "h1"
        underlay = "192.0.2.1"
        [vrfs.vpc-a]
        vni = 10
        ports.eth1 = { gateways = ["10.1.0.1/24", "fd01::1/64"], prefixes = ["10.1.0.0/24", "fd01::/64"] }
        remotes."192.0.2.2" = ["10.1.1.0/24"]
        [vrfs.vpc-b]
        vni = 11
        ports.eth2 = { gateways = ["10.2.0.1/24"], prefixes = ["10.2.0.0/24"] }
        [sides.1001]
        peering = "vpcpr-1"
        vpc = "vpc-a"
        peer_vni = 1002
        peer_cidrs = ["10.2.0.0/16", "fd02::/48"]
        remotes."192.0.2.3" = ["10.2.1.0/24", "fd02::/64"]
        [sides.1002]
        peering = "vpcpr-1"
        vpc = "vpc-b"
        peer_vni = 1001
        peer_cidrs = ["10.1.0.0/16", "fd01::/48"]
        "#,
    )
    .unwrap()
}

fn vni(number: u32) -> Vni {
    number.try_into().unwrap()
}

#[test]
fn json_and_back_is_the_same() {
    let config = sample();
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<HostConfig>(&json).unwrap(), config);
}

#[test]
fn each_rule_names_place_and_value() {
    type Change = fn(&mut HostConfig);
    let cases: &[(Change, &str, &str)] = &[
        (|c| c.vrfs.get_mut("vpc-b").unwrap().vni = vni(10), "vrfs.vpc-b", "VNI 10 is also that of vrfs.vpc-a"),
        (|c| c.vrfs.get_mut("vpc-b").unwrap().vni = vni(1001), "sides.1001", "VNI 1001"),
        (
            |c| {
                let port = c.vrfs["vpc-a"].ports.values().next().unwrap().clone();
                c.vrfs.get_mut("vpc-b").unwrap().ports.insert("eth1".parse().unwrap(), port);
            },
            "vrfs.vpc-b.ports.eth1",
            "also a port of vpc-a",
        ),
        (
            |c| c.sides.get_mut(&vni(1001)).unwrap().peer_cidrs.push("10.9.0.1/16".parse().unwrap()),
            "sides.1001",
            "10.9.0.1/16",
        ),
        (
            |c| c.sides.get_mut(&vni(1001)).unwrap().peer_cidrs.push("10.1.1.0/28".parse().unwrap()),
            "sides.1001",
            "10.1.1.0/28 overlaps 10.1.1.0/24 of vrfs.vpc-a.remotes.192.0.2.2",
        ),
        (
            |c| {
                let remote = "192.0.2.9".parse().unwrap();
                let prefix = "10.2.1.128/25".parse().unwrap();
                c.sides.get_mut(&vni(1001)).unwrap().remotes.insert(remote, vec![prefix]);
            },
            "sides.1001.remotes.192.0.2.9",
            "10.2.1.128/25 overlaps 10.2.1.0/24",
        ),
        (
            |c| {
                let remote = "192.0.2.9".parse().unwrap();
                c.sides.get_mut(&vni(1001)).unwrap().remotes.insert(remote, vec!["10.3.0.0/24".parse().unwrap()]);
            },
            "sides.1001",
            "10.3.0.0/24",
        ),
        (|c| c.sides.get_mut(&vni(1002)).unwrap().vpc = "vpc-z".parse().unwrap(), "sides.1002", "vpc-z"),
        (|c| c.sides.get_mut(&vni(1002)).unwrap().vpc = "vpc-a".parse().unwrap(), "sides.1002", "two sides"),
        (|c| c.underlay = "192.0.2.2".parse().unwrap(), "vrfs.vpc-a.remotes.192.0.2.2", "itself"),
        (|c| c.underlay = "2001:db8::1".parse().unwrap(), "vrfs.vpc-a.remotes.192.0.2.2", "family"),
    ];
    ValidHostConfig::try_from(sample()).unwrap();
    for (change, path, rule) in cases {
        let mut config = sample();
        change(&mut config);
        let error = ValidHostConfig::try_from(config).unwrap_err();
        assert_eq!(&error.path, path, "{error}");
        assert!(error.rule.contains(rule), "{error}");
    }
}

#[test]
fn a_patch_is_checked_against_what_it_leaves_alone() {
    type Change = fn(&mut HostPatch);
    let old = sample();
    let shared = SharedHostConfig::from(old.clone());
    let empty = HostPatch::between(&shared, &shared).unwrap();
    let cases: &[(Change, &str)] = &[
        (|patch| drop(patch.vrfs.insert("vpc-b".parse().unwrap(), None)), "vpc-b has no VRF"),
        (
            |patch| {
                let mut vrf = sample().vrfs["vpc-b"].clone();
                vrf.ports.iter_mut().for_each(|(_, port)| port.prefixes = vec!["10.1.7.0/24".parse().unwrap()]);
                patch.vrfs.insert("vpc-b".parse().unwrap(), Some(Arc::new(vrf)));
            },
            "10.1.7.0/24",
        ),
        (
            |patch| {
                let mut side = sample().sides[&vni(1001)].clone();
                side.peer_cidrs.push("10.1.1.0/28".parse().unwrap());
                patch.sides.insert(vni(1001), Some(Arc::new(side)));
            },
            "10.1.1.0/28",
        ),
        (
            |patch| {
                let side = SideConfig { remotes: Remotes::default(), ..sample().sides[&vni(1001)].clone() };
                patch.sides.insert(vni(1003), Some(Arc::new(side)));
            },
            "two sides",
        ),
    ];
    let valid = ValidHostConfig::try_from(old).unwrap();
    assert_eq!(valid.patched(empty.clone()).unwrap(), valid);
    for (change, rule) in cases {
        let mut patch = empty.clone();
        change(&mut patch);
        let error = valid.patched(patch).unwrap_err().to_string();
        assert!(error.contains(rule), "{error}");
    }
}

/// C9: an agent that does not know partial sides has nothing of them, because it would otherwise join all of both VPCs
/// on its host.
#[test]
fn partial_sides_are_separate_on_the_wire() {
    let (id, mut part) = (vni(1001), sample());
    part.sides.get_mut(&id).unwrap().own_prefixes = Some(vec!["10.1.0.0/24".parse().unwrap()]);
    let json = serde_json::to_value(&part).unwrap();
    assert_eq!(json["sides"].as_object().unwrap().keys().collect::<Vec<_>>(), ["1002"]);
    assert_eq!(json["scoped_sides"].as_object().unwrap().keys().collect::<Vec<_>>(), ["1001"]);
    assert_eq!(serde_json::from_value::<HostConfig>(json).unwrap(), part);
    assert_eq!(serde_json::to_value(sample()).unwrap().get("scoped_sides"), None);
    let (whole, scoped) = (SharedHostConfig::from(sample()), SharedHostConfig::from(part.clone()));
    for (from, to, sides, apart) in
        [(&whole, &scoped, json!({ "1001": null }), true), (&scoped, &whole, Value::Null, false)]
    {
        let patch = HostPatch::between(from, to).unwrap();
        let json = serde_json::to_value(&patch).unwrap();
        assert!(!apart || json["sides"] == sides, "a reader that does not know it loses it: {json}");
        assert_eq!(json.get("scoped_sides").is_some(), apart);
        let read: HostPatch = serde_json::from_value(json).unwrap();
        assert_eq!(read, patch);
        let before = ValidHostConfig::try_from(from.clone()).unwrap();
        assert_eq!(*before.patched(read).unwrap(), *to);
    }
    part.sides.get_mut(&id).unwrap().own_prefixes = Some(vec!["10.1.0.1/24".parse().unwrap()]);
    assert!(ValidHostConfig::try_from(part).unwrap_err().rule.contains("10.1.0.1/24"));
}

#[test]
fn a_patch_cannot_change_the_host() {
    let old = sample();
    let mut new = sample();
    new.underlay = "192.0.2.77".parse().unwrap();
    assert_eq!(HostPatch::between(&old.into(), &new.into()), None);
}

fn configs() -> impl Strategy<Value = HostConfig> {
    let side = (0u8..3).prop_map(|variant| {
        let mut side = sample().sides.into_values().next().unwrap();
        side.peer_cidrs.truncate(variant.into());
        side
    });
    let vrf = (1u32..4).prop_map(|number| VrfConfig {
        vni: vni(number),
        ports: Ports::default(),
        remotes: Remotes::default(),
        path_mtu: None,
        shared_gateways: Vec::new(),
    });
    let vpcs = (0u8..4).prop_map(|n| format!("vpc-{n}").parse::<VpcId>().unwrap());
    (
        1u64..9,
        proptest::collection::btree_map(vpcs, vrf, 0..4),
        proptest::collection::btree_map((1u32..5).prop_map(vni), side, 0..4),
    )
        .prop_map(|(number, vrfs, sides)| HostConfig {
            revision: Revision { epoch: 1, number },
            vrfs,
            sides,
            ..sample()
        })
}

proptest! {
    #[test]
    fn a_patch_leads_from_old_to_new(old in configs(), new in configs()) {
        let (old, new) = (SharedHostConfig::from(old), SharedHostConfig::from(new));
        let patch = HostPatch::between(&old, &new).unwrap();
        let json = serde_json::to_string(&patch).unwrap();
        let patch: HostPatch = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(patch.apply_to(&old), new);
    }

    #[test]
    fn a_patch_is_refused_when_its_result_is(old in configs(), new in configs()) {
        let Ok(old) = ValidHostConfig::try_from(old) else { return Ok(()) };
        let patch = HostPatch::between(&old, &new.clone().into()).unwrap();
        prop_assert_eq!(old.patched(patch).ok(), ValidHostConfig::try_from(new).ok());
    }
}
