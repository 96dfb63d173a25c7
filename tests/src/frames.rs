//! Frames byte by byte, as no well-behaved kernel sends them, and a socket that sends them.

use crate::{command, netns::Netns};
use anyhow::Result;
use std::{fmt::Write, net::IpAddr, process::Command};

/// The ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// The ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// The protocol number of UDP.
pub const UDP: u8 = 17;

/// Sends frames through an interface, in order, unchanged. Python's library has sockets for that.
pub fn send(from: &Netns, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    const SENDER: &str = "import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
s.bind((sys.argv[1], 0))
for line in sys.stdin: s.send(bytes.fromhex(line))";
    let lines = frames.iter().map(|frame| hex(frame)).collect::<Vec<_>>().join("\n");
    let send = || command::run_with_input(Command::new("python3").args(["-c", SENDER, interface]), &lines)?.ok();
    from.within(send).map(drop)
}

/// A frame in hexadecimal digits.
pub fn hex(frame: &[u8]) -> String {
    frame.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An Ethernet frame.
pub fn ethernet(to: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([0x02, 0, 0, 0, 0, 0x77]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An Ethernet frame with tags, each an ethertype and what follows it; the outermost first.
pub fn tagged(to: [u8; 6], tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let inner = tags.iter().rev().fold((ethertype, payload.to_vec()), |(ethertype, payload), (tpid, tci)| {
        (*tpid, [&tci.to_be_bytes(), &ethertype.to_be_bytes(), payload.as_slice()].concat())
    });
    ethernet(to, inner.0, &inner.1)
}

/// An IP packet of the addresses' family.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = |more: usize| u16::try_from(payload.len() + more).expect("a packet is short").to_be_bytes();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = length(20);
            let mut packet = vec![0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length(0));
            packet.extend([protocol, 255]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            packet
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// The ethertype of packets with this address.
pub fn ethertype(address: IpAddr) -> u16 {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

/// A UDP datagram within its packet.
pub fn udp(source: IpAddr, destination: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram is short").to_be_bytes();
    let mut datagram = [&[0x30, 0x39], &port.to_be_bytes(), &length, &[0, 0][..], payload].concat();
    let sum = checksum(&[&pseudo_header(source, destination, UDP, datagram.len()), &datagram]);
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    ip(source, destination, UDP, &datagram)
}

/// A message of ICMP or `ICMPv6` within its packet; `rest` is what follows the checksum.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let protocol = if source.is_ipv4() { 1 } else { 58 };
    ip(source, destination, protocol, &icmp_message(source, destination, kind, code, rest))
}

/// The message alone.
pub fn icmp_message(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], rest].concat();
    let pseudo = if source.is_ipv4() { vec![] } else { pseudo_header(source, destination, 58, message.len()) };
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A VXLAN packet of this VNI around a frame.
pub fn vxlan(source: IpAddr, destination: IpAddr, vni: u32, frame: &[u8]) -> Vec<u8> {
    let header = [[8, 0, 0, 0], (vni << 8).to_be_bytes()].concat();
    udp(source, destination, 4789, &[&header, frame].concat())
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    header.extend(u32::try_from(length).expect("a packet is short").to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    header
}

/// The Internet checksum (RFC 1071) over parts of even length, except the last.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = pairs.map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("just folded")
}
