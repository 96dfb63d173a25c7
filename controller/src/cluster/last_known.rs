//! What a follower answers while there is no leader: reads, from its copy of the store, with its age. Changes
//! wait for a leader.

use crate::store::{Content, Replica, Store};
use anyhow::anyhow;
use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, header},
    response::Response,
};
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, task::spawn_blocking};
use tower::ServiceExt as _;

/// Why a response may be outdated. Its age is in the header `Age`, in seconds (RFC 9111 section 5.1).
pub const STALE: HeaderName = HeaderName::from_static("x-cps-peering-stale");
/// How long there must have been no leader: until then, clients are told to retry, and get current data.
const AFTER: Duration = Duration::from_secs(3);
/// How long the same copy is used.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// The paths that a copy can answer; the rest is about sessions, streams and this process.
const PLACES: [&str; 2] = ["/v1/", "/admin/v1/"];

/// Serves a copy of the store over HTTP. Blocks.
pub type Serve = dyn Fn(Store, Content) -> anyhow::Result<Router> + Send + Sync;

/// The copy, and how it is served.
pub struct LastKnown {
    copy: RwLock<Option<Arc<Replica>>>,
    serve: Arc<Serve>,
    served: Mutex<Option<Served>>,
    /// Since when requests have not reached a leader.
    failing: std::sync::Mutex<Option<Instant>>,
}

struct Served {
    routes: Router,
    made: Instant,
    number: u64,
}

impl LastKnown {
    /// Without a copy yet.
    pub fn new(serve: Arc<Serve>) -> Arc<Self> {
        Arc::new(Self {
            copy: RwLock::default(),
            serve,
            served: Mutex::default(),
            failing: std::sync::Mutex::default(),
        })
    }

    /// Uses this copy from now on.
    pub(super) fn follow(&self, copy: Arc<Replica>) {
        *self.copy.write().unwrap_or_else(PoisonError::into_inner) = Some(copy);
    }

    /// Notes whether a request has reached the leader. Returns whether none has for so long that the copy answers.
    pub(super) fn is_needed(&self, reached: bool) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if reached {
            // The memory of the copy is released.
            if failing.take().is_some()
                && let Ok(mut served) = self.served.try_lock()
            {
                *served = None;
            }
            return false;
        }
        failing.get_or_insert_with(Instant::now).elapsed() >= AFTER
    }

    /// Whether a request could be answered from a copy.
    pub(super) fn could_answer(request: &Request) -> bool {
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        // A browser's session is not known here.
        let within = PLACES.iter().any(|place| request.uri().path().starts_with(place));
        reads && within && !request.headers().contains_key(header::COOKIE)
    }

    /// The response from the copy. None if there is none, or it cannot be served.
    pub(super) async fn answer(&self, request: Request, why: &str) -> Option<Response> {
        let copy = self.copy.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (routes, age) = self.routes(copy).await?;
        // The service is infallible: errors are responses, too.
        let Ok(mut answer) = routes.oneshot(request).await;
        let headers = answer.headers_mut();
        headers.insert(header::AGE, age.as_secs().into());
        headers.insert(STALE, HeaderValue::from_str(why).unwrap_or(HeaderValue::from_static("no leader")));
        Some(answer)
    }

    async fn routes(&self, copy: Arc<Replica>) -> Option<(Router, Duration)> {
        let mut served = self.served.lock().await;
        let (number, age) = (copy.number()?, copy.age());
        if let Some(served) = &*served {
            let since = served.made.elapsed();
            if served.number == number {
                return Some((served.routes.clone(), age));
            }
            if since < GOOD_FOR {
                return Some((served.routes.clone(), age + since));
            }
        }
        let serve = Arc::clone(&self.serve);
        let made = spawn_blocking(move || {
            let content = copy.content().ok_or_else(|| anyhow!("it is being loaded"))?;
            let number = content.state.meta().number;
            Ok::<_, anyhow::Error>((serve(Store::look(copy.cluster()), content)?, number))
        });
        let made = made.await.ok()?.inspect_err(|error| {
            tracing::error!("the copy of the store cannot be served: {error:#}");
        });
        let (routes, number) = made.ok()?;
        // If the leader has come back meanwhile, nothing would release its memory.
        if self.failing.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            *served = Some(Served { routes: routes.clone(), made: Instant::now(), number });
        }
        Some((routes, age))
    }
}
