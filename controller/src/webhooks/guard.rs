//! Which addresses webhooks may reach: none within the provider's own network. A tenant chooses the URL, and the controller can reach
//! what tenants cannot: its requests must not reach hosts, agents, the store, or anything else in that network.
//!
//! Names are resolved when a request is made, and the connection goes to an address that was checked.

use super::Webhooks;
use crate::engine::Engine;
use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use thiserror::Error;

/// How many addresses of a name are examined: the name's owner decides how many there are.
const MOST_ADDRESSES: usize = 16;

/// Addresses that are not of the public internet (IANA's special-purpose registries, RFC 6890).
const SPECIAL: [&str; 26] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Of IPv6, only 2000::/3 is allocated; and of that, these are not, or contain an IPv4 address.
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "::/3",
    "4000::/2",
    "8000::/1",
];

/// Which addresses webhooks may be sent to.
#[derive(Debug, Clone)]
pub struct Guard {
    special: Vec<IpNet>,
    /// Prefixes within the provider's network that they may reach nevertheless, also without TLS.
    allowed: Vec<IpNet>,
    /// Further prefixes that they may not reach.
    refused: Vec<IpNet>,
}

impl Guard {
    /// With the prefixes of the settings.
    pub fn new(allowed: Vec<IpNet>, refused: Vec<IpNet>) -> Self {
        Self { special: SPECIAL.iter().filter_map(|net| net.parse().ok()).collect(), allowed, refused }
    }

    /// Why an address must not be reached; none if it may.
    fn refusal(&self, address: IpAddr, provider: &BTreeSet<IpAddr>) -> Option<String> {
        // A mapped IPv4 address is the same address.
        let address = address.to_canonical();
        let within = |nets: &[IpNet]| nets.iter().find(|net| net.contains(&address)).copied();
        if let Some(net) = within(&self.refused) {
            return Some(format!("{address} is within {net}, which the provider has closed"));
        }
        if within(&self.allowed).is_some() {
            return None;
        }
        if let Some(net) = within(&self.special) {
            return Some(format!("{address} is within {net}, and no address of the public internet"));
        }
        provider.contains(&address).then(|| format!("{address} is not an address that webhooks may reach"))
    }

    /// Checks a URL, as far as that is possible without resolving its name. The error is what is wrong.
    pub fn check(&self, text: &str, engine: &Engine) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("it is not a URL: {error}"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(format!("its scheme is {}, and must be https", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it must not hold a user or a password: requests are signed".to_owned());
        }
        if url.fragment().is_some() {
            return Err("it must have no fragment".to_owned());
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no host".to_owned());
        }
        let literal = literal(&url);
        let open = literal.is_some_and(|address| self.allowed.iter().any(|net| net.contains(&address.to_canonical())));
        if url.scheme() == "http" && !open {
            return Err("its scheme is http, and must be https".to_owned());
        }
        match literal.and_then(|address| self.refusal(address, &provider_addresses(engine))) {
            Some(refusal) => Err(refusal),
            None => Ok(url),
        }
    }
}

/// The addresses of hosts and agents.
fn provider_addresses(engine: &Engine) -> BTreeSet<IpAddr> {
    let agent = |url: &str| Url::parse(url).ok().and_then(|url| literal(&url));
    engine.read(|state, _| {
        let all = state.hosts().values().flat_map(|host| [Some(host.underlay), agent(&host.agent)]);
        all.flatten().map(|address| address.to_canonical()).collect()
    })
}

/// A name resolves to no address that may be reached.
#[derive(Debug, Error)]
#[error("{name}: {reason}")]
pub(super) struct Unresolved {
    name: String,
    reason: String,
}

/// The address in a URL, in any notation; none if it is a name.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Resolves names to addresses that may be reached.
pub(super) struct GuardedResolver {
    /// Provides the current guard.
    pub(super) webhooks: Arc<Webhooks>,
    pub(super) engine: Arc<Engine>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, engine) = (self.webhooks.guard(), Arc::clone(&self.engine));
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let unresolved = |reason: String| Box::new(Unresolved { name: name.clone(), reason });
            let found: Vec<SocketAddr> = match found {
                Ok(found) => found.take(MOST_ADDRESSES).collect(),
                Err(error) => return Err(unresolved(error.to_string()) as Box<dyn std::error::Error + Send + Sync>),
            };
            let provider = provider_addresses(&engine);
            let (mut open, mut why) = (Vec::new(), None);
            for address in found {
                match guard.refusal(address.ip(), &provider) {
                    Some(refusal) => why = Some(refusal),
                    None => open.push(address),
                }
            }
            if open.is_empty() {
                return Err(unresolved(why.unwrap_or_else(|| "it has no address".to_owned())) as Box<_>);
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Options, store::Store};

    fn engine() -> (tempfile::TempDir, Arc<Engine>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store.redb")).unwrap();
        let (engine, _) = Engine::open(store, Options::default()).unwrap();
        (folder, engine)
    }

    #[test]
    fn only_the_public_internet_is_reachable_in_any_notation() {
        let (_folder, engine) = engine();
        let guard = Guard::new(Vec::new(), vec!["93.184.216.0/24".parse().unwrap()]);
        for refused in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://017700000001/",
            "https://10.0.0.1/",
            "https://172.31.0.1/",
            "https://192.168.1.1/",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/",
            "https://[::]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::a00:1]/",
            "https://[2002:a00:1::1]/",
            "https://[2001::1]/",
            "https://[ff02::1]/",
            "https://255.255.255.255/",
            "https://93.184.216.34/",
            "http://8.8.8.8/",
            "ftp://8.8.8.8/",
            "file:///etc/passwd",
            "https://u:p@8.8.8.8/",
            "https://8.8.8.8/#x",
            "https://",
            "x",
        ] {
            assert!(guard.check(refused, &engine).is_err(), "{refused}");
        }
        for open in ["https://8.8.8.8/hook?x=1", "https://[2606:4700::1111]:8443/", "https://hooks.example.com/a"] {
            guard.check(open, &engine).unwrap();
        }
        let lab = Guard::new(vec!["127.0.0.0/8".parse().unwrap()], Vec::new());
        lab.check("http://127.0.0.1:8080/", &engine).unwrap();
        lab.check("http://[::ffff:127.0.0.1]:8080/", &engine).unwrap();
        assert!(lab.check("http://10.0.0.1/", &engine).is_err());
    }

    #[tokio::test]
    async fn a_name_leads_nowhere_else() {
        let (_folder, engine) = engine();
        let resolve = |allowed: Vec<IpNet>| {
            let webhooks = Arc::new(Webhooks::default());
            webhooks.tune(Guard::new(allowed, Vec::new()));
            GuardedResolver { webhooks, engine: Arc::clone(&engine) }.resolve("localhost".parse().unwrap())
        };
        let error = resolve(Vec::new()).await.err().unwrap().to_string();
        assert!(error.contains("localhost") && error.contains("no address of the public internet"), "{error}");
        let both = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        assert!(resolve(both).await.unwrap().count() > 0);
    }
}
