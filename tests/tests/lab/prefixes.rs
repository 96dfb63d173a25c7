//! Peerings of parts of two VPCs (C9, L13): each pair of prefixes passes or does not, as the lists of both sides say.

use crate::{
    NORTH,
    fuzz::{Chance, seed},
    two_hosts,
};
use anyhow::{Context, Result, ensure};
use cps_peering_config::id::PeeringId;
use cps_peering_tests::{Lab, Server, Topology, stream::Stream, wait};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr, process::Command, thread, time::Duration};

/// The most that each VPC exports: the prefixes with ports, and not `10.9.0.0/16`, which both have.
const SHOWN: [[&str; 5]; 2] = [
    ["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "fd00:1::/64", "fd00:1:0:2::/64"],
    ["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24", "fd00:2::/64", "fd00:2:0:2::/64"],
];

/// VPCs A and B with ports on both hosts; most of B's addresses are C's as well, another part of which is peered with A.
fn cloud() -> Topology {
    let topology = two_hosts()
        .vpc("vpc-a", NORTH, &["10.1.0.0/16", "10.9.0.0/16", "fd00:1::/48"])
        .vpc("vpc-b", NORTH, &["10.2.0.0/16", "10.9.0.0/16", "fd00:2::/48"])
        .vpc("vpc-c", NORTH, &["10.2.0.0/16", "fd00:2::/48"]);
    topology
        .port("vpc-a", "h1", "eth1", &["10.1.0.1/24", "10.1.1.1/24", "fd00:1::1/64"])
        .port("vpc-a", "h2", "eth1", &["10.1.2.1/24", "fd00:1:0:2::1/64"])
        .port("vpc-b", "h1", "eth2", &["10.2.0.1/24", "10.2.1.1/24", "fd00:2::1/64"])
        .port("vpc-b", "h2", "eth2", &["10.2.2.1/24", "fd00:2:0:2::1/64"])
        .port("vpc-c", "h1", "eth3", &["10.2.0.1/24", "fd00:2::1/64"])
        .port("vpc-c", "h2", "eth3", &["10.2.2.1/24", "10.2.7.1/24", "fd00:2:0:2::1/64"])
}

/// The lists of one side; none for all.
#[derive(Debug, Clone, Default)]
struct Lists {
    export: Option<Vec<IpNet>>,
    import: Option<Vec<IpNet>>,
}

/// Both sides of the peering between A and B.
#[derive(Debug, Clone)]
struct Model([Lists; 2]);

impl Model {
    /// Whether an address of a side is reached by the other one, within what the VPC has.
    fn is_reached(&self, side: usize, address: IpAddr) -> bool {
        let has =
            |list: &Option<Vec<IpNet>>| list.as_ref().is_none_or(|it| it.iter().any(|net| net.contains(&address)));
        has(&self.0[side].export) && has(&self.0[1 - side].import)
    }

    /// Whether packets pass between an address of A and one of B: in both directions or in none.
    fn passes(&self, a: IpAddr, b: IpAddr) -> bool {
        self.is_reached(0, a) && self.is_reached(1, b)
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

fn text(list: Option<&Vec<IpNet>>) -> String {
    list.map_or_else(|| "all".to_owned(), |it| it.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// Pings between these addresses of two servers, all at once. Those that were answered.
fn answered(from: &Server, pairs: &[(IpAddr, IpAddr)]) -> Result<Vec<(IpAddr, IpAddr)>> {
    let ping = |(number, (source, to)): (usize, &(IpAddr, IpAddr))| {
        format!("(ping -n -c 1 -W 1 -I {source} {to} >/dev/null 2>&1 && echo {number}) &\n")
    };
    let script: String = pairs.iter().enumerate().map(ping).collect();
    let output = from.netns().run(Command::new("sh").args(["-c", &format!("{script}wait")]))?.stdout;
    let numbers = output.lines().map(|line| line.trim().parse::<usize>());
    numbers.map(|number| Ok(pairs[number?])).collect()
}

/// Every pair of addresses of A and B, in both directions, by the server that sends.
fn pairs(lab: &Lab) -> BTreeMap<(usize, &str), Vec<(IpAddr, IpAddr)>> {
    let servers = [["eth1"; 2], ["eth2"; 2]].map(|names| [("h1", names[0]), ("h2", names[1])]);
    let addresses = |(host, name): (&str, &str)| -> Vec<IpAddr> {
        lab.server(host, name).addresses.iter().map(IpNet::addr).collect()
    };
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for side in 0..2 {
        for from in servers[side] {
            for to in servers[1 - side] {
                for source in addresses(from) {
                    let to = addresses(to).into_iter().filter(|to| to.is_ipv4() == source.is_ipv4());
                    all.entry((side, from.0)).or_default().extend(to.map(|to| (source, to)));
                }
            }
        }
    }
    all
}

/// What passes and what does not is as the lists say: what does not pass does not even arrive.
fn is_as_the_model_says(lab: &Lab, model: &Model) -> Result<()> {
    let all = pairs(lab);
    let server = |side: usize, host: &str| lab.server(host, if side == 0 { "eth1" } else { "eth2" });
    let wanted = |side: usize, (source, to): &(IpAddr, IpAddr)| {
        if side == 0 { model.passes(*source, *to) } else { model.passes(*to, *source) }
    };
    let heard = || lab.servers().map(|server| Ok(server.heard()?.echo_requests)).collect::<Result<Vec<_>>>();
    let before = heard()?;
    let leaked = thread::scope(|scope| {
        let asked = all.iter().map(|((side, host), pairs)| {
            let pairs: Vec<_> = pairs.iter().filter(|pair| !wanted(*side, pair)).copied().collect();
            scope.spawn(move || answered(server(*side, host), &pairs))
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|it| it.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let leaked: Vec<_> = leaked.into_iter().flatten().collect();
    ensure!(leaked.is_empty(), "answered, and should not be: {leaked:?} with {model:?}");
    ensure!(heard()? == before, "something was heard that should not be, with {model:?}");
    for ((side, host), pairs) in &all {
        let mut missing: Vec<_> = pairs.iter().filter(|pair| wanted(*side, pair)).copied().collect();
        // A busy machine answers late.
        wait::until("all that should pass does", Duration::from_secs(10), || {
            let there = answered(server(*side, host), &missing)?;
            missing.retain(|pair| !there.contains(pair));
            ensure!(missing.is_empty(), "not answered: {missing:?} with {model:?}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

fn set(lab: &Lab, id: &PeeringId, side: usize, lists: &Lists) -> Result<()> {
    let vpc = ["vpc-a", "vpc-b"][side];
    let (export, import) = (text(lists.export.as_ref()), text(lists.import.as_ref()));
    let words = ["peering", "set-prefixes", id.as_str(), "--vpc", vpc];
    let lists = ["--export-prefixes", &export, "--import-prefixes", &import];
    lab.controller().cli(&[&words[..], &lists[..]].concat())?.ok()?;
    lab.wait_in_sync()
}

fn peered(lab: &Lab, vpc: &str, peer: &str, export: &[&str], import: &[&str]) -> Result<PeeringId> {
    let name = format!("{vpc}-{peer}");
    let (export, import) = (export.join(","), import.join(","));
    let words = ["peering", "create", "--name", &name, "--vpc", vpc, "--peer-vpc", peer];
    let lists = ["--export-prefixes", &export, "--import-prefixes", &import];
    let output = lab.controller().cli(&[&words[..], &lists[..]].concat())?.ok()?;
    cps_peering_tests::lab::peering_id(&output).context(output)
}

/// C9, L13, also C2 and C6: with the lists as they are, after each change of them, and under streams.
#[test]
fn each_pair_of_prefixes_passes_or_not_as_both_sides_say_after_every_change() -> Result<()> {
    let lab = Lab::in_sync(cloud())?;
    let refused =
        lab.controller().cli(&["peering", "create", "--name", "all", "--vpc", "vpc-a", "--peer-vpc", "vpc-b"])?;
    ensure!(!refused.status.success() && refused.stderr.contains("10.9.0.0/16"), "{refused:?}");
    let id = peered(&lab, "vpc-a", "vpc-b", &SHOWN[0], &SHOWN[1])?;
    peered(&lab, "vpc-a", "vpc-c", &SHOWN[0], &["10.2.7.0/24"])?;
    lab.wait_in_sync()?;
    let all = |side: usize| Lists { export: Some(nets(&SHOWN[side])), import: None };
    let mut model = Model([Lists { import: Some(nets(&SHOWN[1])), ..all(0) }, Lists::default()]);
    is_as_the_model_says(&lab, &model)?;
    let strangers = || -> Result<u64> { Ok(lab.server("h1", "eth3").heard()?.echo_requests) };
    ensure!(strangers()? == 0, "C has B's addresses, and hears what is B's");

    // Streams from A to B on the same host, and on the other one.
    let from = lab.server("h1", "eth1");
    let near = Stream::start(from, lab.server("h1", "eth2"), "10.2.0.2".parse()?, 500)?;
    let far = Stream::start(from, lab.server("h2", "eth2"), "10.2.2.2".parse()?, 500)?;
    for stream in [&near, &far] {
        wait::until("the stream runs", Duration::from_secs(20), || Ok((stream.received() > 50).then_some(())))?;
    }
    // One prefix is removed, another becomes narrower around the stream's own address, and wider again.
    for export in
        [&["10.2.0.0/25", "10.2.2.0/24"][..], &["10.2.0.0/24", "10.2.2.0/30"], &["10.2.0.0/23", "10.2.2.0/24"]]
    {
        model.0[1].export = Some(nets(export));
        set(&lab, &id, 1, &model.0[1])?;
    }
    // Now that of one of the streams.
    model.0[1].export = Some(nets(&["10.2.0.0/25", "10.2.1.0/24"]));
    set(&lab, &id, 1, &model.0[1])?;
    let count = far.received();
    is_as_the_model_says(&lab, &model)?;
    ensure!(far.received() == count, "a stream to a prefix that was removed goes on");
    far.stop()?;
    let near = near.stop()?;
    ensure!(near.lost() == 0, "{} of {} lost of a stream that no change concerns", near.lost(), near.sent);

    let mut chance = Chance(seed());
    for _ in 0..2 {
        let side = usize::from(chance.next() % 2 == 1);
        let mut some = |of: &[&str]| -> Vec<IpNet> {
            let bits = chance.next();
            let picked = of.iter().enumerate().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, prefix)| *prefix);
            let mut list = nets(&picked.collect::<Vec<_>>());
            if list.is_empty() {
                list = nets(&of[..1]);
            }
            // Half of the first one is enough for its server.
            if bits >> 8 & 1 == 1 && list[0].prefix_len() == 24 {
                list[0] = IpNet::new(list[0].addr(), 25).expect("a length");
            }
            list
        };
        let export = some(&SHOWN[side]);
        let import = Some(some(&SHOWN[1 - side]));
        model.0[side] = Lists { export: Some(export), import };
        set(&lab, &id, side, &model.0[side])?;
        is_as_the_model_says(&lab, &model)?;
    }
    ensure!(strangers()? == 0, "C has B's addresses, and hears what is B's");
    Ok(())
}
