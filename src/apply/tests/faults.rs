//! What no parser can find wrong, and a tree does: the message says which member, where it stands, its name, and the rule.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::stack::{OVERLAY, PLAIN, Stack, forms, runs};
use crate::apply::{Place, guess, settle};
use crate::entry::{Attributes, Change, Chunk, Entry, EntryStream, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::sys::test_support::{Child, Place as Where, mounting};
use crate::sys::{Dir, Root, inode};
use crate::tar::{Limits, Reader};
use crate::testing::Layer;
use crate::tree::Ids;

/// A layer as a reader gives it, with places.
struct Tar<'a>(Reader<'a, &'a [u8]>, &'a [u8]);

impl EntryStream for Tar<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        self.0.next()
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        self.0.chunk()
    }

    fn restart(&mut self) -> Result<()> {
        self.0.rewind(self.1);
        Ok(())
    }

    fn position(&self) -> Option<crate::entry::Position> {
        self.0.position()
    }
}

#[test]
fn every_rule_of_a_tree_is_told_with_the_member_its_place_and_its_name() {
    if !runs("every_rule_of_a_tree_is_told_with_the_member_its_place_and_its_name") {
        return;
    }
    let l = Layer::new;
    let base = l().dir("deep", 0o755).dir("deep/dir", 0o755).symlink("x", "deep/dir").symlink("y", "x/..").symlink("q", ".");
    let far = "d/".repeat(1900);
    for (layer, expected) in [
        (l().fifo("f").hardlink("n\n", "deep"), r"apply entry n\n: member 2 at offset 512: the link's target deep is a directory"),
        (
            l().fifo("f").hardlink("a/n", "nowhere").fifo("g"),
            "apply entry a/n: member 2 at offset 512: the link's target nowhere is missing",
        ),
        (l().fifo("f").hardlink("f/n", "f"), "apply entry f/n: member 2 at offset 512: the link would replace its target f"),
        (l().fifo("q").file("y/q", "").fifo("b").whiteout("q/x"), ""),
        (
            l().file("y/q", "").fifo("b").whiteout("q/x"),
            "apply entry q: member 3 at offset 1024: its markers contradict each other: whether one hides something depends on \
             whether it does",
        ),
        (
            // The symlink's target is in a PAX header: a block more, and those of its content.
            l().fifo("f").symlink("s", &far).fifo(format!("s/{}/{}/x", "n".repeat(200), "m".repeat(200))),
            "through symlinks, it lands at a path of more than 4096 bytes",
        ),
    ] {
        for form in forms() {
            let mut stack = Stack::new(form);
            stack.apply(&base).unwrap();
            let (cx, bytes) = (Context::default(), layer.tar());
            let mut tar = Tar(Reader::new(&bytes, Limits::default(), &cx), &bytes);
            let applied = stack.apply_stream_in(&mut tar, Ids::Exact, &cx);
            if expected.is_empty() {
                applied.unwrap();
                continue;
            }
            let error = applied.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error}");
            let text = error.to_string();
            assert!(
                text == expected
                    || text.starts_with("apply entry s/n") && text.contains(": member 3 at offset") && text.ends_with(expected),
                "{form:?}: {text}"
            );
        }
    }
}

/// Changes that no tar can say, from somebody else's [`EntryStream`].
struct Foreign(Option<(EntryPath, Change, &'static [u8])>, bool);

impl EntryStream for Foreign {
    fn next(&mut self) -> Result<Option<Entry>> {
        Ok(if self.1 {
            None
        } else {
            self.0.as_ref().map(|(path, change, _)| Entry { path: path.clone(), change: change.clone() })
        })
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        let content = self.0.as_ref().map_or(&[][..], |(_, _, content)| content);
        Ok((!std::mem::replace(&mut self.1, true) && !content.is_empty()).then_some(Chunk { offset: 0, data: content }))
    }

    fn restart(&mut self) -> Result<()> {
        self.1 = false;
        Ok(())
    }
}

#[test]
fn what_no_tar_can_say_is_refused_of_other_streams_too() {
    if !runs("what_no_tar_can_say_is_refused_of_other_streams_too") {
        return;
    }
    let upsert = |node| Change::Upsert { node, attributes: Attributes::implied() };
    let path = |text: &str| EntryPath::parse(text).unwrap();
    for (path, change, content, expected) in [
        (EntryPath::ROOT, Change::Whiteout, &b""[..], "apply entry .: the root cannot be hidden"),
        (EntryPath::ROOT, upsert(Node::Fifo), b"", "apply entry .: the root must be a directory"),
        (
            path("n"),
            upsert(Node::Symlink { target: Vec::new() }),
            b"",
            "apply entry n: a symlink's target has 1 to 4095 bytes, no NUL",
        ),
        (
            path("n"),
            upsert(Node::CharDevice { major: 0, minor: 0 }),
            b"",
            "apply entry n: a character device 0:0 means a whiteout to overlayfs, so no layer may have one",
        ),
        (path("n"), upsert(Node::File { size: 1 }), b"two", "apply entry n: its content does not fit the size that was declared"),
        (path(&"n".repeat(256)), Change::Whiteout, b"", ": a name of 256 bytes; at most 255 can be kept"),
    ] {
        for form in forms() {
            let error =
                Stack::new(form).apply_stream(&mut Foreign(Some((path.clone(), change.clone(), content)), false), Ids::Exact);
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error}");
            assert!(error.to_string().ends_with(expected), "{error}");
        }
    }
}

/// A stream that fails at once.
struct Broken(ErrorKind);

impl EntryStream for Broken {
    fn next(&mut self) -> Result<Option<Entry>> {
        Err(Error::new(self.0, "read layer"))
    }

    fn chunk(&mut self) -> Result<Option<Chunk<'_>>> {
        Ok(None)
    }

    fn restart(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_guess_is_given_up_for_the_layers_own_faults_alone() {
    let guessed = |kind| {
        let (tree, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut fresh = || Ok(Place::new(Dir::open(tree.path())?, Dir::open(scratch.path())?));
        guess(&mut fresh, forms()[0], &mut Broken(kind), Ids::Exact, &Context::default())
    };
    assert!(guessed(ErrorKind::InvalidLayer).unwrap().is_none());
    assert_eq!(guessed(ErrorKind::Io).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn devices_are_left_out_and_reported_where_none_can_be_made() {
    mounting(|place| {
        let layer = Layer::new().file("there", "").char_device("there", 1, 3).block_device("new", 8, 0).hardlink("link", "there");
        for form in forms() {
            let mut stack = Stack::new(form);
            let (_, report) = stack.apply_stream(&mut layer.stream().unwrap(), Ids::Exact).unwrap();
            let refused: Vec<_> = report.skipped.iter().map(|skipped| (skipped.path.as_str(), &skipped.reason)).collect();
            let (refuses, device) = match place {
                Where::Root => (vec![], true),
                Where::UserNamespace => (vec![("there", &Reason::DeviceRefused), ("new", &Reason::DeviceRefused)], false),
            };
            assert_eq!(refused, refuses, "{form:?}");
            let found = |name: &str| std::fs::symlink_metadata(stack.top().join(name)).ok().map(|stat| !stat.is_file());
            assert_eq!([found("there"), found("link"), found("new")], [Some(device), Some(device), device.then_some(true)]);
        }
    });
}

#[test]
fn a_directory_that_shuts_its_owner_out_is_filled_all_the_same() {
    let work = || {
        let mut stack = Stack::new(PLAIN);
        let layer = Layer::new().dir("", 0o755).dir("none", 0).mtime(7, 0).dir("read", 0o500).mtime(8, 0).dir("none/inner", 0o100);
        let layer =
            layer.file("other", "").file("none/inner/x", "").mode(0).file("read/x", "").file("none/y", "").dir("read", 0o400);
        stack.apply_stream(&mut layer.stream().unwrap(), Ids::Squash).unwrap();
        let mut found = Vec::new();
        for name in ["none", "none/inner", "none/inner/x", "none/y", "read", "read/x"] {
            let path = stack.top().join(name);
            let stat = std::fs::symlink_metadata(&path).unwrap();
            found.push((name, stat.mode() & 0o7777, stat.mtime()));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        let usual = 1_000_000_000;
        let expected = [
            ("none", 0, 7),
            ("none/inner", 0o100, usual),
            ("none/inner/x", 0, usual),
            ("none/y", 0o644, usual),
            ("read", 0o400, usual),
            ("read/x", 0o644, usual),
        ];
        assert_eq!(found, expected);

        // A guess that is shut in like that cannot be put right.
        let dir = |name: &str| Dir::open(stack.top().join(name));
        let cx = Context::default();
        let settles = |layer: &Layer, number: usize| {
            let (tree, scratch) = (format!("tree{number}"), format!("scratch{number}"));
            [&tree, &scratch].into_iter().for_each(|name| std::fs::create_dir(stack.top().join(name)).unwrap());
            let mut fresh = || Ok(Place::new(dir(&tree)?, dir(&scratch)?));
            let mut applied = guess(&mut fresh, OVERLAY, &mut layer.stream().unwrap(), Ids::Squash, &cx).unwrap().unwrap();
            let place = Place::new(dir(&tree).unwrap(), dir(&scratch).unwrap());
            let lower = Root::new(dir("").unwrap());
            let settled = settle(place, Some(&lower), OVERLAY, &mut applied, Ids::Squash, &cx).unwrap();
            let shut = stack.top().join(tree).join("none");
            std::fs::set_permissions(shut, std::fs::Permissions::from_mode(0o700)).unwrap();
            settled
        };
        assert!(settles(&Layer::new().dir("none", 0o700).file("none/inner/z", ""), 1));
        assert!(!settles(&Layer::new().dir("none", 0).file("none/inner/z", ""), 2));
        Ok(String::new())
    };
    if inode::overrides_modes() {
        Child { user: Some(65_534), sub_ids: None }.run(work).unwrap();
    } else {
        work().unwrap();
    }
}
