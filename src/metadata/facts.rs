//! How a tree's parent facts are kept in one column: compact, because a layer may ask a hundred thousand questions.
//!
//! A version byte, then fact after fact. Each is: how many bytes its path shares with the one before, how many follow, these; a byte
//! for the detail; a byte for the answer, with a length and bytes where it has more to say. Numbers are LEB128. Pure: bytes in, bytes
//! out; what is read was perhaps not written by us.

use std::str::FromStr as _;

use super::corrupt;
use crate::digest::Digest;
use crate::entry::Attributes;
use crate::error::Result;
use crate::path::EntryPath;
use crate::tree::{Answer, Detail, Fact, Question};

const VERSION: u8 = 1;

/// The column's bytes.
pub(super) fn encode(facts: &[Fact]) -> Vec<u8> {
    let mut out = vec![VERSION];
    let mut before: &[u8] = &[];
    for Fact { question, answer } in facts {
        let path = question.path.as_bytes();
        let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
        number(&mut out, shared);
        bytes(&mut out, path.get(shared..).unwrap_or_default());
        out.push(match question.detail {
            Detail::Kind => 0,
            Detail::Attributes => 1,
            Detail::Content => 2,
        });
        match answer {
            Answer::Absent => out.push(0),
            Answer::Directory(None) => out.push(1),
            Answer::Directory(Some(attributes)) => {
                out.push(2);
                // Serialising these plain fields cannot fail.
                bytes(&mut out, &serde_json::to_vec(attributes).unwrap_or_default());
            }
            Answer::Symlink(target) => {
                out.push(3);
                bytes(&mut out, target);
            }
            Answer::Other(None) => out.push(4),
            Answer::Other(Some(digest)) => {
                out.push(5);
                bytes(&mut out, digest.to_string().as_bytes());
            }
        }
        before = path;
    }
    out
}

/// The facts.
///
/// # Errors
/// `Corrupt`.
pub(super) fn decode(column: &[u8]) -> Result<Vec<Fact>> {
    let mut input = Input(column);
    if input.byte()? != VERSION {
        return Err(broken());
    }
    let mut facts = Vec::new();
    let mut path = Vec::new();
    while !input.0.is_empty() {
        let shared = input.number()?;
        if shared > path.len() {
            return Err(broken());
        }
        path.truncate(shared);
        path.extend_from_slice(input.bytes()?);
        let detail = match input.byte()? {
            0 => Detail::Kind,
            1 => Detail::Attributes,
            2 => Detail::Content,
            _ => return Err(broken()),
        };
        let answer = match input.byte()? {
            0 => Answer::Absent,
            1 => Answer::Directory(None),
            2 => Answer::Directory(Some(Box::new(
                serde_json::from_slice::<Attributes>(input.bytes()?).map_err(|error| broken().with_source(error))?,
            ))),
            3 => Answer::Symlink(input.bytes()?.to_vec()),
            4 => Answer::Other(None),
            5 => {
                let text = std::str::from_utf8(input.bytes()?).map_err(|error| broken().with_source(error))?;
                Answer::Other(Some(Digest::from_str(text).map_err(|error| broken().with_source(error))?))
            }
            _ => return Err(broken()),
        };
        let path = EntryPath::parse(&path).map_err(|error| broken().with_source(error))?;
        facts.push(Fact { question: Question { path, detail }, answer });
    }
    Ok(facts)
}

fn broken() -> crate::Error {
    corrupt("a tree's facts cannot be read")
}

fn number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        // Masked to seven bits.
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len());
    out.extend_from_slice(bytes);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8> {
        let (&first, rest) = self.0.split_first().ok_or_else(broken)?;
        self.0 = rest;
        Ok(first)
    }

    fn number(&mut self) -> Result<usize> {
        let mut number = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(broken())
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(broken)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    fn fact(path: &str, detail: Detail, answer: Answer) -> Fact {
        Fact { question: Question { path: EntryPath::parse(path).unwrap(), detail }, answer }
    }

    fn every_kind() -> Vec<Fact> {
        let attributes = Attributes { xattrs: [(b"user.\xff".to_vec(), b"\0".to_vec())].into(), ..Attributes::implied() };
        vec![
            fact("", Detail::Kind, Answer::Directory(None)),
            fact("usr", Detail::Attributes, Answer::Directory(Some(Box::new(attributes)))),
            fact("usr/bin", Detail::Kind, Answer::Symlink(b"../\xfe".to_vec())),
            fact("usr/bin/sh", Detail::Kind, Answer::Absent),
            fact("usr/lib", Detail::Content, Answer::Other(Some(Algorithm::Sha512.digest(b"x")))),
            fact(&"v/".repeat(400), Detail::Kind, Answer::Other(None)),
        ]
    }

    #[test]
    fn facts_come_back_as_they_were() {
        for facts in [vec![], every_kind()] {
            assert_eq!(decode(&encode(&facts)).unwrap(), facts);
        }
    }

    #[test]
    fn neighbours_take_a_few_bytes() {
        let facts: Vec<_> =
            (1000..2000).map(|n| fact(&format!("opt/app/node_modules/{n}"), Detail::Kind, Answer::Absent)).collect();
        assert!(encode(&facts).len() < 8 * facts.len());
    }

    #[test]
    fn what_was_cut_or_changed_is_an_error_or_other_facts_never_a_panic() {
        let whole = encode(&every_kind());
        for length in 0..whole.len() {
            let _ = decode(&whole[..length]);
        }
        for position in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[position] ^= 1 << bit;
                let _ = decode(&changed);
            }
        }
        assert_eq!(decode(&[]).unwrap_err().kind(), crate::ErrorKind::Corrupt);
        assert_eq!(decode(&whole[..whole.len() - 1]).unwrap_err().kind(), crate::ErrorKind::Corrupt);
    }
}
