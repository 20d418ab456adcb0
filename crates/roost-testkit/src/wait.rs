//! Waiting for a condition instead of for time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(25);

/// Calls `look` until it returns `Ok`; panics after `limit` with the last thing seen.
pub fn wait_until<T, S: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > limit => {
                panic!("waited {limit:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// The same without blocking the runtime.
pub async fn wait_until_async<T, S: Debug, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, S>>,
{
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > limit => {
                panic!("waited {limit:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}
