//! containerd's keys and names in the store: any string, behind a prefix of their own.
//!
//! The prefix keeps them apart from what others have in the store, and lets containerd commit under chain ids (`sha256:…`), which the
//! store gives to nothing that it has not verified itself. It is all that is added, so nothing can collide, and what is read is what was
//! written.

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Key, Name};

/// Before everything that containerd calls something.
pub(super) const PREFIX: &str = "containerd:";

/// A key in the store.
pub(super) fn key(text: &str) -> Result<Key> {
    Key::new(stored(text)?)
}

/// A name in the store.
pub(super) fn name(text: &str) -> Result<Name> {
    Name::new(stored(text)?)
}

/// A key or a name in the store, for verbs that take either.
pub(super) fn stored(text: &str) -> Result<String> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "name a snapshot").because("the key or name is empty"));
    }
    Ok(format!("{PREFIX}{text}"))
}

/// What containerd calls it; `None` for what is not containerd's.
pub(super) fn shown(stored: &str) -> Option<&str> {
    stored.strip_prefix(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chain_ids_and_the_prefix_itself_are_names_like_others() {
        for text in ["sha256:0123", &format!("sha256:{}", "0".repeat(64)), PREFIX, "containerd:containerd:x", "/a/b", " "] {
            assert_eq!(shown(name(text).unwrap().as_str()), Some(text));
        }
    }

    #[test]
    fn what_the_store_takes_for_no_name_is_an_invalid_argument() {
        for text in ["", "a\0b", &"x".repeat(5000)] {
            assert_eq!(key(text).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    proptest! {
        #[test]
        fn two_keys_never_share_a_place(one in "\\PC{1,40}", other in "\\PC{1,40}") {
            let (one_stored, other_stored) = (stored(&one).unwrap(), stored(&other).unwrap());
            prop_assert_eq!(one == other, one_stored == other_stored);
            prop_assert_eq!(shown(&one_stored), Some(one.as_str()));
        }
    }
}
