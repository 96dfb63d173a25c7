//! The programs: what they return is `TC_ACT_UNSPEC` (-1), which leaves the packet to the filters behind, or `TC_ACT_SHOT` (2).

use super::super::ebpf::{Code, Label, Register};
use crate::objects::GuardKind;
use std::{net::Ipv4Addr, os::fd::RawFd};

const SKB: Register = 6;
const NEXT_HEADER: Register = 7;
/// Where the UDP header begins, behind the beginning of the IP header.
const OFFSET: Register = 8;
/// Where the packet ends by its own header.
const END: Register = 9;
const STACK: Register = 10;

// On the stack: what is looked up, the IP header, what follows it, the family as the key has it.
const KEY: i16 = -24;
const IP: i16 = -64;
const NEXT: i16 = -80;
const FAMILY: i16 = -84;

// Of `struct __sk_buff`.
const PACKET_TYPE: i16 = 4;
const PROTOCOL: i16 = 16;
const VLAN_PRESENT: i16 = 20;
const VLAN_TCI: i16 = 24;

/// `PACKET_MULTICAST`: to a group on the link.
const MULTICAST: i32 = 2;
/// `PACKET_OTHERHOST`: for another Ethernet address than the device's. IP takes none of these.
const OTHER_HOST: i32 = 3;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: i32 = 17;

/// A packet with more headers than these before UDP is nobody's.
const EXTENSION_HEADERS: usize = 6;

/// Drops VXLAN packets for the host whose VNI is in the set of `set`, and that with their source is not.
pub(super) fn program(kind: GuardKind, vxlan_port: u16, set: RawFd) -> Vec<u64> {
    let mut code = Code::default();
    let [pass, drop, ipv4, ipv6, tagged, udp, untagged] = [(); 7].map(|()| code.label());

    code.copy(SKB, 1);
    code.load32(1, SKB, PACKET_TYPE);
    match kind {
        GuardKind::Device => code.if_equal(1, OTHER_HOST, pass),
        // The rest comes by the device that it is a member of. Bonds and bridges leave to their members what is for the groups
        // that no bridge forwards (IEEE 802.1Q table 8-1), and IP takes it there.
        GuardKind::Member => code.if_other(1, MULTICAST, pass),
    }
    // What names a VLAN is for that one's device, or for nobody.
    code.load32(1, SKB, VLAN_PRESENT);
    code.if_equal(1, 0, untagged);
    code.load32(1, SKB, VLAN_TCI);
    code.and(1, 0x0fff);
    code.if_other(1, 0, pass);
    code.here(untagged);
    code.load32(1, SKB, PROTOCOL);
    code.if_equal(1, network(IPV4), ipv4);
    code.if_equal(1, network(IPV6), ipv6);
    code.if_equal(1, network(0x8100), tagged);
    code.if_equal(1, network(0x88a8), tagged);
    code.goto(pass);

    // A tag behind one of VID 0, which the kernel takes off, too, without asking filters again.
    code.here(tagged);
    code.constant(OFFSET, 0);
    load_bytes(&mut code, NEXT, 4, pass);
    code.load16(1, STACK, NEXT);
    code.swap16(1);
    code.and(1, 0x0fff);
    code.if_other(1, 0, pass);
    code.goto(drop);

    code.here(ipv4);
    read_ipv4(&mut code, pass);
    code.goto(udp);
    code.here(ipv6);
    read_ipv6(&mut code, pass, drop, udp);
    code.goto(drop);

    code.here(udp);
    load_bytes(&mut code, NEXT, 4, drop);
    code.load16(1, STACK, NEXT + 2);
    code.if_other(1, network(vxlan_port), pass);
    // What the kernel has joined may be longer than the header can say, and says 0 then.
    let complete = code.label();
    code.if_equal(END, 0, complete);
    code.subtract_register(END, OFFSET);
    code.if_signed_less(END, 16, drop);
    code.here(complete);
    load_bytes(&mut code, NEXT, 16, drop);
    code.load32(1, STACK, NEXT + 12);
    code.and32(1, i32::from_ne_bytes([0xff, 0xff, 0xff, 0]));
    code.store32(STACK, KEY, 1);
    code.load32(1, STACK, FAMILY);
    code.store8(STACK, KEY + 3, 1);
    code.look_up(set, KEY);
    code.if_other(0, 0, pass);
    code.store8_constant(STACK, KEY + 3, 0);
    for place in [4, 8, 12, 16] {
        code.store32_constant(STACK, KEY + place, 0);
    }
    code.look_up(set, KEY);
    code.if_equal(0, 0, pass);
    code.here(drop);
    code.constant(0, 2);
    code.exit();
    code.here(pass);
    code.constant(0, -1);
    code.exit();
    code.assemble()
}

/// Leaves in [`OFFSET`] where UDP begins, and the source in the key.
fn read_ipv4(code: &mut Code, pass: Label) {
    code.constant(OFFSET, 0);
    load_bytes(code, IP, 20, pass);
    code.load8(1, STACK, IP + 9);
    code.if_other(1, UDP, pass);
    code.load16(1, STACK, IP + 6);
    code.swap16(1);
    // The ports and the VNI are in the first fragment; what follows it ends nowhere without it.
    code.if_any_bit(1, 0x1fff, pass);
    code.load8(OFFSET, STACK, IP);
    code.and(OFFSET, 0x0f);
    code.shift_left(OFFSET, 2);
    code.if_less(OFFSET, 20, pass);
    code.load16(END, STACK, IP + 2);
    code.swap16(END);
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
    for (place, word) in (0i16..).step_by(4).zip(mapped.chunks(4)).take(3) {
        let word = i32::from_ne_bytes(word.try_into().expect("four bytes"));
        code.store32_constant(STACK, KEY + 4 + place, word);
    }
    code.load32(1, STACK, IP + 12);
    code.store32(STACK, KEY + 16, 1);
    code.store32_constant(STACK, FAMILY, super::IPV4.into());
}

/// The same. Goes on at `udp` where UDP follows.
fn read_ipv6(code: &mut Code, pass: Label, drop: Label, udp: Label) {
    code.constant(OFFSET, 0);
    load_bytes(code, IP, 40, pass);
    for place in [0, 4, 8, 12] {
        code.load32(1, STACK, IP + 8 + place);
        code.store32(STACK, KEY + 4 + place, 1);
    }
    code.store32_constant(STACK, FAMILY, super::IPV6.into());
    code.load16(END, STACK, IP + 4);
    code.swap16(END);
    let joined = code.label();
    code.if_equal(END, 0, joined);
    code.add(END, 40);
    code.here(joined);
    code.load8(NEXT_HEADER, STACK, IP + 6);
    code.constant(OFFSET, 40);
    for _ in 0..EXTENSION_HEADERS {
        let [extension, fragment, next] = [(); 3].map(|()| code.label());
        code.if_equal(NEXT_HEADER, UDP, udp);
        code.if_equal(NEXT_HEADER, 44, fragment);
        for header in [0, 43, 60] {
            code.if_equal(NEXT_HEADER, header, extension);
        }
        code.goto(pass);
        code.here(extension);
        // A first fragment holds all headers (RFC 7112).
        load_bytes(code, NEXT, 2, drop);
        code.load8(NEXT_HEADER, STACK, NEXT);
        code.load8(1, STACK, NEXT + 1);
        code.add(1, 1);
        code.shift_left(1, 3);
        code.add_register(OFFSET, 1);
        code.goto(next);
        code.here(fragment);
        load_bytes(code, NEXT, 4, drop);
        code.load16(1, STACK, NEXT + 2);
        code.swap16(1);
        code.if_any_bit(1, 0xfff8, pass);
        code.load8(NEXT_HEADER, STACK, NEXT);
        code.add(OFFSET, 8);
        code.here(next);
    }
}

/// Copies bytes of the packet, at [`OFFSET`] behind the beginning of the IP header, to the stack: from wherever the kernel
/// keeps them.
fn load_bytes(code: &mut Code, to: i16, length: i32, otherwise: Label) {
    const SKB_LOAD_BYTES_RELATIVE: i32 = 68;
    const FROM_NETWORK_HEADER: i32 = 1;
    code.copy(1, SKB);
    code.copy(2, OFFSET);
    code.copy(3, STACK);
    code.add(3, to.into());
    code.constant(4, length);
    code.constant(5, FROM_NETWORK_HEADER);
    code.call(SKB_LOAD_BYTES_RELATIVE);
    code.if_other(0, 0, otherwise);
}

/// A number as the program reads it in a packet.
fn network(value: u16) -> i32 {
    i32::from(u16::from_ne_bytes(value.to_be_bytes()))
}
