//! A parent made of nothing but what it said: enough to apply the layer that asked once more, and to get the same tree.
//!
//! An inode that a link took over is a file whose size is its number; what it should be, its digest says.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::entry::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::{Dir, Root, inode, xattr};
use crate::tree::{Answer, Fact};

/// Makes in an empty directory what the facts say is there. `number` numbers what links took over.
///
/// # Errors
/// `Corrupt` for facts that contradict each other; `NoSpace`, `Io`.
pub(crate) fn restore(dir: &Dir, facts: &[Fact], number: &mut dyn FnMut(&Digest) -> u64) -> Result<()> {
    let root = Root::new(dir.try_clone()?);
    let mut made = BTreeSet::new();
    let mut dressed: Vec<(&EntryPath, &Attributes)> = Vec::new();
    // Sorted: directories come before what is in them.
    for Fact { question, answer } in facts {
        let path = &question.path;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let mut within = || make_way(&root, &parent, &mut made);
        match answer {
            Answer::Absent => Ok(()),
            Answer::Directory(attributes) => {
                dressed.extend(attributes.as_deref().map(|attributes| (path, attributes)));
                make_way(&root, path, &mut made).map(drop)
            }
            Answer::Symlink(target) => within()?.symlink(target, name),
            Answer::Other(None) => within()?.create_file(name, 0o600).map(drop),
            Answer::Other(Some(digest)) => {
                let file = within()?.create_file(name, 0o600);
                file.and_then(|file| file.set_len(number(digest)).map_err(|error| Error::io("ftruncate", error).at(path)))
            }
        }
        .map_err(|error| taken(error, path))?;
    }
    // Deepest first: whatever is made in a directory changes its time.
    for (path, attributes) in dressed.into_iter().rev() {
        let held = make_way(&root, path, &mut made)?;
        inode::set_owner(&held, attributes.uid, attributes.gid)?;
        inode::set_mode(&held, attributes.mode)?;
        attributes.xattrs.iter().try_for_each(|(name, value)| xattr::set(&held, name, value))?;
        inode::set_times(&held, attributes.mtime, attributes.mtime)?;
    }
    Ok(())
}

/// The directory at a path, made with those on the way: that a parent is one goes without saying where something was found below it.
fn make_way(root: &Root, path: &EntryPath, made: &mut BTreeSet<EntryPath>) -> Result<Dir> {
    let mut missing = Vec::new();
    let mut at = path.clone();
    while !at.is_root() && !made.contains(&at) {
        missing.push(at.clone());
        at = at.parent().unwrap_or_default();
    }
    let mut held = root.open_dir(at.as_bytes())?;
    for path in missing.into_iter().rev() {
        let name = path.file_name().unwrap_or_default();
        held = held.mkdir_open(name, 0o700).map_err(|error| taken(error, &path))?;
        made.insert(path);
    }
    Ok(held)
}

/// Of two facts, one says that something else stands there.
fn taken(error: Error, path: &EntryPath) -> Error {
    if error.kind() != ErrorKind::AlreadyExists {
        return error;
    }
    Error::new(ErrorKind::Corrupt, "check tree").at(path).because("the tree's facts contradict each other")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::answer;
    use crate::digest::Algorithm;
    use crate::entry::Timestamp;
    use crate::tree::{Detail, Question};

    fn fact(path: &str, detail: Detail, answer: Answer) -> Fact {
        Fact { question: Question { path: EntryPath::parse(path).unwrap(), detail }, answer }
    }

    fn own() -> Attributes {
        let (uid, gid) = inode::creator();
        Attributes { mode: 0o2700, uid, gid, mtime: Timestamp { seconds: -7, nanoseconds: 9 }, ..Attributes::implied() }
    }

    fn restored(facts: &[Fact]) -> (tempfile::TempDir, Result<()>, Vec<Digest>) {
        let (temp, mut taken) = (tempfile::tempdir().unwrap(), Vec::new());
        let result = restore(&Dir::open(temp.path()).unwrap(), facts, &mut |digest| {
            taken.push(digest.clone());
            40 + taken.len() as u64
        });
        (temp, result, taken)
    }

    #[test]
    fn what_is_made_of_the_answers_gives_them_again() {
        let directory = |attributes| Answer::Directory(Some(Box::new(attributes)));
        let open = Attributes { mode: 0o1777, ..own() };
        let facts = [
            // Said of no tree: the root goes without saying.
            fact("", Detail::Kind, Answer::Directory(None)),
            fact("a", Detail::Attributes, directory(open.clone())),
            fact("a/b", Detail::Attributes, directory(own())),
            fact("a/b/file", Detail::Kind, Answer::Other(None)),
            fact("a/b/gone/below", Detail::Kind, Answer::Absent),
            fact("implied/twice/deep", Detail::Kind, Answer::Directory(None)),
            fact("implied/twice/link", Detail::Kind, Answer::Symlink(b"../to\n".to_vec())),
        ];
        let (temp, result, _) = restored(&facts);
        result.unwrap();
        let questions: Vec<_> = facts.iter().map(|fact| fact.question.clone()).collect();
        let root = Root::new(Dir::open(temp.path()).unwrap());
        let again = answer(Some(&root), &questions).unwrap();
        assert_eq!(again, facts.map(|fact| fact.answer));
    }

    #[test]
    fn attributes_with_names_of_their_own_are_set() {
        let temp = tempfile::tempdir().unwrap();
        if xattr::set(Dir::open(temp.path()).unwrap(), b"user.probe", b"").is_err() {
            return crate::sys::test_support::skip("attributes_with_names_of_their_own_are_set", "needs user attributes");
        }
        let attributes = Attributes { xattrs: [(b"user.a".to_vec(), b"\0b".to_vec())].into(), ..own() };
        let (temp, result, _) = restored(&[fact("d", Detail::Attributes, Answer::Directory(Some(Box::new(attributes.clone()))))]);
        result.unwrap();
        let held = Dir::open(temp.path().join("d")).unwrap();
        assert_eq!(xattr::all(&held).unwrap(), attributes.xattrs);
        assert_eq!(inode::attributes(&held).unwrap().mode, attributes.mode);
    }

    #[test]
    fn what_a_link_took_over_is_as_long_as_its_number() {
        let digests = [b"one", b"two"].map(|bytes| Algorithm::Sha256.digest(bytes));
        let [one, two] = digests.clone().map(|digest| Answer::Other(Some(digest)));
        let (temp, result, taken) = restored(&[fact("d/one", Detail::Content, one), fact("two", Detail::Content, two)]);
        result.unwrap();
        assert_eq!(taken, digests);
        let dir = Dir::open(temp.path()).unwrap();
        let sizes = [dir.child(b"d").unwrap().stat(b"one"), dir.stat(b"two")].map(|stat| stat.unwrap().unwrap().size);
        assert_eq!(sizes, [41, 42]);
        // No file is so long.
        let facts = [fact("f", Detail::Content, Answer::Other(Some(digests[0].clone())))];
        let error = restore(&Dir::open(temp.path()).unwrap(), &facts, &mut |_| u64::MAX).unwrap_err();
        assert!(error.to_string().contains("ftruncate f: "), "{error}");
    }

    #[test]
    fn facts_that_no_tree_gives_are_damage() {
        let (kind, file) = (Detail::Kind, || Answer::Other(None));
        for (facts, at) in [
            ([fact("a", kind, file()), fact("a/b/c", kind, file())], "a"),
            ([fact("a", kind, Answer::Symlink(b".".to_vec())), fact("a/b", kind, Answer::Directory(None))], "a"),
            ([fact("a/b", kind, file()), fact("a/b", kind, Answer::Directory(None))], "a/b"),
            ([fact("a/b", kind, Answer::Directory(None)), fact("a", kind, file())], "a"),
            ([fact("a/b", kind, file()), fact("a/b", kind, Answer::Symlink(b"c".to_vec()))], "a/b"),
        ] {
            let error = restored(&facts).1.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(&format!("check tree {at}: the tree's facts contradict each other")), "{error}");
        }
        // Any other error stays what it is.
        let error = restored(&[fact(&"n".repeat(256), kind, file())]).1.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
