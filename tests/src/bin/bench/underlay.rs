//! The cost of the underlay filter: packets through a VXLAN device, with and without it, with as many entries as in a
//! large region.

use crate::figures::{Figures, median};
use anyhow::{Context, Result, ensure};
use cps_peering_agent::{
    kernel::{Kernel, Netlink},
    objects::{GuardKind, Operation},
};
use cps_peering_config::net::{InterfaceName, Vni};
use cps_peering_tests::netns::Netns;
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const VTEPS: u32 = 10_000;
const VNIS: u32 = 4_000;
/// How many VTEPs may send with each VNI.
const SENDERS: u32 = 250;
/// The VNI that is measured.
const MEASURED: u32 = 1001;
/// Pairs of turns with and without the filter. They are short and follow each other, so that whatever else runs slows both
/// turns of a pair down, and what it does to one of them alone does not reach the median.
const PAIRS: usize = 60;
const FOR: Duration = Duration::from_millis(250);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEAR_INSIDE: &str = "10.9.0.1";

type Measured = fn(&Netns, &Netns) -> Result<f64>;

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let names = ["underlay.filter.tcp", "underlay.filter.datagrams", "underlay.filter.fill"];
    if !figures.wants(&names) {
        return Ok(());
    }
    let (near, far) = (Netns::create("bench-near")?, Netns::create("bench-far")?);
    near.ip("link add u0 type veth peer name u1 netns bench-far")?;
    for (netns, link, underlay, inside) in
        [(&near, "u0", "192.0.2.1", NEAR_INSIDE), (&far, "u1", "192.0.2.2", "10.9.0.2")]
    {
        let other = if link == "u0" { FAR } else { Ipv4Addr::new(192, 0, 2, 1) };
        netns.ip_batch(&[
            format!("address add {underlay}/24 dev {link}"),
            format!("link set {link} up"),
            format!("link add x type vxlan id {MEASURED} dstport 4789 local {underlay} remote {other} nolearning"),
            format!("address add {inside}/24 dev x"),
            "link set x up".to_owned(),
        ])?;
    }
    let interface: InterfaceName = "u0".parse()?;
    let started = Instant::now();
    let mut kernel = near.within(|| {
        let mut kernel = Netlink::with_underlay_filter(4789, 1 << 21);
        kernel.observe_all()?;
        let fill: Vec<_> = (0..VNIS).map(senders).collect::<Result<_>>()?;
        ensure!(kernel.apply(&fill)?.is_empty(), "the filter could not be filled");
        Ok(kernel)
    })?;
    let entries = VNIS * (SENDERS + 1);
    let how = format!("{entries} entries: {VNIS} VNIs with {SENDERS} of {VTEPS} VTEPs each");
    figures.add(names[2], started.elapsed().as_secs_f64(), "s", how.clone());
    let add = [Operation::AddIngress(interface), Operation::AddGuard(interface, GuardKind::Device)];
    let remove = [Operation::RemoveIngress(interface)];
    for (name, measured) in [(names[0], tcp as Measured), (names[1], datagrams as Measured)] {
        let (mut lost, mut rates) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            let mut rate = [0.0; 2];
            // Each comes first in half of the pairs.
            for with in [pair % 2 == 0, pair % 2 != 0] {
                if with {
                    ensure!(kernel.apply(&add)?.is_empty(), "the filter could not be put on");
                }
                rate[usize::from(with)] = measured(&near, &far)?;
                if with {
                    ensure!(kernel.apply(&remove)?.is_empty(), "the filter could not be taken off");
                }
            }
            lost.push(100.0 * (1.0 - rate[1] / rate[0]));
            rates.push(rate[0]);
        }
        let how = format!("less of {:.0} a second without it, median of {PAIRS} pairs; {how}", median(&rates));
        figures.add(name, median(&lost), "%", how);
    }
    Ok(())
}

/// The senders of the VNI with this number: other VTEPs with each, and the far host with the one that is measured.
fn senders(number: u32) -> Result<Operation> {
    let vni: Vni = (number + 1).try_into().context("a VNI")?;
    let address = |nth: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a80_0000 + (number * 7 + nth) % VTEPS));
    let mut senders: BTreeSet<IpAddr> = (0..SENDERS).map(address).collect();
    if number + 1 == MEASURED {
        senders.insert(FAR.into());
    }
    Ok(Operation::SetSenders(vni, senders))
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn each_second(count: u64, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

/// Bytes per second of one connection, received at the near end.
fn tcp(near: &Netns, far: &Netns) -> Result<f64> {
    let listener = near.within(|| Ok(TcpListener::bind((NEAR_INSIDE, 0))?))?;
    let to = listener.local_addr()?;
    let mut sender = far.within(|| Ok(TcpStream::connect(to)?))?;
    let (mut receiver, _) = listener.accept()?;
    let until = Instant::now() + FOR;
    thread::scope(|scope| {
        scope.spawn(move || {
            let data = vec![0; 1 << 16];
            while Instant::now() < until && sender.write_all(&data).is_ok() {}
        });
        let (mut buffer, mut bytes, began) = (vec![0; 1 << 16], 0, Instant::now());
        loop {
            match receiver.read(&mut buffer)? {
                0 => return Ok(each_second(bytes, began)),
                more => bytes += more as u64,
            }
        }
    })
}

/// Small datagrams per second that arrive at the near end.
fn datagrams(near: &Netns, far: &Netns) -> Result<f64> {
    let receiver = near.within(|| Ok(UdpSocket::bind((NEAR_INSIDE, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let to = receiver.local_addr()?;
    let sender = far.within(|| Ok(UdpSocket::bind("10.9.0.2:0")?))?;
    let (until, over) = (Instant::now() + FOR, AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < until {
                for _ in 0..64 {
                    // Whatever does not fit is lost on the way, as elsewhere.
                    let _ = sender.send_to(&[0; 64], to);
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let (mut buffer, mut count) = ([0; 128], 0u32);
        while !over.load(Ordering::Relaxed) {
            count += u32::from(receiver.recv(&mut buffer).is_ok());
        }
        // The last wait is for nothing and does not count.
        Ok(f64::from(count) / FOR.as_secs_f64())
    })
}
