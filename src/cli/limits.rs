//! `--limit NAME=VALUE`: what a layer may ask for, as people write it.

use crate::tar::Limits;

/// What `--help` says.
pub(super) const HELP: &str = "What a layer may ask for at most; may be given several times. entries (default 5000000), unpacked-bytes (1T), \
    file-bytes (no limit), path-bytes (4096), path-depth (1024), expansion-ratio (no limit), header-bytes (1M), xattr-bytes (1M). Bytes may \
    have a suffix: K, M, G, T, powers of 1024";

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    name: Name,
    value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Entries,
    UnpackedBytes,
    FileBytes,
    PathBytes,
    PathDepth,
    ExpansionRatio,
    HeaderBytes,
    XattrBytes,
}

const NAMES: [(&str, Name); 8] = [
    ("entries", Name::Entries),
    ("unpacked-bytes", Name::UnpackedBytes),
    ("file-bytes", Name::FileBytes),
    ("path-bytes", Name::PathBytes),
    ("path-depth", Name::PathDepth),
    ("expansion-ratio", Name::ExpansionRatio),
    ("header-bytes", Name::HeaderBytes),
    ("xattr-bytes", Name::XattrBytes),
];

impl Name {
    const fn counts_bytes(self) -> bool {
        !matches!(self, Self::Entries | Self::PathDepth | Self::ExpansionRatio)
    }
}

/// Reads `NAME=VALUE`; what is wrong otherwise, for a usage error.
pub(super) fn parse(text: &str) -> Result<Limit, String> {
    let (name, value) = text.split_once('=').ok_or("a limit is written NAME=VALUE")?;
    let Some((_, name)) = NAMES.into_iter().find(|(known, _)| *known == name) else {
        return Err(format!("there is no such limit; there are {}", NAMES.map(|(name, _)| name).join(", ")));
    };
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K') => (value.trim_end_matches('K'), 10),
        Some(b'M') => (value.trim_end_matches('M'), 20),
        Some(b'G') => (value.trim_end_matches('G'), 30),
        Some(b'T') => (value.trim_end_matches('T'), 40),
        _ => (value, 0),
    };
    if shift > 0 && !name.counts_bytes() {
        return Err("the suffixes K, M, G and T are for bytes".to_owned());
    }
    let whole = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let suffix = usize::from(shift > 0);
    let number = digits.parse::<u64>().ok().filter(|_| whole && digits.len().checked_add(suffix) == Some(value.len()));
    let value = number.and_then(|number| number.checked_mul(1 << shift));
    let value = value.ok_or_else(|| {
        let suffixes = if name.counts_bytes() { ", which K, M, G or T may follow" } else { "" };
        format!("the value must be a whole number up to 2^64-1{suffixes}")
    })?;
    Ok(Limit { name, value })
}

/// The library's limits with these instead; `None` without any. Of one name the last counts.
pub(super) fn together(given: &[Limit]) -> Option<Limits> {
    if given.is_empty() {
        return None;
    }
    let mut limits = Limits::default();
    for &Limit { name, value } in given {
        let size = usize::try_from(value).unwrap_or(usize::MAX);
        match name {
            Name::Entries => limits.entries = value,
            Name::UnpackedBytes => limits.unpacked_bytes = value,
            Name::FileBytes => limits.file_bytes = Some(value),
            Name::PathBytes => limits.path_bytes = size,
            Name::PathDepth => limits.path_depth = size,
            Name::ExpansionRatio => limits.expansion_ratio = Some(value),
            Name::HeaderBytes => limits.header_bytes = value,
            Name::XattrBytes => limits.xattr_bytes = size,
        }
    }
    Some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_sets_its_limit() {
        let given: Vec<Limit> =
            NAMES.iter().zip(1..).map(|((name, _), value)| parse(&format!("{name}={value}")).unwrap()).collect();
        let mut expected = Limits::default();
        (expected.entries, expected.unpacked_bytes, expected.file_bytes) = (1, 2, Some(3));
        (expected.path_bytes, expected.path_depth, expected.expansion_ratio) = (4, 5, Some(6));
        (expected.header_bytes, expected.xattr_bytes) = (7, 8);
        assert_eq!(together(&given), Some(expected));
        assert_eq!(together(&[]), None);
        let twice = [parse("entries=1").unwrap(), parse("entries=2").unwrap()];
        assert_eq!(together(&twice).unwrap().entries, 2);
    }

    #[test]
    fn bytes_have_suffixes() {
        for (text, value) in
            [("0", 0), ("7K", 7 << 10), ("7M", 7 << 20), ("7G", 7 << 30), ("7T", 7 << 40), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(parse(&format!("unpacked-bytes={text}")).unwrap().value, value, "{text}");
        }
        for text in ["", "K", "1KK", "1k", "1.5M", "-1", "+1", " 1", "1 M", "1MB", "16777216T", "18446744073709551616"] {
            assert!(parse(&format!("file-bytes={text}")).unwrap_err().contains("whole number"), "{text}");
        }
        for name in ["entries", "path-depth", "expansion-ratio"] {
            assert!(parse(&format!("{name}=5M")).unwrap_err().contains("for bytes"), "{name}");
        }
    }

    #[test]
    fn what_is_no_limit_is_answered_with_those_there_are() {
        let message = parse("sizes=5").unwrap_err();
        for (name, _) in NAMES {
            assert!(message.contains(name) && HELP.contains(name), "{name}: {message}");
        }
        assert!(parse("entries").unwrap_err().contains("NAME=VALUE"));
    }
}
