//! Figures as people read them, the same in every verb.

use std::time::Duration;

use proto::ByteSize;

/// `272,474`: a count that should be exact.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `40.8M`: a count of multiply-accumulates, in decimal units, three significant digits.
pub(crate) fn macs(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "");
    for next in ["k", "M", "G", "T"] {
        // 999.5 would print as 1000 of the smaller unit.
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1e3, next);
    }
    if unit.is_empty() { n.to_string() } else { format!("{}{unit}", significant(value)) }
}

/// `33.4Ki`.
pub(crate) fn bytes(n: u64) -> String {
    ByteSize(n).to_string()
}

/// `0.812ms`, `12.3ms`, `1230ms`: milliseconds, three significant digits.
pub(crate) fn ms(milliseconds: f64) -> String {
    format!("{}ms", significant(milliseconds))
}

/// `91.23%` of a share from 0 to 1.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// `1/16.2`: a part as a share of the whole, as budgets spell it.
pub(crate) fn ratio(part: u64, whole: u64) -> String {
    times(whole as f64, part as f64)
}

/// `1/2.41`: a time as a share of another.
pub(crate) fn times(before: f64, after: f64) -> String {
    if after > 0.0 { format!("1/{}", significant(before / after)) } else { "-".to_owned() }
}

/// `45s`, `12m`, `3h`, `8d`: how long ago, coarsely.
pub(crate) fn age(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `0.42s`, `12.3s`, `2m 5s`: a measured duration.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{}s", significant(seconds));
    }
    let whole = seconds.round() as u64;
    format!("{}m {}s", whole / 60, whole % 60)
}

/// A digest's first 12 digits; any other text as it is.
pub(crate) fn short(digest: &str) -> &str {
    match digest.parse::<proto::Digest>() {
        Ok(_) => &digest[..12],
        Err(_) => digest,
    }
}

/// Three significant digits, without exponents.
fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    // Rounding first, so that 9.996 counts as 10.0 and is not printed as 10.00.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let magnitude = rounded.abs().log10().floor() as i32;
    format!("{rounded:.*}", (2 - magnitude).clamp(0, 9) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        for (n, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (272_474, "272,474"), (1_234_567, "1,234,567")]
        {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn macs_take_three_digits() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.00k"),
            (40_813_184, "40.8M"),
            (999_499, "999k"),
            (999_950, "1.00M"),
            (313_201_664, "313M"),
            (4_090_000_000, "4.09G"),
        ] {
            assert_eq!(macs(n), text);
        }
    }

    #[test]
    fn times_take_three_digits() {
        for (value, text) in [
            (0.0, "0ms"),
            (0.0123, "0.0123ms"),
            (0.8119, "0.812ms"),
            (9.996, "10.0ms"),
            (12.34, "12.3ms"),
            (1234.0, "1230ms"),
        ] {
            assert_eq!(ms(value), text);
        }
        assert_eq!(seconds(0.4219), "0.422s");
        assert_eq!(seconds(125.2), "2m 5s");
    }

    #[test]
    fn ages_and_shares() {
        for (seconds, text) in [(5, "5s"), (119, "119s"), (150, "2m"), (10_800, "3h"), (900_000, "10d")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
        assert_eq!(ratio(16_809, 272_474), "1/16.2");
        assert_eq!(ratio(272_474, 272_474), "1/1.00");
        assert_eq!(percent(0.91234), "91.23%");
    }

    #[test]
    fn only_digests_are_shortened() {
        let digest = proto::Digest::of(b"x").to_string();
        assert_eq!(short(&digest), &digest[..12]);
        assert_eq!(short("class-a"), "class-a");
    }
}
