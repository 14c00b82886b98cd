//! PAX headers and GNU long names before a member, against a second reading of the contract (SEMANTICS §3).

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use plywood::entry::{Attributes, Change, Entry, EntryStream as _, Node, Timestamp};
use plywood::path::EntryPath;
use plywood::tar::MemoryLayer;
use plywood::{Context, ErrorKind};

use super::archives::sealed;

/// What records are made of where the bytes do not spell them out.
const KEYWORDS: [&str; 14] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "uname",
    "comment",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.user.b",
    "SCHILY.xattr.",
    "LIBARCHIVE.xattr.user.a",
    "atime",
    "",
];

/// One extension header, as it stands in the archive.
struct Extension {
    flag: u8,
    body: Vec<u8>,
}

/// A record whose length is right. Whether the rest makes sense is between the bytes and the reader.
fn record(keyword: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let length = (rest..).find(|length| rest + length.to_string().len() == *length).unwrap();
    [format!("{length} ").as_bytes(), keyword, b"=", value, b"\n"].concat()
}

/// The headers that the bytes say: choices, each with a piece of its own.
fn extensions(bytes: &mut Unstructured<'_>) -> Vec<Extension> {
    let (mut all, mut records): (Vec<Extension>, Option<Vec<u8>>) = (Vec::new(), None);
    while let Ok([choice, length]) = bytes.arbitrary::<[u8; 2]>()
        && !bytes.is_empty()
    {
        let piece = bytes.bytes(bytes.len().min(length.into())).unwrap_or_default().to_vec();
        match choice % 8 {
            0..=3 => {
                let keyword = KEYWORDS[usize::from(choice >> 3) % KEYWORDS.len()];
                records.get_or_insert_default().extend(record(keyword.as_bytes(), &piece));
            }
            4 => records.get_or_insert_default().extend(piece),
            5 => all.push(Extension { flag: b'L', body: piece }),
            6 => all.push(Extension { flag: b'K', body: piece }),
            _ => all.extend(records.take().map(|body| Extension { flag: if choice & 8 == 0 { b'x' } else { b'g' }, body })),
        }
    }
    all.extend(records.map(|body| Extension { flag: b'x', body }));
    all
}

/// The records of a body; `None` where one is malformed.
fn parse(mut body: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let space = body.iter().position(|&byte| byte == b' ')?;
        let length: usize = number(&body[..space])?.try_into().ok()?;
        let record = body.get(..length)?.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let keyword = &record[..equals];
        if keyword.is_empty() || keyword.contains(&0) {
            return None;
        }
        records.push((keyword.to_vec(), record[equals + 1..].to_vec()));
        body = &body[length..];
    }
    Some(records)
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = digits.then(|| std::str::from_utf8(text).unwrap().parse::<u64>().ok())??;
    i64::try_from(number).is_ok().then_some(number)
}

fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let significant = whole.trim_start_matches('0');
    let whole: i128 = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    let nanoseconds: i128 = format!("{fraction:0<9}")[..9].parse().ok()?;
    let all = whole.checked_mul(1_000_000_000)?.checked_add(nanoseconds)?;
    let all = if negative { -all } else { all };
    let seconds = i64::try_from(all.div_euclid(1_000_000_000)).ok()?;
    Some(Timestamp { seconds, nanoseconds: all.rem_euclid(1_000_000_000).try_into().ok()? })
}

/// What the contract makes of the headers and the member `name` after them, whose own link is `target`; `None` where it refuses them.
fn expected(all: &[Extension], flag: u8) -> Option<Entry> {
    let (mut pax, mut long_name, mut long_link) = (None, None, None);
    for Extension { flag, body } in all {
        match flag {
            b'x' => {
                let mut last: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
                for (keyword, value) in parse(body)? {
                    if matches!(keyword.as_slice(), b"path" | b"linkpath" | b"uname" | b"gname") && value.contains(&0) {
                        return None;
                    }
                    last.insert(keyword, value);
                }
                if pax.replace(last).is_some() {
                    return None;
                }
            }
            b'g' => {
                let before_it = pax.is_some() || long_name.is_some() || long_link.is_some();
                let matters = |keyword: &[u8]| {
                    [&b"path"[..], b"linkpath", b"size", b"uid", b"gid", b"mtime"].contains(&keyword)
                        || keyword.starts_with(b"SCHILY.")
                        || keyword.starts_with(b"GNU.")
                };
                if before_it || parse(body)?.iter().any(|(keyword, _)| matters(keyword)) {
                    return None;
                }
            }
            _ => {
                let name = body.split(|&byte| byte == 0).next().filter(|name| !name.is_empty())?.to_vec();
                if if *flag == b'L' { &mut long_name } else { &mut long_link }.replace(name).is_some() {
                    return None;
                }
            }
        }
    }
    let pax = pax.unwrap_or_default();
    let given = |keyword: &str| pax.get(keyword.as_bytes()).filter(|value| !value.is_empty());
    let one_of = |long: Option<Vec<u8>>, record: Option<&Vec<u8>>, own: &[u8]| match (long, record) {
        (Some(_), Some(_)) => None,
        (Some(name), None) => Some(name),
        (None, record) => Some(record.cloned().unwrap_or_else(|| own.to_vec())),
    };
    let name = one_of(long_name, given("path"), b"name")?;
    let link = one_of(long_link, given("linkpath"), b"target")?;
    let decimal = |keyword, otherwise| given(keyword).map_or(Some(otherwise), |value| number(value));
    let (size, uid, gid) = (decimal("size", 0)?, decimal("uid", 1)?, decimal("gid", 2)?);
    let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
    let mtime = given("mtime").map_or(Some(Timestamp::from_seconds(8)), |value| time(value))?;
    // The archive ends after the member.
    if size > 0 || pax.contains_key(&b"SCHILY.xattr."[..]) {
        return None;
    }
    let xattrs = pax.iter().filter_map(|(keyword, value)| Some((keyword.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone())));
    let attributes = Attributes { mode: 0o644, uid: id(uid)?, gid: id(gid)?, mtime, xattrs: xattrs.collect() };
    let path = EntryPath::parse(&name).ok()?;
    if path.components().any(|component| component.len() > 255) {
        return None;
    }
    let node = match flag {
        b'0' if name.ends_with(b"/") || path.is_root() => return None,
        b'0' => Node::File { size },
        b'1' => Node::Hardlink { target: EntryPath::parse(&link).ok().filter(|target| !target.is_root())? },
        b'2' if path.is_root() || link.is_empty() => return None,
        b'2' => Node::Symlink { target: link },
        _ => Node::Directory,
    };
    if let Node::Hardlink { target } = &node
        && (path.is_root() || target.components().any(|component| component.len() > 255))
    {
        return None;
    }
    Some(Entry { path, change: Change::Upsert { node, attributes } })
}

/// Extension headers and a member: read as the contract says, or refused where it refuses them.
pub(crate) fn tar_extensions(data: &[u8]) -> bool {
    let mut bytes = Unstructured::new(data);
    let flag = [b'0', b'1', b'2', b'5'][usize::from(bytes.arbitrary::<u8>().unwrap_or_default()) % 4];
    let all = extensions(&mut bytes);
    // What these mean, other targets ask.
    let beyond =
        |piece: &[u8]| [&b".wh."[..], b"GNU.sparse.", b"SCHILY.dev", b"SCHILY.realsize"].iter().any(|word| contains(piece, word));
    if all.iter().any(|extension| beyond(&extension.body)) {
        return false;
    }
    let mut archive = Vec::new();
    for Extension { flag, body } in &all {
        archive.extend(sealed(|block| {
            block.as_old_mut().linkflag = [*flag];
            block.set_size(body.len() as u64);
        }));
        archive.extend(body);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend(sealed(|block| {
        let old = block.as_old_mut();
        old.name[..4].copy_from_slice(b"name");
        old.linkname[..6].copy_from_slice(b"target");
        old.linkflag = [flag];
        block.set_mode(0o644);
        block.set_uid(1);
        block.set_gid(2);
        block.set_mtime(8);
    }));
    let cx = Context::default();
    let mut layer = MemoryLayer::new(&archive, &cx);
    let entry = layer.next().and_then(|entry| layer.next().map(|end| (entry, end)));
    match (expected(&all, flag), entry) {
        (Some(expected), Ok((found, end))) => {
            assert_eq!((found, end), (Some(expected), None));
            true
        }
        (None, Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::InvalidLayer);
            false
        }
        (expected, found) => panic!("{found:?}, expected {expected:?}"),
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
