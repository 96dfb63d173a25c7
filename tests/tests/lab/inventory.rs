//! A wrong inventory is refused as a whole, with an error that names file, entry and rule.

use crate::{NORTH, a_and_b};
use anyhow::{Result, ensure};
use cps_peering_config::inventory::Inventory;
use cps_peering_tests::{Lab, Topology};
use std::fs;

/// What is wrong with an inventory and which words its error must have, besides the file's name.
struct Case {
    what: &'static str,
    inventory: String,
    words: &'static [&'static str],
}

fn written(topology: Topology) -> String {
    toml::to_string(&Inventory::from(topology)).expect("an inventory can be written")
}

fn cases() -> Vec<Case> {
    let case = |what, inventory, words| Case { what, inventory, words };
    vec![
        case("no TOML at all", "[[hosts".to_owned(), &["line 1"]),
        case("an unknown field", written(a_and_b()) + "\n[nonsense]\n", &["nonsense"]),
        case(
            "a CIDR that is none",
            written(a_and_b()).replace("\"10.1.0.0/16\"", "\"10.1.0.0/61\""),
            &["10.1.0.0/61", "line"],
        ),
        case(
            "a CIDR with bits behind its length",
            written(a_and_b().vpc("vpc-x", NORTH, &["10.7.0.1/16"])),
            &["vpc-x", "10.7.0.1/16"],
        ),
        case(
            "an interface name that is too long",
            written(a_and_b()).replacen("\"eth1\"", "\"much-too-long-a-name\"", 1),
            &["much-too-long-a-name", "15"],
        ),
        case(
            "a host that is not there",
            written(a_and_b().port("vpc-a", "h9", "eth1", &["10.1.9.1/24"])),
            &["h9", "eth1"],
        ),
        case(
            "a VPC that is not there",
            written(a_and_b().port("vpc-z", "h1", "eth7", &["10.1.9.1/24"])),
            &["vpc-z", "eth7"],
        ),
        case("a port of two VPCs", written(a_and_b().port("vpc-b", "h1", "eth1", &["10.2.9.1/24"])), &["eth1", "h1"]),
        case(
            "a port outside its VPC's CIDRs",
            written(a_and_b().port("vpc-a", "h1", "eth7", &["10.99.0.1/24"])),
            &["eth7", "10.99.0.0/24"],
        ),
        case(
            "two ports that serve the same addresses",
            written(a_and_b().port("vpc-a", "h2", "eth7", &["10.1.0.1/24"])),
            &["eth7", "10.1.0.0/24"],
        ),
        case(
            "a peering of VPCs whose CIDRs overlap",
            written(a_and_b().vpc("vpc-x", NORTH, &["10.1.128.0/17"]).peering("vpc-a", "vpc-x")),
            &["vpc-a", "vpc-x", "10.1.128.0/17"],
        ),
        case(
            "peers of one VPC whose CIDRs overlap",
            written(
                a_and_b().vpc("vpc-x", NORTH, &["10.2.128.0/17"]).peering("vpc-a", "vpc-b").peering("vpc-a", "vpc-x"),
            ),
            &["vpc-x", "10.2.128.0/17"],
        ),
        case("a peering with itself", written(a_and_b().peering("vpc-a", "vpc-a")), &["vpc-a"]),
        case(
            "two hosts with one underlay address",
            written(a_and_b().host("h3", NORTH, "192.0.2.1")),
            &["h3", "192.0.2.1"],
        ),
    ]
}

#[test]
fn a_wrong_inventory_is_refused_as_a_whole() -> Result<()> {
    let lab = Lab::new(a_and_b())?;
    let before = lab.host("h1").snapshot()?;
    let file = lab.dir().join("wrong.toml");
    let mut failed = Vec::new();
    for Case { what, inventory, words } in cases() {
        fs::write(&file, &inventory)?;
        let ended = lab.controller().apply_file(&file, false)?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let missing: Vec<_> = words.iter().chain(&["wrong.toml"]).filter(|word| !said.contains(**word)).collect();
        if ended.status.success() || !missing.is_empty() {
            failed.push(format!("{what}: {}, lacks {missing:?}:\n{said}", ended.status));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    // Nothing was applied of any of them: the good entries are still new to the controller, the kernel is unchanged.
    let difference = lab.host("h1").snapshot()?.since(&before);
    ensure!(difference.is_empty(), "{difference}");
    ensure!(lab.host("h1").report()?.desired.is_none(), "h1 got a configuration");
    // A refused file does not block a correct one.
    lab.apply()?;
    lab.wait_in_sync()
}

#[test]
fn a_peering_that_breaks_a_rule_is_refused_by_name() -> Result<()> {
    let lab = Lab::new(a_and_b().vpc("vpc-x", NORTH, &["10.1.128.0/17"]))?;
    lab.apply()?;
    for (vpc, peer, words) in
        [("vpc-a", "vpc-x", ["10.1.128.0/17", "10.1.0.0/16"]), ("vpc-a", "vpc-nowhere", ["vpc-nowhere", ""])]
    {
        let error = lab.peer(vpc, peer).expect_err("a rule is broken").to_string();
        ensure!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let id = lab.peer("vpc-a", "vpc-b")?;
    let error = lab.peer("vpc-b", "vpc-a").expect_err("the pair has a peering").to_string();
    ensure!(error.contains(id.as_str()) || error.contains("already"), "{error}");
    Ok(())
}
