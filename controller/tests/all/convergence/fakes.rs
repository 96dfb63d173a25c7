//! Agents that are HTTP servers with a ledger in memory, and a controller that pushes to them.

use super::*;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The state of an agent, and what a test can do to it.
#[derive(Default)]
pub(super) struct Host {
    pub(super) config: Option<ValidHostConfig>,
    pub(super) calls: Vec<&'static str>,
    /// The peers of the connections on which it received requests.
    pub(super) connections: BTreeSet<SocketAddr>,
    /// The cluster of the host.
    pub(super) cluster: Option<ClusterId>,
    pub(super) problems: Vec<Problem>,
    /// How often its counters were requested.
    pub(super) counted: u64,
    /// How often it refuses to leave its cluster.
    pub(super) stays: u32,
    /// Delays the response to pushes by this time.
    pub(super) slow: Duration,
    /// Whether its agent is of the release before prefix lists.
    pub(super) before_scoped_sides: bool,
}

pub(super) type Shared = Arc<Mutex<Host>>;

pub(super) struct Agent {
    pub(super) host: Shared,
    pub(super) address: SocketAddr,
    pub(super) server: JoinHandle<()>,
}

pub(super) fn report(host: &Host) -> HostReport {
    let revision = host.config.as_ref().map(|config| config.revision);
    HostReport {
        version: "test".into(),
        host: host.config.as_ref().map(|config| config.host.clone()),
        desired: revision,
        applied: revision,
        problems: host.problems.clone(),
        counters: Counters::default(),
        last_pass: None,
        underlay_mtu: None,
        knows_scoped_sides: !host.before_scoped_sides,
        behind: vec![],
        vrfs: std::collections::BTreeMap::new(),
        sides: std::collections::BTreeMap::new(),
    }
}

/// Each side has sent as many packets as its counters were requested.
pub(super) fn traffic(host: &mut Host) -> TrafficReport {
    host.counted += 1;
    let sent = Count { bytes: 100 * host.counted, packets: host.counted };
    let sides = host.config.iter().flat_map(|config| config.sides.iter()).map(|(vni, side)| {
        let (peering, received) = (side.peering.clone(), Count::default());
        (*vni, SideTraffic { peering, sent, dropped: 0, received, backlog: 0, share: None })
    });
    TrafficReport { host: None, grants: None, reading: None, sides: sides.collect() }
}

pub(super) const LEGAL: &str = "a controller sends legal configurations";

pub(super) type Answer = Result<Json<HostReport>, (StatusCode, Json<ErrorBody>)>;

pub(super) async fn accept(
    host: &Shared,
    call: &'static str,
    read: impl FnOnce(&Host) -> Option<ValidHostConfig>,
) -> Answer {
    let slow = {
        let mut host = host.lock().unwrap();
        host.calls.push(call);
        host.slow
    };
    tokio::time::sleep(slow).await;
    let mut host = host.lock().unwrap();
    let desired = host.config.as_ref().map(|config| config.revision);
    let refuse = |message: &str| Err((StatusCode::CONFLICT, Json(ErrorBody { message: message.into(), desired })));
    let Some(config) = read(&host) else { return refuse("other base") };
    if desired.is_some_and(|have| have > config.revision) {
        return refuse("older");
    }
    host.config = Some(config);
    Ok(Json(report(&host)))
}

pub(super) async fn note_connection(
    State(host): State<Shared>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: HttpRequest,
    next: Next,
) -> Response {
    host.lock().unwrap().connections.insert(from);
    next.run(request).await
}

pub(super) async fn say_whose(State(host): State<Shared>, mut answer: Response) -> Response {
    if let Some(cluster) = host.lock().unwrap().cluster {
        answer.headers_mut().insert(CLUSTER_HEADER, cluster.to_string().parse().unwrap());
    }
    answer
}

impl Agent {
    pub(super) async fn start() -> Self {
        Self::on(Shared::default(), TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn on(host: Shared, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let put_config = async |State(host): State<Shared>, Json(config): Json<HostConfig>| {
            accept(&host, "PUT", |_| Some(config.try_into().expect(LEGAL))).await
        };
        let patch_config = async |State(host): State<Shared>, Json(patch): Json<HostPatch>| {
            accept(&host, "PATCH", |host| {
                let base = host.config.as_ref().filter(|config| config.revision == patch.base)?;
                Some(base.patched(patch.clone()).expect(LEGAL))
            })
            .await
        };
        let status = async |State(host): State<Shared>| {
            let host = host.lock().unwrap();
            let report = report(&host);
            Json(host.config.as_ref().map_or(report.clone(), |config| report.with_standings(config)))
        };
        let leave = async |State(host): State<Shared>| {
            let mut host = host.lock().unwrap();
            host.calls.push("DELETE");
            let stays = host.stays > 0;
            host.stays = host.stays.saturating_sub(1);
            if stays { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
        };
        let counters = async |State(host): State<Shared>| Json(traffic(&mut host.lock().unwrap()));
        let router = Router::new()
            .route(CONFIG_PATH, put(put_config).patch(patch_config))
            .route(STATUS_PATH, get(status))
            .route(TRAFFIC_PATH, get(counters))
            .route(CLUSTER_PATH, delete_route(leave))
            .with_state(Arc::clone(&host))
            .layer(map_response_with_state(Arc::clone(&host), say_whose))
            .layer(from_fn_with_state(Arc::clone(&host), note_connection));
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, address, server }
    }

    /// Stops answering; its state remains, and its address can be used again.
    pub(super) async fn stop(self) -> (Shared, SocketAddr) {
        self.server.abort();
        let _ = self.server.await;
        (self.host, self.address)
    }

    pub(super) async fn again((host, address): (Shared, SocketAddr)) -> Self {
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        Self::on(host, listener)
    }

    pub(super) fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.host.lock().unwrap().calls)
    }

    pub(super) fn sides(&self) -> usize {
        self.host.lock().unwrap().config.as_ref().map_or(0, |config| config.sides.len())
    }

    pub(super) fn revision(&self) -> Option<Revision> {
        self.host.lock().unwrap().config.as_ref().map(|config| config.revision)
    }
}

pub(super) struct Controller {
    pub(super) engine: Arc<Engine>,
    pub(super) workers: JoinHandle<()>,
}

impl Controller {
    pub(super) fn start(folder: &Path) -> Self {
        Self::on(crate::place::open(folder).unwrap())
    }

    pub(super) fn on(store: Store) -> Self {
        Self::asking(store, Duration::from_millis(50))
    }

    /// The interval at which hosts are polled.
    pub(super) fn asking(store: Store, poll: Duration) -> Self {
        Self::with(store, poll, Options::default())
    }

    pub(super) fn with(store: Store, poll: Duration, options: Options) -> Self {
        let (engine, hosts) = Engine::open(store, Options { grace: Duration::from_mins(1), ..options }).unwrap();
        let pushing =
            push::run(Arc::clone(&engine), AgentClients::new(None, poll).of_cluster(engine.cluster()), hosts, poll);
        let workers = tokio::spawn(async move { pushing.await.unwrap() });
        Self { engine, workers }
    }

    pub(super) fn run(&self, command: &Command) -> Result<Outcome, EngineError> {
        let request = Request::new(Actor::Operator, command.clone());
        tokio::task::block_in_place(|| self.engine.execute(&request))
    }

    /// Two VPCs, each with a port on a host of its own.
    pub(super) fn build(&self, agents: [&Agent; 2]) {
        let hosts = (1..).zip(agents).map(|(n, agent)| {
            format!(
                "[[hosts]]\nid = 'h{n}'\nregion = 'north'\nunderlay = '192.0.2.{n}'\nagent = 'http://{}'\n\
                 [[vpcs]]\nid = 'v{n}'\naccount = 'acme'\nregion = 'north'\ncidrs = ['10.{n}.0.0/16']\n\
                 [[ports]]\nvpc = 'v{n}'\nhost = 'h{n}'\ninterface = 'eth1'\ngateways = ['10.{n}.0.1/24']\n",
                agent.address
            )
        });
        let text = std::iter::once("[[regions]]\nid = 'north'\n".to_owned()).chain(hosts).collect::<String>();
        let inventory = toml::from_str(&text).unwrap();
        self.run(&Command::Apply(Apply::of(inventory))).unwrap();
    }

    pub(super) fn peer(&self) -> PeeringId {
        peering(&self.run(&Command::CreatePeering(create("v1", "v2"))).unwrap())
    }

    pub(super) async fn until<T>(&self, what: &str, look: impl FnMut(&Seen<'_>) -> Option<T>) -> T {
        let mut look = look;
        let until = tokio::time::Instant::now() + PATIENCE;
        // The condition may be about the agents themselves, without a change of the engine.
        while tokio::time::Instant::now() < until {
            let moment = Duration::from_millis(50);
            let found = self.engine.wait_for(moment, |state, agents| look(&Seen { state, agents })).await;
            if let Some(found) = found {
                return found;
            }
        }
        panic!("not in time: {what}")
    }

    pub(super) async fn until_active(&self, id: &PeeringId) {
        self.until("active", |seen| (seen.state.peerings().get(id)?.state == PeeringState::Active).then_some(())).await;
    }

    pub(super) async fn until_gone(&self, id: &PeeringId) {
        self.until("gone", |seen| seen.state.peerings()[id].is_ended().then_some(())).await;
    }

    pub(super) async fn until_in_sync(&self) {
        self.until("in sync", |seen| seen.state.hosts().values().all(|host| seen.agents.in_sync(host)).then_some(()))
            .await;
    }
}

pub(super) struct Seen<'a> {
    pub(super) state: &'a cps_peering_controller::model::state::State,
    pub(super) agents: &'a cps_peering_controller::engine::Agents<'a>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.workers.abort();
    }
}

pub(super) async fn built() -> (TempDir, Controller, [Agent; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let agents = [Agent::start().await, Agent::start().await];
    let controller = Controller::start(folder.path());
    controller.build([&agents[0], &agents[1]]);
    controller.until_in_sync().await;
    (folder, controller, agents)
}
