//! How far a wave of a rollout goes, as an operator writes it: a share, a number, or those that a selector matches.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Selector;

/// One wave. Shares and numbers count the devices that have been told once it is full, those of the waves before included.
#[derive(Debug, Clone, PartialEq)]
pub enum Wave {
    /// A share of the devices that the deployment matches, percent: `25`, or `25%`.
    Percent(u8),
    /// So many devices: `{ count: 3 }`.
    Count(u32),
    /// Every device that this matches and that was not told before: `{ selector: site=lab }`.
    Selector(Selector),
}

/// The ones that are written with a name: one of these.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Named {
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<Selector>,
}

impl fmt::Display for Wave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}"),
            Self::Count(count) => write!(f, "{{ count: {count} }}"),
            Self::Selector(selector) => write!(f, "{{ selector: \"{selector}\" }}"),
        }
    }
}

impl Serialize for Wave {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Percent(percent) => percent.serialize(serializer),
            Self::Count(count) => Named { count: Some(*count), selector: None }.serialize(serializer),
            Self::Selector(selector) => {
                Named { count: None, selector: Some(selector.clone()) }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Wave {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Wave;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a percentage from 1 to 100, { count: 3 } or { selector: site=lab }")
    }

    fn visit_u64<E: Error>(self, percent: u64) -> Result<Wave, E> {
        let unexpected = |_| E::invalid_value(Unexpected::Unsigned(percent), &self);
        u8::try_from(percent).map(Wave::Percent).map_err(unexpected)
    }

    fn visit_i64<E: Error>(self, percent: i64) -> Result<Wave, E> {
        let unexpected = |_| E::invalid_value(Unexpected::Signed(percent), &self);
        u8::try_from(percent).map(Wave::Percent).map_err(unexpected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Wave, E> {
        let percent = text.strip_suffix('%').and_then(|percent| percent.trim().parse().ok());
        percent.map(Wave::Percent).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Wave, A::Error> {
        match Named::deserialize(MapAccessDeserializer::new(map))? {
            Named { count: Some(count), selector: None } => Ok(Wave::Count(count)),
            Named { count: None, selector: Some(selector) } => Ok(Wave::Selector(selector)),
            Named { .. } => Err(A::Error::custom("a wave has one of these: count, selector")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_read_as_it_is_written() {
        let lab = Wave::Selector("site=lab".parse().unwrap());
        let large = Wave::Selector("site=lab,memory>=1073741824".parse().unwrap());
        for (json, wave, written) in [
            ("25", Wave::Percent(25), "25"),
            (r#""25%""#, Wave::Percent(25), "25"),
            (r#"{"count":3}"#, Wave::Count(3), r#"{"count":3}"#),
            (r#"{"selector":"site=lab"}"#, lab.clone(), r#"{"selector":{"site":"lab"}}"#),
            (r#"{"selector":{"site":"lab"}}"#, lab, r#"{"selector":{"site":"lab"}}"#),
            (
                r#"{"selector":"site=lab,memory>=1Gi"}"#,
                large,
                r#"{"selector":"site=lab,memory>=1073741824"}"#,
            ),
        ] {
            let read: Wave = serde_json::from_str(json).unwrap();
            assert_eq!(read, wave, "{json}");
            assert_eq!(serde_json::to_string(&wave).unwrap(), written);
        }
    }
}
