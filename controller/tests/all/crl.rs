//! Certificates that are revoked at the controller are revoked on hosts: lists of `cps-peering pki revoke`, distributed over TLS.

use crate::programs::pki;
use axum::{Router, body::Bytes, http::StatusCode, routing::put};
use cps_peering_config::{
    agent_api::CRL_PATH,
    connections::ConnectionSettings,
    tls::{CONTROLLER, TlsFiles},
};
use cps_peering_controller::{
    engine::{Engine, Options},
    hosts::{client::AgentClients, crl},
    model::{Actor, Command, Request, inventory::Apply},
    store::Store,
};
use cps_peering_http::{
    Limits, serve_within,
    tls::{Clients, Identity, Kept},
};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

/// A host with certificates in a folder of its own: lists reach it only through the controller.
struct Host {
    identity: Identity,
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Host {
    /// `answer`: its response to a list; none if it accepts it.
    async fn start(pki: &Path, folder: &Path, id: &str, answer: Option<StatusCode>) -> Self {
        let own = folder.join(id);
        fs::create_dir(&own).unwrap();
        let copy = |from: &str| {
            fs::copy(pki.join(from), own.join(from)).unwrap();
            own.join(from)
        };
        let (cert, key) = (copy(&format!("host-{id}.pem")), copy(&format!("host-{id}.key")));
        let files = TlsFiles { ca: copy("ca.pem"), cert, key, crl: None };
        let identity = Identity::open_with(&files, kept(&own)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (taker, count) = (identity.clone(), Arc::clone(&asked));
        let take = async move |body: Bytes| {
            count.fetch_add(1, Ordering::Relaxed);
            if let Some(answer) = answer {
                return answer;
            }
            taker.take_revocation_lists(&body).map_or(StatusCode::BAD_REQUEST, |_| StatusCode::NO_CONTENT)
        };
        let router = Router::new().route(CRL_PATH, put(take));
        let server = identity.server(Clients::Required);
        let limits = Limits::new(&ConnectionSettings::default(), &[CONTROLLER]);
        tokio::spawn(serve_within(limits, listener, Some(server), router, std::future::pending()));
        Self { identity, address, asked }
    }

    fn revoked(&self) -> usize {
        self.identity.facts().revoked
    }
}

/// The certificates that a host has stored.
fn kept(folder: &Path) -> Kept {
    Kept { crl: Some(folder.join("sent.pem")), renewed: None }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < end, "not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_reach_every_host_that_accepts_them_once_and_no_older_one_follows() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    for arguments in
        [&["init"][..], &["issue", "controller"], &["issue", "host", "h1", "h2", "h3"], &["issue", "operator"]]
    {
        pki(&dir, arguments);
    }
    let path = |file: &str| dir.join(file);
    let files = TlsFiles { ca: path("ca.pem"), cert: path("controller.pem"), key: path("controller.key"), crl: None };
    let identity = Identity::open(&files).unwrap();
    let one = Host::start(&dir, folder.path(), "h1", None).await;
    // Of a version that does not support lists.
    let old = Host::start(&dir, folder.path(), "h2", Some(StatusCode::NOT_FOUND)).await;
    let host = |id: &str, address: SocketAddr| {
        format!(
            "[[hosts]]\nid = '{id}'\nregion = 'north'\nunderlay = '192.0.2.{}'\nagent = 'https://{address}'\n",
            &id[1..]
        )
    };
    let inventory = format!("[[regions]]\nid = 'north'\n{}{}", host("h1", one.address), host("h2", old.address));
    let store = Store::open(folder.path().join("store.redb")).unwrap();
    let (engine, _hosts) = Engine::open(store, Options::default()).unwrap();
    let apply = Command::Apply(Apply::of(toml::from_str(&inventory).unwrap()));
    tokio::task::block_in_place(|| engine.execute(&Request::new(Actor::Operator, apply))).unwrap();
    let clients = AgentClients::new(Some(identity.clone()), Duration::from_secs(1));
    tokio::spawn(crl::run(Arc::clone(&engine), clients, identity.clone()));

    pki(&dir, &["revoke", "operator"]);
    identity.reload().unwrap();
    until("the list is on the host", || one.revoked() == 1).await;
    assert_eq!(one.asked.load(Ordering::Relaxed), 1);
    // A host that does not accept it delays no other.
    until("the other one was asked", || old.asked.load(Ordering::Relaxed) > 0).await;
    assert_eq!(old.revoked(), 0);
    pki(&dir, &["revoke", "host-h3"]);
    identity.reload().unwrap();
    until("the next list is on the host", || one.revoked() == 2).await;
    assert_eq!(one.asked.load(Ordering::Relaxed), 2, "each list is brought once");
    // It is stored there: a restart without the controller forgets nothing.
    let own = folder.path().join("h1");
    let at = |file: &str| own.join(file);
    let files = TlsFiles { ca: at("ca.pem"), cert: at("host-h1.pem"), key: at("host-h1.key"), crl: None };
    assert_eq!(Identity::open_with(&files, kept(&own)).unwrap().facts().revoked, 2);
    // A host that is added later gets it, too.
    let late = Host::start(&dir, folder.path(), "h3", None).await;
    // (Its own certificate is on the list, so the controller does not connect to it.)
    let inventory = toml::from_str(&host("h3", late.address)).unwrap();
    let apply = Command::Apply(Apply::of(inventory));
    tokio::task::block_in_place(|| engine.execute(&Request::new(Actor::Operator, apply))).unwrap();
    pki(&dir, &["revoke", "host-h2"]);
    identity.reload().unwrap();
    until("the third list is on the host", || one.revoked() == 3).await;
    assert_eq!((late.asked.load(Ordering::Relaxed), late.revoked()), (0, 0));
}
