//! Telemetry on its way: intervals on disk until the coordinator has stored them. Owns their numbers and durability;
//! never measures and never sends.
//!
//! One file of records, each `length | checksum | body`; a torn last record is ignored. The numbers have no gaps and
//! none is used twice within an epoch: a number may be given to another interval only while it was never sent, which
//! is why sending is marked on disk first. A full spool merges its two oldest unsent intervals of one model.
//!
//! What the disk refuses stays in memory, with its number, and is not sent before the disk has it. After a refusal nobody
//! knows what is in the file, so that it is written anew as a whole before anything is appended.

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

/// Nor is a file read that is longer than this: what is on its way, and cannot be merged, may be above the limit for a while.
const READABLE: ByteSize = ByteSize(8 * LIMIT.0);

/// Intervals that wait for their acknowledgement, oldest first.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    medium: Medium,
    /// Bytes that the file has, or will have once it is written anew.
    length: u64,
    limit: ByteSize,
    epoch: u64,
    acked: u64,
    sent: u64,
    waiting: Vec<LatencyInterval>,
    /// Of a spool in memory: the one on the disk, which takes its place once what is on its way has arrived.
    successor: Option<Box<Self>>,
}

/// Where intervals are kept.
#[derive(Debug)]
enum Medium {
    /// As long as the process lasts: the disk did not even take a file. Nothing on it has this epoch.
    Memory,
    /// Everything is in it, durable.
    File(File),
    /// The disk refused a write: what is in the file is not known.
    Doubtful,
}

impl Spool {
    /// Reads the spool at `path`; a missing one begins a new epoch.
    pub fn open(path: &Path, limit: ByteSize) -> Result<Self, FileError> {
        let records = state::unless_damaged(read(path))?.unwrap_or_default();
        let mut spool = Self { medium: Medium::Doubtful, ..Self::in_memory(path, limit) };
        spool.epoch = 0;
        for record in records {
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

    /// A spool with an epoch of its own that lasts as long as the process, or until the disk takes one at `path`.
    pub fn in_memory(path: &Path, limit: ByteSize) -> Self {
        Self {
            path: path.to_owned(),
            medium: Medium::Memory,
            length: 0,
            limit,
            epoch: new_epoch(),
            acked: 0,
            sent: 0,
            waiting: Vec::new(),
            successor: None,
        }
    }

    /// Intervals that wait in the spool at `path`, which another process may own: nothing is written.
    pub fn count_waiting(path: &Path) -> Result<usize, FileError> {
        let records = read(path)?.unwrap_or_default();
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

    /// Appends an interval. It is taken in any case; without an error it is durable.
    pub fn append(&mut self, interval: LatencyInterval) -> Result<(), FileError> {
        if let Some(successor) = &mut self.successor {
            return successor.append(interval);
        }
        let record = Record::Interval(interval.clone());
        self.waiting.push(interval);
        if self.length + record.encode().len() as u64 > self.limit.0 {
            self.shrink();
            return self.rewrite();
        }
        self.write(&record)
    }

    /// Tries the disk again, where it refused the last write or took no spool at all.
    pub fn settle(&mut self) -> Result<(), FileError> {
        match (&self.medium, &mut self.successor) {
            (Medium::File(_), _) => Ok(()),
            (Medium::Doubtful, _) => self.rewrite(),
            (Medium::Memory, Some(successor)) => successor.settle(),
            (Medium::Memory, None) => match Self::open(&self.path, self.limit) {
                Ok(successor) => self.make_way_for(successor),
                Err(error) => {
                    // It was said when this began: what waits is sent all the same.
                    tracing::debug!(error = describe(&error), "the disk takes no telemetry yet");
                    Ok(())
                }
            },
        }
    }

    /// What was never sent goes to the disk, under numbers of the epoch there; what may have been sent keeps its own.
    fn make_way_for(&mut self, mut successor: Self) -> Result<(), FileError> {
        let unsent = self.waiting.split_off(self.on_their_way());
        let appended = unsent.into_iter().map(|interval| successor.append(interval));
        let appended = appended.fold(Ok(()), Result::and);
        self.successor = Some(Box::new(successor));
        self.give_way();
        appended
    }

    fn give_way(&mut self) {
        if self.waiting.is_empty()
            && let Some(successor) = self.successor.take()
        {
            *self = *successor;
        }
    }

    /// Intervals whose numbers are theirs for ever.
    fn on_their_way(&self) -> usize {
        (self.sent.saturating_sub(self.acked) as usize).min(self.waiting.len())
    }

    /// The interval after `sequence`, if it waits.
    pub fn after(&self, sequence: u64) -> Option<(SpoolPosition, &LatencyInterval)> {
        let index = sequence.max(self.acked) - self.acked;
        let interval = self.waiting.get(usize::try_from(index).ok()?)?;
        Some((SpoolPosition { epoch: self.epoch, sequence: self.acked + index + 1 }, interval))
    }

    /// Marks intervals up to `sequence` as about to be sent, durably: their numbers are theirs for ever.
    pub fn mark_sent(&mut self, sequence: u64) -> Result<(), FileError> {
        let before = self.sent;
        if sequence > before {
            self.sent = sequence;
            // Where it is not known to be on the disk, it is not sent.
            self.write(&Record::Sent { sequence }).inspect_err(|_| self.sent = before)?;
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
        let written = self.rewrite();
        self.give_way();
        written
    }

    /// The highest number that is stored by the coordinator.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// As [`Spool::acked`], with the epoch that it is of.
    pub fn position(&self) -> SpoolPosition {
        SpoolPosition { epoch: self.epoch, sequence: self.acked }
    }

    /// Intervals that wait.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.successor.as_ref().map_or(0, |successor| successor.len())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Merges or, where nothing can be merged, drops oldest unsent intervals until all is below three quarters of the
    /// limit, so that the file is not rewritten at every append. Numbers change meanwhile: the file has to be written anew.
    fn shrink(&mut self) {
        let sent = self.on_their_way();
        let goal = self.limit.0 / 4 * 3;
        let mut size = record::encoded_len_of(&self.waiting);
        while size > goal && self.waiting.len() > sent + 1 {
            if !merge::oldest_pair(&mut self.waiting, sent) {
                let lost = self.waiting.remove(sent);
                tracing::warn!(digest = %lost.digest, "the telemetry spool is full: its oldest interval is dropped");
            }
            size = record::encoded_len_of(&self.waiting);
        }
    }

    /// Appends a record of what memory has already.
    fn write(&mut self, record: &Record) -> Result<(), FileError> {
        let bytes = record.encode();
        match &mut self.medium {
            Medium::Memory => {}
            Medium::Doubtful => return self.rewrite(),
            Medium::File(file) => {
                if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
                    self.medium = Medium::Doubtful;
                    self.length += bytes.len() as u64;
                    return Err(FileError::of("append to", &self.path)(error));
                }
            }
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes the file anew, as memory has it.
    fn rewrite(&mut self) -> Result<(), FileError> {
        let start = Record::Start { epoch: self.epoch, acked: self.acked, sent: self.sent };
        let mut bytes = start.encode();
        for interval in &self.waiting {
            bytes.extend(Record::Interval(interval.clone()).encode());
        }
        self.length = bytes.len() as u64;
        if let Medium::Memory = self.medium {
            return Ok(());
        }
        self.medium = Medium::Doubtful;
        state::replace(&self.path, &bytes)?;
        self.medium = Medium::File(open_for_append(&self.path)?);
        Ok(())
    }
}

/// Every record up to a torn one; `None` where there is no file.
fn read(path: &Path) -> Result<Option<Vec<Record>>, FileError> {
    let Some(bytes) = state::read(path, READABLE)? else { return Ok(None) };
    match record::read_all(&bytes) {
        records if records.is_empty() && !bytes.is_empty() => {
            let problem =
                std::io::Error::new(std::io::ErrorKind::InvalidData, "it does not begin with a record");
            Err(FileError::of("understand", path)(problem))
        }
        records => Ok(Some(records)),
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
