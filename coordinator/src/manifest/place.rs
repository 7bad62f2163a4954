//! Where things stand in a manifest's text, so that a refusal can name the line. Never judges values.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};

/// A line and a column of the text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        // An error without a location concerns the document as a whole, which begins at 1:1.
        Self { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// The places of every value of a YAML text.
pub(super) struct Places(Spanned<Tree>);

impl Places {
    /// Reads the places of `text`; where it is not YAML, everything is at its beginning.
    pub(super) fn of(text: &str) -> Self {
        let nothing = || Spanned::new(Tree::Leaf, Location::UNKNOWN, Location::UNKNOWN);
        Self(serde_saphyr::from_str(text).unwrap_or_else(|_| nothing()))
    }

    /// The place of the value at `path`, as in `spec.budgets.0.params`, or of its nearest parent that is there.
    pub(super) fn find(&self, path: &str) -> Place {
        let mut found = &self.0;
        for part in path.split('.') {
            let next = match &found.value {
                Tree::Map(entries) => entries.get(part),
                Tree::Sequence(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                Tree::Leaf => None,
            };
            match next {
                Some(next) => found = next,
                None => break,
            }
        }
        found.referenced.into()
    }

    /// The path of the value that begins at `location`; of the innermost, where several do.
    pub(super) fn path_at(&self, location: Location) -> Option<String> {
        let mut path = Vec::new();
        self.0.search(location, &mut path).then(|| path.join("."))
    }
}

trait Search {
    /// Whether something inside begins at `location`; `path` then leads to it.
    fn search(&self, location: Location, path: &mut Vec<String>) -> bool;
}

impl Search for Spanned<Tree> {
    fn search(&self, location: Location, path: &mut Vec<String>) -> bool {
        let mut inside = |part: String, value: &Self| {
            path.push(part);
            let found = value.search(location, path);
            if !found {
                path.pop();
            }
            found
        };
        let deeper = match &self.value {
            Tree::Map(entries) => entries.iter().any(|(key, value)| inside(key.clone(), value)),
            Tree::Sequence(items) => items.iter().enumerate().any(|(i, item)| inside(i.to_string(), item)),
            Tree::Leaf => false,
        };
        deeper || (self.referenced.line(), self.referenced.column()) == (location.line(), location.column())
    }
}

/// A YAML document without its values.
enum Tree {
    Map(BTreeMap<String, Spanned<Tree>>),
    Sequence(Vec<Spanned<Tree>>),
    Leaf,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

macro_rules! leaf {
    ($($method:ident($kind:ty)),*) => {
        $(fn $method<E>(self, _: $kind) -> Result<Tree, E> {
            Ok(Tree::Leaf)
        })*
    };
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    leaf!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Tree::Leaf)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            entries.insert(key, value);
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Tree::Sequence(items))
    }
}
