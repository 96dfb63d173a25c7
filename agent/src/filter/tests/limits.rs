//! What is accepted at a limited rate.

use super::{
    super::{FRAGMENTS, NEIGHBOURS},
    *,
};

/// C10.
#[test]
fn neighbour_messages_are_rate_limited() {
    let policy = IngressPolicy::of_port(&nets(&["10.1.0.0/24", "fd00:1::/64"]), local());
    let selected = |frame: &[u8]| accepts(&policy.limits()[0].program, &Packet::received(frame.to_vec()));
    assert!(selected(&ethernet(0x0806, &[0; 28])) && selected(&ethernet(0x0806, &[0; 28])[..42]));
    assert!(!selected(&tagged(&[(0x8100, 7)], 0x0806, &[0; 28])), "it is dropped, or for a device of its own");
    let wraps: [Wrap; 5] = [
        |message| (58, message.to_vec()),
        |message| (0, options(58, message)),
        |message| (0, options(43, &options(60, &options(58, message)))),
        |message| (44, fragment6(58, 1, message)),
        |message| (60, options(44, &fragment6(58, 0, message))),
    ];
    for wrap in wraps {
        let of = |source: &str, kind| {
            let (next, payload) = wrap(&icmp(kind, 0, &[0; 16]));
            selected(&ethernet(IPV6, &ipv6(source, "ff02::1:ff00:1", next, &payload)))
        };
        for kind in 133..=137 {
            assert!(["fe80::9", "fd00:1::9", "::"].into_iter().all(|source| of(source, kind)), "{kind}");
        }
        for kind in [1, 128, 129, 132, 138, 143] {
            assert!(!of("fe80::9", kind), "{kind}");
        }
    }
    for other in [
        ethernet(IPV4, &ipv4("10.1.0.9", "10.1.0.1", 1, &ECHO)),
        ethernet(IPV4, &ipv4("10.1.0.9", "10.1.0.1", 58, &icmp(135, 0, &[0; 16]))),
        ethernet(IPV6, &ipv6("fd00:1::9", "fd00:2::9", 17, &[135; 24])),
        ethernet(IPV6, &ipv6("fd00:1::9", "fd00:2::9", 44, &fragment6(58, 8, &[135; 24]))),
    ] {
        assert!(!selected(&other), "{other:02x?}");
    }
    // Too short for its headers: the kernel drops it, too.
    let short = ethernet(IPV6, &ipv6("fe80::9", "ff02::1", 58, &icmp(135, 0, &[])));
    assert!((14..54).all(|length| !selected(&short[..length])));
}

/// C10.
#[test]
fn fragments_for_the_host_are_rate_limited() {
    let port = IngressPolicy::of_port(&nets(&["10.1.0.0/24", "fd00:1::/64"]), local());
    let tunnel = IngressPolicy::of_tunnel(&nets(&["10.2.0.0/16"]), local());
    let rates = |policy: &IngressPolicy| policy.limits().iter().map(|it| (it.handle, it.rate)).collect::<Vec<_>>();
    assert_eq!(rates(&port), [(1, NEIGHBOURS), (2, FRAGMENTS)]);
    assert_eq!(rates(&tunnel), [(2, FRAGMENTS)], "behind a tunnel all neighbours are permanent");
    let selected = |frame: &[u8]| {
        let packet = Packet::received(frame.to_vec());
        let [one, other] = [&port.limits()[1], &tunnel.limits()[0]].map(|limit| accepts(&limit.program, &packet));
        assert_eq!(one, other);
        one
    };
    let v4 = |to, fragment| ethernet(IPV4, &ipv4_fragment("10.1.0.9", to, 17, fragment, &[0; 32]));
    for to in ["10.1.0.1", "10.1.0.255", "224.0.0.1", "255.255.255.255"] {
        assert!([0x2000, 0x2005, 5].into_iter().all(|fragment| selected(&v4(to, fragment))), "{to}");
        assert!(!selected(&v4(to, 0)) && !selected(&v4(to, 0x4000)), "{to}");
    }
    assert!(!selected(&v4("10.2.0.9", 0x2000)) && !selected(&v4("10.1.0.9", 5)), "they are only forwarded");
    assert!(!selected(&tagged(&[(0x8100, 0)], IPV4, &ipv4_fragment("10.1.0.9", "10.1.0.1", 17, 5, &[0; 32]))));
    let v6 = |to, field, before: u8| {
        let fragment = fragment6(17, field, &[0; 32]);
        let (next, payload) = if before == 44 { (44, fragment) } else { (before, options(44, &fragment)) };
        ethernet(IPV6, &ipv6("fd00:1::9", to, next, &payload))
    };
    for before in [44, 0, 43, 60] {
        for to in ["fd00:1::1", "fd00:1::", "fe80::1", "ff02::1"] {
            assert!([1, 8, 9].into_iter().all(|field| selected(&v6(to, field, before))), "{to} {before}");
            assert!(!selected(&v6(to, 0, before)), "the kernel does not keep what is whole");
        }
        assert!(!selected(&v6("fd00:1::9", 1, before)) && !selected(&v6("fd00:2::9", 9, before)));
    }
    // One within another: what is whole is read on.
    let nested = fragment6(44, 0, &fragment6(17, 1, &[0; 32]));
    assert!(selected(&ethernet(IPV6, &ipv6("fd00:1::9", "fd00:1::1", 44, &nested))));
    assert!(!selected(&ethernet(0x0806, &[0; 28])));
}
