//! What the kernel of a namespace has, read by `ip`, `bridge` and `tc`, and how two readings differ.

use crate::{command, netns::Netns, wait};
use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    process::Command,
    time::Duration,
};

/// A reading, without what changes by itself: interface numbers, counters, ages, multicast filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By what names an object, what it is like.
    objects: BTreeMap<String, Fields>,
}

type Fields = BTreeMap<String, String>;

/// One kind of objects: how to read them and which of their fields name one.
struct Kind {
    name: &'static str,
    program: &'static str,
    arguments: &'static str,
    key: &'static [&'static str],
}

const fn kind(
    name: &'static str,
    program: &'static str,
    arguments: &'static str,
    key: &'static [&'static str],
) -> Kind {
    Kind { name, program, arguments, key }
}

const KINDS: &[Kind] = &[
    kind("link", "ip", "-d link show", &["ifname"]),
    kind("route", "ip", "-4 route show table all", ROUTE),
    kind("route6", "ip", "-6 route show table all", ROUTE),
    kind("rule", "ip", "-4 rule show", RULE),
    kind("rule6", "ip", "-6 rule show", RULE),
    kind("nexthop", "ip", "nexthop show", &["id", "dev", "gateway"]),
    kind("neigh", "ip", "neigh show nud permanent", &["dst", "dev"]),
    kind("fdb", "bridge", "fdb show", &["mac", "ifname", "dst", "vni"]),
    kind("qdisc", "tc", "qdisc show", &["dev", "kind", "handle", "parent", "root"]),
];

const ROUTE: &[&str] = &["table", "type", "dst", "dev", "gateway", "metric", "nhid"];
const RULE: &[&str] = &["priority", "src", "dst", "table", "l3mdev", "iif", "oif", "fwmark"];

/// Fields that change by themselves, or that number what a name tells already.
#[rustfmt::skip]
const VOLATILE: &[&str] = &[
    "ifindex", "link_index", "link_netnsid", "stats", "stats64", "used", "expires", "updated", "age", "ageing", "probes",
    "valid_life_time", "preferred_life_time", "gc_timer", "hello_timer", "tcn_timer", "topology_change_timer",
];

/// Where the sysctls are that an agent may set. Those of one interface become fields of its link.
const SYSCTLS: &str = "grep -rHs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/vrf \
                       /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/tcp_l3mdev_accept /proc/sys/net/ipv4/udp_l3mdev_accept";

impl Snapshot {
    /// Reads everything, once the kernel has finished the addresses it is still checking for duplicates.
    pub fn take(netns: &Netns) -> Result<Snapshot> {
        wait::until("duplicate address detection ends", Duration::from_secs(5), || {
            let tentative = netns.ip("-6 addr show tentative")?;
            if tentative.is_empty() { Ok(Some(())) } else { Err(anyhow!(tentative)) }
        })?;
        let mut snapshot = Snapshot { objects: BTreeMap::new() };
        for kind in KINDS {
            for mut object in list(netns, kind.program, kind.arguments)? {
                if is_multicast_filter(kind, &object) {
                    continue;
                }
                without_own_numbers(&mut object);
                let mut name = key(kind, &object);
                while snapshot.objects.contains_key(&name) {
                    name += ", again";
                }
                snapshot.objects.insert(name, fields(&object));
            }
        }
        for link in list(netns, "ip", "addr show")? {
            let Some(Value::Array(addresses)) = link.get("addr_info") else { continue };
            for address in addresses.iter().filter_map(Value::as_object) {
                let (device, local, length) = (&link["ifname"], &address["local"], &address["prefixlen"]);
                let name = format!("addr {}/{} dev {}", plain(local), plain(length), plain(device));
                snapshot.objects.insert(name, fields(address));
            }
        }
        snapshot.add_sysctls(&netns.exec(SYSCTLS)?.stdout);
        Ok(snapshot)
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

    /// What has become otherwise since an earlier reading.
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

    /// Leaves out what an agent leaves behind on purpose when the last VPC goes, because it belongs to the whole host: the
    /// kernel's own l3mdev rule, which it adds with the first VRF and never again, and IPv6 forwarding with what comes
    /// of it.
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

    /// The names of the objects, each beginning with its kind.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str)
    }
}

/// How a reading differs from an earlier one, a line or more per object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Objects that were not there.
    pub new: Vec<String>,
    /// Objects that are no longer there.
    pub gone: Vec<String>,
    /// Objects that have other values.
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

/// The objects of a listing.
fn list(netns: &Netns, program: &str, arguments: &str) -> Result<Vec<Map<String, Value>>> {
    let words = arguments.split_whitespace();
    let ended = command::run(Command::new(program).args(["-n", netns.name(), "-j"]).args(words))?;
    let line = ended.line.clone();
    parse(&ended.ok()?).with_context(|| format!("the output of `{line}`"))
}

/// `ip` prints nothing at all where there are no objects, and an empty object for one that it does not show.
fn parse(text: &str) -> Result<Vec<Map<String, Value>>> {
    if text.trim().is_empty() {
        return Ok(vec![]);
    }
    let objects: Vec<Map<String, Value>> = serde_json::from_str(text).with_context(|| text.to_owned())?;
    Ok(objects.into_iter().filter(|object| !object.is_empty()).collect())
}

/// The kernel keeps the multicast groups that a device listens to as FDB entries.
fn is_multicast_filter(kind: &Kind, object: &Map<String, Value>) -> bool {
    let mac = object.get("mac").and_then(Value::as_str).unwrap_or_default();
    kind.name == "fdb" && (mac.starts_with("33:33:") || mac.starts_with("01:00:5e:"))
}

/// The agent numbers its next hops as they come, so after a repair they may have other numbers. Device and gateway tell
/// which one it is.
fn without_own_numbers(object: &mut Map<String, Value>) {
    if object.get("protocol").and_then(Value::as_str) == Some("67") {
        object.remove("id");
        object.remove("nhid");
    }
}

fn key(kind: &Kind, object: &Map<String, Value>) -> String {
    let parts = kind.key.iter().filter_map(|field| Some(format!("{field} {}", plain(object.get(*field)?))));
    std::iter::once(kind.name.to_owned()).chain(parts).collect::<Vec<_>>().join(" ")
}

/// What an object is like, nested fields by their path.
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

/// The fields of an object for a person: without sysctls, of which every device has a hundred.
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
        Snapshot { objects: objects.iter().map(|object| (key(&KINDS[0], object), fields(object))).collect() }
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
        let rule = Snapshot { objects: [(key(&KINDS[3], &objects[0]), fields(&objects[0]))].into() };
        assert_eq!(rule.names().collect::<Vec<_>>(), ["rule priority 1000 src all l3mdev null"]);
        assert_eq!(rule.without_documented_leftovers().names().count(), 0);
    }
}
