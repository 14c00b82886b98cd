//! Entries over entries, mtimes of directories, the root, empty layers: rules 2, 7, 8 and 10.

use crate::testing::conformance::Case;
use crate::testing::{Layer, Tree};

pub(super) fn cases() -> Vec<Case> {
    [replacing(), times(), root(), empty()].concat()
}

fn replacing() -> Vec<Case> {
    vec![
        Case::new("1.2", "a directory over a directory: new metadata, old children")
            .layer(Layer::new().dir("d", 0o755).xattr("user.old", "1").xattr("user.both", "1").file("d/a", ""))
            .layer(Layer::new().dir("d", 0o700).owner(5, 6).mtime(7, 8).xattr("user.both", "2").xattr("user.new", "3"))
            .gives(
                Tree::new().dir("d", 0o700).owner(5, 6).mtime(7, 8).xattr("user.both", "2").xattr("user.new", "3").file("d/a", ""),
            ),
        Case::new("1.2", "a directory twice in one layer")
            .layer(Layer::new().dir("d", 0o755).xattr("user.old", "1").file("d/a", "").dir("d", 0o700))
            .gives(Tree::new().dir("d", 0o700).file("d/a", "")),
        Case::new("1.2", "a file over a file: nothing of the old one is left")
            .layer(Layer::new().file("a", "long old content").mode(0o4755).owner(5, 6).xattr("user.old", "1"))
            .layer(Layer::new().file("a", "new"))
            .gives(Tree::new().file("a", "new")),
        Case::new("1.2", "a file twice in one layer: the last counts")
            .layer(Layer::new().file("a", "first").xattr("user.old", "1").file("a", "last").mode(0o600))
            .gives(Tree::new().file("a", "last").mode(0o600)),
        Case::new("1.2", "a file replaces one name of a hardlink group")
            .layer(Layer::new().file("a", "1").hardlink("b", "a").hardlink("c", "a"))
            .layer(Layer::new().file("b", "2"))
            .gives(Tree::new().file("a", "1").hardlink("c", "a").file("b", "2")),
        Case::new("1.2", "a file written between two links of its name")
            .layer(Layer::new().file("a", "1").hardlink("b", "a").file("a", "2").hardlink("c", "a"))
            .gives(Tree::new().file("a", "2").hardlink("c", "a").file("b", "1")),
        Case::new("1.2", "a file over a directory: the subtree goes")
            .layer(Layer::new().dir("d", 0o755).dir("d/e", 0o755).file("d/e/f", ""))
            .layer(Layer::new().file("d", "now a file"))
            .gives(Tree::new().file("d", "now a file")),
        Case::new("1.2", "each type over each other")
            .layer(
                Layer::new()
                    .dir("d1", 0o755)
                    .file("d1/x", "")
                    .dir("d2", 0o755)
                    .file("d2/x", "")
                    .file("f1", "1")
                    .file("f2", "2")
                    .symlink("s1", "f1")
                    .symlink("s2", "d1")
                    .fifo("p1")
                    .fifo("p2"),
            )
            .layer(
                Layer::new()
                    .fifo("d1")
                    .symlink("d2", "f1")
                    .dir("f1", 0o755)
                    .symlink("f2", "f1")
                    .file("s1", "s")
                    .dir("s2", 0o700)
                    .file("p1", "p")
                    .dir("p2", 0o755),
            )
            .gives(
                Tree::new()
                    .fifo("d1")
                    .symlink("d2", "f1")
                    .dir("f1", 0o755)
                    .symlink("f2", "f1")
                    .file("s1", "s")
                    .dir("s2", 0o700)
                    .file("p1", "p")
                    .dir("p2", 0o755),
            ),
        Case::new("1.2", "the last component of an entry is not followed")
            .layer(Layer::new().file("t", "target").symlink("s", "t").dir("d", 0o755).symlink("l", "d"))
            .layer(Layer::new().file("s", "own").dir("l", 0o700))
            .gives(Tree::new().file("t", "target").file("s", "own").dir("d", 0o755).dir("l", 0o700)),
        Case::new("1.2", "directory, file, directory in one layer: the lower children stay away")
            .layer(Layer::new().dir("d", 0o755).file("d/old", ""))
            .layer(Layer::new().dir("d", 0o755).file("d/gone", "").file("d", "").dir("d", 0o711))
            .gives(Tree::new().dir("d", 0o711)),
        Case::new("1.2", "file, then a path that implies a directory")
            .layer(Layer::new().dir("d", 0o700).file("d/old", ""))
            .layer(Layer::new().file("d", "").file("d/new", ""))
            .gives(Tree::new().implied("d").file("d/new", "")),
        Case::new("1.2", "replaced in one layer, made again in the next")
            .layer(Layer::new().dir("d", 0o755).file("d/old", ""))
            .layer(Layer::new().file("d", ""))
            .layer(Layer::new().dir("d", 0o755).file("d/new", ""))
            .gives(Tree::new().dir("d", 0o755).file("d/new", "")),
        Case::new("1.2", "a symlink over a directory, and a path through it")
            .layer(Layer::new().dir("a", 0o755).file("a/old", "").dir("b", 0o700))
            .layer(Layer::new().symlink("a", "b").file("a/new", ""))
            .gives(Tree::new().symlink("a", "b").dir("b", 0o700).file("b/new", "")),
        Case::new("1.2", "a directory over a symlink to a directory, and a path in it")
            .layer(Layer::new().dir("b", 0o700).file("b/old", "").symlink("a", "b"))
            .layer(Layer::new().dir("a", 0o711).file("a/new", ""))
            .gives(Tree::new().dir("b", 0o700).file("b/old", "").dir("a", 0o711).file("a/new", "")),
        Case::new("1.2", "a nested directory is replaced and made again below an untouched one")
            .layer(Layer::new().dir("d", 0o700).dir("d/e", 0o700).file("d/e/old", "").file("d/keep", ""))
            .layer(Layer::new().symlink("d/e", "x").dir("d/e", 0o755))
            .gives(Tree::new().dir("d", 0o700).dir("d/e", 0o755).file("d/keep", "")),
        Case::new("1.2", "a subtree that went does not come back in part")
            .layer(Layer::new().dir("d/e", 0o700).file("d/e/old", "").file("d/f", ""))
            .layer(Layer::new().file("d", "").dir("d/e", 0o711))
            .gives(Tree::new().implied("d").dir("d/e", 0o711)),
        Case::new("1.2", "five layers over one directory")
            .layer(Layer::new().dir("d", 0o755).file("d/1", "1"))
            .layer(Layer::new().dir("d", 0o711).file("d/2", "2"))
            .layer(Layer::new().file("d/3", "3").whiteout("d/1"))
            .layer(Layer::new().dir("d", 0o700).file("d/2", "changed"))
            .layer(Layer::new().file("d/1", "again"))
            .gives(Tree::new().dir("d", 0o700).file("d/1", "again").file("d/2", "changed").file("d/3", "3")),
    ]
}

fn times() -> Vec<Case> {
    vec![
        Case::new("1.7", "adding to a directory leaves its mtime")
            .layer(Layer::new().dir("d", 0o755).mtime(5, 6).file("d/a", ""))
            .layer(Layer::new().file("d/b", "").dir("d/e", 0o755).symlink("d/s", "a").hardlink("d/h", "d/a"))
            .gives(
                Tree::new()
                    .dir("d", 0o755)
                    .mtime(5, 6)
                    .file("d/a", "")
                    .file("d/b", "")
                    .dir("d/e", 0o755)
                    .symlink("d/s", "a")
                    .hardlink("d/h", "d/a"),
            ),
        Case::new("1.7", "hiding and replacing leave it as well")
            .layer(Layer::new().dir("d", 0o755).mtime(5, 6).file("d/a", "").dir("d/b", 0o755).file("d/b/c", ""))
            .layer(Layer::new().whiteout("d/a").file("d/b", ""))
            .gives(Tree::new().dir("d", 0o755).mtime(5, 6).file("d/b", "")),
        Case::new("1.7", "the last explicit entry says it")
            .layer(Layer::new().dir("d", 0o755).mtime(5, 0))
            .layer(Layer::new().dir("d", 0o755).mtime(4, 0).file("d/a", "").dir("d", 0o755).mtime(3, 1).file("d/b", ""))
            .gives(Tree::new().dir("d", 0o755).mtime(3, 1).file("d/a", "").file("d/b", "")),
        Case::new("1.7", "entries in a tree of directories, children first")
            .layer(Layer::new().file("a/b/c", "").dir("a/b", 0o755).mtime(2, 0).dir("a", 0o755).mtime(1, 0).file("a/b/d", ""))
            .gives(Tree::new().dir("a", 0o755).mtime(1, 0).dir("a/b", 0o755).mtime(2, 0).file("a/b/c", "").file("a/b/d", "")),
        Case::new("1.7", "a directory without write permission takes its children")
            .layer(Layer::new().dir("d", 0o500).file("d/a", "").dir("d/e", 0).file("d/e/f", ""))
            .layer(Layer::new().file("d/e/g", "").whiteout("d/a"))
            .gives(Tree::new().dir("d", 0o500).dir("d/e", 0).file("d/e/f", "").file("d/e/g", "")),
    ]
}

fn root() -> Vec<Case> {
    vec![
        Case::new("1.8", "a root that no layer describes").layer(Layer::new().file("a", "")).gives(Tree::new().file("a", "")),
        Case::new("1.8", "the root's attributes are its entry's")
            .layer(Layer::new().member("./", b'5').mode(0o711).owner(5, 6).mtime(7, 8).xattr("user.a", "b"))
            .layer(Layer::new().file("a", ""))
            .gives(Tree::new().dir("", 0o711).owner(5, 6).mtime(7, 8).xattr("user.a", "b").file("a", "")),
        Case::new("1.8", "the root may be called /")
            .layer(Layer::new().member("/", b'5').mode(0o1777))
            .gives(Tree::new().dir("", 0o1777)),
        Case::new("1.8", "the root may be called .")
            .layer(Layer::new().member(".", b'5').mode(0o700))
            .gives(Tree::new().dir("", 0o700)),
        Case::new("1.8", "the last entry of the root counts, stale xattrs go")
            .layer(Layer::new().dir("", 0o711).xattr("user.old", "1").file("a", ""))
            .layer(Layer::new().file("b", "").dir("", 0o700).mtime(3, 0))
            .gives(Tree::new().dir("", 0o700).mtime(3, 0).file("a", "").file("b", "")),
        Case::new("1.8", "a layer that changes nothing but the root")
            .layer(Layer::new().dir("", 0o755).file("a", ""))
            .layer(Layer::new().dir("", 0o555))
            .gives(Tree::new().dir("", 0o555).file("a", "")),
        Case::new("1.8", "changes below the root leave its mtime")
            .layer(Layer::new().dir("", 0o755).mtime(9, 1).file("a", "").file("b", ""))
            .layer(Layer::new().whiteout("a").file("b", "new").dir("c", 0o755))
            .gives(Tree::new().dir("", 0o755).mtime(9, 1).file("b", "new").dir("c", 0o755)),
        Case::new("1.8", "the root is no file").layer(Layer::new().member("./", b'0')).refused(),
        Case::new("1.8", "the root is no symlink")
            .layer(Layer::new().file("a", ""))
            .layer(Layer::new().symlink(".", "a"))
            .refused(),
        Case::new("1.8", "the root is no hardlink").layer(Layer::new().file("a", "").hardlink("/", "a")).refused(),
    ]
}

fn empty() -> Vec<Case> {
    let base = || Layer::new().dir("d", 0o700).file("d/a", "").hardlink("b", "d/a");
    let tree = || Tree::new().dir("d", 0o700).file("d/a", "").hardlink("b", "d/a");
    vec![
        Case::new("1.10", "a layer without entries").layer(base()).layer(Layer::new()).gives(tree()),
        Case::new("1.10", "a layer of no bytes").layer(base()).layer(Layer::new().without_end()).gives(tree()),
        Case::new("1.10", "nothing but empty layers").layer(Layer::new()).layer(Layer::new().without_end()).gives(Tree::new()),
        Case::new("1.10", "empty layers below and between")
            .layer(Layer::new())
            .layer(base())
            .layer(Layer::new())
            .layer(Layer::new().whiteout("b"))
            .layer(Layer::new())
            .gives(Tree::new().dir("d", 0o700).file("d/a", "")),
        Case::new("1.10", "the same layer twice")
            .layer(base())
            .layer(Layer::new().file("d/x", "x"))
            .layer(Layer::new().whiteout("d/x"))
            .layer(Layer::new().file("d/x", "x"))
            .gives(tree().file("d/x", "x")),
        Case::new("1.10", "no layer").gives(Tree::new()),
    ]
}
