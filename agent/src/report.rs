//! Telemetry out of tallies: closes an interval at the coordinator's rhythm and hands it to the spool. Owns the
//! rhythm; never measures and never sends. Where nothing was served, nothing is reported.

use std::time::{Duration, Instant};

use proto::LatencyInterval;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::probe;
use crate::runner::{Runner, Tallies};
use crate::spool::merge;
use crate::spool::shared::SharedSpool;

/// The rhythm until a coordinator names one.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// Closes an interval whenever it is due, until `stop`.
pub async fn run(
    runner: Runner,
    spool: SharedSpool,
    mut interval: watch::Receiver<Duration>,
    stop: CancellationToken,
) {
    let mut started = Instant::now();
    loop {
        let due = started + *interval.borrow_and_update();
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                close(&runner, &spool, started.elapsed()).await;
                return;
            }
            () = tokio::time::sleep_until(due.into()) => {
                close(&runner, &spool, started.elapsed()).await;
                started = Instant::now();
            }
            changed = interval.changed() => if changed.is_err() { return },
        }
    }
}

/// Closes the interval that has lasted `elapsed`.
pub async fn close(runner: &Runner, spool: &SharedSpool, elapsed: Duration) {
    let intervals = telemetry(runner.take_tallies(), runner.take_processor_time(), elapsed);
    // Without any, too: what the disk refused before is tried again.
    if let Err(error) = spool.append(intervals).await {
        tracing::error!(
            error = crate::causes::describe(&error),
            "latencies are kept in memory until the disk takes them"
        );
    }
}

/// One interval per assignment that served.
fn telemetry(tallies: Tallies, busy: Duration, elapsed: Duration) -> Vec<LatencyInterval> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (rss, millicelsius) = (probe::resident_memory(), probe::thermal::millicelsius());
    let interval = |((digest, generation), tally): ((_, _), crate::runner::Tally)| LatencyInterval {
        digest,
        generation,
        interval_ms: millis(elapsed),
        histogram: merge::encode(&tally.histogram),
        errors: tally.errors,
        rss,
        cpu_ms: Some(millis(busy)),
        millicelsius,
    };
    tallies.into_iter().map(interval).collect()
}
