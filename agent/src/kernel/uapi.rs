//! Numbers of the kernel's interface, by header file below `include/uapi/linux`, and fixed message parts.

/// `rtnetlink.h`.
pub(super) mod rtm {
    pub(in crate::kernel) const NEW_LINK: u16 = 16;
    pub(in crate::kernel) const DEL_LINK: u16 = 17;
    pub(in crate::kernel) const GET_LINK: u16 = 18;
    pub(in crate::kernel) const SET_LINK: u16 = 19;
    pub(in crate::kernel) const NEW_ADDRESS: u16 = 20;
    pub(in crate::kernel) const DEL_ADDRESS: u16 = 21;
    pub(in crate::kernel) const GET_ADDRESS: u16 = 22;
    pub(in crate::kernel) const NEW_ROUTE: u16 = 24;
    pub(in crate::kernel) const DEL_ROUTE: u16 = 25;
    pub(in crate::kernel) const GET_ROUTE: u16 = 26;
    pub(in crate::kernel) const NEW_NEIGHBOUR: u16 = 28;
    pub(in crate::kernel) const DEL_NEIGHBOUR: u16 = 29;
    pub(in crate::kernel) const GET_NEIGHBOUR: u16 = 30;
    pub(in crate::kernel) const NEW_RULE: u16 = 32;
    pub(in crate::kernel) const DEL_RULE: u16 = 33;
    pub(in crate::kernel) const GET_RULE: u16 = 34;
    pub(in crate::kernel) const NEW_QDISC: u16 = 36;
    pub(in crate::kernel) const DEL_QDISC: u16 = 37;
    pub(in crate::kernel) const GET_QDISC: u16 = 38;
    pub(in crate::kernel) const NEW_CLASS: u16 = 40;
    pub(in crate::kernel) const GET_CLASS: u16 = 42;
    pub(in crate::kernel) const NEW_FILTER: u16 = 44;
    pub(in crate::kernel) const DEL_FILTER: u16 = 45;
    pub(in crate::kernel) const GET_FILTER: u16 = 46;
    pub(in crate::kernel) const NEW_ACTION: u16 = 48;
    pub(in crate::kernel) const DEL_ACTION: u16 = 49;
    pub(in crate::kernel) const GET_NEIGHBOUR_TABLE: u16 = 66;
    pub(in crate::kernel) const NEW_NETCONF: u16 = 80;
    pub(in crate::kernel) const DEL_NETCONF: u16 = 81;
    pub(in crate::kernel) const NEW_NEXTHOP: u16 = 104;
    pub(in crate::kernel) const DEL_NEXTHOP: u16 = 105;
    pub(in crate::kernel) const GET_NEXTHOP: u16 = 106;
    pub(in crate::kernel) const NEW_CHAIN: u16 = 100;
    pub(in crate::kernel) const DEL_CHAIN: u16 = 101;
    pub(in crate::kernel) const NEW_NEXTHOP_BUCKET: u16 = 116;
    pub(in crate::kernel) const DEL_NEXTHOP_BUCKET: u16 = 117;
}

/// `netlink.h`: flags of requests.
pub(super) mod flag {
    pub(in crate::kernel) const ECHO: u16 = 8;
    pub(in crate::kernel) const REPLACE: u16 = 0x100;
    pub(in crate::kernel) const EXCLUSIVE: u16 = 0x200;
    pub(in crate::kernel) const CREATE: u16 = 0x400;
}

/// `if_link.h` and `if_addr.h`.
pub(super) mod link {
    pub(in crate::kernel) const HEADER_LEN: usize = 16;
    pub(in crate::kernel) const IFLA_ADDRESS: u16 = 1;
    pub(in crate::kernel) const IFLA_IFNAME: u16 = 3;
    pub(in crate::kernel) const IFLA_MTU: u16 = 4;
    pub(in crate::kernel) const IFLA_LINK: u16 = 5;
    pub(in crate::kernel) const IFLA_LINK_NETNSID: u16 = 37;
    pub(in crate::kernel) const IFLA_MASTER: u16 = 10;
    pub(in crate::kernel) const IFLA_LINKINFO: u16 = 18;
    pub(in crate::kernel) const IFLA_IFALIAS: u16 = 20;
    pub(in crate::kernel) const IFLA_STATS64: u16 = 23;
    pub(in crate::kernel) const IFLA_AF_SPEC: u16 = 26;
    pub(in crate::kernel) const IFLA_GROUP: u16 = 27;
    pub(in crate::kernel) const IFLA_EXT_MASK: u16 = 29;
    pub(in crate::kernel) const IFLA_PROTO_DOWN: u16 = 39;
    pub(in crate::kernel) const IFLA_XDP: u16 = 43;
    pub(in crate::kernel) const IFLA_PROP_LIST: u16 = 52;
    pub(in crate::kernel) const IFLA_ALT_IFNAME: u16 = 53;
    pub(in crate::kernel) const IFLA_PERM_ADDRESS: u16 = 54;
    pub(in crate::kernel) const XDP_ATTACHED: u16 = 2;
    pub(in crate::kernel) const XDP_PROG_ID: u16 = 4;
    pub(in crate::kernel) const XDP_DRV_PROG_ID: u16 = 5;
    pub(in crate::kernel) const XDP_SKB_PROG_ID: u16 = 6;
    pub(in crate::kernel) const XDP_HW_PROG_ID: u16 = 7;
    pub(in crate::kernel) const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    pub(in crate::kernel) const INFO_KIND: u16 = 1;
    pub(in crate::kernel) const INFO_DATA: u16 = 2;
    pub(in crate::kernel) const VRF_TABLE: u16 = 1;
    pub(in crate::kernel) const VLAN_ID: u16 = 1;
    /// Big-endian.
    pub(in crate::kernel) const VLAN_PROTOCOL: u16 = 5;
    pub(in crate::kernel) const VXLAN_ID: u16 = 1;
    pub(in crate::kernel) const VXLAN_GROUP: u16 = 2;
    pub(in crate::kernel) const VXLAN_LINK: u16 = 3;
    pub(in crate::kernel) const VXLAN_LOCAL: u16 = 4;
    pub(in crate::kernel) const VXLAN_TTL: u16 = 5;
    pub(in crate::kernel) const VXLAN_TOS: u16 = 6;
    pub(in crate::kernel) const VXLAN_LIMIT: u16 = 9;
    pub(in crate::kernel) const VXLAN_PORT_RANGE: u16 = 10;
    pub(in crate::kernel) const VXLAN_PROXY: u16 = 11;
    pub(in crate::kernel) const VXLAN_RSC: u16 = 12;
    pub(in crate::kernel) const VXLAN_L2MISS: u16 = 13;
    pub(in crate::kernel) const VXLAN_L3MISS: u16 = 14;
    pub(in crate::kernel) const VXLAN_GROUP6: u16 = 16;
    pub(in crate::kernel) const VXLAN_REMCSUM_TX: u16 = 21;
    pub(in crate::kernel) const VXLAN_REMCSUM_RX: u16 = 22;
    pub(in crate::kernel) const VXLAN_GBP: u16 = 23;
    pub(in crate::kernel) const VXLAN_COLLECT_METADATA: u16 = 25;
    pub(in crate::kernel) const VXLAN_LABEL: u16 = 26;
    pub(in crate::kernel) const VXLAN_GPE: u16 = 27;
    pub(in crate::kernel) const VXLAN_TTL_INHERIT: u16 = 28;
    pub(in crate::kernel) const VXLAN_DF: u16 = 29;
    pub(in crate::kernel) const VXLAN_VNIFILTER: u16 = 30;
    pub(in crate::kernel) const VXLAN_LEARNING: u16 = 7;
    pub(in crate::kernel) const VXLAN_PORT: u16 = 15;
    pub(in crate::kernel) const VXLAN_LOCAL6: u16 = 17;
    pub(in crate::kernel) const INET_CONF: u16 = 1;
    pub(in crate::kernel) const INET6_CONF: u16 = 2;
    pub(in crate::kernel) const INET6_ADDR_GEN_MODE: u16 = 8;
    pub(in crate::kernel) const ADDR_GEN_MODE_NONE: u8 = 1;
    pub(in crate::kernel) const IFF_UP: u32 = 1;
    pub(in crate::kernel) const ARPHRD_ETHER: u16 = 1;
    pub(in crate::kernel) const IFF_NOARP: u32 = 0x80;
    pub(in crate::kernel) const IFF_LOWER_UP: u32 = 1 << 16;
    pub(in crate::kernel) const ARPHRD_LOOPBACK: u16 = 772;
    pub(in crate::kernel) const AF_INET: u16 = 2;
    pub(in crate::kernel) const AF_INET6: u16 = 10;
}

/// `if_addr.h`.
pub(super) mod addr {
    pub(in crate::kernel) const HEADER_LEN: usize = 8;
    pub(in crate::kernel) const IFA_ADDRESS: u16 = 1;
    pub(in crate::kernel) const IFA_LOCAL: u16 = 2;
    pub(in crate::kernel) const IFA_FLAGS: u16 = 8;
    pub(in crate::kernel) const IFA_PROTO: u16 = 11;
    /// The kernel's origin of a link-local address that it generated.
    pub(in crate::kernel) const IFAPROT_KERNEL_LL: u8 = 3;
    pub(in crate::kernel) const IFA_F_NODAD: u32 = 0x02;
    pub(in crate::kernel) const IFA_F_TENTATIVE: u8 = 0x40;
    pub(in crate::kernel) const IFA_F_NOPREFIXROUTE: u32 = 0x200;
}

/// `neighbour.h`.
pub(super) mod neighbour {
    pub(in crate::kernel) const HEADER_LEN: usize = 12;
    pub(in crate::kernel) const AF_BRIDGE: u8 = 7;
    pub(in crate::kernel) const NDA_DST: u16 = 1;
    pub(in crate::kernel) const NDA_LLADDR: u16 = 2;
    /// `struct nda_cacheinfo`: when it was last confirmed, used and updated, in ticks of `USER_HZ`.
    pub(in crate::kernel) const NDA_CACHEINFO: u16 = 3;
    pub(in crate::kernel) const NDA_PORT: u16 = 6;
    pub(in crate::kernel) const NDA_VNI: u16 = 7;
    pub(in crate::kernel) const NDA_IFINDEX: u16 = 8;
    pub(in crate::kernel) const NUD_INCOMPLETE: u16 = 0x01;
    pub(in crate::kernel) const NUD_FAILED: u16 = 0x20;
    pub(in crate::kernel) const NUD_NOARP: u16 = 0x40;
    pub(in crate::kernel) const NUD_PERMANENT: u16 = 0x80;
    /// `ndm_flags`.
    pub(in crate::kernel) const FLAGS_AT: usize = 10;
    pub(in crate::kernel) const NTF_SELF: u8 = 0x02;
    pub(in crate::kernel) const NTF_PROXY: u8 = 0x08;
}

/// `neighbour.h`: tables.
pub(super) mod neighbour_table {
    pub(in crate::kernel) const HEADER_LEN: usize = 4;
    pub(in crate::kernel) const NDTA_THRESH3: u16 = 4;
    pub(in crate::kernel) const NDTA_CONFIG: u16 = 5;
}

/// `rtnetlink.h`: routes.
pub(super) mod route {
    pub(in crate::kernel) const HEADER_LEN: usize = 12;
    pub(in crate::kernel) const RTA_DST: u16 = 1;
    pub(in crate::kernel) const RTA_SRC: u16 = 2;
    pub(in crate::kernel) const RTA_IIF: u16 = 3;
    pub(in crate::kernel) const RTA_OIF: u16 = 4;
    pub(in crate::kernel) const RTA_GATEWAY: u16 = 5;
    pub(in crate::kernel) const RTA_PRIORITY: u16 = 6;
    pub(in crate::kernel) const RTA_METRICS: u16 = 8;
    pub(in crate::kernel) const RTAX_LOCK: u16 = 1;
    pub(in crate::kernel) const RTAX_MTU: u16 = 2;
    pub(in crate::kernel) const RTA_MULTIPATH: u16 = 9;
    pub(in crate::kernel) const RTA_CACHEINFO: u16 = 12;
    pub(in crate::kernel) const RTA_TABLE: u16 = 15;
    pub(in crate::kernel) const RTA_VIA: u16 = 18;
    pub(in crate::kernel) const RTA_ENCAP_TYPE: u16 = 21;
    pub(in crate::kernel) const RTA_IP_PROTO: u16 = 27;
    pub(in crate::kernel) const RTA_SPORT: u16 = 28;
    pub(in crate::kernel) const RTA_DPORT: u16 = 29;
    pub(in crate::kernel) const RTA_NH_ID: u16 = 30;
    /// Returns the route that was found instead of its effect on the packet.
    pub(in crate::kernel) const RTM_F_FIB_MATCH: u32 = 0x2000;
    pub(in crate::kernel) const RTN_UNICAST: u8 = 1;
    pub(in crate::kernel) const RTN_LOCAL: u8 = 2;
    pub(in crate::kernel) const RTN_BROADCAST: u8 = 3;
    pub(in crate::kernel) const RTN_ANYCAST: u8 = 4;
    pub(in crate::kernel) const RTN_MULTICAST: u8 = 5;
    pub(in crate::kernel) const RTN_BLACKHOLE: u8 = 6;
    pub(in crate::kernel) const RTN_UNREACHABLE: u8 = 7;
    pub(in crate::kernel) const RTN_PROHIBIT: u8 = 8;
    pub(in crate::kernel) const RTN_THROW: u8 = 9;
    pub(in crate::kernel) const RTPROT_KERNEL: u8 = 2;
    pub(in crate::kernel) const RT_SCOPE_UNIVERSE: u8 = 0;
    pub(in crate::kernel) const RT_SCOPE_LINK: u8 = 253;
    pub(in crate::kernel) const RT_SCOPE_NOWHERE: u8 = 255;
    pub(in crate::kernel) const RT_TABLE_MAIN: u32 = 254;
    pub(in crate::kernel) const RT_TABLE_LOCAL: u32 = 255;
}

/// `nexthop.h`.
pub(super) mod nexthop {
    pub(in crate::kernel) const HEADER_LEN: usize = 8;
    pub(in crate::kernel) const NHA_ID: u16 = 1;
    pub(in crate::kernel) const NHA_GROUP: u16 = 2;
    pub(in crate::kernel) const NHA_OIF: u16 = 5;
    pub(in crate::kernel) const NHA_GATEWAY: u16 = 6;
    pub(in crate::kernel) const NHA_ENCAP_TYPE: u16 = 7;
    pub(in crate::kernel) const RTNH_F_ONLINK: u32 = 4;
}

/// `pkt_sched.h`, `pkt_cls.h` and `filter.h`.
pub(super) mod tc {
    pub(in crate::kernel) const HEADER_LEN: usize = 20;
    pub(in crate::kernel) const TCA_KIND: u16 = 1;
    pub(in crate::kernel) const TCA_OPTIONS: u16 = 2;
    pub(in crate::kernel) const TCA_STATS2: u16 = 7;
    /// `gen_stats.h`.
    pub(in crate::kernel) const STATS_BASIC: u16 = 1;
    pub(in crate::kernel) const STATS_QUEUE: u16 = 3;
    pub(in crate::kernel) const STATS_PKT64: u16 = 8;
    /// `TC_H_ROOT`.
    pub(in crate::kernel) const ROOT: u32 = u32::MAX;
    pub(in crate::kernel) const HTB_PARMS: u16 = 1;
    pub(in crate::kernel) const HTB_INIT: u16 = 2;
    pub(in crate::kernel) const HTB_RATE64: u16 = 6;
    pub(in crate::kernel) const HTB_CEIL64: u16 = 7;
    pub(in crate::kernel) const TBF_PARMS: u16 = 1;
    pub(in crate::kernel) const TBF_RATE64: u16 = 4;
    pub(in crate::kernel) const TBF_BURST: u16 = 6;
    pub(in crate::kernel) const FQ_PLIMIT: u16 = 1;
    pub(in crate::kernel) const FQ_FLOW_PLIMIT: u16 = 2;
    pub(in crate::kernel) const FQ_FLOW_MAX_RATE: u16 = 7;
    pub(in crate::kernel) const FQ_CODEL_LIMIT: u16 = 2;
    /// The first field of `tc_htb_glob`: `HTB_VER` >> 16.
    pub(in crate::kernel) const HTB_VERSION: u32 = 3;
    /// Lengths are those of Ethernet frames: then the kernel needs no rate table.
    pub(in crate::kernel) const LINKLAYER_ETHERNET: u8 = 1;
    /// `TC_H_CLSACT`.
    pub(in crate::kernel) const CLSACT: u32 = 0xffff_fff1;
    /// The handle of a `clsact` or `ingress` qdisc.
    pub(in crate::kernel) const CLSACT_HANDLE: u32 = 0xffff_0000;
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`.
    pub(in crate::kernel) const EGRESS: u32 = 0xffff_fff3;
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
    pub(in crate::kernel) const INGRESS: u32 = 0xffff_fff2;
    pub(in crate::kernel) const TCA_CHAIN: u16 = 11;
    /// `if_ether.h`: whatever the protocol is.
    pub(in crate::kernel) const ETH_P_ALL: u16 = 3;
    pub(in crate::kernel) const BPF_ACT: u16 = 1;
    pub(in crate::kernel) const BPF_OPS_LEN: u16 = 4;
    pub(in crate::kernel) const BPF_OPS: u16 = 5;
    pub(in crate::kernel) const BPF_FD: u16 = 6;
    pub(in crate::kernel) const BPF_NAME: u16 = 7;
    pub(in crate::kernel) const BPF_FLAGS: u16 = 8;
    pub(in crate::kernel) const BPF_FLAGS_GEN: u16 = 9;
    pub(in crate::kernel) const BPF_ID: u16 = 11;
    /// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is the action.
    pub(in crate::kernel) const BPF_ACT_DIRECT: u32 = 1;
    pub(in crate::kernel) const SKIP_HW: u32 = 1;
    pub(in crate::kernel) const SKIP_SW: u32 = 2;
    /// The size of `struct sock_filter`.
    pub(in crate::kernel) const BPF_INSTRUCTION_LEN: usize = 8;
    /// `BPF_RET | BPF_K`.
    pub(in crate::kernel) const BPF_RETURN: u16 = 6;
    pub(in crate::kernel) const ACT_SHOT: u32 = 2;
    pub(in crate::kernel) const MATCHALL_ACT: u16 = 2;
    pub(in crate::kernel) const MATCHALL_FLAGS: u16 = 3;
    /// The size of `struct tcamsg`.
    pub(in crate::kernel) const ACTION_HEADER_LEN: usize = 4;
    pub(in crate::kernel) const ACTIONS: u16 = 1;
    /// `TCM_IFINDEX_MAGIC_BLOCK`: of a block that several devices share.
    pub(in crate::kernel) const SHARED_BLOCK: u32 = u32::MAX;
    pub(in crate::kernel) const ACT_KIND: u16 = 1;
    pub(in crate::kernel) const ACT_OPTIONS: u16 = 2;
    /// `struct tc_gact`, whose third number is the action.
    pub(in crate::kernel) const GACT_PARMS: u16 = 2;
    /// `TC_ACT_UNSPEC`: continue with the next filter.
    pub(in crate::kernel) const ACT_UNSPEC: u32 = u32::MAX;
    /// `struct tc_police`: index, action, limit, burst, MTU, two `tc_ratespec` of 12 bytes, two counts, capabilities.
    pub(in crate::kernel) const POLICE_TBF: u16 = 1;
    pub(in crate::kernel) const POLICE_TBF_LEN: usize = 56;
    /// The action for conforming packets.
    pub(in crate::kernel) const POLICE_RESULT: u16 = 5;
    pub(in crate::kernel) const POLICE_TM: u16 = 6;
    pub(in crate::kernel) const POLICE_PAD: u16 = 7;
    pub(in crate::kernel) const POLICE_PKTRATE64: u16 = 10;
    /// In [`TICK_NS`] at that rate.
    pub(in crate::kernel) const POLICE_PKTBURST64: u16 = 11;
    /// The traffic control's unit of time (`PSCHED_SHIFT`), in nanoseconds.
    pub(in crate::kernel) const TICK_NS: u64 = 64;
}

/// `netconf.h`.
pub(super) mod netconf {
    pub(in crate::kernel) const HEADER_LEN: usize = 4;
    pub(in crate::kernel) const NETCONFA_IFINDEX: u16 = 1;
}

/// `fib_rules.h`.
pub(super) mod rule {
    pub(in crate::kernel) const HEADER_LEN: usize = 12;
    pub(in crate::kernel) const FRA_DST: u16 = 1;
    pub(in crate::kernel) const FRA_SRC: u16 = 2;
    pub(in crate::kernel) const FRA_IIFNAME: u16 = 3;
    pub(in crate::kernel) const FRA_GOTO: u16 = 4;
    pub(in crate::kernel) const FRA_PRIORITY: u16 = 6;
    pub(in crate::kernel) const FRA_FWMARK: u16 = 10;
    pub(in crate::kernel) const FRA_FLOW: u16 = 11;
    pub(in crate::kernel) const FRA_TUN_ID: u16 = 12;
    pub(in crate::kernel) const FRA_SUPPRESS_IFGROUP: u16 = 13;
    pub(in crate::kernel) const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    pub(in crate::kernel) const FRA_TABLE: u16 = 15;
    pub(in crate::kernel) const FRA_FWMASK: u16 = 16;
    pub(in crate::kernel) const FRA_OIFNAME: u16 = 17;
    pub(in crate::kernel) const FRA_PAD: u16 = 18;
    pub(in crate::kernel) const FRA_L3MDEV: u16 = 19;
    pub(in crate::kernel) const FRA_UID_RANGE: u16 = 20;
    pub(in crate::kernel) const FRA_PROTOCOL: u16 = 21;
    pub(in crate::kernel) const FRA_IP_PROTO: u16 = 22;
    pub(in crate::kernel) const FRA_SPORT_RANGE: u16 = 23;
    pub(in crate::kernel) const FRA_DPORT_RANGE: u16 = 24;
    pub(in crate::kernel) const FR_ACT_TO_TBL: u8 = 1;
    pub(in crate::kernel) const FR_ACT_GOTO: u8 = 2;
    pub(in crate::kernel) const FR_ACT_NOP: u8 = 3;
    pub(in crate::kernel) const FR_ACT_BLACKHOLE: u8 = 6;
    pub(in crate::kernel) const FR_ACT_UNREACHABLE: u8 = 7;
    pub(in crate::kernel) const FR_ACT_PROHIBIT: u8 = 8;
    pub(in crate::kernel) const FIB_RULE_PERMANENT: u32 = 1;
    pub(in crate::kernel) const FIB_RULE_INVERT: u32 = 2;
}
