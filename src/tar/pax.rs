//! PAX extended headers (POSIX.1-2001, pax): records of the form `<length> <keyword>=<value>\n`.
//!
//! Records are cut by their declared length and nothing else: a newline in a value is part of the value. Of equal keywords the last
//! one counts, and an empty value means "as the header says".

use super::Limits;
use super::fault::Fault;
use super::sparse;
use crate::entry::{Timestamp, Xattrs};

type Result<T, E = Fault> = std::result::Result<T, E>;

/// What xattr keywords begin with, in star's spelling, which GNU tar, Go and libarchive share.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What a PAX header says of the next member.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Timestamp>,
    /// star's own device numbers, which Go does not know.
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: sparse::Keywords,
}

impl Records {
    /// Reads the body of a local (`x`) header.
    pub(super) fn parse(body: &[u8], limits: &Limits) -> Result<Self> {
        let mut records = Self::default();
        let mut last = Last::default();
        for record in split(body) {
            let (keyword, value) = record?;
            match keyword {
                b"path" => last.path = no_nul(value)?,
                b"linkpath" => last.link = no_nul(value)?,
                b"uname" | b"gname" => _ = no_nul(value)?,
                b"size" => last.size = value,
                b"uid" => last.uid = value,
                b"gid" => last.gid = value,
                b"mtime" => last.mtime = value,
                b"SCHILY.devmajor" => last.major = value,
                b"SCHILY.devminor" => last.minor = value,
                b"SCHILY.realsize" => return Err(Fault::new("star's sparse files are not supported")),
                _ => {
                    if let Some(name) = keyword.strip_prefix(XATTR) {
                        if name.is_empty() {
                            return Err(Fault::new("an extended attribute without a name"));
                        }
                        records.xattrs.insert(name.to_vec(), value.to_vec());
                    } else if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
                        records.sparse.set(keyword, value, limits)?;
                    }
                }
            }
        }
        let bytes =
            records.xattrs.iter().map(|(name, value)| name.len().saturating_add(value.len())).fold(0, usize::saturating_add);
        if bytes > limits.xattr_bytes {
            return Err(Fault::limit(format!("the extended attributes have more than {} bytes", limits.xattr_bytes)));
        }
        records.path = given(last.path).map(<[u8]>::to_vec);
        records.link = given(last.link).map(<[u8]>::to_vec);
        records.size = given(last.size).map(|value| decimal(value, "size")).transpose()?;
        records.uid = last.number(last.uid, "uid")?;
        records.gid = last.number(last.gid, "gid")?;
        records.major = last.number(last.major, "device major")?;
        records.minor = last.number(last.minor, "device minor")?;
        records.mtime = given(last.mtime).map(timestamp).transpose()?;
        Ok(records)
    }
}

/// The last value of each keyword, unread: an earlier duplicate may be anything.
#[derive(Default)]
struct Last<'a> {
    path: &'a [u8],
    link: &'a [u8],
    size: &'a [u8],
    uid: &'a [u8],
    gid: &'a [u8],
    mtime: &'a [u8],
    major: &'a [u8],
    minor: &'a [u8],
}

impl Last<'_> {
    fn number(&self, value: &[u8], what: &'static str) -> Result<Option<i64>> {
        // `decimal` stays within what an i64 holds.
        given(value).map(|value| decimal(value, what).map(|number| i64::try_from(number).unwrap_or(i64::MAX))).transpose()
    }
}

fn given(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

fn no_nul(value: &[u8]) -> Result<&[u8]> {
    if value.contains(&0) { Err(Fault::new("a NUL byte in a PAX path or name")) } else { Ok(value) }
}

/// Reads the body of a global (`g`) header, which may say nothing that would change a member.
pub(super) fn check_global(body: &[u8]) -> Result<()> {
    for record in split(body) {
        let (keyword, _) = record?;
        let matters = matches!(keyword, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime");
        if matters || keyword.starts_with(b"SCHILY.") || keyword.starts_with(b"GNU.") {
            return Err(Fault::new(format!("a PAX global header sets {}", keyword.escape_ascii())));
        }
    }
    Ok(())
}

/// The records of a body, keyword and value, until the first fault.
fn split(body: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8])>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match record(rest) {
            Ok((keyword, value, after)) => {
                rest = after;
                Some(Ok((keyword, value)))
            }
            Err(fault) => {
                rest = &[];
                Some(Err(fault))
            }
        }
    })
}

fn record(body: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let bad = || Fault::new("a PAX record with a bad length");
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = decimal(body.get(..digits).unwrap_or_default(), "length of a PAX record")?;
    let (record, rest) = usize::try_from(length).ok().and_then(|length| body.split_at_checked(length)).ok_or_else(bad)?;
    let record = record.get(digits..).ok_or_else(bad)?;
    let record = record.strip_prefix(b" ").ok_or_else(bad)?;
    let record = record.strip_suffix(b"\n").ok_or_else(|| Fault::new("a PAX record without a newline at its end"))?;
    let mut parts = record.splitn(2, |&byte| byte == b'=');
    let keyword = parts.next().unwrap_or_default();
    let value = parts.next().ok_or_else(|| Fault::new("a PAX record without \"=\""))?;
    if keyword.is_empty() || keyword.contains(&0) {
        return Err(Fault::new("a PAX record with an empty keyword, or one with a NUL byte"));
    }
    Ok((keyword, value, rest))
}

/// Digits alone, up to the largest file size: what every reader takes for the same number.
pub(super) fn decimal(text: &[u8], what: &'static str) -> Result<u64> {
    let bad = || Fault::new(format!("the {what} is no number, or too large"));
    if text.is_empty() {
        return Err(bad());
    }
    let value = text.iter().try_fold(0i64, |value, &digit| {
        let digit = char::from(digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(i64::from(digit))
    });
    value.and_then(|value| u64::try_from(value).ok()).ok_or_else(bad)
}

/// `[-]<seconds>[.<fraction>]`; what is finer than a nanosecond is cut off.
fn timestamp(text: &[u8]) -> Result<Timestamp> {
    let bad = || Fault::new("the mtime is no time, or out of range");
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let whole = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |value, digit| value.wrapping_mul(10).wrapping_add(u32::from(digit & 0x0f)));
    if whole.is_empty() || !whole.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    // Signed as it is gathered: the smallest second has no positive counterpart.
    let seconds = whole.iter().try_fold(0i64, |value, digit| {
        let digit = i64::from(digit & 0x0f);
        let value = value.checked_mul(10)?;
        if negative { value.checked_sub(digit) } else { value.checked_add(digit) }
    });
    let seconds = seconds.ok_or_else(bad)?;
    if !negative || nanoseconds == 0 {
        return Ok(Timestamp { seconds, nanoseconds });
    }
    // -0.25 is a quarter before zero: second -1 and three quarters.
    Ok(Timestamp { seconds: seconds.checked_sub(1).ok_or_else(bad)?, nanoseconds: 1_000_000_000u32.saturating_sub(nanoseconds) })
}

/// Appends a record. Its length counts itself, so that one more digit can make one more byte.
pub(super) fn write_record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    // " ", "=" and "\n".
    let rest = keyword.len().saturating_add(value.len()).saturating_add(3);
    let mut length = rest;
    loop {
        let with_digits = rest.saturating_add(length.to_string().len());
        if with_digits == length {
            break;
        }
        length = with_digits;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The keyword of an xattr; `None` where PAX cannot say the name, because a keyword ends at its first `=`.
pub(super) fn xattr_keyword(name: &[u8]) -> Option<Vec<u8>> {
    let sayable = !name.is_empty() && !name.contains(&b'=') && !name.contains(&0);
    sayable.then(|| [XATTR, name].concat())
}

/// A time as [`timestamp`] reads it, without trailing zeros.
pub(super) fn format_time(time: Timestamp) -> String {
    let (sign, seconds, nanoseconds) = if time.seconds < 0 && time.nanoseconds > 0 {
        ("-", time.seconds.saturating_add(1).unsigned_abs(), 1_000_000_000u32.saturating_sub(time.nanoseconds))
    } else {
        (if time.seconds < 0 { "-" } else { "" }, time.seconds.unsigned_abs(), time.nanoseconds)
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests;
