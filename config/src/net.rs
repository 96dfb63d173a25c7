//! Numbers and names with limits set by the kernel or the wire format.

use crate::text::quote;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};
use thiserror::Error;

/// A VXLAN network identifier: 1 to 16 777 215 (24 bits, RFC 7348 section 5).
///
/// Zero is legal on the wire, but the kernel reads a missing VNI as zero, so it is not used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// A number that is not a VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} is not a legal VNI: expected 1 to {max}", max = Vni::MAX.0)]
pub struct InvalidVni(pub u32);

impl Vni {
    /// The smallest VNI, 1.
    pub const MIN: Vni = Vni(1);
    /// The largest VNI, 2²⁴ − 1.
    pub const MAX: Vni = Vni(0xff_ffff);

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The VNI after this one; after the last comes the first.
    #[must_use]
    pub fn next_wrapping(self) -> Vni {
        if self == Self::MAX { Self::MIN } else { Vni(self.0 + 1) }
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    fn try_from(number: u32) -> Result<Self, InvalidVni> {
        if (Self::MIN.0..=Self::MAX.0).contains(&number) { Ok(Self(number)) } else { Err(InvalidVni(number)) }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it is the address of a group, or of all (the I/G bit of IEEE 802).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a network device: 1 to 15 bytes (`IFNAMSIZ` − 1), no `/`, `:`, `%`, white space or control characters,
/// and not `.` or `..`: what the kernel's `dev_valid_name()` accepts, less the `%` that it reads as a pattern. ASCII
/// only, unless it comes from the kernel.
///
/// Stored inline: it is small, and a host may have many routes that name one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName {
    /// Padded with NUL, so that the derived order is that of the text.
    bytes: [u8; Self::MAX_LEN],
}

/// A text that is not an interface name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{quoted} is not a legal interface name: expected 1 to {max} printable ASCII characters without '/', ':', '%' and white space, not '.' or '..'",
    quoted = quote(.0),
    max = InterfaceName::MAX_LEN
)]
pub struct InvalidInterfaceName(pub String);

impl InterfaceName {
    /// The longest name, in bytes: `IFNAMSIZ` less the closing NUL.
    pub const MAX_LEN: usize = 15;

    /// A name reported by the kernel: it allows nearly any byte, also those that no configuration may use. None if it
    /// is empty or too long for a name.
    pub fn of_kernel(name: &[u8]) -> Option<Self> {
        let name = name.split(|&b| b == 0).next()?;
        if name.is_empty() {
            return None;
        }
        let mut bytes = [0; Self::MAX_LEN];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Self { bytes })
    }

    /// The name as in the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.bytes.iter().position(|&b| b == 0).unwrap_or(Self::MAX_LEN);
        &self.bytes[..end]
    }

    /// The name as text; bytes that no configuration can use are escaped with [`escape_name`].
    pub fn as_str(&self) -> Cow<'_, str> {
        escape_name(self.as_bytes())
    }
}

/// An interface name, or a prefix of one, for display: bytes other than printable ASCII become `\xNN`, as `printf` and
/// shells read it. Other names are unchanged.
pub fn escape_name(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(text) if name.iter().all(u8::is_ascii_graphic) => Cow::Borrowed(text),
        _ => {
            let shown = |&byte: &u8| match byte {
                byte if byte.is_ascii_graphic() => char::from(byte).to_string(),
                byte => format!("\\x{byte:02x}"),
            };
            Cow::Owned(name.iter().map(shown).collect())
        }
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(text: &str) -> Result<Self, InvalidInterfaceName> {
        let legal = (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
            && !matches!(text, "." | "..");
        if !legal {
            return Err(InvalidInterfaceName(text.to_owned()));
        }
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = InvalidInterfaceName;

    fn try_from(text: String) -> Result<Self, InvalidInterfaceName> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> String {
        name.as_str().into_owned()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.as_str(), f)
    }
}

/// A text that is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a prefix: expected an IPv4 or IPv6 address and a length, such as 10.1.0.0/16 or fd00:1::/48, in decimal without \
     leading zeros"
)]
pub struct InvalidPrefix(String);

/// The longest text that can be a prefix: eight groups with an IPv4 address at the end, and a length.
const LONGEST_PREFIX: usize = 49;

/// Parses a prefix in its unambiguous form. Some programs read `010.0.0.0/8` as octal and others as decimal (RFC 6943
/// section 3.1.1), so it is refused.
pub fn parse_prefix(text: &str) -> Result<IpNet, InvalidPrefix> {
    let read = || {
        let (address, length) = text.split_once('/')?;
        let plain = length == "0" || !length.starts_with(['0', '+']);
        let length = length.parse().ok().filter(|_| plain)?;
        // The standard library accepts no leading zeros in IPv4 addresses.
        IpNet::new(address.parse().ok()?, length).ok()
    };
    read().ok_or_else(|| InvalidPrefix(text.chars().take(LONGEST_PREFIX).collect()))
}

/// Deserialises prefixes in documents, with [`parse_prefix`]: for `#[serde(deserialize_with = "…")]`.
pub mod prefix {
    use super::{IpNet, parse_prefix};
    use serde::{Deserialize, Deserializer, de::Error};

    struct Strict(IpNet);

    impl<'de> Deserialize<'de> for Strict {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            parse_prefix(&String::deserialize(deserializer)?).map(Strict).map_err(D::Error::custom)
        }
    }

    /// One.
    pub fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
        Strict::deserialize(deserializer).map(|prefix| prefix.0)
    }

    /// A list.
    pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
        Ok(Vec::<Strict>::deserialize(deserializer)?.into_iter().map(|prefix| prefix.0).collect())
    }

    /// A list that may be missing; with `default`.
    pub fn optional_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
        let list = Option::<Vec<Strict>>::deserialize(deserializer)?;
        Ok(list.map(|list| list.into_iter().map(|prefix| prefix.0).collect()))
    }
}

/// Whether two prefixes overlap. Prefixes of different families never do.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    within(a, b) || within(b, a)
}

/// Whether a prefix is within another; like [`IpNet::contains`], in a few instructions: there may be a million to
/// compare.
pub fn within(inner: &IpNet, outer: &IpNet) -> bool {
    outer.prefix_len() <= inner.prefix_len()
        && match (inner, outer) {
            (IpNet::V4(inner), IpNet::V4(outer)) => {
                let differs = inner.addr().to_bits() ^ outer.addr().to_bits();
                differs.leading_zeros() >= u32::from(outer.prefix_len())
            }
            (IpNet::V6(inner), IpNet::V6(outer)) => {
                let differs = inner.addr().to_bits() ^ outer.addr().to_bits();
                differs.leading_zeros() >= u32::from(outer.prefix_len())
            }
            _ => false,
        }
}

/// Whether a prefix has no host bits set, as the kernel demands of a route's destination.
pub fn is_canonical(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => prefix.addr().to_bits().trailing_zeros() + u32::from(prefix.prefix_len()) >= 32,
        IpNet::V6(prefix) => prefix.addr().to_bits().trailing_zeros() + u32::from(prefix.prefix_len()) >= 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    #[test]
    fn vni_keeps_its_24_bits() {
        assert_eq!(Vni::try_from(0), Err(InvalidVni(0)));
        assert_eq!(Vni::try_from(1), Ok(Vni::MIN));
        assert_eq!(Vni::try_from(0x00ff_ffff), Ok(Vni::MAX));
        assert_eq!(Vni::try_from(0x0100_0000), Err(InvalidVni(0x0100_0000)));
        assert_eq!(Vni::MAX.next_wrapping(), Vni::MIN);
        assert_eq!(Vni::MIN.next_wrapping().get(), 2);
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for legal in ["a", "eth0", "bond0.100", "fifteen-bytes-x"] {
            assert_eq!(legal.parse::<InterfaceName>().unwrap().as_str(), legal);
        }
        for illegal in [
            "",
            ".",
            "..",
            "a/b",
            "é0",
            "\u{7f}",
            "\u{1b}[2J",
            "a:1",
            "a b",
            "eth%d",
            "tab\t",
            "sixteen-bytes-xx",
            "端口",
        ] {
            let error = illegal.parse::<InterfaceName>().unwrap_err().to_string();
            assert!(error.contains("15"), "{error}");
        }
        let mut names: Vec<InterfaceName> = ["b", "ab", "a", "a0"].iter().map(|n| n.parse().unwrap()).collect();
        names.sort();
        assert_eq!(names.iter().map(InterfaceName::as_str).collect::<Vec<_>>(), ["a", "a0", "ab", "b"]);
    }

    #[test]
    fn a_name_of_the_kernel_is_kept_as_it_is_and_shown_escaped() {
        for (name, shown) in [
            (&b"eth0\0"[..], "eth0"),
            (b"a\\xb0", "a\\xb0"),
            ("é0".as_bytes(), "\\xc3\\xa90"),
            (b"\xff0\0\0", "\\xff0"),
            (b"\x1b[2J", "\\x1b[2J"),
            (b"a%b", "a%b"),
            (&[0xff; 15], &"\\xff".repeat(15)),
        ] {
            let told = InterfaceName::of_kernel(name).unwrap();
            assert_eq!(told.as_bytes(), name.split(|byte| *byte == 0).next().unwrap());
            assert_eq!((told.to_string().as_str(), String::from(told).as_str()), (shown, shown));
            assert_eq!(format!("{told:?}"), format!("{shown:?}"));
        }
        assert_eq!(InterfaceName::of_kernel(b"eth0"), "eth0".parse().ok());
        assert_eq!([&b""[..], b"\0eth0", &[b'a'; 16]].map(InterfaceName::of_kernel), [None; 3]);
    }

    proptest! {
        #[test]
        fn prefixes_compare_as_ipnet_says(a in any::<IpAddr>(), b in any::<IpAddr>(), same in 0u8..=128, lengths in (0u8..=128, 0u8..=128)) {
            // Addresses that share their first bits, or no prefix would ever be within another.
            let b = match (a, b) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    let mask = u32::MAX.checked_shl(32u32.saturating_sub(same.into())).unwrap_or(0);
                    IpAddr::from((a.to_bits() & mask | b.to_bits() & !mask).to_be_bytes())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    let mask = u128::MAX.checked_shl(128u32.saturating_sub(same.into())).unwrap_or(0);
                    IpAddr::from((a.to_bits() & mask | b.to_bits() & !mask).to_be_bytes())
                }
                _ => b,
            };
            let net = |address: IpAddr, length: u8| {
                IpNet::new(address, if address.is_ipv4() { length.min(32) } else { length }).unwrap()
            };
            let (a, b) = (net(a, lengths.0), net(b, lengths.1));
            prop_assert_eq!(within(&a, &b), b.contains(&a));
            prop_assert_eq!(is_canonical(&a), a.trunc() == a);
            prop_assert!(is_canonical(&a.trunc()));
        }
    }

    #[test]
    fn a_prefix_has_one_way_to_be_read() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "fd00:1::/48", "::/0", "10.1.0.1/32", "::ffff:10.0.0.0/104"] {
            assert_eq!(parse_prefix(text).unwrap(), text.parse::<IpNet>().unwrap(), "{text}");
        }
        let wrong = [
            "010.0.0.0/8",
            "10.00.0.0/8",
            "10.0.0.08/32",
            "0x0a.0.0.0/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/ 8",
            "10.0.0.0",
            "10.0.0.0/33",
            "10/8",
            "167772160/8",
            "fd00::/129",
            "fd00::%1/64",
            "",
            "/",
            "::/00",
        ];
        for text in wrong {
            let error = parse_prefix(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        let error = parse_prefix(&"1".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }

    #[test]
    fn overlap_is_symmetric_and_per_family() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert!(overlap(&net("10.0.0.0/8"), &net("10.1.0.0/16")));
        assert!(overlap(&net("10.1.0.0/16"), &net("10.0.0.0/8")));
        assert!(!overlap(&net("10.0.0.0/16"), &net("10.1.0.0/16")));
        assert!(!overlap(&net("0.0.0.0/0"), &net("::/0")));
        assert!(is_canonical(&net("10.1.0.0/16")) && !is_canonical(&net("10.1.0.1/16")));
    }
}
