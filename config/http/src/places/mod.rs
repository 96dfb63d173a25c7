//! How many connections each client may have, and which one is closed when there are too many.
//!
//! Connections belong to the client that opened them: an address until the client has authenticated, then an account or
//! a certificate. There are three pools. Clients of the control plane may use all connections, the others all but the
//! reserve, and those that have not authenticated half of that. If a pool is full, the client with the most connections
//! in it loses the one in which the server has waited longest for the client; a connection in which the client waits
//! for the server is never closed. So clients with few connections find a place whatever those with many do.

use crate::{pace::MinimumRate, source::Source, tls::Peer};
use cps_peering_config::connections::ConnectionSettings;
use ipnet::IpNet;
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Limits on a server's clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How many connections there may be.
    pub connections: usize,
    /// How many of them only the control plane may use.
    pub reserved: usize,
    /// Networks whose clients may use the reserve without authentication.
    pub reserved_networks: Vec<IpNet>,
    /// Names in certificates whose clients may use the reserve.
    pub reserved_names: &'static [&'static str],
    /// How many connections an address may have that has not authenticated.
    pub per_address: usize,
    /// How many connections clients with one certificate may have.
    pub per_certificate: usize,
    /// How many connections an account may have.
    pub per_account: usize,
    /// How long a client may take to send the head of a request, and how long a connection may be idle between two.
    /// (`axum::serve` sets no limit at all.) A TLS handshake may take as long.
    pub head: Duration,
    /// How fast clients must send bodies and take responses.
    pub rate: MinimumRate,
    /// How long pending requests may take to end once the shutdown has begun.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(&ConnectionSettings::default(), &[])
    }
}

impl Limits {
    /// The limits from the settings, reduced to the number of files that may be open. Clients whose certificate has one
    /// of `reserved_names` may use the reserve.
    pub fn new(settings: &ConnectionSettings, reserved_names: &'static [&'static str]) -> Self {
        Self {
            connections: settings.total,
            reserved: settings.reserved,
            reserved_networks: settings.reserved_for.clone(),
            reserved_names,
            per_address: settings.per_address,
            per_certificate: settings.per_certificate,
            per_account: settings.per_account,
            head: Duration::from_secs(settings.head_s),
            rate: MinimumRate { stall: Duration::from_secs(settings.stall_s), bytes_per_s: settings.min_bytes_per_s },
            grace: Duration::from_secs(5),
        }
        .within_open_files(open_files())
    }

    /// The same, with no more connections than half of the files that the process may have open.
    fn within_open_files(mut self, files: Option<usize>) -> Self {
        let most = files.map_or(usize::MAX, |files| files / 2).max(1);
        if self.connections > most {
            tracing::warn!(
                wanted = self.connections,
                most,
                "fewer connections than set: few files may be open (ulimit -n)"
            );
            self.connections = most;
            self.reserved = self.reserved.min(most / 4);
        }
        self
    }

    fn most_of(&self, holder: &Holder) -> usize {
        match holder {
            Holder::Address(_) => self.per_address,
            Holder::Certificate(_) => self.per_certificate,
            Holder::Account(_) => self.per_account,
            Holder::Operators | Holder::Reserved(_) => self.connections,
        }
    }

    fn of_strangers(&self) -> usize {
        (self.unreserved() / 2).max(1)
    }

    fn unreserved(&self) -> usize {
        self.connections.saturating_sub(self.reserved).max(1)
    }
}

/// How many files the process may have open, by its soft limit.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The holder of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Holder {
    /// A client that has not authenticated.
    Address(Source),
    /// A client from a network that may use the reserve.
    Reserved(Source),
    /// Clients with a certificate: its bytes.
    Certificate(Arc<[u8]>),
    /// An account.
    Account(Arc<str>),
    /// Operators without a certificate.
    Operators,
}

/// The pool in which it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pool {
    Strangers,
    Known,
    ControlPlane,
}

const POOLS: usize = 3;

/// A holder, and the pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seat {
    pool: Pool,
    holder: Holder,
}

/// A connection, shared by its task and the table.
#[derive(Debug)]
pub(crate) struct Entry {
    began: Instant,
    /// Since when the server has waited for the client, in milliseconds since `began`, starting with 1; 0 while the
    /// client waits for the server.
    waiting: AtomicU64,
    taken: AtomicBool,
    told: Notify,
}

impl Entry {
    /// From now on the server waits for the client, unless it already does.
    pub(crate) fn wait_for_client(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let _ = self.waiting.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// From now on the client waits for the server.
    pub(crate) fn serve_client(&self) {
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// Since when the server has waited for the client.
    fn waiting(&self) -> Option<u64> {
        Some(self.waiting.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    fn take(&self) {
        self.taken.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Whether the connection is being closed to make room.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Completes when the connection must be closed.
    pub(crate) async fn taken(&self) {
        self.told.notified().await;
    }
}

#[derive(Debug, Default)]
struct Counts {
    size: usize,
    /// How many each holder has.
    by_count: BTreeSet<(usize, Holder)>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Where each connection is: its seat, and its index in that seat's list.
    seats: HashMap<u64, (Seat, usize)>,
    lists: HashMap<Seat, Vec<(u64, Arc<Entry>)>>,
    pools: [Counts; POOLS],
    taken: u64,
    refused: u64,
}

impl Inner {
    fn counts(&mut self, pool: Pool) -> &mut Counts {
        &mut self.pools[pool as usize]
    }

    fn size(&self, pool: Pool) -> usize {
        self.pools[pool as usize].size
    }

    fn count(&self, seat: &Seat) -> usize {
        self.lists.get(seat).map_or(0, Vec::len)
    }

    fn insert(&mut self, id: u64, seat: Seat, entry: Arc<Entry>) {
        let list = self.lists.entry(seat.clone()).or_default();
        let before = list.len();
        list.push((id, entry));
        let counts = self.counts(seat.pool);
        counts.size += 1;
        counts.by_count.remove(&(before, seat.holder.clone()));
        counts.by_count.insert((before + 1, seat.holder.clone()));
        self.seats.insert(id, (seat, before));
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Entry>> {
        let (seat, place) = self.seats.remove(&id)?;
        let list = self.lists.get_mut(&seat)?;
        let before = list.len();
        let (_, entry) = list.swap_remove(place);
        if let Some((moved, _)) = list.get(place)
            && let Some((_, at)) = self.seats.get_mut(moved)
        {
            *at = place;
        }
        if list.is_empty() {
            self.lists.remove(&seat);
        }
        let counts = self.counts(seat.pool);
        counts.size -= 1;
        counts.by_count.remove(&(before, seat.holder.clone()));
        if before > 1 {
            counts.by_count.insert((before - 1, seat.holder));
        }
        Some(entry)
    }

    /// Closes the connection of this holder in which the server has waited longest for the client. False if it waits in
    /// none.
    fn take_from(&mut self, seat: &Seat) -> bool {
        // If there are many, only some are checked: the one found has waited longer than almost all.
        const LOOKED_AT: usize = 256;
        let Some(list) = self.lists.get(seat) else { return false };
        let longest = |step: usize| {
            let some = list.iter().skip(fastrand::usize(..step)).step_by(step);
            some.filter_map(|(id, entry)| Some((entry.waiting()?, *id))).min()
        };
        let step = list.len() / LOOKED_AT + 1;
        let found = longest(step).or_else(|| if step > 1 { longest(1) } else { None });
        let Some((_, id)) = found else { return false };
        if let Some(entry) = self.remove(id) {
            entry.take();
            self.taken += 1;
        }
        true
    }

    /// Closes a connection of the holder with the most in a pool, if it has more than `more_than`.
    fn take_from_largest(&mut self, pool: Pool, more_than: usize) -> bool {
        let largest = self.counts(pool).by_count.last().cloned();
        let Some((count, holder)) = largest else { return false };
        count > more_than && self.take_from(&Seat { pool, holder })
    }

    /// Makes room among the connections of one holder.
    fn make_room_of(&mut self, limits: &Limits, seat: &Seat) -> bool {
        self.count(seat) < limits.most_of(&seat.holder) || self.take_from(seat)
    }

    /// Makes room for one more connection. New ones are of unauthenticated clients, or of networks with a reserve.
    fn make_room(&mut self, limits: &Limits, seat: &Seat) -> bool {
        if !self.make_room_of(limits, seat) {
            return false;
        }
        let (have, of_strangers, known) = (self.count(seat), self.size(Pool::Strangers), self.size(Pool::Known));
        let control_plane = self.size(Pool::ControlPlane);
        if seat.pool == Pool::ControlPlane {
            return of_strangers + known + control_plane < limits.connections
                || self.take_from_largest(Pool::Strangers, 0)
                || self.take_from_largest(Pool::Known, 0)
                || self.take_from_largest(Pool::ControlPlane, have);
        }
        if of_strangers >= limits.of_strangers() {
            // A holder with as many as any other gives up one of its own.
            return self.take_from_largest(Pool::Strangers, have) || self.take_from(seat);
        }
        let unreserved = limits.unreserved().min(limits.connections.saturating_sub(control_plane));
        of_strangers + known < unreserved
            || self.take_from_largest(Pool::Known, 0)
            || self.take_from_largest(Pool::Strangers, have)
            || self.take_from(seat)
    }
}

/// How many connections there are, and how many were closed or refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Those of clients that have not authenticated.
    pub strangers: usize,
    /// Those of accounts, and of clients with a certificate.
    pub known: usize,
    /// Those of the control plane.
    pub control_plane: usize,
    /// How many were closed to make room, since the start.
    pub taken: u64,
    /// How many were refused, since the start.
    pub refused: u64,
}

/// The connections of one server.
#[derive(Debug)]
pub struct Places {
    limits: Limits,
    /// Further names in certificates whose clients may use the reserve; they can change at any time.
    named: RwLock<BTreeSet<String>>,
    began: Instant,
    inner: Mutex<Inner>,
}

impl Places {
    /// None so far.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, named: RwLock::default(), began: Instant::now(), inner: Mutex::default() })
    }

    /// Lets clients whose certificate has one of these names use the reserve, from the next connection on, and revokes
    /// that for names that are no longer listed.
    pub fn reserve_for(&self, names: impl IntoIterator<Item = String>) {
        *self.named.write().unwrap_or_else(PoisonError::into_inner) = names.into_iter().collect();
    }

    /// Whether a client has one of these names.
    pub fn names(&self, peer: &Peer) -> bool {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        peer.names.iter().any(|name| named.contains(name))
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many there are.
    pub fn figures(&self) -> Figures {
        let inner = self.lock();
        Figures {
            strangers: inner.size(Pool::Strangers),
            known: inner.size(Pool::Known),
            control_plane: inner.size(Pool::ControlPlane),
            taken: inner.taken,
            refused: inner.refused,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; none if there is no room for this client.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Connection> {
        let (address, source) = (from.to_canonical(), Source::from(from));
        let is_reserved = self.limits.reserved_networks.iter().any(|network| network.contains(&address));
        let seat = if is_reserved {
            Seat { pool: Pool::ControlPlane, holder: Holder::Reserved(source) }
        } else {
            Seat { pool: Pool::Strangers, holder: Holder::Address(source) }
        };
        let mut inner = self.lock();
        if !inner.make_room(&self.limits, &seat) {
            inner.refused += 1;
            return None;
        }
        let id = inner.next;
        inner.next += 1;
        let entry = Arc::new(Entry {
            began: self.began,
            waiting: AtomicU64::new(0),
            taken: AtomicBool::new(false),
            told: Notify::new(),
        });
        entry.wait_for_client();
        inner.insert(id, seat.clone(), Arc::clone(&entry));
        drop(inner);
        Some(Connection(Arc::new(Place { places: Arc::clone(self), id, entry, seat: Mutex::new(seat) })))
    }

    /// Closes a connection of the holder with the most, because no more files can be opened.
    pub(crate) fn take_one(&self) {
        let mut inner = self.lock();
        let _ = inner.take_from_largest(Pool::Strangers, 0) || inner.take_from_largest(Pool::Known, 0);
    }
}

/// A place in the table, released when it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    id: u64,
    entry: Arc<Entry>,
    seat: Mutex<Seat>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.id);
    }
}

/// The connection of a request, as an extension of the request. It learns who the client has authenticated as.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Place>);

/// This account or certificate has so many connections already that there is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many connections are open")]
pub struct TooManyConnections;

impl Connection {
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.0.entry
    }

    /// The client has authenticated as an account.
    pub fn is_of_account(&self, account: &str) -> Result<(), TooManyConnections> {
        let mut seat = self.0.seat.lock().unwrap_or_else(PoisonError::into_inner);
        match &seat.holder {
            Holder::Account(known) if **known == *account => return Ok(()),
            // A certificate or network of the control plane takes precedence.
            _ if seat.pool == Pool::ControlPlane => return Ok(()),
            _ => {}
        }
        self.change(&mut seat, Seat { pool: Pool::Known, holder: Holder::Account(account.into()) })
    }

    /// The client has authenticated as an operator.
    pub fn is_of_operator(&self) -> Result<(), TooManyConnections> {
        let mut seat = self.0.seat.lock().unwrap_or_else(PoisonError::into_inner);
        if seat.pool == Pool::ControlPlane {
            return Ok(());
        }
        self.change(&mut seat, Seat { pool: Pool::ControlPlane, holder: Holder::Operators })
    }

    /// The client has a certificate.
    pub(crate) fn is_of_certificate(&self, certificate: &[u8], peer: &Peer) -> Result<(), TooManyConnections> {
        let mut seat = self.0.seat.lock().unwrap_or_else(PoisonError::into_inner);
        let Place { places, .. } = &*self.0;
        let is_reserved = places.limits.reserved_names.iter().any(|name| peer.is(name)) || places.names(peer);
        let pool = if is_reserved { Pool::ControlPlane } else { Pool::Known };
        if seat.pool == Pool::ControlPlane && !is_reserved {
            return Ok(());
        }
        self.change(&mut seat, Seat { pool, holder: Holder::Certificate(certificate.into()) })
    }

    fn change(&self, seat: &mut Seat, to: Seat) -> Result<(), TooManyConnections> {
        let Place { places, id, entry, .. } = &*self.0;
        let mut inner = places.lock();
        if !inner.seats.contains_key(id) {
            // It was just closed.
            return Err(TooManyConnections);
        }
        // It moves from one pool to another, so the total does not grow.
        if !inner.make_room_of(&places.limits, &to) {
            inner.refused += 1;
            return Err(TooManyConnections);
        }
        if inner.remove(*id).is_none() {
            return Err(TooManyConnections);
        }
        inner.insert(*id, to.clone(), Arc::clone(entry));
        *seat = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
