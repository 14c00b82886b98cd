//! SEMANTICS §4, and the forms in which an upperdir keeps what a layer says.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::stack::{OVERLAY, PLAIN, Stack, gives, runs};
use crate::apply::Form;
use crate::entry::{Change, Entry, EntryStream};
use crate::error::ErrorKind;
use crate::progress::Reason;
use crate::sys::{Dir, inode, xattr};
use crate::testing::{Layer, Tree};
use crate::tree::Ids;
use crate::whiteout::overlay::Style;

/// `user::rwx,user:7:rwx,group::r-x,mask::rwx,other::---` as an xattr.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255,
    255, 32, 0, 0, 0, 255, 255, 255, 255,
];
/// `cap_net_raw=ep`.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn reasons(form: Form, layer: &Layer) -> Vec<(String, Reason)> {
    let mut stack = Stack::new(form);
    let (_, report) = stack.apply_stream(&mut layer.stream().unwrap(), Ids::Exact).unwrap();
    report.skipped.into_iter().map(|skipped| (skipped.path, skipped.reason)).collect()
}

#[test]
fn owner_mode_xattrs_and_times_are_exact() {
    if !runs("owner_mode_xattrs_and_times_are_exact") {
        return;
    }
    gives(
        &[Layer::new()
            .file("suid", "x")
            .mode(0o6755)
            .owner(11, 12)
            .mtime(-1, 999_999_999)
            .xattr("security.capability", CAPABILITY)
            .xattr("system.posix_acl_access", ACL)
            .mode(0o6770)
            .xattr("user.empty", "")
            .xattr("user.overlay.opaque", "ordinary")
            .symlink("link", "none")
            .owner(1, 2)
            .mtime(5, 6)
            .fifo("fifo")
            .mode(0o604)
            .mtime(0, 1)
            .dir("closed", 0o0)
            .mtime(3, 4)
            .file("closed/inner", "")
            .dir("sticky", 0o3777)],
        &Tree::new()
            .file("suid", "x")
            .mode(0o6770)
            .owner(11, 12)
            .mtime(-1, 999_999_999)
            .xattr("security.capability", CAPABILITY)
            .xattr("system.posix_acl_access", ACL)
            .xattr("user.empty", "")
            .xattr("user.overlay.opaque", "ordinary")
            .symlink("link", "none")
            .owner(1, 2)
            .mtime(5, 6)
            .fifo("fifo")
            .mode(0o604)
            .mtime(0, 1)
            .dir("closed", 0o0)
            .mtime(3, 4)
            .file("closed/inner", "")
            .dir("sticky", 0o3777),
    );
}

#[test]
fn a_directory_leaks_nothing_into_its_children() {
    if !runs("a_directory_leaks_nothing_into_its_children") {
        return;
    }
    let shared = |name| Layer::new().dir(name, 0o2775).owner(0, 44).mtime(2, 3).xattr("system.posix_acl_default", ACL);
    let child = || Layer::new().file("d/file", "").mode(0o640).dir("d/dir", 0o750).file("d/implied/x", "").fifo("d/fifo");
    let tree = Tree::new()
        .dir("d", 0o2775)
        .owner(0, 44)
        .mtime(2, 3)
        .xattr("system.posix_acl_default", ACL)
        .file("d/file", "")
        .mode(0o640)
        .dir("d/dir", 0o750)
        .file("d/implied/x", "")
        .fifo("d/fifo");
    gives(&[shared("d").then(child())], &tree);
    gives(&[shared("d"), child()], &tree);
    gives(&[shared("d"), child(), child().then(shared("d"))], &tree);
    let root = shared("").then(child());
    for form in [OVERLAY, PLAIN] {
        let mut stack = Stack::new(form);
        stack.apply(&root).unwrap();
        stack.apply(&child()).unwrap();
        let found = stack.read();
        assert_eq!(found.get("").unwrap().attributes.mode, 0o2775);
        assert_eq!(found.get("d/file").unwrap().attributes.xattrs.len(), 0, "{form:?}");
    }
}

#[test]
fn a_layer_never_speaks_overlayfs_to_the_host() {
    if !runs("a_layer_never_speaks_overlayfs_to_the_host") {
        return;
    }
    let hostile = || {
        Layer::new()
            .dir("d", 0o755)
            .xattr("trusted.overlay.opaque", "y")
            .xattr("trusted.overlay.redirect", "/etc")
            .file("d/f", "")
            .xattr("trusted.overlay.overlay.metacopy", "")
    };
    // Unchanged inside the container, on both backends.
    let lower = Layer::new().file("d/lower", "");
    gives(
        &[lower.clone(), hostile()],
        &Tree::new()
            .dir("d", 0o755)
            .xattr("trusted.overlay.opaque", "y")
            .xattr("trusted.overlay.redirect", "/etc")
            .file("d/lower", "")
            .file("d/f", "")
            .xattr("trusted.overlay.overlay.metacopy", ""),
    );
    let mut stack = Stack::new(OVERLAY);
    stack.apply(&lower).unwrap();
    stack.apply(&hostile()).unwrap();
    let dir = Dir::open(stack.top().join("d")).unwrap();
    assert_eq!(xattr::get(&dir, b"trusted.overlay.opaque").unwrap(), None);
    assert_eq!(xattr::get(&dir, b"trusted.overlay.overlay.opaque").unwrap().as_deref(), Some(&b"y"[..]));
    // Where the kernel does not unescape, they are left out.
    let old = Form::Overlay { style: Style::Trusted, escapes: false };
    let forbidden = |name: &str| Reason::XattrForbidden { name: name.to_owned() };
    assert_eq!(
        reasons(old, &hostile()),
        [
            ("d".to_owned(), forbidden("trusted.overlay.opaque")),
            ("d".to_owned(), forbidden("trusted.overlay.redirect")),
            ("d/f".to_owned(), forbidden("trusted.overlay.overlay.metacopy"))
        ]
    );
}

#[test]
fn what_may_not_be_set_is_reported() {
    if !runs("what_may_not_be_set_is_reported") {
        return;
    }
    let layer = Layer::new()
        .file("f", "")
        .xattr("security.selinux", "x")
        .xattr("security.ima", "x")
        .xattr("security.evm", "x")
        .xattr("security.apparmor", "x")
        .xattr("trusted.other", "x")
        .xattr("nonsense", "x")
        .xattr("user.big", vec![b'x'; 70_000])
        .xattr("user.kept", "x")
        .symlink("l", "f")
        .xattr("user.symlink", "x");
    for form in [OVERLAY, PLAIN] {
        let found = reasons(form, &layer);
        let kinds: Vec<_> = found
            .iter()
            .map(|(path, reason)| match reason {
                Reason::XattrForbidden { name } => format!("{path} forbidden {name}"),
                Reason::XattrRefused { name, .. } => format!("{path} refused {name}"),
                other => format!("{path} {other}"),
            })
            .collect();
        let forbidden = ["security.apparmor", "security.evm", "security.ima", "security.selinux", "trusted.other"];
        let mut expected: Vec<_> = forbidden.iter().map(|name| format!("f forbidden {name}")).collect();
        expected.extend(["f refused nonsense", "f refused user.big", "l refused user.symlink"].map(str::to_owned));
        let mut sorted = kinds.clone();
        sorted.sort();
        expected.sort();
        assert_eq!(sorted, expected, "{form:?}");
        // In a user namespace overlayfs's own names are those of `user.`, and no `trusted.` is for layers.
        let (Form::Overlay { .. }, user) = (form, Form::Overlay { style: Style::User, escapes: true }) else { continue };
        let other = Layer::new().file("f", "").xattr("trusted.overlay.opaque", "y");
        assert_eq!(reasons(user, &other).len(), 1);
    }
}

#[test]
fn times_that_cannot_be_held_are_reported() {
    if !runs("times_that_cannot_be_held_are_reported") {
        return;
    }
    let far =
        Layer::new().file("f", "").mtime(1 << 40, 0).dir("d", 0o755).mtime(-(1 << 40), 0).file("fine", "").mtime(1, 123_456_789);
    let probe = {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let time = crate::entry::Timestamp::from_seconds(1 << 40);
        inode::set_times(&dir, time, time).unwrap();
        inode::stat(&dir).unwrap().mtime == time
    };
    if probe {
        return crate::sys::test_support::skip("times_that_cannot_be_held_are_reported", "this file system holds every time");
    }
    for form in [OVERLAY, PLAIN] {
        let found = reasons(form, &far);
        assert_eq!(found, [("f".to_owned(), Reason::TimeClamped), ("d".to_owned(), Reason::TimeClamped)]);
    }
}

#[test]
fn markers_become_overlayfs_forms() {
    if !runs("markers_become_overlayfs_forms") {
        return;
    }
    let mut stack = Stack::new(OVERLAY);
    let lower =
        Layer::new().file("a", "").file("b", "").dir("d", 0o711).mtime(5, 5).file("d/x", "").file("d/y", "").file("e/z", "");
    stack.apply(&lower).unwrap();
    stack.apply(&Layer::new().whiteout("a").whiteout("b").whiteout("d/x").opaque("e").whiteout("none")).unwrap();
    let stat = |path: &str| std::fs::symlink_metadata(stack.top().join(path)).unwrap();
    for path in ["a", "b", "d/x"] {
        assert!(stat(path).file_type().is_char_device() && stat(path).rdev() == 0, "{path}");
        assert_eq!(stat(path).ino(), stat("a").ino(), "one inode is enough");
    }
    assert_eq!((stat("d").mode() & 0o7777, stat("d").mtime()), (0o711, 5));
    let opaque = Dir::open(stack.top().join("e")).unwrap();
    assert_eq!(xattr::get(&opaque, b"trusted.overlay.opaque").unwrap().as_deref(), Some(&b"y"[..]));
    assert!(std::fs::symlink_metadata(stack.top().join("none")).is_err());
    assert_eq!(std::fs::read_dir(stack.top()).unwrap().count(), 4);
}

#[test]
fn holes_stay_holes() {
    if !runs("holes_stay_holes") {
        return;
    }
    let mut content = vec![0; 4 << 20];
    content[1 << 20] = 1;
    let layer = Layer::new().file("sparse", &content).hardlink("other", "sparse");
    for form in [OVERLAY, PLAIN] {
        let mut stack = Stack::new(form);
        stack.apply(&layer).unwrap();
        // The lower target is copied, holes kept.
        stack.apply(&Layer::new().hardlink("link", "sparse")).unwrap();
        for path in ["sparse", "link"] {
            let found = std::fs::metadata(stack.top().join(path)).unwrap();
            assert_eq!(found.len(), 4 << 20);
            assert!(found.blocks() * 512 < 1 << 20, "{form:?} {path}: {} blocks", found.blocks());
        }
    }
}

/// Counts restarts, and can be told to fail.
struct Watched<S> {
    stream: S,
    restarts: u32,
}

impl<S: EntryStream> EntryStream for Watched<S> {
    fn next(&mut self) -> crate::Result<Option<Entry>> {
        self.stream.next()
    }

    fn chunk(&mut self) -> crate::Result<Option<crate::entry::Chunk<'_>>> {
        self.stream.chunk()
    }

    fn restart(&mut self) -> crate::Result<()> {
        self.restarts += 1;
        self.stream.restart()
    }

    fn position(&self) -> Option<crate::entry::Position> {
        Some(crate::entry::Position { member: 7, offset: 512 })
    }
}

#[test]
fn only_a_marker_that_hides_what_was_used_restarts_and_nothing_is_reported_twice() {
    if !runs("only_a_marker_that_hides_what_was_used_restarts_and_nothing_is_reported_twice") {
        return;
    }
    let noisy = || Layer::new().dir("d", 0o755).file("f", "").xattr("trusted.no", "x");
    for (layer, restarts) in [
        (noisy().file("d/new", "").whiteout("d"), 0),
        (noisy().file("e/new", "").whiteout("d/low").whiteout("e/low"), 0),
        (noisy().file("e/new", "").whiteout("e"), 1),
        (noisy().hardlink("link", "e/low").file("e/low", "x").whiteout("e"), 1),
    ] {
        for form in [OVERLAY, PLAIN] {
            let mut stack = Stack::new(form);
            stack.apply(&Layer::new().file("d/low", "").file("e/low", "")).unwrap();
            let mut watched = Watched { stream: layer.stream().unwrap(), restarts: 0 };
            let (_, report) = stack.apply_stream(&mut watched, Ids::Exact).unwrap_or_else(|error| panic!("{error} {layer:?}"));
            assert_eq!((watched.restarts, report.total), (restarts, 1), "{form:?} {layer:?}");
        }
    }
}

#[test]
fn what_the_reader_skipped_is_in_the_report_of_a_layer_that_was_applied_twice() {
    if !runs("what_the_reader_skipped_is_in_the_report_of_a_layer_that_was_applied_twice") {
        return;
    }
    let tar = Layer::new().file(".wh..wh.aufs", "").file("e/new", "").whiteout("e").tar();
    for form in [OVERLAY, PLAIN] {
        let mut stack = Stack::new(form);
        stack.apply(&Layer::new().file("e/low", "")).unwrap();
        let cx = crate::Context::default();
        let mut watched = Watched { stream: crate::tar::MemoryLayer::new(&tar, &cx), restarts: 0 };
        stack.apply_stream_in(&mut watched, Ids::Exact, &cx).unwrap();
        assert_eq!((watched.restarts, cx.take_report().total), (1, 1), "{form:?}");
    }
}

#[test]
fn errors_name_the_entry_and_its_place() {
    if !runs("errors_name_the_entry_and_its_place") {
        return;
    }
    let mut stack = Stack::new(OVERLAY);
    let mut entries = Layer::new().char_device("dev/null", 1, 3).entries().unwrap();
    if let Change::Upsert { node, .. } = &mut entries[0].entry.change {
        *node = crate::entry::Node::CharDevice { major: 0, minor: 0 };
    }
    let mut stream = Watched { stream: crate::testing::layer::LayerStream::new(entries), restarts: 0 };
    let error = stack.apply_stream(&mut stream, Ids::Exact).unwrap_err();
    assert_eq!((error.kind(), error.path().unwrap().to_str()), (ErrorKind::InvalidLayer, Some("dev/null")));
    assert!(error.reason().unwrap().contains("member 7 at offset 512"), "{error}");
}
