//! `resolve`: which snapshot a person means.

use super::Store;
use crate::digest::ChainId;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Reader;
use crate::snapshot::Name;

/// How many candidates a message names.
const NAMED: u32 = 8;
/// The shortest prefix of a chain id that is taken as one.
const PREFIX_MIN: usize = 4;

impl Store {
    /// Which snapshot `text` names: the one of exactly this key or name; else the image of this reference, as its topmost layer; else
    /// the one imported layer whose chain id begins so (four hex digits or more, with or without `sha256:` before them).
    ///
    /// ```
    /// # let (store, _directory) = plywood::testing::temporary_store()?;
    /// # store.prepare(&plywood::snapshot::Key::new("web-1")?, None, &Default::default())?;
    /// assert_eq!(store.resolve("web-1")?.as_str(), "web-1");
    /// assert_eq!(store.resolve("web").unwrap_err().kind(), plywood::ErrorKind::NotFound);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` where a prefix fits several (the message lists them) or an image has no layers; `Io`.
    pub fn resolve(&self, text: &str) -> Result<Name> {
        let reader = self.metadata().read()?;
        if let Some(row) = reader.snapshot(text)? {
            return named(&row.name);
        }
        if let Some(image) = reader.image(text)? {
            let top = image.layers.last().ok_or_else(|| invalid(text, "the image has no layers".to_owned()))?;
            return Ok(Name::from(&top.chain_id));
        }
        by_prefix(&reader, text)
    }
}

fn by_prefix(reader: &Reader<'_>, text: &str) -> Result<Name> {
    let digits = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha512:")).unwrap_or(text);
    let is_prefix = digits.len() >= PREFIX_MIN && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let candidates = if is_prefix { reader.layers_by_prefix(text, NAMED + 1)? } else { Vec::new() };
    match candidates.as_slice() {
        [] => Err(Error::new(ErrorKind::NotFound, "resolve")
            .at(text)
            .because("there is no snapshot, no image and no layer of this name")
            .with_hint("`plywood snapshots` and `plywood images` list what is there")),
        [one] => named(one),
        several => {
            let more = if several.len() > NAMED as usize { ", …" } else { "" };
            let list = several.get(..NAMED as usize).unwrap_or(several).join(", ");
            Err(invalid(text, format!("it fits several layers: {list}{more}")))
        }
    }
}

fn named(name: &str) -> Result<Name> {
    match name.parse::<ChainId>() {
        Ok(chain_id) => Ok(Name::from(&chain_id)),
        Err(_) => Name::new(name),
    }
}

fn invalid(text: &str, reason: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, "resolve").at(text).because(reason)
}
