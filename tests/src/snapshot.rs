//! The objects in the kernel of a namespace, read by `ip`, `bridge` and `tc`, and how two readings differ.

use crate::{netns::Netns, wait};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
    time::Duration,
};

/// A reading, without what changes by itself: interface numbers, counters, ages, multicast filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The properties of each object, by its name.
    objects: BTreeMap<String, Fields>,
}

type Fields = BTreeMap<String, String>;

/// A kind of objects, and the fields that identify one.
struct Kind {
    name: &'static str,
    key: &'static [&'static str],
}

const LINK: Kind = Kind { name: "link", key: &["ifname"] };
const ROUTE4: Kind = Kind { name: "route", key: ROUTE };
const ROUTE6: Kind = Kind { name: "route6", key: ROUTE };
const RULE4: Kind = Kind { name: "rule", key: RULE };
const RULE6: Kind = Kind { name: "rule6", key: RULE };
const NEXTHOP: Kind = Kind { name: "nexthop", key: &["id", "dev", "gateway"] };
const NEIGH: Kind = Kind { name: "neigh", key: &["dst", "dev"] };
const FDB: Kind = Kind { name: "fdb", key: &["mac", "ifname", "dst", "vni"] };
const QDISC: Kind = Kind { name: "qdisc", key: &["dev", "kind", "handle", "parent", "root"] };

const ROUTE: &[&str] = &["table", "type", "dst", "dev", "gateway", "metric", "nhid"];
const RULE: &[&str] = &["priority", "src", "dst", "table", "l3mdev", "iif", "oif", "fwmark"];

/// Fields that change by themselves, or are numbers for something that a name identifies.
#[rustfmt::skip]
const VOLATILE: &[&str] = &[
    "ifindex", "link_index", "link_netnsid", "stats", "stats64", "used", "expires", "updated", "age", "ageing", "probes",
    "valid_life_time", "preferred_life_time", "gc_timer", "hello_timer", "tcn_timer", "topology_change_timer",
];

/// Sysctls that an agent may set. Those of one interface become fields of its link.
const SYSCTLS: [&str; 6] =
    ["ipv4/conf", "ipv6/conf", "vrf", "ipv4/ip_forward", "ipv4/tcp_l3mdev_accept", "ipv4/udp_l3mdev_accept"];

impl Snapshot {
    /// Reads everything, once the kernel has finished duplicate address detection.
    pub fn take(netns: &Netns) -> Result<Snapshot> {
        wait::until("duplicate address detection ends", Duration::from_secs(20), || {
            let mut snapshot = Snapshot { objects: BTreeMap::new() };
            for object in listings(netns, "ip", &["-6"], "addr show tentative\nrule show\n")? {
                ensure!(!object.contains_key("addr_info"), "{object:?}");
                snapshot.add(&RULE6, object);
            }
            Ok(Some(snapshot))
        })
        .and_then(|snapshot| snapshot.with_the_rest(netns))
    }

    fn with_the_rest(mut self, netns: &Netns) -> Result<Snapshot> {
        let lines = "addr show\nnexthop show\nneigh show nud permanent\nroute show table all\nrule show\n";
        for mut object in listings(netns, "ip", &["-d"], lines)? {
            let Some(addresses) = object.remove("addr_info") else {
                let kind = kind_of(&object).with_context(|| format!("what is {object:?}?"))?;
                self.add(kind, object);
                continue;
            };
            for address in addresses.as_array().into_iter().flatten().filter_map(Value::as_object) {
                let (device, local, length) = (&object["ifname"], &address["local"], &address["prefixlen"]);
                let name = format!("addr {}/{} dev {}", plain(local), plain(length), plain(device));
                self.objects.insert(name, fields(address));
            }
            self.add(&LINK, object);
        }
        for entry in
            listings(netns, "bridge", &[], "fdb show\n")?.into_iter().filter(|entry| !is_multicast_filter(entry))
        {
            self.add(&FDB, entry);
        }
        for qdisc in listings(netns, "tc", &[], "qdisc show\n")? {
            self.add(&QDISC, qdisc);
        }
        // What is below /proc/sys/net depends on the namespace of the thread that opens it.
        let sysctls = netns.within(|| {
            let mut lines = String::new();
            for path in SYSCTLS {
                read_sysctls(&Path::new("/proc/sys/net").join(path), &mut lines);
            }
            Ok(lines)
        })?;
        self.add_sysctls(&sysctls);
        Ok(self)
    }

    fn add(&mut self, kind: &Kind, mut object: Map<String, Value>) {
        without_own_numbers(&mut object);
        let mut name = key(kind, &object);
        while self.objects.contains_key(&name) {
            name += ", again";
        }
        self.objects.insert(name, fields(&object));
    }

    fn add_sysctls(&mut self, lines: &str) {
        for (path, value) in lines.lines().filter_map(|line| line.split_once(':')) {
            let path = path.trim_start_matches("/proc/sys/net/");
            let parts: Vec<&str> = path.split('/').collect();
            let (object, field) = match parts[..] {
                [family, "conf", device, name] => (format!("link ifname {device}"), format!("{family}.{name}")),
                _ => (format!("sysctl {path}"), "value".to_owned()),
            };
            self.objects.entry(object).or_default().insert(field, value.to_owned());
        }
    }

    /// What has changed since an earlier reading.
    pub fn since(&self, before: &Snapshot) -> Difference {
        let line = |sign: &str, (name, fields): (&String, &Fields)| format!("{sign} {name}  {}", shown(fields));
        let gone = before.objects.iter().filter(|(name, _)| !self.objects.contains_key(*name));
        let new = self.objects.iter().filter(|(name, _)| !before.objects.contains_key(*name));
        let changed = self.objects.iter().filter_map(|(name, now)| {
            let was = before.objects.get(name)?;
            let names: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
            let changes = names.into_iter().filter(|field| was.get(*field) != now.get(*field)).map(|field| {
                let value = |fields: &Fields| fields.get(field).map_or("none", String::as_str).to_owned();
                format!(" {field}: {} now {}", value(was), value(now))
            });
            (was != now).then(|| format!("~ {name} {}", changes.collect::<Vec<_>>().join(",")))
        });
        Difference {
            new: new.map(|object| line("+", object)).collect(),
            gone: gone.map(|object| line("-", object)).collect(),
            changed: changed.collect(),
        }
    }

    /// Leaves out what an agent leaves behind on purpose when the last VPC is removed, because it belongs to the whole
    /// host: the kernel's own l3mdev rule, which it adds with the first VRF and never again, and IPv6 forwarding with
    /// its consequences.
    #[must_use]
    pub fn without_documented_leftovers(mut self) -> Snapshot {
        self.objects.retain(|name, fields| {
            let rule = name.starts_with("rule") && fields.contains_key("l3mdev");
            let routers_address = name.starts_with("route6 table local type anycast dst fe80::");
            !rule && !routers_address
        });
        for fields in self.objects.values_mut() {
            fields.remove("ipv6.forwarding");
        }
        self
    }

    /// Without the devices that the kernel makes in every namespace as soon as a module for tunnels is loaded, for
    /// instance by a test beside this one (`net.core.fb_tunnels_only_for_init_net`).
    #[must_use]
    pub fn without_fallback_tunnels(mut self) -> Snapshot {
        const NAMES: [&str; 9] =
            ["erspan0", "gre0", "gretap0", "ip6_vti0", "ip6gre0", "ip6tnl0", "ip_vti0", "sit0", "tunl0"];
        self.objects.retain(|name, _| !name.split(' ').any(|word| NAMES.contains(&word)));
        self
    }

    /// The names of the objects, each beginning with its kind.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str)
    }
}

/// How a reading differs from an earlier one, a line or more per object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// New objects.
    pub new: Vec<String>,
    /// Removed objects.
    pub gone: Vec<String>,
    /// Changed objects.
    pub changed: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many objects differ.
    pub fn len(&self) -> usize {
        self.new.len() + self.gone.len() + self.changed.len()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no difference");
        }
        let lines: Vec<&str> = self.gone.iter().chain(&self.new).chain(&self.changed).map(String::as_str).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// The kind of one of `ip`'s objects, other than links. Routes of both families come in one listing.
fn kind_of(object: &Map<String, Value>) -> Option<&'static Kind> {
    let has = |field| object.contains_key(field);
    match () {
        () if has("priority") => Some(&RULE4),
        () if has("state") && has("dst") => Some(&NEIGH),
        // A default route does not show its family; all that the kernel lists for IPv6 have a preference.
        () if has("dst") && (has("pref") || plain(&object["dst"]).contains(':')) => Some(&ROUTE6),
        () if has("dst") => Some(&ROUTE4),
        () if has("id") => Some(&NEXTHOP),
        () => None,
    }
}

/// The objects of all listings that the lines request.
fn listings(netns: &Netns, program: &str, options: &[&str], lines: &str) -> Result<Vec<Map<String, Value>>> {
    let answers = netns.list(program, options, lines)?;
    parse(&answers).with_context(|| format!("what `{program}` says to {lines}"))
}

/// `ip` prints nothing at all if there are no objects, and an empty object for one that it does not show.
fn parse(text: &str) -> Result<Vec<Map<String, Value>>> {
    let mut all = Vec::new();
    for listing in serde_json::Deserializer::from_str(text).into_iter::<Vec<Map<String, Value>>>() {
        all.extend(listing.with_context(|| text.to_owned())?.into_iter().filter(|object| !object.is_empty()));
    }
    Ok(all)
}

/// Adds a line `path:value` for each file. Unreadable ones, for instance because the device has just been deleted, are
/// left out.
fn read_sysctls(path: &Path, lines: &mut String) {
    if let Ok(entries) = fs::read_dir(path) {
        entries.filter_map(Result::ok).for_each(|entry| read_sysctls(&entry.path(), lines));
    } else if let Ok(value) = fs::read_to_string(path) {
        for line in value.lines() {
            lines.extend([path.to_string_lossy().as_ref(), ":", line, "\n"]);
        }
    }
}

/// The kernel keeps a device's multicast groups as FDB entries.
fn is_multicast_filter(entry: &Map<String, Value>) -> bool {
    let mac = entry.get("mac").and_then(Value::as_str).unwrap_or_default();
    mac.starts_with("33:33:") || mac.starts_with("01:00:5e:")
}

/// The agent numbers its next hops in order of creation, so after a repair they may have other numbers. Device and
/// gateway identify them.
fn without_own_numbers(object: &mut Map<String, Value>) {
    if object.get("protocol").and_then(Value::as_str) == Some("67") {
        object.remove("id");
        object.remove("nhid");
        if let Some(Value::Object(nexthop)) = object.get_mut("nh_info") {
            nexthop.remove("id");
        }
    }
}

fn key(kind: &Kind, object: &Map<String, Value>) -> String {
    let parts = kind.key.iter().filter_map(|field| Some(format!("{field} {}", plain(object.get(*field)?))));
    std::iter::once(kind.name.to_owned()).chain(parts).collect::<Vec<_>>().join(" ")
}

/// An object's properties, nested fields by their path.
fn fields(object: &Map<String, Value>) -> Fields {
    fn add(path: &str, value: &Value, to: &mut Fields) {
        match value {
            Value::Object(map) => {
                for (name, value) in map.iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str())) {
                    add(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, to);
                }
            }
            other => {
                to.insert(path.to_owned(), plain(other));
            }
        }
    }
    let mut fields = Fields::new();
    add("", &Value::Object(object.clone()), &mut fields);
    fields
}

/// The fields of an object for display: without sysctls, of which every device has a hundred.
fn shown(fields: &Fields) -> String {
    let fields = fields.iter().filter(|(name, _)| !name.starts_with("ipv4.") && !name.starts_with("ipv6."));
    fields.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(listing: &str) -> Snapshot {
        let objects = parse(listing).unwrap();
        Snapshot { objects: objects.iter().map(|object| (key(&LINK, object), fields(object))).collect() }
    }

    #[test]
    fn a_difference_is_readable() {
        let before = snapshot(r#"[{"ifname":"a","mtu":1500},{"ifname":"b","mtu":1500}]"#);
        let mut after = snapshot(r#"[{"ifname":"b","mtu":1450},{"ifname":"c","mtu":1}]"#);
        after.add_sysctls("/proc/sys/net/ipv4/conf/b/forwarding:1\n/proc/sys/net/ipv4/conf/c/forwarding:1\n");
        let difference = after.since(&before);
        assert_eq!(difference.len(), 3);
        assert_eq!(
            difference.to_string(),
            "- link ifname a  ifname=a mtu=1500\n\
             + link ifname c  ifname=c mtu=1\n\
             ~ link ifname b  ipv4.forwarding: none now 1, mtu: 1500 now 1450"
        );
        assert!(after.since(&after).is_empty());
    }

    #[test]
    fn what_changes_by_itself_is_left_out() {
        let listing = |index| format!(r#"[{{"ifindex":{index},"ifname":"v","info":{{"age":{index},"id":5}}}},{{}}]"#);
        assert!(snapshot(&listing(7)).since(&snapshot(&listing(8))).is_empty());
        assert_eq!(snapshot(&listing(7)).objects["link ifname v"]["info.id"], "5");
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn the_kernels_own_l3mdev_rule_does_not_count() {
        let objects = parse(r#"[{"priority":1000,"src":"all","l3mdev":null}]"#).unwrap();
        let rule = Snapshot { objects: [(key(&RULE4, &objects[0]), fields(&objects[0]))].into() };
        assert_eq!(rule.names().collect::<Vec<_>>(), ["rule priority 1000 src all l3mdev null"]);
        assert_eq!(rule.without_documented_leftovers().names().count(), 0);
    }
}
