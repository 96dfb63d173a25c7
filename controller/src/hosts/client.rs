//! HTTP clients for agents: each wants its host's name in the agent's certificate.

use cps_peering_config::{agent_api::PUSH_ANSWER_WITHIN, id::HostId, tls as names};
use cps_peering_http::tls::{self, Identity};
use reqwest::Client;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than an agent may hold back its answer.
const TOTAL_TIMEOUT: Duration = PUSH_ANSWER_WITHIN.saturating_add(Duration::from_secs(5));
/// How long a connection that is in use all the time goes on with the certificates it began with.
const RENEWED: Duration = Duration::from_mins(1);

/// Makes clients. Clones share those that are shared.
#[derive(Clone)]
pub struct AgentClients {
    identity: Option<Identity>,
    idle: Duration,
    shared: Arc<Mutex<Shared>>,
}

/// Clients by host, with when they were made.
struct Shared {
    clients: BTreeMap<HostId, (Instant, Client)>,
    /// When those that are not used any more were last looked for.
    cleared: Instant,
}

impl AgentClients {
    /// With an identity, agents are spoken to over TLS. `poll` is how often each is asked how it stands.
    pub fn new(identity: Option<Identity>, poll: Duration) -> Self {
        // A connection goes on with the certificates it began with: each question how a host stands begins a new one.
        let shared = Shared { clients: BTreeMap::new(), cleared: Instant::now() };
        Self { identity, idle: poll / 4, shared: Arc::new(Mutex::new(shared)) }
    }

    /// Whether agents are spoken to over TLS.
    pub fn tls(&self) -> bool {
        self.identity.is_some()
    }

    /// A client of its own for one host's agent.
    pub fn own(&self, host: &HostId) -> Result<Client, reqwest::Error> {
        let tls = self.identity.as_ref();
        let tls = tls.map_or_else(tls::no_client, |identity| identity.client_of(&names::host(host)));
        let builder = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TOTAL_TIMEOUT).tcp_nodelay(true);
        builder.pool_idle_timeout(self.idle).tls_backend_preconfigured(tls).build()
    }

    /// A client for small questions to one host's agent; its connection is kept for a minute.
    pub fn shared(&self, host: &HostId) -> Result<Client, reqwest::Error> {
        // What is in it is whole at any time.
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = shared.clients.get(host).filter(|(since, _)| since.elapsed() < RENEWED) {
            return Ok(client.clone());
        }
        // All are looked through, which must not be done for each of them.
        if shared.cleared.elapsed() >= RENEWED {
            shared.clients.retain(|_, (since, _)| since.elapsed() < RENEWED);
            shared.cleared = Instant::now();
        }
        let client = self.own(host)?;
        shared.clients.insert(host.clone(), (Instant::now(), client.clone()));
        Ok(client)
    }
}
