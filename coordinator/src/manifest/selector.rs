//! Which devices are meant: by their labels, and by what they measured of themselves. As an operator writes it, and what it means.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use proto::{ByteSize, HardwareProfile};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::class;

/// All of these hold; nothing is asked of a device by an empty one. Written as labels, `{ site: berlin }`, or in one line,
/// `site=berlin,arch=x86_64,memory>=512Mi`, where the names of [`Field`]s are what the device measured of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selector(Vec<Requirement>);

/// One condition.
#[derive(Debug, Clone, PartialEq)]
enum Requirement {
    Label { name: String, is: bool, value: String },
    Word { field: Field, is: bool, value: String },
    Amount { field: Field, operator: Operator, value: ByteSize },
}

/// What a device measured of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `x86_64`, `aarch64`.
    Arch,
    /// `linux`.
    Os,
    /// The engine that every agent has.
    Engine,
    /// Logical processors.
    Cores,
    /// On which a model runs.
    Threads,
    /// Bytes: of its limit, or of the whole machine.
    Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    More,
    Less,
}

/// As they are looked for: the longer ones first.
const OPERATORS: [(&str, Operator); 7] = [
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("!=", Operator::NotEqual),
    ("==", Operator::Equal),
    (">", Operator::More),
    ("<", Operator::Less),
    ("=", Operator::Equal),
];

impl Field {
    const ALL: [Self; 6] = [Self::Arch, Self::Os, Self::Engine, Self::Cores, Self::Threads, Self::Memory];

    fn name(self) -> &'static str {
        match self {
            Self::Arch => "arch",
            Self::Os => "os",
            Self::Engine => "engine",
            Self::Cores => "cores",
            Self::Threads => "threads",
            Self::Memory => "memory",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    fn word(self, profile: &HardwareProfile) -> Option<&str> {
        match self {
            Self::Arch => Some(&profile.arch),
            Self::Os => Some(&profile.os),
            Self::Engine => Some(&profile.engine),
            Self::Cores | Self::Threads | Self::Memory => None,
        }
    }

    fn amount(self, profile: &HardwareProfile) -> Option<u64> {
        match self {
            Self::Cores => Some(profile.logical_cores.into()),
            Self::Threads => Some(profile.inference_threads.into()),
            Self::Memory => class::usable_memory(profile),
            Self::Arch | Self::Os | Self::Engine => None,
        }
    }

    fn is_amount(self) -> bool {
        matches!(self, Self::Cores | Self::Threads | Self::Memory)
    }
}

impl Operator {
    fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::AtLeast => left >= right,
            Self::AtMost => left <= right,
            Self::More => left > right,
            Self::Less => left < right,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::Less => "<",
        }
    }
}

impl Selector {
    /// Whether a device with these labels and this profile is meant. What is unknown of it is never so, nor not so.
    pub fn matches(&self, labels: &BTreeMap<String, String>, profile: Option<&HardwareProfile>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Label { name, is, value } => (labels.get(name) == Some(value)) == *is,
            Requirement::Word { field, is, value } => {
                profile.and_then(|profile| field.word(profile)).is_some_and(|word| (word == value) == *is)
            }
            Requirement::Amount { field, operator, value } => profile
                .and_then(|profile| field.amount(profile))
                .is_some_and(|amount| operator.holds(amount, value.0)),
        })
    }

    /// Whether every device that `other` means is meant too, as far as the words tell.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.0.iter().all(|requirement| other.0.contains(requirement))
    }

    /// The labels, where it asks for nothing else.
    fn labels(&self) -> Option<BTreeMap<&str, &str>> {
        let label = |requirement| match requirement {
            &Requirement::Label { ref name, is: true, ref value } => Some((name.as_str(), value.as_str())),
            _ => None,
        };
        let labels: BTreeMap<&str, &str> = self.0.iter().map(label).collect::<Option<_>>()?;
        (labels.len() == self.0.len()).then_some(labels) // a label that is asked for twice stays so
    }
}

impl From<BTreeMap<String, String>> for Selector {
    fn from(labels: BTreeMap<String, String>) -> Self {
        let label = |(name, value)| Requirement::Label { name, is: true, value };
        Self(labels.into_iter().map(label).collect())
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(requirement).collect::<Result<_, _>>().map(Self)
    }
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let at = text.find(['=', '!', '<', '>']).unwrap_or(text.len());
    let (name, rest) = (text[..at].trim(), &text[at..]);
    let found =
        OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?.trim())));
    let Some((operator, value)) = found.filter(|(_, value)| !name.is_empty() && !value.is_empty()) else {
        return Err(format!("'{text}' is no condition; as in site=berlin, arch!=aarch64, memory>=512Mi"));
    };
    let equals = match operator {
        Operator::Equal => Some(true),
        Operator::NotEqual => Some(false),
        _ => None,
    };
    let value = value.to_owned();
    match (Field::of(name), equals) {
        (Some(field), _) if field.is_amount() => {
            let value =
                value.parse().map_err(|_| format!("'{value}' is no amount of {name}; as in 4, or 512Mi"))?;
            Ok(Requirement::Amount { field, operator, value })
        }
        (Some(field), Some(is)) => Ok(Requirement::Word { field, is, value }),
        (None, Some(is)) => Ok(Requirement::Label { name: name.to_owned(), is, value }),
        (_, None) => {
            Err(format!("{name} has no order: only = and != are allowed; ordered are cores, threads, memory"))
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |is: bool| if is { "=" } else { "!=" };
        match self {
            Self::Label { name, is, value } => write!(f, "{name}{}{value}", sign(*is)),
            Self::Word { field, is, value } => write!(f, "{}{}{value}", field.name(), sign(*is)),
            Self::Amount { field, operator, value } => {
                write!(f, "{}{}{}", field.name(), operator.text(), value.0)
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(Requirement::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.labels() {
            Some(labels) => labels.serialize(serializer),
            None => self.to_string().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Selector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels, or conditions in one line")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Selector, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Selector, A::Error> {
        let mut labels = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            if name.is_empty() {
                return Err(A::Error::custom("has a label without a name"));
            }
            labels.insert(name, value);
        }
        Ok(labels.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> HardwareProfile {
        let wire = proto::v1::HardwareProfile {
            arch: "aarch64".to_owned(),
            os: "linux".to_owned(),
            engine: "rten".to_owned(),
            logical_cores: 4,
            inference_threads: 2,
            memory_total_bytes: Some(1 << 30),
            memory_limit_bytes: Some(512 << 20),
            ..Default::default()
        };
        wire.try_into().unwrap()
    }

    fn labels() -> BTreeMap<String, String> {
        [("site", "berlin"), ("tier", "small")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn conditions_are_held_against_labels_and_profile() {
        for (text, expected) in [
            ("", true),
            ("site=berlin", true),
            ("site=berlin,site=paris", false),
            ("site==berlin, tier = small", true),
            ("site=paris", false),
            ("site!=paris", true),
            ("room!=7", true),
            ("room=7", false),
            ("arch=aarch64,os=linux,engine=rten", true),
            ("arch!=aarch64", false),
            ("memory>=512Mi", true),
            ("memory>512Mi", false),
            ("memory<=0.5Gi,cores>=4,threads<4", true),
            ("cores=4,threads!=2", false),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&labels(), Some(&profile())), expected, "{text}");
            assert_eq!(selector.to_string().parse(), Ok(selector), "{text}");
        }
    }

    #[test]
    fn of_a_device_without_a_profile_nothing_is_known() {
        for text in ["arch=aarch64", "arch!=aarch64", "memory>=0", "memory<1Gi"] {
            assert!(!text.parse::<Selector>().unwrap().matches(&labels(), None), "{text}");
        }
        assert!("site=berlin".parse::<Selector>().unwrap().matches(&labels(), None));
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_would() {
        for (text, part) in [
            ("site", "'site' is no condition; as in site=berlin"),
            ("=berlin", "is no condition"),
            ("site=", "is no condition"),
            ("site!berlin", "is no condition"),
            ("site>berlin", "site has no order: only = and != are allowed"),
            ("arch>=x86_64", "arch has no order"),
            ("memory>=much", "'much' is no amount of memory"),
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn labels_alone_are_written_as_ever() {
        let as_json = |text: &str| serde_json::to_string(&text.parse::<Selector>().unwrap()).unwrap();
        assert_eq!(as_json("site=berlin"), r#"{"site":"berlin"}"#);
        assert_eq!(as_json(""), "{}");
        assert_eq!(as_json("memory>=512Mi,site=berlin"), r#""memory>=536870912,site=berlin""#);
        for text in [r#"{"site":"berlin"}"#, r#""site=berlin,arch!=x86_64""#, r#""site=a,site=b""#, "{}"] {
            let selector: Selector = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&selector).unwrap(), text);
        }
    }
}
