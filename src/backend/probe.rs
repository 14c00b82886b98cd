//! Which backend a new store gets: found out by really mounting, with the reason in words.
//!
//! A store keeps the backend and the style of xattrs that it was made with; [`reopen`] makes them again without trying anything.

use std::path::Path;
use std::sync::Arc;

use super::shifted::Shifted;
use super::{Backend, Copy, Overlay};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{Base, IdMap};
use crate::parallel::Parallelism;
use crate::sys::capabilities::{Scratch, explain, file_system, try_overlay};
use crate::sys::mount::Api;
use crate::sys::{Dir, namespace};
use crate::tree::Ids;
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

/// What a backend is made with.
#[derive(Debug)]
pub(crate) struct Means<'a> {
    /// The directory of trees, by its absolute path.
    pub(crate) path: &'a Path,
    /// The same, held open.
    pub(crate) trees: Dir,
    /// With how many threads it works.
    pub(crate) parallelism: Parallelism,
    /// What becomes of owners without an id.
    pub(crate) ids: Ids,
}

/// A backend, and why it is this one.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) backend: Arc<dyn Backend>,
    /// What the store records, to be given to [`reopen`]: which xattrs its layers may set, and after a space, where owners are shifted, the
    /// id map. Versions that know of no map refuse it.
    pub(crate) style: String,
    /// `overlay: mounts work with trusted. xattrs on ext4`.
    pub(crate) reason: String,
}

/// Chooses a backend for a directory of trees, which shifts owners by a map where there is one.
///
/// # Errors
/// `Unsupported` where overlayfs is wanted and cannot work here, or not with a map, with the reason; `PermissionDenied`, `NoSpace`, `Io`.
pub(crate) fn choose(wanted: Wanted, means: Means<'_>, shift: Option<&IdMap>) -> Result<Chosen> {
    let style = if namespace::is_initial() { XattrStyle::Trusted } else { XattrStyle::User };
    match (wanted, shift) {
        (Wanted::Overlay, Some(map)) => {
            return Err(Error::new(ErrorKind::Unsupported, "choose backend")
                .at(means.path)
                .because(format!("the overlay backend keeps one copy for all id maps, and does not shift owners by {map}"))
                .with_hint(
                    "mount its snapshots with the id map; or use the copy backend, where the file system has no idmapped mounts",
                ));
        }
        (_, Some(map)) => return copy(means, style, shift, format!("copy: owners are shifted by the id map {map}")),
        (Wanted::Copy, None) => return copy(means, style, None, "copy: it was asked for".to_owned()),
        (Wanted::Auto | Wanted::Overlay, None) => {}
    }
    let scratch = Scratch::new(&means.trees)?;
    let tried = try_overlay(&scratch, style == XattrStyle::User, Api::probe(&means.trees));
    let file_system = file_system(&scratch);
    drop(scratch);
    match tried {
        Ok(_) => overlay(means, style, format!("overlay: mounts work with {}. xattrs on {file_system}", name_of(style))),
        Err(error) if wanted == Wanted::Auto => copy(means, style, None, format!("copy: {}", refusal(&error, &file_system))),
        Err(error) => {
            let reason = refusal(&error, &file_system);
            let hint = match error.hint() {
                Some(hint) => hint.to_owned(),
                None => "`plywood doctor` tells what is missing; the copy backend works everywhere".to_owned(),
            };
            Err(Error::new(ErrorKind::Unsupported, "choose backend")
                .at(means.path)
                .because(reason)
                .with_hint(hint)
                .with_source(error))
        }
    }
}

/// Makes the backend of a store again.
///
/// # Errors
/// `Unsupported` where a store of root is opened in a user namespace, where its whiteouts and opaque directories mean nothing;
/// `IncompatibleFormat` for a backend or style that this version does not have; `Io`.
pub(crate) fn reopen(backend: &str, recorded: &str, means: Means<'_>) -> Result<Chosen> {
    let path = means.path;
    let unknown = |what: &str| {
        Error::new(ErrorKind::IncompatibleFormat, "open store").at(path).because(format!("this version does not know {what}"))
    };
    let (style, map) = parts(recorded);
    let style = [XattrStyle::Trusted, XattrStyle::User]
        .into_iter()
        .find(|&known| name_of(known) == style)
        .ok_or_else(|| unknown(&format!("the style {style:?} of xattrs")))?;
    let shift = map.map(str::parse::<IdMap>).transpose().map_err(|error| unknown("the style's id map").with_source(error))?;
    let reason = match &shift {
        None => format!("{backend}: the store was made with it"),
        Some(map) => format!("{backend}: the store was made with it, and shifts owners by the id map {map}"),
    };
    match backend {
        "copy" => copy(means, style, shift.as_ref(), reason),
        "overlay" if shift.is_some() => Err(unknown("an overlay backend with an id map")),
        "overlay" if style == XattrStyle::Trusted && !namespace::is_initial() => {
            Err(Error::new(ErrorKind::Unsupported, "open store")
                .at(path)
                .because("root of the host made it, with xattrs that mean nothing in a user namespace")
                .with_hint("open it as root of the host, or make a store of your own"))
        }
        "overlay" => overlay(means, style, reason),
        _ => Err(unknown(&format!("the backend {backend:?}"))),
    }
}

/// The style of a store, and its id map where it shifts owners.
fn parts(recorded: &str) -> (&str, Option<&str>) {
    recorded.split_once(' ').map_or((recorded, None), |(style, map)| (style, Some(map)))
}

/// Whether a backend shifts owners as a store of this style does, where that does.
pub(crate) fn shifts_as(recorded: &str, backend: &dyn Backend) -> bool {
    let map = parts(recorded).1;
    map.is_none() || backend.id_shift().map(ToString::to_string).as_deref() == map
}

fn overlay(means: Means<'_>, style: XattrStyle, reason: String) -> Result<Chosen> {
    let backend = Arc::new(Overlay::new(Base::new(means.path.to_owned(), means.trees)?, style)?);
    Ok(Chosen { backend, style: name_of(style).to_owned(), reason })
}

fn copy(means: Means<'_>, style: XattrStyle, shift: Option<&IdMap>, reason: String) -> Result<Chosen> {
    let copy = Copy::new(Base::new(means.path.to_owned(), means.trees)?, style).parallelism(means.parallelism);
    let name = name_of(style);
    Ok(match shift {
        None => Chosen { backend: Arc::new(copy), style: name.to_owned(), reason },
        Some(map) => {
            let backend = Arc::new(Shifted::new(copy, map.clone(), means.ids));
            Chosen { backend, style: format!("{name} {map}"), reason }
        }
    })
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

    fn means(path: &Path, trees: Dir) -> Means<'_> {
        Means { path, trees, parallelism: Parallelism::ONE, ids: Ids::Exact }
    }

    #[test]
    fn an_id_map_is_the_copy_backends_and_is_recorded() {
        let temp = tempfile::tempdir().unwrap();
        let open = || means(temp.path(), Dir::open(temp.path()).unwrap());
        let map: IdMap = "u:0:100000:10,g:0:200000:20".parse().unwrap();
        for wanted in [Wanted::Auto, Wanted::Copy] {
            let chosen = choose(wanted, open(), Some(&map)).unwrap();
            assert_eq!((chosen.backend.name(), chosen.backend.id_shift()), ("copy", Some(&map)));
            let again = reopen("copy", &chosen.style, open()).unwrap();
            assert_eq!((again.backend.id_shift(), &again.style), (Some(&map), &chosen.style));
            assert!(again.reason.contains("u:0:100000:10,g:0:200000:20") && chosen.reason.contains("u:0:100000:10,g:0:200000:20"));
        }
        let error = choose(Wanted::Overlay, open(), Some(&map)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.hint().unwrap().contains("mount its snapshots with the id map"), "{error}");
        for (backend, style) in
            [("copy", "trusted 0:1"), ("copy", "trusted "), ("copy", "0:100000:1"), ("overlay", "user 0:100000:1")]
        {
            assert_eq!(reopen(backend, style, open()).unwrap_err().kind(), ErrorKind::IncompatibleFormat, "{style}");
        }
    }

    #[test]
    fn overlay_is_chosen_where_it_works_and_made_again_with_the_same_style() {
        mounting(|place| {
            let temp = tempfile::tempdir().unwrap();
            let open = || means(temp.path(), Dir::open(temp.path()).unwrap());
            let chosen = choose(Wanted::Auto, open(), None).unwrap();
            assert_eq!((chosen.backend.name(), chosen.backend.longest_chain()), ("overlay", 499));
            let style = if place == Place::Root { "trusted" } else { "user" };
            assert_eq!(chosen.style, style);
            assert!(chosen.reason.starts_with(&format!("overlay: mounts work with {style}. xattrs on ")), "{}", chosen.reason);
            assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left of the trial");
            assert_eq!(reopen("overlay", style, open()).unwrap().style, style);
            assert_eq!(reopen("zfs", style, open()).unwrap_err().kind(), ErrorKind::IncompatibleFormat);
            assert_eq!(reopen("overlay", "", open()).unwrap_err().kind(), ErrorKind::IncompatibleFormat);
            assert_eq!(choose(Wanted::Copy, open(), None).unwrap().backend.name(), "copy");
            assert_eq!(reopen("copy", "trusted", open()).unwrap().backend.name(), "copy");
            let other = reopen("overlay", "trusted", open());
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
            let trees = || means(temp.path(), Dir::from_fd(inode::reopen(&outer.mount).unwrap()));
            let chosen = choose(Wanted::Auto, trees(), None).unwrap();
            assert_eq!(chosen.backend.name(), "copy");
            assert!(chosen.reason.starts_with("copy: overlayfs cannot be used on overlay: fsconfig"), "{}", chosen.reason);
            let error = choose(Wanted::Overlay, trees(), None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.reason().unwrap().starts_with("overlayfs cannot be used on overlay: fsconfig"), "{error}");
            assert!(error.hint().unwrap().contains("plywood doctor"));
        });
    }
}
