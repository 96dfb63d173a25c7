//! Sets of addresses as lists of prefixes: intersection and difference.
//!
//! No input list holds overlapping prefixes, and no result does.

use crate::net::within;
use ipnet::IpNet;

/// The addresses that are in both, sorted. At most as many prefixes as in both lists together.
pub fn intersection<'a>(some: impl IntoIterator<Item = &'a IpNet>, others: &[IpNet]) -> Vec<IpNet> {
    let inner = |a: &IpNet, b: &IpNet| {
        if within(a, b) {
            Some(*a)
        } else if within(b, a) {
            Some(*b)
        } else {
            None
        }
    };
    let mut common: Vec<IpNet> =
        some.into_iter().flat_map(|a| others.iter().filter_map(move |b| inner(a, b))).collect();
    common.sort_unstable();
    common.dedup();
    common
}

/// The addresses that are in `some` and not in `others`, sorted.
pub fn difference<'a>(some: impl IntoIterator<Item = &'a IpNet>, others: &[IpNet]) -> Vec<IpNet> {
    let mut open: Vec<IpNet> = some.into_iter().copied().collect();
    let mut left = Vec::new();
    while let Some(prefix) = open.pop() {
        if others.iter().any(|other| within(&prefix, other)) {
            continue;
        }
        if others.iter().any(|other| within(other, &prefix)) {
            open.extend(halves(&prefix));
        } else {
            left.push(prefix);
        }
    }
    left.sort_unstable();
    left
}

/// The two prefixes that are one bit longer; none for a single address.
fn halves(prefix: &IpNet) -> Vec<IpNet> {
    let longer = prefix.prefix_len().saturating_add(1);
    match prefix {
        IpNet::V4(net) => net.subnets(longer).into_iter().flatten().map(IpNet::V4).collect(),
        IpNet::V6(net) => net.subnets(longer).into_iter().flatten().map(IpNet::V6).collect(),
    }
}

/// The first two prefixes of a list that overlap.
pub fn first_overlap(prefixes: &[IpNet]) -> Option<(IpNet, IpNet)> {
    let mut sorted: Vec<&IpNet> = prefixes.iter().collect();
    // Sorted by network, an overlap is always between neighbours.
    sorted.sort_by_key(|prefix| (prefix.network(), prefix.prefix_len()));
    let pair = sorted.windows(2).find(|pair| crate::net::overlap(pair[0], pair[1]))?;
    Some((*pair[0], *pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// Disjoint prefixes among the last 256 addresses of a network of either family.
    fn list() -> impl Strategy<Value = Vec<IpNet>> {
        proptest::collection::vec((any::<bool>(), any::<u8>(), 0u8..=8), 0..8).prop_map(|wanted| {
            let mut list: Vec<IpNet> = Vec::new();
            for (v4, number, bits) in wanted {
                let address = address(v4, number);
                let length = if v4 { 24 } else { 120 } + bits;
                let prefix = IpNet::new(address, length).unwrap().trunc();
                if !list.iter().any(|other| crate::net::overlap(other, &prefix)) {
                    list.push(prefix);
                }
            }
            list
        })
    }

    fn address(v4: bool, number: u8) -> IpAddr {
        if v4 {
            Ipv4Addr::new(10, 0, 0, number).into()
        } else {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
        }
    }

    fn has(list: &[IpNet], address: IpAddr) -> bool {
        list.iter().any(|prefix| prefix.contains(&address))
    }

    proptest! {
        #[test]
        fn each_address_is_where_it_belongs(a in list(), b in list()) {
            let (both, rest) = (intersection(&a, &b), difference(&a, &b));
            for v4 in [true, false] {
                for number in 0..=u8::MAX {
                    let address = address(v4, number);
                    prop_assert_eq!(has(&both, address), has(&a, address) && has(&b, address), "{}", address);
                    prop_assert_eq!(has(&rest, address), has(&a, address) && !has(&b, address), "{}", address);
                }
            }
            prop_assert!(both.is_sorted() && rest.is_sorted());
            prop_assert!(both.len() <= a.len() + b.len());
            prop_assert_eq!((first_overlap(&both), first_overlap(&rest)), (None, None));
            prop_assert_eq!(intersection(&b, &a), both);
        }
    }

    #[test]
    fn an_overlap_within_a_list_is_found_wherever_it_is() {
        let nets = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(first_overlap(&nets(&["10.2.0.0/24", "10.1.0.0/16", "fd00::/48", "10.0.0.0/24"])), None);
        let found = first_overlap(&nets(&["10.1.7.0/24", "fd00::/48", "10.0.0.0/24", "10.1.0.0/16"])).unwrap();
        assert_eq!(found, ("10.1.0.0/16".parse().unwrap(), "10.1.7.0/24".parse().unwrap()));
        assert!(first_overlap(&nets(&["10.1.0.0/24", "10.1.0.0/24"])).is_some());
    }
}
