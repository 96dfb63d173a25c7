//! The programs return `TC_ACT_UNSPEC` (-1), which leaves the packet to the filters behind, or `TC_ACT_SHOT` (2).

use super::super::ebpf::{Code, Label, Register};
use crate::objects::GuardKind;
use std::{net::Ipv4Addr, os::fd::RawFd};

const SKB: Register = 6;
const NEXT_HEADER: Register = 7;
/// The offset of the UDP header from the beginning of the IP header.
const OFFSET: Register = 8;
/// The end of the packet by its own header.
const END: Register = 9;
const STACK: Register = 10;

// On the stack: the lookup key, what follows the IP header, the IP header in front of it, the family as in the key.
const KEY: i16 = -24;
const NEXT: i16 = -40;
const IPV4_HEADER: i16 = NEXT - 20;
const IPV6_HEADER: i16 = NEXT - 40;
const FAMILY: i16 = -84;
/// The length of the UDP and VXLAN headers.
const UDP_AND_VXLAN: i32 = 16;

// Of `struct __sk_buff`.
const PACKET_TYPE: i16 = 4;
const PROTOCOL: i16 = 16;
const VLAN_PRESENT: i16 = 20;
const VLAN_TCI: i16 = 24;

/// `PACKET_MULTICAST`: to a group on the link.
const MULTICAST: i32 = 2;
/// `PACKET_OTHERHOST`: for another Ethernet address than the device's. IP accepts none of these.
const OTHER_HOST: i32 = 3;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: i32 = 17;

/// A packet with more headers than these before UDP is not legitimate.
const EXTENSION_HEADERS: usize = 6;

/// Drops VXLAN packets for the host whose VNI is in `set`, unless the VNI with their source is, too.
pub(super) fn program(kind: GuardKind, vxlan_port: u16, set: RawFd) -> Vec<u64> {
    let mut code = Code::default();
    let [pass, drop, ipv4, ipv6, tagged, udp, untagged, judge] = [(); 8].map(|()| code.label());

    code.copy(SKB, 1);
    code.load32(1, SKB, PACKET_TYPE);
    match kind {
        GuardKind::Device => code.if_equal(1, OTHER_HOST, pass),
        // The rest arrives on the device that it is a member of. Bonds and bridges leave to their members what is for
        // the groups that no bridge forwards (IEEE 802.1Q table 8-1), and IP accepts it there.
        GuardKind::Member => code.if_other(1, MULTICAST, pass),
    }
    // Frames with a VLAN tag are for that VLAN's device, or for none.
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

    // A tag behind one of VID 0, which the kernel strips, too, without running filters again.
    code.here(tagged);
    code.constant(OFFSET, 0);
    load_bytes(&mut code, NEXT, 4, pass);
    code.load16(1, STACK, NEXT);
    code.swap16(1);
    code.and(1, 0x0fff);
    code.if_other(1, 0, pass);
    code.goto(drop);

    code.here(ipv4);
    read_plain(&mut code, IPV4_HEADER, vxlan_port, pass, judge);
    read_ipv4(&mut code, pass);
    code.goto(udp);
    code.here(ipv6);
    read_plain(&mut code, IPV6_HEADER, vxlan_port, pass, judge);
    read_ipv6(&mut code, pass, drop, udp);
    code.goto(drop);

    code.here(udp);
    load_bytes(&mut code, NEXT, 4, drop);
    code.load16(1, STACK, NEXT + 2);
    code.if_other(1, network(vxlan_port), pass);
    // A packet that the kernel has coalesced may be longer than the header can express, and then says 0.
    let complete = code.label();
    code.if_equal(END, 0, complete);
    code.subtract_register(END, OFFSET);
    code.if_signed_less(END, UDP_AND_VXLAN, drop);
    code.here(complete);
    load_bytes(&mut code, NEXT, UDP_AND_VXLAN, drop);
    code.here(judge);
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

/// Nearly all packets are whole and without options, and need one copy: jumps to `judge` with all that it needs, to
/// `pass` if it is no VXLAN, or falls through for a closer look.
fn read_plain(code: &mut Code, header: i16, vxlan_port: u16, pass: Label, judge: Label) {
    let closer = code.label();
    code.constant(OFFSET, 0);
    load_bytes(code, header, i32::from(NEXT - header) + UDP_AND_VXLAN, closer);
    if header == IPV4_HEADER {
        code.load8(1, STACK, header);
        code.if_other(1, 0x45, closer);
        code.load8(1, STACK, header + 9);
        code.if_other(1, UDP, pass);
        code.load16(1, STACK, header + 6);
        code.if_any_bit(1, network(0x3fff), closer);
    } else {
        code.load8(1, STACK, header + 6);
        code.if_other(1, UDP, closer);
    }
    code.load16(1, STACK, NEXT + 2);
    code.if_other(1, network(vxlan_port), pass);
    let (length, least) = if header == IPV4_HEADER { (2, 20 + UDP_AND_VXLAN) } else { (4, UDP_AND_VXLAN) };
    code.load16(1, STACK, header + length);
    code.swap16(1);
    code.if_less(1, least, closer);
    if header == IPV4_HEADER {
        ipv4_source(code);
    } else {
        ipv6_source(code);
    }
    code.goto(judge);
    code.here(closer);
}

/// Puts the source of an IPv4 header into the key, but not the family, which is next to it.
fn ipv4_source(code: &mut Code) {
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
    for (place, word) in (0i16..).step_by(4).zip(mapped.chunks(4)).take(3) {
        let word = i32::from_ne_bytes(word.try_into().expect("four bytes"));
        code.store32_constant(STACK, KEY + 4 + place, word);
    }
    code.load32(1, STACK, IPV4_HEADER + 12);
    code.store32(STACK, KEY + 16, 1);
    code.store32_constant(STACK, FAMILY, super::IPV4.into());
}

/// The same of an IPv6 header.
fn ipv6_source(code: &mut Code) {
    for place in [0, 4, 8, 12] {
        code.load32(1, STACK, IPV6_HEADER + 8 + place);
        code.store32(STACK, KEY + 4 + place, 1);
    }
    code.store32_constant(STACK, FAMILY, super::IPV6.into());
}

/// Leaves the offset of UDP in [`OFFSET`], and the source in the key.
fn read_ipv4(code: &mut Code, pass: Label) {
    code.constant(OFFSET, 0);
    load_bytes(code, IPV4_HEADER, 20, pass);
    code.load8(1, STACK, IPV4_HEADER + 9);
    code.if_other(1, UDP, pass);
    code.load16(1, STACK, IPV4_HEADER + 6);
    code.swap16(1);
    // The ports and the VNI are in the first fragment; without it, later ones are never reassembled.
    code.if_any_bit(1, 0x1fff, pass);
    code.load8(OFFSET, STACK, IPV4_HEADER);
    code.and(OFFSET, 0x0f);
    code.shift_left(OFFSET, 2);
    code.if_less(OFFSET, 20, pass);
    code.load16(END, STACK, IPV4_HEADER + 2);
    code.swap16(END);
    ipv4_source(code);
}

/// The same for IPv6. Jumps to `udp` if UDP follows.
fn read_ipv6(code: &mut Code, pass: Label, drop: Label, udp: Label) {
    code.constant(OFFSET, 0);
    load_bytes(code, IPV6_HEADER, 40, pass);
    ipv6_source(code);
    code.load16(END, STACK, IPV6_HEADER + 4);
    code.swap16(END);
    let joined = code.label();
    code.if_equal(END, 0, joined);
    code.add(END, 40);
    code.here(joined);
    code.load8(NEXT_HEADER, STACK, IPV6_HEADER + 6);
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

/// Copies bytes of the packet, at [`OFFSET`] from the beginning of the IP header, to the stack, wherever the kernel
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

#[cfg(test)]
mod tests {
    use super::super::{super::bpf, Parameters, UnderlayFilter};
    use crate::objects::GuardKind;
    use std::{collections::BTreeSet, net::IpAddr};

    const PORT: u16 = 4789;
    const OURS: u32 = 0x0001_0203;
    const DROPPED: i32 = 2;
    const PASSED: i32 = -1;

    /// A frame to the host: `extension` is between the IP header and UDP, `udp` follows it.
    fn frame(source: &str, extension: &[u8], udp: &[u8]) -> Vec<u8> {
        let length = u16::try_from(extension.len() + udp.len()).unwrap();
        let mut frame = vec![0; 12];
        match source.parse().unwrap() {
            IpAddr::V4(source) => {
                let words = 5 + u8::try_from(extension.len() / 4).unwrap();
                frame.extend([8, 0, 0x40 | words, 0]);
                frame.extend((20 + length).to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
                frame.extend(source.octets());
                frame.extend([192, 0, 2, 1]);
            }
            IpAddr::V6(source) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([if extension.is_empty() { 17 } else { 60 }, 64]);
                frame.extend(source.octets());
                frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            }
        }
        frame.extend(extension);
        frame.extend(udp);
        frame
    }

    fn vxlan(port: u16, vni: u32) -> Vec<u8> {
        let mut udp = vec![0x30, 0x39];
        udp.extend(port.to_be_bytes());
        udp.extend([0, 66, 0, 0, 8, 0, 0, 0]);
        udp.extend((vni << 8 | 0x5a).to_be_bytes());
        udp.extend([0; 50]);
        udp
    }

    #[test]
    fn a_vni_of_ours_is_accepted_only_from_its_senders_in_every_form() {
        let filter = UnderlayFilter::load(Parameters { vxlan_port: PORT, max_entries: 16 }).unwrap();
        let program = filter.program(GuardKind::Device);
        let judge = |frame: &[u8]| bpf::test_run(program, frame).unwrap();
        for (sender, other) in [("192.0.2.7", "192.0.2.8"), ("2001:db8::7", "2001:db8::8")] {
            let senders = BTreeSet::from([sender.parse().unwrap()]);
            filter.set(OURS.try_into().unwrap(), &BTreeSet::new(), &senders).unwrap();
            let is_ipv4 = sender.contains('.');
            let extensions: [&[u8]; 3] = if is_ipv4 {
                [&[], &[1; 4], &[1; 40]]
            } else {
                [&[], &[17, 0, 1, 4, 0, 0, 0, 0], &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]]
            };
            for extension in extensions {
                let whole = vxlan(PORT, OURS);
                assert_eq!(judge(&frame(sender, extension, &whole)), PASSED, "{sender} {extension:?}");
                assert_eq!(judge(&frame(other, extension, &whole)), DROPPED, "{other} {extension:?}");
                assert_eq!(judge(&frame(other, extension, &vxlan(PORT, OURS + 1))), PASSED, "not ours {extension:?}");
                assert_eq!(judge(&frame(other, extension, &vxlan(PORT + 1, OURS))), PASSED, "other port {extension:?}");
                // Too short to contain the VNI; padding is no part of the packet.
                for end in [8, 15] {
                    assert_eq!(judge(&frame(other, extension, &whole[..end])), DROPPED, "{end} bytes {extension:?}");
                    let mut padded = frame(other, extension, &whole[..end]);
                    padded.extend(&whole[end..]);
                    assert_eq!(judge(&padded), DROPPED, "{end} bytes and padding {extension:?}");
                }
            }
            // What the kernel has coalesced may be longer than the header says.
            let length = if is_ipv4 { 16 } else { 18 };
            for source in [sender, other] {
                let mut joined = frame(source, &[], &vxlan(PORT, OURS));
                joined[length..length + 2].fill(0);
                assert_eq!(judge(&joined), if source == sender { PASSED } else { DROPPED }, "joined, {source}");
            }
            if is_ipv4 {
                let fragment = |at: [u8; 2]| {
                    let mut fragment = frame(other, &[], &vxlan(PORT, OURS));
                    fragment[20..22].copy_from_slice(&at);
                    fragment
                };
                assert_eq!(judge(&fragment([0x20, 0])), DROPPED, "the first of several");
                assert_eq!(judge(&fragment([0x40, 0])), DROPPED, "not to be fragmented");
                assert_eq!(judge(&fragment([0x00, 1])), PASSED, "the last of several");
            }
        }
        let mut tagged = frame("192.0.2.8", &[], &vxlan(PORT, OURS));
        tagged.splice(12..12, [0x81, 0, 0, 0, 0x81, 0, 0, 0]);
        assert_eq!(judge(&tagged), DROPPED, "two priority tags");
        assert_eq!(judge(&[vec![0; 12], vec![8, 6], vec![0; 46]].concat()), PASSED, "ARP");
        let mut elsewhere = frame("192.0.2.8", &[], &vxlan(PORT, OURS));
        elsewhere[0] = 2;
        assert_eq!(judge(&elsewhere), PASSED, "to another Ethernet address");
    }
}
