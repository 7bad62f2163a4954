//! How busy the machine was beside the processes at hand, from the kernel's own counts. A reason for a slow measurement
//! is stated only where these counts show it.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// The kernel counts processor time in hundredths of a second towards programs, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counts at one moment.
#[derive(Debug)]
pub(super) struct Load {
    at: Instant,
    /// Ticks that all processors were busy, or taken by the host.
    busy: u64,
    /// Ticks of the processes at hand.
    own: u64,
    processes: Vec<u32>,
}

impl Load {
    /// The counts now; `processes` are the ones at hand.
    pub(super) fn now(processes: &[u32]) -> Result<Self> {
        let own = processes.iter().map(|&pid| process_ticks(pid)).sum::<Result<u64>>()?;
        Ok(Self { at: Instant::now(), busy: machine_ticks()?, own, processes: processes.to_vec() })
    }

    /// Cores' worth of work by others since then.
    pub(super) fn foreign_cores(&self) -> Result<f64> {
        let now = Self::now(&self.processes)?;
        let ticks = now.busy.saturating_sub(self.busy) as f64 - now.own.saturating_sub(self.own) as f64;
        let seconds = now.at.duration_since(self.at).as_secs_f64();
        Ok((ticks / TICKS_PER_SECOND / seconds.max(1e-3)).max(0.0))
    }
}

/// Ticks of all processors except idle ones and those that wait for a disk.
fn machine_ticks() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_ticks(&text).context("/proc/stat has no line for all processors")
}

/// user, nice, system, idle, iowait, irq, softirq, steal.
fn busy_ticks(stat: &str) -> Option<u64> {
    let counts: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let idle = counts.get(3)? + counts.get(4)?;
    Some(counts.iter().take(8).sum::<u64>() - idle)
}

fn process_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    own_ticks(&text).with_context(|| format!("{path} is not as expected"))
}

/// utime and stime: the 14th and 15th field; the second, in brackets, may hold anything.
fn own_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        assert_eq!(busy_ticks("cpu  10 2 3 100 50 1 4 5 9 9\ncpu0 1 1"), Some(25));
        assert_eq!(busy_ticks("intr 1"), None);
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194560 99 0 0 0 12 5 0 0 20 0";
        assert_eq!(own_ticks(stat), Some(17));
        assert_eq!(own_ticks("77 (sh"), None);
    }

    #[test]
    fn this_process_can_be_counted() {
        let load = Load::now(&[std::process::id()]).unwrap();
        assert!(load.foreign_cores().unwrap() >= 0.0);
    }
}
