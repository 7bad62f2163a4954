//! Why a message from the wire was refused.

/// A message or text that does not mean anything valid, with the field that says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {problem}")]
pub struct Invalid {
    /// The field, as the schema names it.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// A problem that quotes what was sent is cut here, in bytes: it goes into a status, which has little room, and into a log.
const LONGEST: usize = 1024;

impl Invalid {
    /// A refusal of `field` because of `problem`, of which no more than a kilobyte is kept.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        let mut problem = problem.into();
        if problem.len() > LONGEST {
            problem.truncate(problem.floor_char_boundary(LONGEST));
            problem.push_str("...");
        }
        Self { field, problem }
    }

    /// A refusal of a message whose `field` is absent.
    pub fn missing(field: &'static str) -> Self {
        Self::new(field, "missing")
    }
}

/// What was sent, in quotes; of a long text the beginning, so that what is wrong with it can still be read behind it.
pub(crate) fn quoted(text: &str) -> String {
    let shown = &text[..text.floor_char_boundary(80)];
    format!("'{shown}{}'", if shown.len() < text.len() { "..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_quotes_is_cut() {
        assert_eq!(Invalid::new("digest", "x".repeat(LONGEST)).problem.len(), LONGEST);
        // A character of three bytes that reaches over the limit is left out whole.
        let long = Invalid::new("digest", "\u{2713}".repeat(1 << 20)).problem;
        assert_eq!(long.len(), LONGEST / 3 * 3 + 3);
        assert!(long.ends_with("\u{2713}..."));
        assert_eq!((quoted("xyz"), quoted(&"x".repeat(99)).len()), ("'xyz'".to_owned(), 85));
    }
}
