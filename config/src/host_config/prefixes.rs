//! Parses prefixes several times as fast as `ipnet`: there may be a million of them in a push.

use super::Remotes;
use crate::net::parse_prefix;
use ipnet::{IpNet, Ipv4Net};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// A prefix that is not parsed by `ipnet`.
struct Prefix(IpNet);

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Bytes need no UTF-8 validation before they are parsed.
        deserializer.deserialize_bytes(PrefixVisitor)
    }
}

struct PrefixVisitor;

impl Visitor<'_> for PrefixVisitor {
    type Value = Prefix;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an IPv4 or IPv6 prefix")
    }

    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<Prefix, E> {
        match read_v4(text) {
            Some(prefix) => Ok(Prefix(IpNet::V4(prefix))),
            None => self.visit_str(std::str::from_utf8(text).map_err(E::custom)?),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prefix, E> {
        parse_prefix(text).map(Prefix).map_err(E::custom)
    }
}

/// An IPv4 prefix in its usual form.
fn read_v4(mut text: &[u8]) -> Option<Ipv4Net> {
    let mut octets = [0; 4];
    for (octet, end) in octets.iter_mut().zip(*b".../") {
        *octet = number(&mut text)?;
        (*text.split_off_first()? == end).then_some(())?;
    }
    let length = number(&mut text)?;
    text.is_empty().then_some(())?;
    Ipv4Net::new(Ipv4Addr::from(octets), length).ok()
}

/// Takes a decimal number without leading zeros off the front.
fn number(text: &mut &[u8]) -> Option<u8> {
    let mut value = 0u8;
    let mut digits = 0;
    while let Some((digit @ b'0'..=b'9', rest)) = text.split_first() {
        if digits > 0 && value == 0 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(digit - b'0')?;
        digits += 1;
        *text = rest;
    }
    (digits > 0).then_some(value)
}

pub(super) fn by_vtep<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Remotes, D::Error> {
    let read = BTreeMap::<IpAddr, Vec<Prefix>>::deserialize(deserializer)?;
    // The lists are converted in place.
    Ok(read.into_iter().map(|(vtep, list)| (vtep, list.into_iter().map(|prefix| prefix.0).collect())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_ipnet_writes(address in any::<IpAddr>(), length in 0u8..=128) {
            let Ok(prefix) = IpNet::new(address, length) else { return Ok(()) };
            let text = prefix.to_string();
            prop_assert_eq!(parse_prefix(&text), Ok(prefix));
            let json = serde_json::to_string(&prefix).unwrap();
            prop_assert_eq!(serde_json::from_str::<Prefix>(&json).unwrap().0, prefix);
            prop_assert_eq!(read_v4(text.as_bytes()).map(IpNet::V4), Some(prefix).filter(|_| address.is_ipv4()));
        }

        #[test]
        fn the_fast_path_accepts_nothing_that_ipnet_does_not(text in "[0-9]{1,3}(\\.[0-9]{1,3}){2,4}/?[0-9a]{0,3}") {
            if let Some(prefix) = read_v4(text.as_bytes()) {
                prop_assert_eq!(parse_prefix(&text), Ok(IpNet::V4(prefix)));
            }
        }
    }

    #[test]
    fn an_invalid_prefix_is_named() {
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.256/32", "x/8", ""] {
            let json = format!(r#"{{"192.0.2.2": ["{wrong}"]}}"#);
            let error = by_vtep(&mut serde_json::Deserializer::from_str(&json)).unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
