//! One bandwidth for many hosts (rule B3).
//!
//! Each second every host that shares a limit with others is polled for what it sent and what is queued. The needs decide
//! the shares (max-min fairness, as in Raghavan et al., "Cloud Control with Distributed Rate Limiting", SIGCOMM 2007);
//! hosts that lose bandwidth confirm that before others get it. See [`ShareAllocator`] for why the sum holds at every
//! instant, whatever is lost on the way, and also if this controller dies.

mod allocator;
mod max_min;
mod view;

pub use allocator::ShareAllocator;
pub use view::{LimitedSide, limited};

use super::client::{AgentClients, read_answer};
use crate::{engine::Engine, model::record::Peering};
use cps_peering_config::{
    Revision,
    agent_api::{SHARES_PATH, TRAFFIC_PATH},
    host_config::Share,
    id::{HostId, PeeringId},
    net::Vni,
    traffic::{Grants, TrafficReport},
};
use reqwest::{Client, StatusCode};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

/// How often hosts are polled.
const EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take. The others wait for it.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long a host that did not answer is left alone.
const SILENCE: Duration = Duration::from_secs(5);
/// How far numbers of grants may be ahead of the clock, in milliseconds (some 70 years). A host that reports a higher one is not believed: after
/// the largest number of all there would be none for the others.
const MOST_AHEAD_MS: u64 = 1 << 41;
/// How many hosts are polled at a time.
const AT_ONCE: usize = 128;

/// Divides the bandwidth of every side with several hosts, until the future is dropped.
pub async fn run(engine: Arc<Engine>, clients: AgentClients) {
    let mut shares = Shares::new(engine, clients);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shares.round().await;
    }
}

/// The requests to hosts: the sides of each, and its bounds. The answer also covers sides that are not named.
type Asks = BTreeMap<HostId, BTreeMap<Vni, Share>>;

struct Shares {
    engine: Arc<Engine>,
    clients: AgentClients,
    /// None before the first round: existing grants may come from a previous controller.
    books: Option<BTreeMap<Vni, ShareAllocator>>,
    /// Bytes per second of each side with an allocator.
    whole: BTreeMap<Vni, u64>,
    /// The sides with allocators, by peering.
    sides: BTreeMap<PeeringId, BTreeSet<Vni>>,
    /// The sides whose bandwidth is divided.
    shared: BTreeSet<Vni>,
    /// Peerings whose former hosts have not yet confirmed that they do not send any more.
    draining: BTreeSet<PeeringId>,
    /// Hosts that did not answer, and since when.
    silent: BTreeMap<HostId, Instant>,
    /// The number of the last grants.
    number: u64,
    epoch: u64,
    started: Instant,
}

impl Shares {
    fn new(engine: Arc<Engine>, clients: AgentClients) -> Self {
        // The clock makes them higher than those of this controller's previous run; if it was set back, agents report it.
        let number = engine.now_ms();
        Self {
            engine,
            clients,
            books: None,
            whole: BTreeMap::new(),
            sides: BTreeMap::new(),
            shared: BTreeSet::new(),
            draining: BTreeSet::new(),
            silent: BTreeMap::new(),
            number,
            epoch: 0,
            started: Instant::now(),
        }
    }

    async fn round(&mut self) {
        self.follow();
        let shared = self.shared.clone();
        if shared.is_empty() {
            return;
        }
        // An unreachable host keeps what it has. One that has not reported yet is polled without a grant.
        let mut asks = Asks::new();
        for (vni, book) in self.books(&shared) {
            for (host, bound) in book.hosts() {
                asks.entry(host.clone()).or_default().extend(bound.map(|bound| (vni, bound)));
            }
        }
        self.ask(asks).await;
        let mut less = Asks::new();
        for (vni, book) in self.books_mut(&shared) {
            book.divide();
            for (host, share) in book.reductions() {
                less.entry(host).or_default().insert(vni, share);
            }
        }
        self.ask(less).await;
        let mut more = Asks::new();
        for (vni, book) in self.books_mut(&shared) {
            for (host, share) in book.raises() {
                more.entry(host).or_default().insert(vni, share);
            }
        }
        self.ask(more).await;
    }

    /// Follows the sides in the state: at first all of them, then those that have changed.
    fn follow(&mut self) {
        let first = self.books.is_none();
        let mut changed = self.engine.limits_changed();
        changed.append(&mut self.draining);
        let (looked, epoch) = self.engine.read(|state, agents| {
            let of = |peering: &Peering| (peering.id.clone(), limited(state, agents, peering));
            let looked: Vec<(PeeringId, Vec<LimitedSide>)> = if first {
                state.cross_region().map(of).collect()
            } else {
                let gone = |id: &PeeringId| (id.clone(), Vec::new());
                changed.iter().map(|id| state.peerings().get(id).map_or_else(|| gone(id), of)).collect()
            };
            (looked, state.meta().epoch)
        });
        self.epoch = epoch;
        self.books.get_or_insert_default();
        for (id, sides) in looked {
            self.take_over(&id, sides, first);
        }
        // A host that was alone may have to share what it reported, too.
        let books = self.books.get_or_insert_default();
        self.shared.retain(|vni| books.get(vni).is_some_and(ShareAllocator::is_shared));
    }

    fn take_over(&mut self, id: &PeeringId, sides: Vec<LimitedSide>, first: bool) {
        let books = self.books.get_or_insert_default();
        let now: BTreeSet<Vni> = sides.iter().map(|side| side.vni).collect();
        let before = if now.is_empty() { self.sides.remove(id) } else { self.sides.insert(id.clone(), now.clone()) };
        for gone in before.unwrap_or_default().difference(&now) {
            books.remove(gone);
            self.whole.remove(gone);
        }
        for side in sides {
            let new = if first && side.beginning < Share::WHOLE {
                ShareAllocator::of_unheard
            } else {
                ShareAllocator::default
            };
            let known = !first || side.beginning == Share::WHOLE;
            let book = books.entry(side.vni).or_insert_with(new);
            book.follow(&side.members, side.beginning, &side.draining, known);
            if book.is_shared() {
                self.shared.insert(side.vni);
            }
            if !side.draining.is_empty() {
                self.draining.insert(id.clone());
            }
            self.whole.insert(side.vni, side.bytes_per_second);
        }
    }

    fn books(&self, which: &BTreeSet<Vni>) -> impl Iterator<Item = (Vni, &ShareAllocator)> {
        let books = self.books.as_ref();
        which.iter().filter_map(move |vni| Some((*vni, books?.get(vni)?)))
    }

    fn books_mut(&mut self, which: &BTreeSet<Vni>) -> impl Iterator<Item = (Vni, &mut ShareAllocator)> {
        self.books.iter_mut().flatten().filter(|(vni, _)| which.contains(vni)).map(|(vni, book)| (*vni, book))
    }

    /// Polls hosts, all at the same time, and records their answers.
    async fn ask(&mut self, asks: Asks) {
        self.silent.retain(|_, since| since.elapsed() < SILENCE);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        let asks = asks.into_iter().filter(|(host, _)| !self.silent.contains_key(host));
        let asks: Vec<_> = self.engine.read(|state, _| {
            let there = |(host, sides)| Some((view::agent(state, &host)?.to_owned(), host, sides));
            asks.filter_map(there).collect()
        });
        // The same for all: so they do not run ahead of the clock.
        self.number = self.number.saturating_add(1);
        for (agent, host, sides) in asks {
            // Bandwidth is another controller's to grant.
            if !self.engine.leadership().holds() || self.engine.is_held() {
                return;
            }
            let grants = Grants { revision: Revision { epoch: self.epoch, number: self.number }, sides };
            let base = agent.trim_end_matches('/').to_owned();
            let Ok(client) = self.clients.shared(&host) else { continue };
            let places = Arc::clone(&places);
            asked.spawn(async move {
                // It is never closed.
                let _place = places.acquire().await;
                let answer = tokio::time::timeout(PATIENCE, put(&client, &base, &grants)).await;
                let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                (host, grants.sides, answer)
            });
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        while let Some(answered) = asked.join_next().await {
            let Ok((host, sides, answer)) = answered else { continue };
            match answer {
                Ok(Answer::Taken(report)) => self.on_report(&host, &sides, &report, now_ms),
                Ok(Answer::Older(have)) if have.epoch <= self.epoch => {
                    if let Some(number) = believed(have.number, self.engine.now_ms()) {
                        self.number = self.number.max(number);
                    } else {
                        tracing::warn!(%host, %have, "the host reports grants that no controller can have sent");
                        self.silent.insert(host, Instant::now());
                    }
                }
                Ok(Answer::Older(have)) => {
                    tracing::warn!(%host, %have, "shares are granted by a controller that took over from this one");
                    self.silent.insert(host, Instant::now());
                }
                Err(error) => {
                    tracing::debug!(%host, error, "the host keeps its share of common limits");
                    self.silent.insert(host, Instant::now());
                }
            }
        }
    }

    fn on_report(&mut self, host: &HostId, asked: &BTreeMap<Vni, Share>, report: &TrafficReport, now_ms: u64) {
        // It only contains sides with a limit, which existed a moment ago.
        let books = &self.books;
        let there = |vni: &Vni| books.as_ref().is_some_and(|books| books.contains_key(vni));
        let known: BTreeSet<PeeringId> =
            report.sides.iter().filter(|(vni, _)| there(vni)).map(|(_, side)| side.peering.clone()).collect();
        self.engine.traffic().on_report(host, report, self.engine.now_ms(), |peering| known.contains(peering));
        for (vni, traffic) in &report.sides {
            let Some(book) = self.books.as_mut().and_then(|books| books.get_mut(vni)) else { continue };
            let whole = self.whole.get(vni).copied().unwrap_or_default();
            book.on_report(host, asked.get(vni).copied(), traffic, whole, now_ms);
        }
    }
}

/// The number of grants that a host reports, if it is plausible.
fn believed(number: u64, now_ms: u64) -> Option<u64> {
    (number <= now_ms.saturating_add(MOST_AHEAD_MS)).then_some(number)
}

enum Answer {
    Taken(TrafficReport),
    /// The agent has newer grants.
    Older(Revision),
}

async fn put(client: &Client, base: &str, grants: &Grants) -> Result<Answer, String> {
    let text = |error: reqwest::Error| error.to_string();
    let answer = client.put(format!("{base}{SHARES_PATH}")).json(grants).send().await.map_err(text)?;
    if answer.status() == StatusCode::CONFLICT {
        let asked = client.get(format!("{base}{TRAFFIC_PATH}")).send().await.map_err(text)?;
        let report: TrafficReport = read_answer(asked).await.map_err(|error| error.to_string())?;
        return report.grants.map(Answer::Older).ok_or_else(|| "it refuses and does not say why".to_owned());
    }
    let answer = answer.error_for_status().map_err(text)?;
    read_answer(answer).await.map(Answer::Taken).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_cannot_use_up_the_numbers_of_grants() {
        let now_ms = 1_800_000_000_000;
        assert_eq!(believed(now_ms + 5, now_ms), Some(now_ms + 5), "a clock that was set back");
        assert_eq!(believed(u64::MAX, now_ms), None);
        assert_eq!(believed(u64::MAX - 1, now_ms), None);
        // An accepted number stays acceptable: numbers rise more slowly than the clock.
        let most = now_ms + MOST_AHEAD_MS;
        assert_eq!(believed(most, now_ms), Some(most));
        assert_eq!(believed(most + 3, now_ms + 1000), Some(most + 3));
    }
}
