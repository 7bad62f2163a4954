//! Sizes in bytes, written as Kubernetes writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// A number of bytes. Text: `1234`, `64Ki`, `1.5Mi`, `2G`, up to `Ei`; binary suffixes are powers of 1024, decimal ones of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const SUFFIXES: [(&str, f64); 11] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("k", 1e3),
    ("K", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("", 1.0),
];

impl FromStr for ByteSize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (number, factor) = SUFFIXES
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|number| (number, *factor)))
            .unwrap_or((text, 1.0));
        match number.parse::<f64>() {
            Ok(value) if value >= 0.0 && value * factor < 9e18 => Ok(Self((value * factor).round() as u64)),
            _ => Err(Invalid::new(
                "size",
                format!("'{text}' is not a number of bytes such as 65536, 64Ki or 1.5Mi"),
            )),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        let text = match self.0 {
            0..1024 => self.0.to_string(),
            1024..1_048_576 => format!("{:.1}Ki", bytes / 1024.0),
            1_048_576..1_073_741_824 => format!("{:.1}Mi", bytes / 1_048_576.0),
            1_073_741_824..0x100_0000_0000 => format!("{:.1}Gi", bytes / 1_073_741_824.0),
            0x100_0000_0000..0x4_0000_0000_0000 => format!("{:.1}Ti", bytes / 1_099_511_627_776.0),
            0x4_0000_0000_0000..0x1000_0000_0000_0000 => {
                format!("{:.1}Pi", bytes / 1_125_899_906_842_624.0)
            }
            _ => format!("{:.1}Ei", bytes / 1_152_921_504_606_846_976.0),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in
            [("0", 0), ("64Ki", 65_536), ("1.5Mi", 1_572_864), ("2G", 2_000_000_000), ("7k", 7000)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
        for bad in ["", "Ki", "-1", "1 Ki", "NaN", "inf", "99999999999Gi"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        assert_eq!(ByteSize(1_572_864).to_string(), "1.5Mi");
        assert_eq!(ByteSize(1000).to_string(), "1000");
        for (bytes, text) in
            [(1 << 40, "1.0Ti"), ((1 << 40) - 1, "1024.0Gi"), (3 << 49, "1.5Pi"), (u64::MAX, "16.0Ei")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!("1.5Pi".parse(), Ok(ByteSize(3 << 49)));
    }
}
