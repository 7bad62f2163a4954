//! Telemetry on its way: intervals on disk until the coordinator has stored them. Owns their numbers and durability;
//! never measures and never sends.
//!
//! One file of records, each `length | checksum | body`; a torn last record is ignored. The numbers have no gaps and
//! none is used twice within an epoch: a number may be given to another interval only while it was never sent, which
//! is why sending is marked on disk first. A full spool merges its two oldest unsent intervals of one model.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use proto::{ByteSize, LatencyInterval, SpoolPosition};

use crate::causes::describe;
use crate::state::{self, FileError};

pub(crate) mod merge;
mod record;
pub mod shared;

use record::Record;

/// The spool's file is kept below this.
pub const LIMIT: ByteSize = ByteSize(1 << 20);

/// Intervals that wait for their acknowledgement, oldest first.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    /// `None` where the disk takes nothing: then intervals last as long as the process.
    file: Option<File>,
    length: u64,
    limit: ByteSize,
    epoch: u64,
    acked: u64,
    sent: u64,
    waiting: Vec<LatencyInterval>,
}

impl Spool {
    /// Reads the spool at `path`; a missing one begins a new epoch.
    pub fn open(path: &Path, limit: ByteSize) -> Result<Self, FileError> {
        let bytes = state::read(path)?.unwrap_or_default();
        let mut spool =
            Self { path: path.to_owned(), file: Some(open_for_append(path)?), ..Self::in_memory(limit) };
        spool.epoch = 0;
        for record in record::read_all(&bytes) {
            spool.replay(record);
        }
        if spool.epoch == 0 {
            spool.epoch = new_epoch();
            spool.waiting.clear();
        }
        // Rewriting drops a torn tail, so that what is appended next can be read again.
        spool.rewrite()?;
        Ok(spool)
    }

    /// A spool that lasts as long as the process, with an epoch of its own.
    pub fn in_memory(limit: ByteSize) -> Self {
        Self {
            path: PathBuf::new(),
            file: None,
            length: 0,
            limit,
            epoch: new_epoch(),
            acked: 0,
            sent: 0,
            waiting: Vec::new(),
        }
    }

    /// Intervals that wait in the spool at `path`, which another process may own: nothing is written.
    pub fn count_waiting(path: &Path) -> Result<usize, FileError> {
        let records = record::read_all(&state::read(path)?.unwrap_or_default());
        Ok(records.iter().filter(|record| matches!(record, Record::Interval(_))).count())
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Start { epoch, acked, sent } => {
                (self.epoch, self.acked, self.sent) = (epoch, acked, sent);
            }
            Record::Sent { sequence } => self.sent = self.sent.max(sequence),
            Record::Interval(interval) => self.waiting.push(interval),
        }
    }

    /// Appends an interval; it is durable when this returns.
    pub fn append(&mut self, interval: LatencyInterval) -> Result<(), FileError> {
        self.write(&Record::Interval(interval.clone()))?;
        self.waiting.push(interval);
        if self.length > self.limit.0 {
            self.shrink()?;
        }
        Ok(())
    }

    /// The interval after `sequence`, if it waits.
    pub fn after(&self, sequence: u64) -> Option<(SpoolPosition, &LatencyInterval)> {
        let index = sequence.max(self.acked) - self.acked;
        let interval = self.waiting.get(usize::try_from(index).ok()?)?;
        Some((SpoolPosition { epoch: self.epoch, sequence: self.acked + index + 1 }, interval))
    }

    /// Marks intervals up to `sequence` as about to be sent, durably: their numbers are theirs for ever.
    pub fn mark_sent(&mut self, sequence: u64) -> Result<(), FileError> {
        if sequence > self.sent {
            self.write(&Record::Sent { sequence })?;
            self.sent = sequence;
        }
        Ok(())
    }

    /// Deletes intervals up to `position`; one of another epoch, or one that never was sent, changes nothing.
    pub fn acknowledge(&mut self, position: SpoolPosition) -> Result<(), FileError> {
        let known = position.epoch == self.epoch && position.sequence <= self.sent;
        if !known || position.sequence <= self.acked {
            return Ok(());
        }
        let done = (position.sequence - self.acked) as usize;
        self.waiting.drain(..done.min(self.waiting.len()));
        self.acked = position.sequence;
        self.rewrite()
    }

    /// The highest number that is stored by the coordinator.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Intervals that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Merges or, where nothing can be merged, drops oldest unsent intervals until the file is below three quarters of
    /// its limit, so that it is not rewritten at every append.
    fn shrink(&mut self) -> Result<(), FileError> {
        let sent = (self.sent - self.acked.min(self.sent)) as usize;
        let goal = self.limit.0 / 4 * 3;
        let whole = self.waiting.clone();
        let mut size = record::encoded_len_of(&self.waiting);
        while size > goal && self.waiting.len() > sent + 1 {
            if !merge::oldest_pair(&mut self.waiting, sent) {
                let lost = self.waiting.remove(sent);
                tracing::warn!(digest = %lost.digest, "the telemetry spool is full: its oldest interval is dropped");
            }
            size = record::encoded_len_of(&self.waiting);
        }
        if let Err(error) = self.rewrite() {
            // Numbers must mean the same in memory as on the disk.
            tracing::warn!(
                error = describe(&error),
                "the telemetry spool is over its limit, and cannot be rewritten"
            );
            self.waiting = whole;
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), FileError> {
        let bytes = record.encode();
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data())
        {
            // A half-written record would hide whatever is appended after it.
            let cut = file.set_len(self.length);
            tracing::debug!(?cut, "cut a record that could not be written");
            return Err(FileError::of("append to", &self.path)(error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), FileError> {
        let start = Record::Start { epoch: self.epoch, acked: self.acked, sent: self.sent };
        let mut bytes = start.encode();
        for interval in &self.waiting {
            bytes.extend(Record::Interval(interval.clone()).encode());
        }
        if self.file.is_some() {
            state::replace(&self.path, &bytes)?;
            self.file = Some(open_for_append(&self.path)?);
        }
        self.length = bytes.len() as u64;
        Ok(())
    }
}

fn open_for_append(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(FileError::of("open", path))
}

/// Not zero, and small enough for every JSON reader.
fn new_epoch() -> u64 {
    rand::random::<u64>() >> 12 | 1
}

#[cfg(test)]
mod tests;
