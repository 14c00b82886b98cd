//! Hardlinks: rule 9.

use crate::testing::conformance::Case;
use crate::testing::{Layer, Tree};

pub(super) fn cases() -> Vec<Case> {
    [same_layer(), lower(), waiting(), refused()].concat()
}

fn same_layer() -> Vec<Case> {
    vec![
        Case::new("1.9", "a link to an earlier entry")
            .layer(Layer::new().file("a", "x").owner(5, 6).xattr("user.a", "b").hardlink("d/b", "a"))
            .gives(Tree::new().file("a", "x").owner(5, 6).xattr("user.a", "b").hardlink("d/b", "a")),
        Case::new("1.9", "the link's own metadata means nothing")
            .layer(Layer::new().file("a", "x").hardlink("b", "a").mode(0o777).owner(7, 7).mtime(1, 1).xattr("user.a", "b"))
            .gives(Tree::new().file("a", "x").hardlink("b", "a")),
        Case::new("1.9", "a link to a link")
            .layer(Layer::new().file("a", "x").hardlink("b", "a").hardlink("c", "b"))
            .gives(Tree::new().file("a", "x").hardlink("b", "a").hardlink("c", "a")),
        Case::new("1.9", "an absolute target, and one with a dot")
            .layer(Layer::new().file("d/a", "x").hardlink("b", "/d/a").hardlink("c", "./d/a"))
            .gives(Tree::new().file("d/a", "x").hardlink("b", "d/a").hardlink("c", "d/a")),
        Case::new("1.9", "a link to a symlink names the symlink")
            .layer(Layer::new().file("a", "x").symlink("s", "a").hardlink("t", "s"))
            .gives(Tree::new().file("a", "x").symlink("s", "a").hardlink("t", "s")),
        Case::new("1.9", "a link to a dangling symlink")
            .layer(Layer::new().symlink("s", "nowhere").hardlink("t", "s"))
            .gives(Tree::new().symlink("s", "nowhere").hardlink("t", "s")),
        Case::new("1.9", "a link to a fifo")
            .layer(Layer::new().fifo("p").hardlink("q", "p"))
            .gives(Tree::new().fifo("p").hardlink("q", "p")),
        Case::new("1.9", "a link to its own name is nothing")
            .layer(Layer::new().file("a", "x").hardlink("a", "a").hardlink("a", "/a"))
            .gives(Tree::new().file("a", "x")),
        Case::new("1.9", "a link to its own name by another way is nothing")
            .layer(Layer::new().dir("d", 0o755).file("d/a", "x").symlink("s", "d").hardlink("s/a", "d/a"))
            .gives(Tree::new().dir("d", 0o755).file("d/a", "x").symlink("s", "d")),
        Case::new("1.9", "a link replaces a file, and a directory with all in it")
            .layer(Layer::new().file("f", "old").dir("d", 0o755).file("d/old", ""))
            .layer(Layer::new().file("a", "x").hardlink("f", "a").hardlink("d", "a"))
            .gives(Tree::new().file("a", "x").hardlink("f", "a").hardlink("d", "a")),
        Case::new("1.9", "the target's name is written again after the link")
            .layer(Layer::new().file("a", "1").hardlink("b", "a").file("a", "2"))
            .gives(Tree::new().file("a", "2").file("b", "1")),
        Case::new("1.9", "a link over its target's other name is the same link again")
            .layer(Layer::new().file("a", "1").hardlink("b", "a").hardlink("b", "a"))
            .gives(Tree::new().file("a", "1").hardlink("b", "a")),
        Case::new("1.9", "a target through a symlinked parent")
            .layer(Layer::new().dir("usr/lib", 0o755).file("usr/lib/a", "x").symlink("lib", "usr/lib"))
            .layer(Layer::new().hardlink("lib/b", "lib/a").hardlink("c", "lib/a"))
            .gives(
                Tree::new()
                    .dir("usr/lib", 0o755)
                    .file("usr/lib/a", "x")
                    .hardlink("usr/lib/b", "usr/lib/a")
                    .hardlink("c", "usr/lib/a")
                    .symlink("lib", "usr/lib"),
            ),
        Case::new("1.9", "a large group in one layer")
            .layer((0..50).fold(Layer::new().file("d/f", "x"), |layer, number| layer.hardlink(format!("d{number}/l"), "d/f")))
            .gives((0..50).fold(Tree::new().file("d/f", "x"), |tree, number| tree.hardlink(format!("d{number}/l"), "d/f"))),
    ]
}

fn lower() -> Vec<Case> {
    vec![
        Case::new("1.9", "a link to a file of the lower tree")
            .layer(Layer::new().file("a", "x").mode(0o4755).owner(5, 6).mtime(7, 8).xattr("user.a", "b"))
            .layer(Layer::new().hardlink("b", "a"))
            .gives(Tree::new().file("a", "x").mode(0o4755).owner(5, 6).mtime(7, 8).xattr("user.a", "b").hardlink("b", "a")),
        Case::new("1.9", "links of a lower layer stay linked")
            .layer(Layer::new().file("a", "x").hardlink("d/b", "a"))
            .layer(Layer::new().file("d/c", ""))
            .gives(Tree::new().file("a", "x").hardlink("d/b", "a").file("d/c", "")),
        Case::new("1.9", "a lower target leaves its lower group")
            .layer(Layer::new().file("a", "x").hardlink("b", "a").hardlink("c", "a"))
            .layer(Layer::new().hardlink("n", "a"))
            .gives(Tree::new().file("a", "x").hardlink("n", "a").file("b", "x").hardlink("c", "b")),
        Case::new("1.9", "two links to one lower target share the new inode")
            .layer(Layer::new().file("a", "x").hardlink("b", "a"))
            .layer(Layer::new().hardlink("n", "a").hardlink("m", "a").hardlink("o", "n"))
            .gives(Tree::new().file("a", "x").hardlink("n", "a").hardlink("m", "a").hardlink("o", "a").file("b", "x")),
        Case::new("1.9", "links to two names of one lower group are two inodes")
            .layer(Layer::new().file("a", "x").hardlink("b", "a").hardlink("c", "a"))
            .layer(Layer::new().hardlink("n", "a").hardlink("m", "b"))
            .gives(Tree::new().file("a", "x").hardlink("n", "a").file("b", "x").hardlink("m", "b").file("c", "x")),
        Case::new("1.9", "a link over a name of the same lower group takes it along")
            .layer(Layer::new().file("a", "x").hardlink("b", "a").hardlink("c", "a"))
            .layer(Layer::new().hardlink("b", "a"))
            .gives(Tree::new().file("a", "x").hardlink("b", "a").file("c", "x")),
        Case::new("1.9", "a link to a lower symlink, and to a lower fifo")
            .layer(Layer::new().symlink("s", "x").owner(5, 6).mtime(7, 8).fifo("p").mode(0o600))
            .layer(Layer::new().hardlink("t", "s").hardlink("q", "p"))
            .gives(
                Tree::new().symlink("s", "x").owner(5, 6).mtime(7, 8).hardlink("t", "s").fifo("p").mode(0o600).hardlink("q", "p"),
            ),
        Case::new("1.9", "a lower target in a directory that keeps its attributes")
            .layer(Layer::new().dir("d", 0o700).owner(5, 6).mtime(3, 4).file("d/a", "x").file("d/b", ""))
            .layer(Layer::new().hardlink("l", "d/a"))
            .gives(Tree::new().dir("d", 0o700).owner(5, 6).mtime(3, 4).file("d/a", "x").file("d/b", "").hardlink("l", "d/a")),
        Case::new("1.9", "the lower target's name is hidden by a later layer")
            .layer(Layer::new().file("a", "x"))
            .layer(Layer::new().hardlink("b", "a"))
            .layer(Layer::new().whiteout("a"))
            .gives(Tree::new().file("b", "x")),
        Case::new("1.9", "an entry of this layer comes before the lower tree")
            .layer(Layer::new().file("a", "old"))
            .layer(Layer::new().file("a", "new").hardlink("b", "a"))
            .gives(Tree::new().file("a", "new").hardlink("b", "a")),
        Case::new("1.9", "the lower target is taken though an entry of that name follows")
            .layer(Layer::new().file("a", "old"))
            .layer(Layer::new().hardlink("b", "a").file("a", "new"))
            .gives(Tree::new().file("a", "new").file("b", "old")),
        Case::new("1.9", "a lower file is moved by a link and a whiteout of another layer")
            .layer(Layer::new().file("a", "x").hardlink("keep", "a"))
            .layer(Layer::new().hardlink("b", "a"))
            .layer(Layer::new().whiteout("a").hardlink("c", "b"))
            .gives(Tree::new().file("b", "x").hardlink("c", "b").file("keep", "x")),
        Case::new("1.9", "a link to its own lower name is nothing")
            .layer(Layer::new().file("a", "x").hardlink("b", "a"))
            .layer(Layer::new().hardlink("a", "a"))
            .gives(Tree::new().file("a", "x").hardlink("b", "a")),
        Case::new("1.9", "a lower group across directories, one name changed")
            .layer(Layer::new().file("d/a", "x").hardlink("e/b", "d/a").hardlink("f/c", "d/a"))
            .layer(Layer::new().file("e/b", "x"))
            .gives(Tree::new().file("d/a", "x").hardlink("f/c", "d/a").file("e/b", "x")),
    ]
}

fn waiting() -> Vec<Case> {
    vec![
        Case::new("1.9", "a link before its target")
            .layer(Layer::new().hardlink("b", "a").file("a", "x").owner(5, 6))
            .gives(Tree::new().file("a", "x").owner(5, 6).hardlink("b", "a")),
        Case::new("1.9", "links before links before the target")
            .layer(Layer::new().hardlink("c", "b").hardlink("b", "a").file("z", "").file("a", "x"))
            .gives(Tree::new().file("a", "x").hardlink("b", "a").hardlink("c", "a").file("z", "")),
        Case::new("1.9", "a waiting link gets the first that comes")
            .layer(Layer::new().hardlink("b", "a").file("a", "1").file("a", "2"))
            .gives(Tree::new().file("b", "1").file("a", "2")),
        Case::new("1.9", "a waiting link whose name gets a later entry is dropped")
            .layer(Layer::new().hardlink("b", "a").file("b", "own").file("a", "x"))
            .gives(Tree::new().file("b", "own").file("a", "x")),
        Case::new("1.9", "a dropped link needs no target")
            .layer(Layer::new().hardlink("b", "nowhere").file("b", "own"))
            .gives(Tree::new().file("b", "own")),
        Case::new("1.9", "a waiting link implies its parents when it is made")
            .layer(Layer::new().hardlink("d/e/b", "a").dir("d", 0o700).file("a", "x"))
            .gives(Tree::new().dir("d", 0o700).implied("d/e").file("a", "x").hardlink("d/e/b", "a")),
        Case::new("1.9", "a waiting link replaces what came to its place by another way")
            .layer(Layer::new().symlink("s", "d").dir("d", 0o755))
            .layer(Layer::new().hardlink("s/b", "a").file("d/b", "other").file("a", "x"))
            .gives(Tree::new().symlink("s", "d").dir("d", 0o755).file("a", "x").hardlink("d/b", "a")),
        Case::new("1.9", "a waiting link to a path through a symlink")
            .layer(Layer::new().dir("real", 0o700).symlink("s", "real"))
            .layer(Layer::new().hardlink("b", "s/a").file("real/a", "x"))
            .gives(Tree::new().dir("real", 0o700).symlink("s", "real").file("real/a", "x").hardlink("b", "real/a")),
        Case::new("1.9", "a link to a name in aufs's pseudo-link directory")
            .layer(Layer::new().file(".wh..wh.plnk/12.34", "x").owner(5, 6).hardlink("a", ".wh..wh.plnk/12.34").hardlink("b", "a"))
            .gives(Tree::new().file("a", "x").owner(5, 6).hardlink("b", "a")),
        Case::new("1.9", "links before the name in aufs's pseudo-link directory")
            .layer(
                Layer::new()
                    .hardlink("a", ".wh..wh.plnk/12.34")
                    .hardlink("b", ".wh..wh.plnk/12.34")
                    .file(".wh..wh.plnk/12.34", "x"),
            )
            .gives(Tree::new().file("a", "x").hardlink("b", "a")),
        Case::new("1.9", "aufs's pseudo-link as a link to a name of the tree")
            .layer(Layer::new().file("a", "x").hardlink(".wh..wh.plnk/12.34", "a").hardlink("b", ".wh..wh.plnk/12.34"))
            .gives(Tree::new().file("a", "x").hardlink("b", "a")),
        Case::new("1.9", "aufs's pseudo-link as a link to a name of the lower tree, which leaves its group")
            .layer(Layer::new().file("a", "x").mode(0o640).hardlink("low", "a"))
            .layer(Layer::new().hardlink(".wh..wh.plnk/12.34", "a").hardlink("b", ".wh..wh.plnk/12.34"))
            .gives(Tree::new().file("a", "x").mode(0o640).hardlink("b", "a").file("low", "x").mode(0o640)),
    ]
}

fn refused() -> Vec<Case> {
    vec![
        Case::new("1.9", "a missing target").layer(Layer::new().file("a", "").hardlink("b", "nowhere")).refused(),
        Case::new("1.9", "a target below a file").layer(Layer::new().file("a", "").hardlink("b", "a/x")).refused(),
        Case::new("1.9", "a directory as target").layer(Layer::new().dir("d", 0o755).hardlink("b", "d")).refused(),
        Case::new("1.9", "a directory of the lower tree as target")
            .layer(Layer::new().dir("d", 0o755))
            .layer(Layer::new().hardlink("b", "d"))
            .refused(),
        Case::new("1.9", "the root as target").layer(Layer::new().hardlink("b", "/")).refused(),
        Case::new("1.9", "a directory that comes later as target").layer(Layer::new().hardlink("b", "d").dir("d", 0o755)).refused(),
        Case::new("1.9", "links in a circle").layer(Layer::new().hardlink("a", "b").hardlink("b", "a")).refused(),
        Case::new("1.9", "a target hidden by a lower layer")
            .layer(Layer::new().file("a", "x"))
            .layer(Layer::new().whiteout("a"))
            .layer(Layer::new().hardlink("b", "a"))
            .refused(),
        Case::new("1.9", "a target outside is looked for inside")
            .layer(Layer::new().symlink("s", "../../../../../etc").hardlink("b", "s/hostname"))
            .refused(),
        Case::new("1.9", "a link that replaces a directory with its target in it")
            .layer(Layer::new().dir("d", 0o755).file("d/a", "x").hardlink("d", "d/a"))
            .refused(),
        Case::new("1.9", "a link below its own target").layer(Layer::new().file("a", "x").hardlink("a/b", "a")).refused(),
        Case::new("1.9", "a target that names a marker")
            .layer(Layer::new().file("a", "x"))
            .layer(Layer::new().whiteout("a").hardlink("b", ".wh.a"))
            .refused(),
        Case::new("1.9", "a pseudo-link of a lower layer is gone")
            .layer(Layer::new().file(".wh..wh.plnk/12.34", "x").hardlink("a", ".wh..wh.plnk/12.34"))
            .layer(Layer::new().hardlink("b", ".wh..wh.plnk/12.34"))
            .refused(),
        Case::new("1.9", "a target with ..").layer(Layer::new().file("a", "x").hardlink("d/b", "../a")).refused(),
    ]
}
