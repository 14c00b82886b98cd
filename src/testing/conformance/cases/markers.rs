//! Whiteouts and opaque markers: rules 1, 3, 4 and 5 of the tree rule.

use crate::testing::conformance::Case;
use crate::testing::{Layer, Tree};

pub(super) fn cases() -> Vec<Case> {
    [same_layer(), whiteouts(), opaque(), parents_of_markers()].concat()
}

/// A layer with `d` (0700, owner 5:6) and `d/old` in it.
fn directory() -> Layer {
    Layer::new().dir("d", 0o700).owner(5, 6).file("d/old", "old")
}

fn same_layer() -> Vec<Case> {
    vec![
        Case::new("1.1", "an entry after the whiteout of its name")
            .layer(Layer::new().file("a", "old").file("b", ""))
            .layer(Layer::new().whiteout("a").file("a", "new"))
            .gives(Tree::new().file("a", "new").file("b", "")),
        Case::new("1.1", "an entry before the whiteout of its name")
            .layer(Layer::new().file("a", "old").file("b", ""))
            .layer(Layer::new().file("a", "new").whiteout("a"))
            .gives(Tree::new().file("a", "new").file("b", "")),
        Case::new("1.1", "a name that only this layer has, and its whiteout")
            .layer(Layer::new().file("b", ""))
            .layer(Layer::new().file("a", "new").whiteout("a"))
            .gives(Tree::new().file("a", "new").file("b", "")),
        Case::new("1.1", "a hidden file becomes a directory")
            .layer(Layer::new().file("a", "old"))
            .layer(Layer::new().dir("a", 0o700).whiteout("a").file("a/b", ""))
            .gives(Tree::new().dir("a", 0o700).file("a/b", "")),
        Case::new("1.1", "a hidden directory is no parent for entries before the marker")
            .layer(directory())
            .layer(Layer::new().file("d/new", "new").whiteout("d"))
            .gives(Tree::new().implied("d").file("d/new", "new")),
        Case::new("1.1", "a hidden symlink is not followed by entries before the marker")
            .layer(Layer::new().dir("usr/lib", 0o755).file("usr/lib/a", "a").symlink("lib", "usr/lib"))
            .layer(Layer::new().file("lib/x", "x").whiteout("lib"))
            .gives(Tree::new().implied("usr").dir("usr/lib", 0o755).file("usr/lib/a", "a").implied("lib").file("lib/x", "x")),
        Case::new("1.1", "a link to what the layer hides has no target")
            .layer(Layer::new().file("a", "old"))
            .layer(Layer::new().hardlink("b", "a").whiteout("a"))
            .refused(),
        Case::new("1.1", "a link to what the layer hides and makes again gets the new one")
            .layer(Layer::new().file("a", "old"))
            .layer(Layer::new().hardlink("b", "a").whiteout("a").file("a", "new"))
            .gives(Tree::new().file("a", "new").hardlink("b", "a")),
        Case::new("1.1", "a marker at the end changes where many entries went")
            .layer(Layer::new().dir("usr/lib", 0o750).symlink("lib", "usr/lib").symlink("lib64", "lib"))
            .layer(Layer::new().file("lib64/x", "x").dir("lib/sub", 0o700).hardlink("lib/y", "lib64/x").whiteout("lib"))
            .gives(
                Tree::new()
                    .implied("usr")
                    .dir("usr/lib", 0o750)
                    .symlink("lib64", "lib")
                    .implied("lib")
                    .file("lib/x", "x")
                    .dir("lib/sub", 0o700)
                    .hardlink("lib/y", "lib/x"),
            ),
    ]
}

fn whiteouts() -> Vec<Case> {
    vec![
        Case::new("1.3", "a whiteout hides a file")
            .layer(Layer::new().file("a", "").file("b", ""))
            .layer(Layer::new().whiteout("a"))
            .gives(Tree::new().file("b", "")),
        Case::new("1.3", "a whiteout hides a directory and all below")
            .layer(Layer::new().dir("d/e/f", 0o755).file("d/e/f/g", "").file("b", ""))
            .layer(Layer::new().whiteout("d"))
            .gives(Tree::new().file("b", "")),
        Case::new("1.3", "a whiteout hides any type")
            .layer(Layer::new().fifo("p").symlink("s", "b").symlink("broken", "nowhere").dir("d", 0o755).file("b", ""))
            .layer(Layer::new().whiteout("p").whiteout("s").whiteout("broken").whiteout("d"))
            .gives(Tree::new().file("b", "")),
        Case::new("1.3", "a whiteout and the directory made again")
            .layer(directory())
            .layer(Layer::new().whiteout("d").dir("d", 0o755).file("d/new", "new"))
            .gives(Tree::new().dir("d", 0o755).file("d/new", "new")),
        Case::new("1.3", "the directory made again and its whiteout")
            .layer(directory())
            .layer(Layer::new().dir("d", 0o755).file("d/new", "new").whiteout("d"))
            .gives(Tree::new().dir("d", 0o755).file("d/new", "new")),
        Case::new("1.3", "a directory that is hidden and implied is new")
            .layer(directory())
            .layer(Layer::new().whiteout("d").file("d/new", "new"))
            .gives(Tree::new().implied("d").file("d/new", "new")),
        Case::new("1.3", "directories below a hidden one are new as well")
            .layer(Layer::new().dir("d", 0o700).dir("d/sub", 0o700).file("d/sub/old", ""))
            .layer(Layer::new().whiteout("d").file("d/sub/new", ""))
            .gives(Tree::new().implied("d").implied("d/sub").file("d/sub/new", "")),
        Case::new("1.3", "only a subdirectory is hidden and made again")
            .layer(Layer::new().dir("d", 0o700).file("d/keep", "").dir("d/sub", 0o700).file("d/sub/old", ""))
            .layer(Layer::new().dir("d/sub", 0o711).file("d/sub/new", "").whiteout("d/sub"))
            .gives(Tree::new().dir("d", 0o700).file("d/keep", "").dir("d/sub", 0o711).file("d/sub/new", "")),
        Case::new("1.3", "hidden by one layer and made by the next is empty")
            .layer(directory())
            .layer(Layer::new().whiteout("d"))
            .layer(Layer::new().dir("d", 0o755))
            .gives(Tree::new().dir("d", 0o755)),
        Case::new("1.3", "hidden by one layer and implied by the next is new")
            .layer(directory())
            .layer(Layer::new().whiteout("d"))
            .layer(Layer::new().file("d/new", ""))
            .gives(Tree::new().implied("d").file("d/new", "")),
        Case::new("1.3", "what a middle layer made anew stays apart from what lay below")
            .layer(directory())
            .layer(Layer::new().whiteout("d").dir("d", 0o755).file("d/middle", ""))
            .layer(Layer::new().file("d/top", ""))
            .gives(Tree::new().dir("d", 0o755).file("d/middle", "").file("d/top", "")),
        Case::new("1.3", "hidden, made, hidden, made")
            .layer(Layer::new().file("a", "1"))
            .layer(Layer::new().whiteout("a"))
            .layer(Layer::new().file("a", "2"))
            .layer(Layer::new().whiteout("a"))
            .layer(Layer::new().fifo("a"))
            .gives(Tree::new().fifo("a")),
        Case::new("1.3", "a whiteout hides what a middle layer added to a directory, the rest stays")
            .layer(Layer::new().dir("d", 0o755).file("d/a", "a"))
            .layer(Layer::new().file("d/b", "b"))
            .layer(Layer::new().whiteout("d/b"))
            .gives(Tree::new().dir("d", 0o755).file("d/a", "a")),
        Case::new("1.3", "a name of a hardlink group is hidden, the others stay")
            .layer(Layer::new().file("a", "x").hardlink("b", "a").hardlink("c", "a"))
            .layer(Layer::new().whiteout("a"))
            .gives(Tree::new().file("b", "x").hardlink("c", "b")),
    ]
}

fn opaque() -> Vec<Case> {
    vec![
        Case::new("1.4", "an opaque directory with an entry of its own")
            .layer(directory())
            .layer(Layer::new().dir("d", 0o755).opaque("d").file("d/new", "new"))
            .gives(Tree::new().dir("d", 0o755).file("d/new", "new")),
        Case::new("1.4", "an opaque marker after the entries")
            .layer(directory())
            .layer(Layer::new().dir("d", 0o755).file("d/new", "new").opaque("d"))
            .gives(Tree::new().dir("d", 0o755).file("d/new", "new")),
        Case::new("1.4", "an opaque directory without an entry keeps its lower attributes")
            .layer(directory())
            .layer(Layer::new().opaque("d"))
            .gives(Tree::new().dir("d", 0o700).owner(5, 6)),
        Case::new("1.4", "an opaque directory without an entry, and something new in it")
            .layer(directory())
            .layer(Layer::new().file("d/new", "").opaque("d"))
            .gives(Tree::new().dir("d", 0o700).owner(5, 6).file("d/new", "")),
        Case::new("1.4", "an explicit subdirectory of an opaque one is new")
            .layer(Layer::new().dir("d", 0o755).dir("d/sub", 0o700).file("d/sub/old", ""))
            .layer(Layer::new().dir("d/sub", 0o711).file("d/sub/new", "").opaque("d"))
            .gives(Tree::new().dir("d", 0o755).dir("d/sub", 0o711).file("d/sub/new", "")),
        Case::new("1.4", "an implied subdirectory of an opaque one is new")
            .layer(Layer::new().dir("d", 0o755).dir("d/sub", 0o700).file("d/sub/old", ""))
            .layer(Layer::new().opaque("d").file("d/sub/new", ""))
            .gives(Tree::new().dir("d", 0o755).implied("d/sub").file("d/sub/new", "")),
        Case::new("1.4", "opaque twice")
            .layer(directory())
            .layer(Layer::new().opaque("d").file("d/new", "").opaque("d"))
            .gives(Tree::new().dir("d", 0o700).owner(5, 6).file("d/new", "")),
        Case::new("1.4", "opaque and whiteout of the same directory")
            .layer(directory())
            .layer(Layer::new().opaque("d").whiteout("d").file("d/new", ""))
            .gives(Tree::new().implied("d").file("d/new", "")),
        Case::new("1.4", "opaque hides what several layers put there")
            .layer(directory())
            .layer(Layer::new().file("d/middle", ""))
            .layer(Layer::new().opaque("d").file("d/top", ""))
            .layer(Layer::new().file("d/over", ""))
            .gives(Tree::new().dir("d", 0o700).owner(5, 6).file("d/top", "").file("d/over", "")),
        Case::new("1.4", "opaque in a directory that only this layer has")
            .layer(Layer::new().file("a", ""))
            .layer(Layer::new().dir("d", 0o755).opaque("d").file("d/new", ""))
            .gives(Tree::new().file("a", "").dir("d", 0o755).file("d/new", "")),
        Case::new("1.4", "opaque at the root hides everything below")
            .layer(Layer::new().dir("", 0o711).file("a", "").dir("d", 0o755).file("d/old", ""))
            .layer(Layer::new().opaque("").file("d/new", ""))
            .gives(Tree::new().dir("", 0o711).implied("d").file("d/new", "")),
        Case::new("1.4", "opaque at the root after its entries")
            .layer(Layer::new().file("a", "").symlink("lib", "usr/lib").dir("usr/lib", 0o755))
            .layer(Layer::new().file("lib/x", "").dir("", 0o700).opaque(""))
            .gives(Tree::new().dir("", 0o700).implied("lib").file("lib/x", "")),
        Case::new("1.4", "opaque at the root and nothing else")
            .layer(Layer::new().file("a", "").dir("d", 0o755))
            .layer(Layer::new().opaque(""))
            .gives(Tree::new()),
        Case::new("1.4", "a layer over one that is opaque at its root")
            .layer(Layer::new().dir("d", 0o700).file("d/a", ""))
            .layer(Layer::new().opaque("").file("b", ""))
            .layer(Layer::new().file("d/c", "").whiteout("a"))
            .gives(Tree::new().file("b", "").implied("d").file("d/c", "")),
        Case::new("1.4", "an opaque directory in an opaque directory")
            .layer(Layer::new().dir("d/sub", 0o700).file("d/sub/old", "").file("d/old", ""))
            .layer(Layer::new().opaque("d").dir("d/sub", 0o755).opaque("d/sub").file("d/sub/new", ""))
            .gives(Tree::new().implied("d").dir("d/sub", 0o755).file("d/sub/new", "")),
        Case::new("1.4", "an opaque marker through a symlink empties the target")
            .layer(Layer::new().dir("d", 0o700).file("d/old", "").symlink("s", "d"))
            .layer(Layer::new().opaque("s").file("s/new", ""))
            .gives(Tree::new().dir("d", 0o700).file("d/new", "").symlink("s", "d")),
    ]
}

/// `lib -> usr/lib` with something in it, as distributions have it.
fn merged() -> Layer {
    Layer::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/a", "a").file("usr/lib/b", "b").symlink("lib", "usr/lib")
}

fn merged_tree() -> Tree {
    Tree::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/a", "a").file("usr/lib/b", "b").symlink("lib", "usr/lib")
}

/// The same, where `lib` is a directory of its own.
fn split_tree() -> Tree {
    Tree::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/a", "a").file("usr/lib/b", "b").dir("lib", 0o755)
}

fn parents_of_markers() -> Vec<Case> {
    vec![
        Case::new("1.5", "a marker for what is not there creates nothing")
            .layer(Layer::new().dir("d", 0o755).file("f", ""))
            .layer(Layer::new().whiteout("a").whiteout("d/a").whiteout("x/y/z").opaque("x/y").whiteout("f/a").opaque("f"))
            .gives(Tree::new().dir("d", 0o755).file("f", "")),
        Case::new("1.5", "markers in the lowest layer")
            .layer(Layer::new().whiteout("a").opaque("d").whiteout("d/b").opaque("").file("c", ""))
            .gives(Tree::new().file("c", "")),
        Case::new("1.5", "a marker below a dangling or looping symlink")
            .layer(Layer::new().symlink("broken", "nowhere").symlink("loop", "pool").symlink("pool", "loop"))
            .layer(Layer::new().whiteout("broken/a").whiteout("loop/a").opaque("loop").opaque("broken"))
            .gives(Tree::new().symlink("broken", "nowhere").symlink("loop", "pool").symlink("pool", "loop")),
        Case::new("1.5", "a whiteout through a symlinked parent hides what is there")
            .layer(merged())
            .layer(Layer::new().whiteout("lib/a"))
            .gives(Tree::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/b", "b").symlink("lib", "usr/lib")),
        Case::new("1.5", "a whiteout through absolute and climbing symlinks stays inside")
            .layer(Layer::new().file("x/a", "").file("x/b", "").symlink("d/abs", "/x").symlink("d/up", "../../../x"))
            .layer(Layer::new().whiteout("d/abs/a").whiteout("d/up/b"))
            .gives(Tree::new().implied("x").symlink("d/abs", "/x").symlink("d/up", "../../../x")),
        Case::new("1.5", "the last component of a whiteout is not followed")
            .layer(merged())
            .layer(Layer::new().whiteout("lib"))
            .gives(Tree::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/a", "a").file("usr/lib/b", "b")),
        Case::new("1.5", "a symlink replaced by an opaque directory, as Docker writes it")
            .layer(merged())
            .layer(Layer::new().dir("lib", 0o755).opaque("lib"))
            .gives(split_tree()),
        Case::new("1.5", "a symlink replaced by an opaque directory, marker first")
            .layer(merged())
            .layer(Layer::new().opaque("lib").dir("lib", 0o755).file("lib/new", ""))
            .gives(split_tree().file("lib/new", "")),
        Case::new("1.5", "a whiteout below a symlink that this layer replaces hides nothing")
            .layer(merged())
            .layer(Layer::new().whiteout("lib/a").dir("lib", 0o755))
            .gives(split_tree()),
        Case::new("1.5", "a whiteout below a symlink that this layer writes again hides nothing")
            .layer(merged())
            .layer(Layer::new().symlink("lib", "usr/lib").whiteout("lib/a"))
            .gives(merged_tree()),
        Case::new("1.5", "a marker below a whiteout of its own layer")
            .layer(Layer::new().dir("foo", 0o755).file("foo/bar", "").file("b", ""))
            .layer(Layer::new().whiteout("foo/bar").whiteout("foo").opaque("foo"))
            .gives(Tree::new().file("b", "")),
        Case::new("1.5", "a marker below a symlink that its own layer hides")
            .layer(merged())
            .layer(Layer::new().whiteout("lib").whiteout("lib/a").opaque("lib"))
            .gives(Tree::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/a", "a").file("usr/lib/b", "b")),
        Case::new("1.5", "a marker through a symlink in a directory that its own layer hides")
            .layer(Layer::new().file("etc/x", "").dir("foo", 0o755).symlink("foo/s", "/etc"))
            .layer(Layer::new().whiteout("foo/s/x").whiteout("foo"))
            .gives(Tree::new().file("etc/x", "")),
        Case::new("1.5", "a marker below a directory that this layer replaces by a file")
            .layer(Layer::new().dir("d", 0o755).file("d/a", ""))
            .layer(Layer::new().file("d", "new").whiteout("d/a"))
            .gives(Tree::new().file("d", "new")),
        Case::new("1.5", "an entry of its own counts where it lands")
            .layer(merged().symlink("usr/lib/s", "/etc").file("etc/x", ""))
            .layer(Layer::new().dir("lib/s", 0o700).whiteout("usr/lib/s/x"))
            .gives(merged_tree().dir("usr/lib/s", 0o700).file("etc/x", "")),
        Case::new("1.5", "an implied parent is no entry of its own")
            .layer(merged())
            .layer(Layer::new().file("lib/new", "").opaque("lib"))
            .gives(Tree::new().dir("usr", 0o755).dir("usr/lib", 0o755).file("usr/lib/new", "").symlink("lib", "usr/lib")),
        Case::new("1.5", "a whiteout in a directory that only this layer has leaves no ghost")
            .layer(Layer::new().file("a", ""))
            .layer(Layer::new().dir("n", 0o755).whiteout("n/x").file("n/y", ""))
            .gives(Tree::new().file("a", "").dir("n", 0o755).file("n/y", "")),
        Case::new("1.5", "a whiteout in an opaque directory leaves no ghost")
            .layer(directory())
            .layer(Layer::new().dir("d", 0o755).opaque("d").whiteout("d/old").whiteout("d/never"))
            .gives(Tree::new().dir("d", 0o755)),
        Case::new("1.5", "a whiteout in a directory made again leaves no ghost")
            .layer(directory())
            .layer(Layer::new().whiteout("d").dir("d", 0o755).whiteout("d/old").file("d/new", ""))
            .gives(Tree::new().dir("d", 0o755).file("d/new", "")),
        Case::new("1.5", "a whiteout in a directory that was a file below")
            .layer(Layer::new().file("d", ""))
            .layer(Layer::new().dir("d", 0o755).whiteout("d/x"))
            .gives(Tree::new().dir("d", 0o755)),
        Case::new("1.5", "a whiteout of what a lower layer hid already leaves no ghost")
            .layer(Layer::new().dir("d", 0o755).file("d/a", "").file("d/b", ""))
            .layer(Layer::new().whiteout("d/a"))
            .layer(Layer::new().whiteout("d/a"))
            .gives(Tree::new().dir("d", 0o755).file("d/b", "")),
        Case::new("1.5", "everything in a directory is hidden, one by one")
            .layer(Layer::new().dir("d", 0o755).file("d/a", "").dir("d/b", 0o755).file("d/b/c", ""))
            .layer(Layer::new().whiteout("d/a").whiteout("d/b"))
            .gives(Tree::new().dir("d", 0o755)),
    ]
}
