//! Which backend a new store gets: found out by really mounting, with the reason in words.
//!
//! A store keeps the backend and the style of xattrs that it was made with; [`reopen`] makes them again without trying anything.

use std::path::Path;
use std::sync::Arc;

use super::{Backend, Copy, Overlay};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::Base;
use crate::parallel::Parallelism;
use crate::sys::capabilities::{Scratch, explain, file_system, try_overlay};
use crate::sys::mount::Api;
use crate::sys::{Dir, namespace};
use crate::whiteout::XattrStyle;

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The best that works here.
    Auto,
    /// Kernel overlayfs, or an error.
    Overlay,
    /// Whole copies.
    Copy,
}

/// A backend, and why it is this one.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) backend: Arc<dyn Backend>,
    /// What the store records, to be given to [`reopen`]: which xattrs its layers may set.
    pub(crate) style: &'static str,
    /// `overlay: mounts work with trusted. xattrs on ext4`.
    pub(crate) reason: String,
}

/// Chooses a backend for a directory of trees, by its absolute path and held open, that works with so many threads.
///
/// # Errors
/// `Unsupported` where overlayfs is wanted and cannot work here, with the reason; `PermissionDenied`, `NoSpace`, `Io`.
pub(crate) fn choose(wanted: Wanted, path: &Path, trees: Dir, parallelism: Parallelism) -> Result<Chosen> {
    let style = if namespace::is_initial() { XattrStyle::Trusted } else { XattrStyle::User };
    if wanted == Wanted::Copy {
        return copy(path, trees, style, parallelism, "copy: it was asked for".to_owned());
    }
    let scratch = Scratch::new(&trees)?;
    let tried = try_overlay(&scratch, style == XattrStyle::User, Api::probe(&trees));
    let file_system = file_system(&scratch);
    drop(scratch);
    match tried {
        Ok(_) => overlay(path, trees, style, format!("overlay: mounts work with {}. xattrs on {file_system}", name_of(style))),
        Err(error) if wanted == Wanted::Auto => {
            copy(path, trees, style, parallelism, format!("copy: {}", refusal(&error, &file_system)))
        }
        Err(error) => {
            let reason = refusal(&error, &file_system);
            let hint = match error.hint() {
                Some(hint) => hint.to_owned(),
                None => "`plywood doctor` tells what is missing; the copy backend works everywhere".to_owned(),
            };
            Err(Error::new(ErrorKind::Unsupported, "choose backend").at(path).because(reason).with_hint(hint).with_source(error))
        }
    }
}

/// Makes the backend of a store again.
///
/// # Errors
/// `Unsupported` where a store of root is opened in a user namespace, where its whiteouts and opaque directories mean nothing;
/// `IncompatibleFormat` for a backend or style that this version does not have; `Io`.
pub(crate) fn reopen(backend: &str, style: &str, path: &Path, trees: Dir, parallelism: Parallelism) -> Result<Chosen> {
    let unknown = |what: &str| {
        Error::new(ErrorKind::IncompatibleFormat, "open store").at(path).because(format!("this version does not know {what}"))
    };
    let style = [XattrStyle::Trusted, XattrStyle::User]
        .into_iter()
        .find(|&known| name_of(known) == style)
        .ok_or_else(|| unknown(&format!("the style {style:?} of xattrs")))?;
    let reason = format!("{backend}: the store was made with it");
    match backend {
        "copy" => copy(path, trees, style, parallelism, reason),
        "overlay" if style == XattrStyle::Trusted && !namespace::is_initial() => {
            Err(Error::new(ErrorKind::Unsupported, "open store")
                .at(path)
                .because("root of the host made it, with xattrs that mean nothing in a user namespace")
                .with_hint("open it as root of the host, or make a store of your own"))
        }
        "overlay" => overlay(path, trees, style, reason),
        _ => Err(unknown(&format!("the backend {backend:?}"))),
    }
}

fn overlay(path: &Path, trees: Dir, style: XattrStyle, reason: String) -> Result<Chosen> {
    let backend = Arc::new(Overlay::new(Base::new(path.to_owned(), trees)?, style)?);
    Ok(Chosen { backend, style: name_of(style), reason })
}

fn copy(path: &Path, trees: Dir, style: XattrStyle, parallelism: Parallelism, reason: String) -> Result<Chosen> {
    let backend = Arc::new(Copy::new(Base::new(path.to_owned(), trees)?, style).parallelism(parallelism));
    Ok(Chosen { backend, style: name_of(style), reason })
}

fn refusal(error: &Error, file_system: &str) -> String {
    format!("overlayfs cannot be used on {file_system}: {}", explain(error))
}

const fn name_of(style: XattrStyle) -> &'static str {
    match style {
        XattrStyle::Trusted => "trusted",
        XattrStyle::User => "user",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::inode;
    use crate::sys::test_support::{Place, mounting, mounting_as_root};

    #[test]
    fn overlay_is_chosen_where_it_works_and_made_again_with_the_same_style() {
        mounting(|place| {
            let temp = tempfile::tempdir().unwrap();
            let open = || Dir::open(temp.path()).unwrap();
            let chosen = choose(Wanted::Auto, temp.path(), open(), Parallelism::ONE).unwrap();
            assert_eq!((chosen.backend.name(), chosen.backend.longest_chain()), ("overlay", 499));
            let style = if place == Place::Root { "trusted" } else { "user" };
            assert_eq!(chosen.style, style);
            assert!(chosen.reason.starts_with(&format!("overlay: mounts work with {style}. xattrs on ")), "{}", chosen.reason);
            assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left of the trial");
            assert_eq!(reopen("overlay", style, temp.path(), open(), Parallelism::ONE).unwrap().style, style);
            assert_eq!(
                reopen("zfs", style, temp.path(), open(), Parallelism::ONE).unwrap_err().kind(),
                ErrorKind::IncompatibleFormat
            );
            assert_eq!(
                reopen("overlay", "", temp.path(), open(), Parallelism::ONE).unwrap_err().kind(),
                ErrorKind::IncompatibleFormat
            );
            assert_eq!(choose(Wanted::Copy, temp.path(), open(), Parallelism::ONE).unwrap().backend.name(), "copy");
            assert_eq!(reopen("copy", "trusted", temp.path(), open(), Parallelism::ONE).unwrap().backend.name(), "copy");
            let other = reopen("overlay", "trusted", temp.path(), open(), Parallelism::ONE);
            assert_eq!(other.is_ok(), place == Place::Root, "{other:?}");
        });
    }

    #[test]
    fn where_overlay_does_not_work_the_reason_is_told() {
        mounting_as_root(|_| {
            let temp = tempfile::tempdir().unwrap();
            let dir = Dir::open(temp.path()).unwrap();
            let scratch = Scratch::new(&dir).unwrap();
            let outer = try_overlay(&scratch, false, Api::probe(&dir)).unwrap();
            let trees = || Dir::from_fd(inode::reopen(&outer.mount).unwrap());
            let chosen = choose(Wanted::Auto, temp.path(), trees(), Parallelism::ONE).unwrap();
            assert_eq!(chosen.backend.name(), "copy");
            assert!(chosen.reason.starts_with("copy: overlayfs cannot be used on overlay: fsconfig"), "{}", chosen.reason);
            let error = choose(Wanted::Overlay, temp.path(), trees(), Parallelism::ONE).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.reason().unwrap().starts_with("overlayfs cannot be used on overlay: fsconfig"), "{error}");
            assert!(error.hint().unwrap().contains("plywood doctor"));
        });
    }
}
