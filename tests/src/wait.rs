//! Waiting for a condition.

use anyhow::{Result, bail};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long something that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_mins(1);

/// How often a condition is checked.
const STEP: Duration = Duration::from_millis(10);

/// Checks until the condition gives a value. An error of the condition counts as "not yet"; the last one is returned
/// when the time is up.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let last = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            match last {
                Some(error) => bail!("{what}: not within {within:?}: {error:#}"),
                None => bail!("{what}: not within {within:?}"),
            }
        }
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn gives_the_value_or_the_last_error() {
        let mut looks = 0;
        let mut third = || {
            looks += 1;
            if looks < 3 { Err(anyhow!("look {looks}")) } else { Ok(Some(looks)) }
        };
        assert_eq!(until("a third look", Duration::from_secs(5), &mut third).unwrap(), 3);
        let error = until::<()>("never", Duration::ZERO, || Err(anyhow!("why"))).unwrap_err().to_string();
        assert_eq!(error, "never: not within 0ns: why");
    }
}
