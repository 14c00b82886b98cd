//! An inode as a container sees it and a layer can say it, whatever form its tree is kept in.
//!
//! The same inode reads the same everywhere: overlayfs's own attributes are no part of a tree, escaped ones are what the container
//! set, what the host or a file system adds by itself is passed over, and a file capability has one form. What differs is in `compare`.

use std::os::fd::AsFd;

use crate::entry::capability::FileCapability;
use crate::entry::{Attributes, Xattrs};
use crate::error::Result;
use crate::sys::{Stat, inode, xattr};
use crate::whiteout::XattrStyle;

/// How a directory keeps its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the container sees it: a plain tree, or a mounted overlay.
    Plain,
    /// A raw upperdir, whose markers and attributes are overlayfs's.
    Overlay(XattrStyle),
}

/// Attributes, with the names of those that no layer may carry.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) attributes: Attributes,
    pub(crate) left_out: Vec<Vec<u8>>,
}

/// Reads what an inode carries.
pub(crate) fn read(fd: impl AsFd, form: Form) -> Result<Seen> {
    let stat = inode::stat(&fd)?;
    read_with(fd, &stat, form)
}

/// The same of an inode that was described already.
pub(super) fn read_with(fd: impl AsFd, stat: &Stat, form: Form) -> Result<Seen> {
    // Every copied-up file says where it came from: that is not even read.
    let counts = |name: &[u8]| plain_name(name, form).is_some_and(|name| !matches!(fate(&name), Fate::Foreign));
    let &Stat { mode, uid, gid, mtime, .. } = stat;
    Ok(see(Attributes { mode, uid, gid, mtime, xattrs: xattr::those(fd, &counts)? }, form))
}

/// The name of an attribute as the container sees it; `None` for overlayfs's own.
fn plain_name(name: &[u8], form: Form) -> Option<Vec<u8>> {
    match form {
        Form::Plain => Some(name.to_vec()),
        Form::Overlay(style) => style.unescape(name),
    }
}

/// Turns attributes as they stand on the disk into those that the container sees. For [`Form::Plain`] doing it again changes nothing.
pub(crate) fn see(attributes: Attributes, form: Form) -> Seen {
    let mut xattrs = Xattrs::new();
    let mut left_out = Vec::new();
    for (name, value) in attributes.xattrs {
        let Some(name) = plain_name(&name, form) else { continue };
        match fate(&name) {
            Fate::Kept => {
                let value = if name == b"security.capability" { plain_capability(value) } else { value };
                xattrs.insert(name, value);
            }
            Fate::LeftOut => left_out.push(name),
            Fate::Foreign => {}
        }
    }
    Seen { attributes: Attributes { xattrs, ..attributes }, left_out }
}

enum Fate {
    Kept,
    /// Somebody set it, and no layer may carry it (SEMANTICS §4): reported.
    LeftOut,
    /// The host gives it to every inode by itself, or the file system uses it as a door to its own settings.
    Foreign,
}

fn fate(name: &[u8]) -> Fate {
    let of = |prefix: &[u8]| name.starts_with(prefix);
    match name {
        b"security.selinux" => Fate::Foreign,
        // xfs lists each ACL a second time, under the name in its own format.
        b"trusted.SGI_ACL_FILE" | b"trusted.SGI_ACL_DEFAULT" => Fate::Foreign,
        b"security.ima" | b"security.evm" | b"security.apparmor" => Fate::LeftOut,
        b"system.posix_acl_access" | b"system.posix_acl_default" => Fate::Kept,
        _ if of(b"user.") || of(b"security.") || of(b"trusted.overlay.") => Fate::Kept,
        _ if of(b"trusted.") => Fate::LeftOut,
        _ => Fate::Foreign,
    }
}

/// A version 3 capability whose root id is the map's root means the same as one of version 2, which every reader knows.
fn plain_capability(value: Vec<u8>) -> Vec<u8> {
    FileCapability::parse(&value).map_or(value, |capability| capability.with_root(capability.root()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(form: Form, names: &[&str]) -> (Vec<String>, Vec<String>) {
        let xattrs = names.iter().map(|name| (name.as_bytes().to_vec(), b"v".to_vec())).collect();
        let seen = see(Attributes { xattrs, ..Attributes::implied() }, form);
        let text = |name: &Vec<u8>| String::from_utf8(name.clone()).unwrap();
        (seen.attributes.xattrs.keys().map(text).collect(), seen.left_out.iter().map(text).collect())
    }

    #[test]
    fn overlayfs_own_attributes_are_no_part_of_a_tree_and_escaped_ones_are() {
        let raw = [
            "trusted.overlay.opaque",
            "trusted.overlay.overlay.opaque",
            "trusted.overlay.overlay.overlay.x",
            "user.overlay.opaque",
            "user.a",
        ];
        let trusted = names(Form::Overlay(XattrStyle::Trusted), &raw).0;
        assert_eq!(trusted, ["trusted.overlay.opaque", "trusted.overlay.overlay.x", "user.a", "user.overlay.opaque"]);
        let user = names(Form::Overlay(XattrStyle::User), &raw).0;
        assert_eq!(
            user,
            ["trusted.overlay.opaque", "trusted.overlay.overlay.opaque", "trusted.overlay.overlay.overlay.x", "user.a"]
        );
        assert_eq!(names(Form::Plain, &raw).0.len(), 5);
    }

    #[test]
    fn what_no_layer_carries_is_left_out_and_told() {
        let raw = [
            "security.capability",
            "security.ima",
            "security.selinux",
            "btrfs.compression",
            "trusted.md5",
            "system.nfs4_acl",
            "trusted.SGI_ACL_FILE",
        ];
        let (kept, told) = names(Form::Plain, &raw);
        assert_eq!(kept, ["security.capability"]);
        assert_eq!(told, ["security.ima", "trusted.md5"]);
    }

    #[test]
    fn a_capability_of_the_maps_root_is_version_2() {
        let mut value = vec![1, 0, 0, 3];
        value.extend((0..16).map(|byte| byte + 1));
        value.extend([0; 4]);
        let plain = plain_capability(value.clone());
        assert_eq!(plain.len(), 20);
        assert_eq!(plain[..4], [1, 0, 0, 2]);
        assert_eq!(plain[4..], value[4..20]);
        assert_eq!(plain_capability(plain.clone()), plain);
        value[20] = 1;
        assert_eq!(plain_capability(value.clone()), value, "another root id is another capability");
        assert_eq!(plain_capability(vec![3]), [3]);
    }
}
