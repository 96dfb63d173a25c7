//! ICMP echo requests, and which reply answers which. Pure.

use crate::kernel::probe::ECHO_REPLY;
use std::net::IpAddr;

/// ICMP types (RFC 792, RFC 4443 section 4).
const ECHO_REQUEST: [u8; 2] = [8, 128];
/// Type, code, checksum, identifier, sequence number.
pub(crate) const HEADER: usize = 8;
/// Of an IPv4 header without options, and of IPv6's.
const IP_HEADER: [usize; 2] = [20, 40];
const NONCE: usize = 16;

/// The shortest probe, as an IP packet, in bytes: the nonce just fits.
pub(crate) const SMALLEST: u32 = 64;

/// This many foreign packets end a probe: the agent cannot be made to read forever.
pub(crate) const MAX_FORGED: u32 = 64;

/// What the packets of one probe have in common. It is secret to anyone who does not see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The identifier in the ICMP header, by which the kernel filters packets of other probes.
    pub(crate) identifier: u16,
    /// Makes up for the short identifier.
    pub(crate) nonce: [u8; NONCE],
}

/// What a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The sequence number of the request.
    pub(crate) sequence: u16,
    /// Its length as an IP packet, in bytes.
    pub(crate) length: u32,
}

fn family(of: IpAddr) -> usize {
    usize::from(of.is_ipv6())
}

impl Mark {
    /// An echo request to an address, without its IP header: `length` bytes with it, at least [`SMALLEST`]. The kernel
    /// fills in the checksum of `ICMPv6`, which covers addresses.
    pub(crate) fn request(&self, to: IpAddr, sequence: u16, length: u32) -> Vec<u8> {
        let header = IP_HEADER[family(to)];
        let length = usize::try_from(length).unwrap_or(usize::MAX).clamp(SMALLEST as usize, usize::from(u16::MAX));
        let mut packet = vec![0; length - header];
        packet[0] = ECHO_REQUEST[family(to)];
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..HEADER].copy_from_slice(&sequence.to_be_bytes());
        packet[HEADER..HEADER + NONCE].copy_from_slice(&self.nonce);
        if to.is_ipv4() {
            let sum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
        }
        packet
    }

    /// Parses what a raw socket received from that address: for IPv4 with its IP header. None if it does not answer a
    /// request with this mark.
    pub(crate) fn reply(&self, from: IpAddr, packet: &[u8]) -> Option<Reply> {
        let message = match from {
            IpAddr::V4(_) => packet.get(usize::from(packet.first()? & 0xf) * 4..)?,
            IpAddr::V6(_) => packet,
        };
        let header = message.get(..HEADER)?;
        let is_reply = header[..2] == [ECHO_REPLY[family(from)], 0];
        let is_own =
            header[4..6] == self.identifier.to_be_bytes() && message.get(HEADER..HEADER + NONCE)? == self.nonce;
        let length = u32::try_from(message.len() + IP_HEADER[family(from)]).ok()?;
        (is_reply && is_own).then(|| Reply { sequence: u16::from_be_bytes([header[6], header[7]]), length })
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(packet: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default());
    let mut sum: u32 = packet.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded into 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { identifier: 0x1234, nonce: [7; NONCE] };

    fn addresses() -> [IpAddr; 2] {
        ["10.2.0.1".parse().unwrap(), "fd00:2::1".parse().unwrap()]
    }

    /// What a raw socket receives from a kernel that answers.
    fn answered(from: IpAddr, mut request: Vec<u8>) -> Vec<u8> {
        request[0] = ECHO_REPLY[family(from)];
        // With an option of IPv4, which takes four bytes.
        let header = if from.is_ipv4() { vec![0x46; 24] } else { vec![] };
        [header, request].concat()
    }

    #[test]
    fn a_request_has_the_length_that_was_asked_for() {
        for (to, header) in addresses().into_iter().zip(IP_HEADER) {
            for (length, is) in [(0, 64), (64, 64), (1450, 1450), (9000, 9000), (u32::MAX, 65535)] {
                assert_eq!(MARK.request(to, 1, length).len() + header, is, "{length} to {to}");
            }
        }
    }

    #[test]
    fn a_request_of_ipv4_has_a_checksum() {
        let request = MARK.request(addresses()[0], 9, 65);
        // Over a packet with its own checksum, it is zero.
        assert_eq!((checksum(&request), request.len() % 2), (0, 1));
        assert_eq!(MARK.request(addresses()[1], 9, 65)[2..4], [0, 0]);
    }

    #[test]
    fn only_an_answer_with_the_whole_mark_is_one() {
        for from in addresses() {
            let good = answered(from, MARK.request(from, 300, 1000));
            assert_eq!(MARK.reply(from, &good), Some(Reply { sequence: 300, length: 1000 }));
            let start = good.len() - (1000 - IP_HEADER[family(from)]);
            // Type, code, identifier, first and last byte of the nonce.
            for place in [0, 1, 4, 5, HEADER, HEADER + NONCE - 1] {
                let mut forged = good.clone();
                forged[start + place] ^= 1;
                assert_eq!(MARK.reply(from, &forged), None, "byte {place} from {from}");
            }
            // The request itself, and anything too short.
            assert_eq!(MARK.reply(from, &MARK.request(from, 300, 1000)), None);
            for length in 0..start + HEADER + NONCE {
                assert_eq!(MARK.reply(from, &good[..length]), None, "{length} bytes from {from}");
            }
        }
    }
}
