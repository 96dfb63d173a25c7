//! Random frames of a hostile tenant and random commands of a careless operator, for a limited time. The seed is always the same, so that
//! a run can be repeated: `CPS_PEERING_FUZZ_SEED` sets another one, `CPS_PEERING_FUZZ_S` more seconds. A failure names its seed.

use crate::{
    NORTH, do_not_reach_each_other,
    drift::{Names, peered},
    forged::mac,
    reach_each_other,
};
use anyhow::{Context, Result, ensure};
use cps_peering_tests::{Lab, Server, Topology, command, probe::Listener, stream::Stream, wait};
use std::{
    collections::BTreeSet,
    env,
    time::{Duration, Instant},
};

/// Frames in each round.
const FRAMES: usize = 300;

/// How long it takes by default, besides building the lab and the final checks.
const SECONDS: u64 = 15;

/// Another seed is another topology, with other frames and commands.
const SEED: u64 = 16;

/// What an operator may do to A and B on h1, and how to undo it where the agent may not.
const COMMANDS: [(&str, &str); 20] = [
    ("ip route flush table {table} proto 67", ""),
    ("ip -6 route flush table {table} proto 67", ""),
    ("ip nexthop del id {nexthop}", ""),
    ("ip neigh del {gateway} dev {peer}", ""),
    ("ip link set {peer} down", ""),
    ("ip link set {peer} mtu 1300", ""),
    ("ip link set {peer} type vxlan ttl 1", ""),
    ("ip link set {peer} nomaster", ""),
    ("ip link del {peer}", ""),
    ("ip link set eth2 down", ""),
    ("ip addr flush dev eth2", ""),
    ("tc qdisc del dev {peer} clsact", ""),
    ("tc qdisc del dev eth2 clsact", ""),
    ("tc qdisc del dev uplink clsact", ""),
    ("tc filter del dev uplink ingress pref 17231", ""),
    ("sysctl -qw net.ipv4.conf.eth2.rp_filter=0", ""),
    ("sysctl -qw net.ipv6.conf.eth2.disable_ipv6=1", ""),
    ("ip rule add pref 0 lookup local", ""),
    ("ip route add 10.2.1.2 dev uplink table {table}", "ip route del 10.2.1.2 dev uplink table {table}"),
    ("tc qdisc add dev eth2 root netem loss 100%", "tc qdisc del dev eth2 root"),
];

/// Pseudo-random numbers from a seed (`SplitMix64`).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Result<&'a T> {
        let place = usize::try_from(self.next() % u64::try_from(all.len())?)?;
        all.get(place).context("nothing to choose from")
    }
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// The seed of this run.
#[expect(clippy::print_stderr, reason = "what failed tells its seed")]
pub(crate) fn seed() -> u64 {
    let seed = setting("CPS_PEERING_FUZZ_SEED").unwrap_or(SEED);
    eprintln!("CPS_PEERING_FUZZ_SEED={seed}");
    seed
}

#[test]
fn random_frames_and_commands_break_nothing_of_others() -> Result<()> {
    let seed = seed();
    let time = Duration::from_secs(setting("CPS_PEERING_FUZZ_S").unwrap_or(SECONDS));
    run(seed, time).with_context(|| format!("CPS_PEERING_FUZZ_SEED={seed}"))
}

/// A VPC's server: the VPC, its host and port.
type Place = (&'static str, &'static str, &'static str);

/// Pairs of VPCs that reach each other, in order of their names.
type Peers = BTreeSet<[&'static str; 2]>;

/// A attacks, B is its peer. X and Y are peers of their own, on whichever hosts; Z has A's addresses, and perhaps Y as peer.
fn topology(chance: &mut Chance) -> Result<(Topology, Vec<Place>, Peers)> {
    let hosts = ["h1", "h2"];
    let [x, y, z] = [*chance.one_of(&hosts)?, *chance.one_of(&hosts)?, *chance.one_of(&hosts)?];
    let mut topology = peered()
        .vpc("vpc-x", NORTH, &["10.8.0.0/16", "fd00:8::/48"])
        .vpc("vpc-y", NORTH, &["10.9.0.0/16", "fd00:9::/48"])
        .vpc("vpc-z", NORTH, &["10.1.0.0/16", "fd00:1::/48"])
        .port("vpc-x", x, "eth8", &["10.8.0.1/24", "fd00:8::1/64"])
        .port("vpc-y", y, "eth9", &["10.9.0.1/24", "fd00:9::1/64"])
        .port("vpc-z", z, "eth7", &["10.1.7.1/24", "fd00:1:0:7::1/64"])
        .peering("vpc-x", "vpc-y");
    let mut peers = BTreeSet::from([["vpc-a", "vpc-b"], ["vpc-x", "vpc-y"], ["vpc-b", "vpc-b"]]);
    if *chance.one_of(&[false, true])? {
        topology = topology.peering("vpc-z", "vpc-y");
        peers.insert(["vpc-y", "vpc-z"]);
    }
    let places = vec![
        ("vpc-a", "h1", "eth1"),
        ("vpc-b", "h1", "eth2"),
        ("vpc-b", "h2", "eth1"),
        ("vpc-x", x, "eth8"),
        ("vpc-y", y, "eth9"),
        ("vpc-z", z, "eth7"),
    ];
    Ok((topology, places, peers))
}

struct Judge<'a> {
    lab: &'a Lab,
    places: Vec<Place>,
    peers: Peers,
    /// Where the host's own packets to other hosts go, with the path MTU that it assumes.
    path: String,
}

impl Judge<'_> {
    fn server(&self, (_, host, port): &Place) -> &Server {
        self.lab.server(host, port)
    }

    /// Two servers reach each other if and only if their VPCs are peers; where nobody else sends, they receive nothing of each
    /// other otherwise.
    fn pair(&self, one: &Place, other: &Place, alone: bool) -> Result<()> {
        if one == other {
            return Ok(());
        }
        let mut vpcs = [one.0, other.0];
        vpcs.sort_unstable();
        let judge = match (self.peers.contains(&vpcs), alone) {
            (true, _) => reach_each_other,
            (false, true) => do_not_reach_each_other,
            (false, false) => do_not_answer_each_other,
        };
        judge(self.server(one), self.server(other)).with_context(|| format!("{one:?} and {other:?}"))
    }

    /// The attacker and everybody else, and the others with their peers.
    fn all(&self) -> Result<()> {
        for (count, one) in (1..).zip(&self.places) {
            let others = self.places.iter().skip(count);
            let mut others = others.filter(|other| count == 1 || self.peers.contains(&[one.0, other.0]));
            others.try_for_each(|other| self.pair(one, other, true))?;
        }
        ensure!(path(self.lab)? == self.path, "the host's own path has changed: {}", path(self.lab)?);
        Ok(())
    }
}

/// While others send to them.
fn do_not_answer_each_other(one: &Server, other: &Server) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        for address in [to.ipv4()?, to.ipv6()?] {
            let ping = from.ping(address)?;
            ensure!(!ping.answered, "{}: {}", ping.line, ping.output);
        }
    }
    Ok(())
}

fn path(lab: &Lab) -> Result<String> {
    let route = lab.host("h1").netns().ip("-o route get 192.0.2.2")?;
    Ok(route.split("uid").next().unwrap_or_default().trim().to_owned())
}

fn run(seed: u64, time: Duration) -> Result<()> {
    let mut chance = Chance(seed);
    let (topology, places, peers) = topology(&mut chance)?;
    let lab = Lab::in_sync(topology)?;
    let host = lab.host("h1");
    let judge = Judge { lab: &lab, path: path(&lab)?, places, peers };
    judge.pair(&judge.places[0], &judge.places[1], true)?;
    let listeners = judge.places.iter().skip(1).map(|place| Listener::start(judge.server(place).netns()));
    let listeners = listeners.collect::<Result<Vec<_>>>()?;
    let server = |name: &str| {
        let place = judge.places.iter().find(|(vpc, ..)| *vpc == name).context("no such VPC")?;
        anyhow::Ok(judge.server(place))
    };
    let (a, x, y) = (server("vpc-a")?, server("vpc-x")?, server("vpc-y")?);
    let gateway = mac(host.netns(), "eth1")?.map(|byte| format!("{byte:02x}")).join(":");
    let ledger = lab.ledger("h1")?;
    let vnis: Vec<&str> = ledger["sides"].as_object().context("no sides")?.keys().map(String::as_str).collect();
    let attack = |number: u64| {
        let mut python = a.netns().command("python3");
        python.args(["-c", include_str!("frames.py"), &number.to_string(), &FRAMES.to_string(), "eth0", &gateway]);
        python.args([
            "10.2.0.2,10.2.1.2,10.8.0.2,10.9.0.2,10.1.0.1,10.2.0.1,10.2.1.1,10.8.0.1,192.0.2.1,192.0.2.2",
            "fd00:2::2,fd00:2:0:1::2,fd00:8::2,fd00:9::2,fd00:1::1,fd00:2::1",
            "10.8.0.2,10.9.0.2,10.2.0.2,10.1.77.7,192.0.2.2,203.0.113.9",
            "fd00:8::2,fd00:9::2,fd00:2::2,fd00:1:0:77::7,2001:db8::9",
            &vnis.join(","),
        ]);
        command::run(&mut python)?.ok()
    };
    let deadline = Instant::now() + time;
    for round in 1.. {
        let streams = [Stream::start(x, y, y.ipv4()?, 200)?, Stream::start(y, x, x.ipv6()?, 200)?];
        let (operation, undo) = chance.one_of(&COMMANDS)?;
        let mut done = || -> Result<()> {
            attack(chance.next())?;
            // Indexes and ids may have changed.
            let names = Names::of(host.netns())?;
            let ended = host.netns().sh(&names.filled(operation));
            // What the agent repairs meanwhile can conflict with a command that is still running.
            ensure!(undo.is_empty() || ended.is_ok(), "{ended:?}");
            attack(chance.next())?;
            if !undo.is_empty() {
                wait::until("it is told", Duration::from_secs(20), || {
                    ensure!(!host.report()?.in_sync(), "in sync");
                    Ok(Some(()))
                })?;
                host.netns().sh(&names.filled(undo))?;
            }
            // Repaired, which packets prove, and not only the report.
            wait::until("what it was", Duration::from_secs(30), || {
                ensure!(host.report()?.in_sync(), "{:?}", host.report()?.problems);
                judge.pair(&judge.places[0], &judge.places[1], false)?;
                judge.pair(&judge.places[0], &judge.places[2], false)?;
                Ok(Some(()))
            })?;
            judge.pair(chance.one_of(&judge.places)?, chance.one_of(&judge.places)?, false)?;
            for (listener, place) in listeners.iter().zip(judge.places.iter().skip(1)) {
                let heard = listener.heard()?;
                ensure!(!heard.keys().any(|name| name.contains("FORGED")), "{place:?} heard {heard:?}");
            }
            ensure!(path(&lab)? == judge.path, "the host's own path has changed: {}", path(&lab)?);
            Ok(())
        };
        done().with_context(|| format!("round {round}: `{operation}`"))?;
        for stream in streams {
            let record = stream.stop()?;
            ensure!(record.lost() == 0, "round {round}, `{operation}`: {} of {} lost", record.lost(), record.sent);
        }
        if Instant::now() > deadline {
            break;
        }
    }
    judge.all()
}
