//! Implied and symlinked parents: rule 6.

use crate::testing::conformance::Case;
use crate::testing::{Layer, Tree};

pub(super) fn cases() -> Vec<Case> {
    [implied(), followed(), not_followed()].concat()
}

fn implied() -> Vec<Case> {
    vec![
        Case::new("1.6", "an implied parent keeps all that it has below")
            .layer(Layer::new().dir("d", 0o2750).owner(5, 6).mtime(7, 8).xattr("user.a", "b").file("d/old", ""))
            .layer(Layer::new().file("d/new", ""))
            .gives(Tree::new().dir("d", 0o2750).owner(5, 6).mtime(7, 8).xattr("user.a", "b").file("d/old", "").file("d/new", "")),
        Case::new("1.6", "implied parents several levels and layers deep")
            .layer(Layer::new().dir("a", 0o700).owner(1, 1).dir("a/b", 0o710).owner(2, 2).mtime(2, 0))
            .layer(Layer::new().dir("a/b/c", 0o711).owner(3, 3).mtime(3, 0))
            .layer(Layer::new().file("a/b/c/f", ""))
            .gives(
                Tree::new()
                    .dir("a", 0o700)
                    .owner(1, 1)
                    .dir("a/b", 0o710)
                    .owner(2, 2)
                    .mtime(2, 0)
                    .dir("a/b/c", 0o711)
                    .owner(3, 3)
                    .mtime(3, 0)
                    .file("a/b/c/f", ""),
            ),
        Case::new("1.6", "a parent that nobody describes is plain")
            .layer(Layer::new().file("a/b/c", ""))
            .gives(Tree::new().implied("a").implied("a/b").file("a/b/c", "")),
        Case::new("1.6", "a parent that nobody describes takes nothing from its own parent")
            .layer(Layer::new().dir("d", 0o2777).owner(5, 6).xattr("user.a", "b"))
            .layer(Layer::new().file("d/new/f", ""))
            .gives(Tree::new().dir("d", 0o2777).owner(5, 6).xattr("user.a", "b").implied("d/new").file("d/new/f", "")),
        Case::new("1.6", "a parent that gets its entry later")
            .layer(Layer::new().file("d/a", "").dir("d", 0o700).mtime(3, 4))
            .gives(Tree::new().dir("d", 0o700).mtime(3, 4).file("d/a", "")),
        Case::new("1.6", "a parent that is there below and gets its entry later")
            .layer(Layer::new().dir("d", 0o1770).owner(5, 6).mtime(7, 8).xattr("user.a", "b").file("d/old", "").dir("e", 0o700))
            .layer(Layer::new().file("d/new", "").dir("d", 0o755).file("e/sub/new", "").dir("e/sub", 0o711).dir("e", 0o755))
            .gives(
                Tree::new()
                    .dir("d", 0o755)
                    .file("d/old", "")
                    .file("d/new", "")
                    .dir("e", 0o755)
                    .dir("e/sub", 0o711)
                    .file("e/sub/new", ""),
            ),
        Case::new("1.6", "a directory in the place of an implied one has nothing of it")
            .layer(Layer::new().dir("d", 0o700).owner(5, 6).mtime(7, 8).xattr("user.a", "b").file("d/old", "").dir("d/sub", 0o711))
            .layer(Layer::new().file("d/sub/new", "").file("d", "").file("d/sub/x", ""))
            .gives(Tree::new().implied("d").implied("d/sub").file("d/sub/x", "")),
        Case::new("1.6", "a file where a parent is needed is replaced")
            .layer(Layer::new().file("d", "x").fifo("p"))
            .layer(Layer::new().file("d/a", "").file("p/q/r", ""))
            .gives(Tree::new().implied("d").file("d/a", "").implied("p").implied("p/q").file("p/q/r", "")),
        Case::new("1.6", "an implied directory of a lower layer stays as it is")
            .layer(Layer::new().file("d/a", ""))
            .layer(Layer::new().file("d/b", ""))
            .gives(Tree::new().implied("d").file("d/a", "").file("d/b", "")),
    ]
}

fn followed() -> Vec<Case> {
    vec![
        Case::new("1.6", "through a symlink of the lower tree")
            .layer(Layer::new().dir("usr", 0o755).dir("usr/lib", 0o750).mtime(3, 0).symlink("lib", "usr/lib"))
            .layer(Layer::new().file("lib/x", "x"))
            .gives(
                Tree::new().dir("usr", 0o755).dir("usr/lib", 0o750).mtime(3, 0).symlink("lib", "usr/lib").file("usr/lib/x", "x"),
            ),
        Case::new("1.6", "through a symlink of the same layer")
            .layer(Layer::new().dir("real", 0o700).symlink("s", "real").file("s/x", "x"))
            .gives(Tree::new().dir("real", 0o700).symlink("s", "real").file("real/x", "x")),
        Case::new("1.6", "every type of entry goes through")
            .layer(Layer::new().dir("real", 0o700).file("real/f", "f").symlink("s", "real"))
            .layer(
                Layer::new().dir("s/d", 0o711).owner(5, 6).file("s/d/x", "").symlink("s/l", "d").hardlink("s/h", "s/f").fifo("s/p"),
            )
            .gives(
                Tree::new()
                    .dir("real", 0o700)
                    .file("real/f", "f")
                    .symlink("s", "real")
                    .dir("real/d", 0o711)
                    .owner(5, 6)
                    .file("real/d/x", "")
                    .symlink("real/l", "d")
                    .hardlink("real/h", "real/f")
                    .fifo("real/p"),
            ),
        Case::new("1.6", "through an absolute symlink, which starts at the root of the tree")
            .layer(Layer::new().dir("opt/app", 0o700).symlink("a/b/s", "/opt/app"))
            .layer(Layer::new().file("a/b/s/x", ""))
            .gives(Tree::new().implied("opt").dir("opt/app", 0o700).symlink("a/b/s", "/opt/app").file("opt/app/x", "")),
        Case::new("1.6", "a relative symlink starts where it stands")
            .layer(Layer::new().dir("a/c", 0o700).symlink("a/b/s", "../c"))
            .layer(Layer::new().file("a/b/s/x", ""))
            .gives(Tree::new().dir("a/c", 0o700).symlink("a/b/s", "../c").file("a/c/x", "")),
        Case::new("1.6", ".. stops at the root")
            .layer(Layer::new().symlink("s", "../../../../etc").dir("etc", 0o711))
            .layer(Layer::new().file("s/passwd", ""))
            .gives(Tree::new().symlink("s", "../../../../etc").dir("etc", 0o711).file("etc/passwd", "")),
        Case::new("1.6", "symlinks to the root itself")
            .layer(Layer::new().symlink("s", "/").symlink("d/t", "..").symlink("u", "."))
            .layer(Layer::new().file("s/x", "").file("d/t/y", "").file("u/z", ""))
            .gives(Tree::new().symlink("s", "/").symlink("d/t", "..").symlink("u", ".").file("x", "").file("y", "").file("z", "")),
        Case::new("1.6", "through a chain of symlinks over several layers")
            .layer(Layer::new().dir("d", 0o700).symlink("s1", "d"))
            .layer(Layer::new().symlink("s2", "/s1"))
            .layer(Layer::new().symlink("e/s3", "../s2"))
            .layer(Layer::new().file("e/s3/sub/x", ""))
            .gives(
                Tree::new()
                    .dir("d", 0o700)
                    .symlink("s1", "d")
                    .symlink("s2", "/s1")
                    .symlink("e/s3", "../s2")
                    .implied("d/sub")
                    .file("d/sub/x", ""),
            ),
        Case::new("1.6", "what is missing behind a symlink is created inside")
            .layer(Layer::new().symlink("s", "/var/run/app"))
            .layer(Layer::new().file("s/x", ""))
            .gives(Tree::new().symlink("s", "/var/run/app").implied("var/run/app").file("var/run/app/x", "")),
        Case::new("1.6", "what is missing on a way that climbs is created as well")
            .layer(Layer::new().symlink("s", "a/../b"))
            .layer(Layer::new().file("s/x", ""))
            .gives(Tree::new().symlink("s", "a/../b").implied("a").implied("b").file("b/x", "")),
        Case::new("1.6", "a symlink of this layer whose target comes later")
            .layer(Layer::new().symlink("s", "d").file("s/x", "").dir("d", 0o700))
            .gives(Tree::new().symlink("s", "d").dir("d", 0o700).file("d/x", "")),
        Case::new("1.6", "through a symlink in a symlinked directory")
            .layer(
                Layer::new().dir("usr/lib", 0o755).symlink("lib", "usr/lib").symlink("usr/lib/py", "/opt/py").dir("opt/py", 0o700),
            )
            .layer(Layer::new().file("lib/py/x", ""))
            .gives(
                Tree::new()
                    .dir("usr/lib", 0o755)
                    .symlink("lib", "usr/lib")
                    .symlink("usr/lib/py", "/opt/py")
                    .dir("opt/py", 0o700)
                    .file("opt/py/x", ""),
            ),
        Case::new("1.6", "forty symlinks are followed")
            .layer(chain(40))
            .layer(Layer::new().file("s1/x", ""))
            .gives(chain_tree(40).file("end/x", "")),
        Case::new("1.6", "a directory entry for the symlink replaces it from there on")
            .layer(Layer::new().dir("usr/lib", 0o750).symlink("lib", "usr/lib"))
            .layer(Layer::new().file("lib/x", "").dir("lib", 0o711).file("lib/y", ""))
            .gives(Tree::new().dir("usr/lib", 0o750).file("usr/lib/x", "").dir("lib", 0o711).file("lib/y", "")),
        Case::new("1.6", "a directory behind a symlink is hidden and made again through it")
            .layer(Layer::new().dir("usr/lib/d", 0o700).file("usr/lib/d/old", "").symlink("lib", "usr/lib"))
            .layer(Layer::new().whiteout("lib/d").file("lib/d/new", ""))
            .gives(Tree::new().implied("usr/lib/d").file("usr/lib/d/new", "").symlink("lib", "usr/lib")),
        Case::new("1.6", "the symlink is hidden, its old target stays")
            .layer(Layer::new().dir("usr/lib", 0o750).file("usr/lib/a", "").symlink("lib", "usr/lib"))
            .layer(Layer::new().whiteout("lib").file("lib/x", ""))
            .gives(Tree::new().dir("usr/lib", 0o750).file("usr/lib/a", "").implied("lib").file("lib/x", "")),
    ]
}

fn not_followed() -> Vec<Case> {
    vec![
        Case::new("1.6", "a symlink to a file is replaced")
            .layer(Layer::new().file("f", "f").symlink("s", "f"))
            .layer(Layer::new().file("s/x", ""))
            .gives(Tree::new().file("f", "f").implied("s").file("s/x", "")),
        Case::new("1.6", "a symlink through a file is replaced, and nothing made on its way")
            .layer(Layer::new().file("f", "f").symlink("s", "new/../f/d"))
            .layer(Layer::new().file("s/x", ""))
            .gives(Tree::new().file("f", "f").implied("s").file("s/x", "")),
        Case::new("1.6", "the first of a chain that leads to a file is replaced")
            .layer(Layer::new().file("f", "f").symlink("s1", "s2").symlink("s2", "f"))
            .layer(Layer::new().file("s1/x", ""))
            .gives(Tree::new().file("f", "f").symlink("s2", "f").implied("s1").file("s1/x", "")),
        Case::new("1.6", "a looping symlink is replaced")
            .layer(Layer::new().symlink("a", "b").symlink("b", "a").symlink("self", "self"))
            .layer(Layer::new().file("a/x", "").file("self/y", ""))
            .gives(Tree::new().implied("a").file("a/x", "").symlink("b", "a").implied("self").file("self/y", "")),
        Case::new("1.6", "forty-one symlinks are too many").layer(chain(41)).layer(Layer::new().file("s1/x", "")).gives({
            let tree = chain_tree(41);
            tree.implied("s1").file("s1/x", "")
        }),
        Case::new("1.6", "a loop behind a symlink replaces the one in the layer's path")
            .layer(Layer::new().dir("d", 0o700).symlink("d/loop", "loop").symlink("s", "d/loop/e"))
            .layer(Layer::new().file("s/x", ""))
            .gives(Tree::new().dir("d", 0o700).symlink("d/loop", "loop").implied("s").file("s/x", "")),
        Case::new("1.6", "a symlink to a file below a symlinked directory")
            .layer(Layer::new().dir("d", 0o700).file("d/f", "f").symlink("d/s", "f").symlink("l", "d"))
            .layer(Layer::new().file("l/s/x", ""))
            .gives(Tree::new().dir("d", 0o700).file("d/f", "f").symlink("l", "d").implied("d/s").file("d/s/x", "")),
    ]
}

/// `s1 -> s2 -> … -> end`, so many symlinks.
fn chain(count: usize) -> Layer {
    let layer = Layer::new().dir("end", 0o700);
    (1..=count).fold(layer, |layer, number| layer.symlink(format!("s{number}"), next(number, count)))
}

fn chain_tree(count: usize) -> Tree {
    let tree = Tree::new().dir("end", 0o700);
    (1..=count).fold(tree, |tree, number| tree.symlink(format!("s{number}"), next(number, count)))
}

fn next(number: usize, count: usize) -> String {
    if number == count { "end".to_owned() } else { format!("s{}", number + 1) }
}
