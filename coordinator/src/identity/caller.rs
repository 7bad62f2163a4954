//! A connection, as the calls see it that come on it: whose it is, what it showed, and whether it is still there.

use std::sync::{Arc, Weak};

use super::Peer;

/// Who calls, and on which connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who is at the other end.
    pub peer: Peer,
    /// The connection.
    pub line: Line,
    /// Whose certificate an operator showed on it.
    pub issuer: Issuer,
}

/// Which of the fleet's authorities issued the certificate that an operator's connection showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issuer {
    /// It showed none: it is on the coordinator's host, or no operator's.
    Nobody,
    /// The one of that number.
    Authority(u32),
    /// It is not known which: another has signed in its name.
    Unknown,
}

/// One connection, for whoever only wants to know whether it is there. Keeps nothing open.
#[derive(Debug, Clone, Default)]
pub struct Line(Weak<()>);

/// The connection's own end of its [`Line`]s: they are there as long as it is.
#[derive(Debug, Default)]
pub struct Open(Arc<()>);

impl Open {
    /// What tells of this connection.
    pub fn line(&self) -> Line {
        Line(Arc::downgrade(&self.0))
    }
}

impl Line {
    /// Whether the connection is there.
    pub fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.0, &other.0)
    }
}
