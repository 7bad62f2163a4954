//! The spool's records as bytes. Owns the encoding; a record that is torn or altered ends the reading.

use prost::Message as _;
use proto::{LatencyInterval, v1};
use sha2::{Digest as _, Sha256};

/// One line of the spool's history.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    /// The first record: the spool's life, and how far it has come.
    Start {
        epoch: u64,
        acked: u64,
        sent: u64,
    },
    /// Numbers up to this one may have reached the coordinator.
    Sent {
        sequence: u64,
    },
    Interval(LatencyInterval),
}

const START: u8 = 1;
const SENT: u8 = 2;
const INTERVAL: u8 = 3;

/// Length and checksum before each body.
const HEAD: usize = 8;

/// A body longer than this is damage, not a record.
const BODY_LIMIT: usize = 1 << 20;

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Self::Start { epoch, acked, sent } => {
                body.push(START);
                for number in [epoch, acked, sent] {
                    body.extend(number.to_le_bytes());
                }
            }
            Self::Sent { sequence } => {
                body.push(SENT);
                body.extend(sequence.to_le_bytes());
            }
            Self::Interval(interval) => {
                body.push(INTERVAL);
                body.extend(v1::LatencyInterval::from(interval.clone()).encode_to_vec());
            }
        }
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(checksum(&body));
        bytes.extend(body);
        bytes
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (&kind, rest) = body.split_first()?;
        let number =
            |index: usize| Some(u64::from_le_bytes(rest.get(index * 8..index * 8 + 8)?.try_into().ok()?));
        match kind {
            START => Some(Self::Start { epoch: number(0)?, acked: number(1)?, sent: number(2)? }),
            SENT => Some(Self::Sent { sequence: number(0)? }),
            INTERVAL => {
                let wire = v1::LatencyInterval::decode(rest).ok()?;
                Some(Self::Interval(wire.try_into().ok()?))
            }
            _ => None,
        }
    }
}

/// Every sound record up to the first one that is not.
pub(super) fn read_all(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((record, rest)) = read_one(bytes) {
        records.push(record);
        bytes = rest;
    }
    records
}

fn read_one(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    if length > BODY_LIMIT {
        return None;
    }
    let (body, rest) = rest.split_at_checked(length)?;
    if checksum(body) != head[4..] {
        return None;
    }
    Some((Record::decode(body)?, rest))
}

fn checksum(body: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(body);
    [digest[0], digest[1], digest[2], digest[3]]
}

/// Bytes that `intervals` take in the file.
pub(super) fn encoded_len_of(intervals: &[LatencyInterval]) -> u64 {
    intervals.iter().map(|interval| Record::Interval(interval.clone()).encode().len() as u64).sum()
}
