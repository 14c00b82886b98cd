//! What no parser can find wrong, and a tree does: the message says which member, where it stands, its name, and the rule.

use super::stack::{Stack, forms, runs};
use crate::entry::{Attributes, Change, Chunk, Entry, EntryStream, Node};
use crate::error::{ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::Context;
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
