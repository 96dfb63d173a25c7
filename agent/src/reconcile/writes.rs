//! Pending writes to disk. A disk may hang for any time: reporting must not wait for it.

use cps_peering_config::time::{now_ms, timestamp};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    task::{JoinError, spawn_blocking},
    time::timeout,
};

/// What a problem with a write means, whatever its cause.
pub(crate) const UNTIL_WRITTEN: &str = "until it succeeds, nothing new is confirmed to the controller; the kernel is kept as the newest \
                                        configuration requires";
/// A write that takes longer hangs: that is a problem of the host.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// The files that are being written, and since when. Each has one writer at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writes(Arc<Mutex<BTreeMap<PathBuf, Instant>>>);

impl Writes {
    /// How long the oldest write has been pending; zero if there is none.
    pub(crate) fn oldest(&self) -> Duration {
        self.since().values().min().map(Instant::elapsed).unwrap_or_default()
    }

    /// Writes a file, for as long as that takes. If it hangs, `tell` gets the reason, and none when it is over.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        file: &Path,
        write: impl FnOnce() -> T + Send + 'static,
        tell: impl Fn(Option<String>),
    ) -> Result<T, JoinError> {
        let _under_way = self.begin(file);
        let began_ms = now_ms();
        let mut writing = spawn_blocking(write);
        if let Ok(written) = timeout(HANGS_AFTER, &mut writing).await {
            return written;
        }
        let reason = format!("the disk has not taken it since {}; {UNTIL_WRITTEN}", timestamp(began_ms));
        let file = file.display();
        tracing::error!(%file, "{reason}");
        tell(Some(reason));
        let written = writing.await;
        tracing::info!(%file, "the disk has answered again");
        tell(None);
        written
    }

    fn begin(&self, file: &Path) -> UnderWay {
        self.since().insert(file.to_owned(), Instant::now());
        UnderWay { writes: self.clone(), file: file.to_owned() }
    }

    fn since(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Instant>> {
        // The value is complete at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pending write. Dropping it ends it.
struct UnderWay {
    writes: Writes,
    file: PathBuf,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.writes.since().remove(&self.file);
    }
}
