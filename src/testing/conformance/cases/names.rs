//! Names and what they are recognised by: SEMANTICS §2, and of §3 what a tree can show.

use crate::testing::conformance::Case;
use crate::testing::layer::Form;
use crate::testing::{Layer, Tree};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = [spelling(), markers(), forms()].concat();
    for (name, bad) in REFUSED {
        cases.push(
            Case::new("2", name).layer(Layer::new().file("a", "").dir("d", 0o755)).layer(Layer::new().member(bad, b'0')).refused(),
        );
    }
    cases
}

/// Names that are refused, whatever they stand for.
const REFUSED: [(&str, &str); 9] = [
    ("a parent component", "../a"),
    ("a parent component inside", "d/../a"),
    ("a whiteout of nothing", ".wh."),
    ("a whiteout of nothing in a directory", "d/.wh."),
    ("a whiteout of a directory itself", "d/.wh.."),
    ("a whiteout of a directory's parent", "d/.wh..."),
    ("a path below a whiteout", ".wh.d/a"),
    ("a path below an opaque marker", "d/.wh..wh..opq/a"),
    ("a path below a whiteout of nothing", ".wh./a"),
];

fn spelling() -> Vec<Case> {
    let long = "n".repeat(255);
    let deep = vec!["d".repeat(60); 60].join("/");
    vec![
        Case::new("2", "all spellings of one path")
            .layer(Layer::new().file("/a", "1").file("./b", "2").file("d//c", "3").file("/./d/./e", "4").dir("x//", 0o700))
            .gives(Tree::new().file("a", "1").file("b", "2").file("d/c", "3").file("d/e", "4").dir("x", 0o700)),
        Case::new("2", "spellings meet in markers as well")
            .layer(Layer::new().file("d/a", "").file("d/b", "").file("c", ""))
            .layer(Layer::new().member("/d//.wh.a", b'0').member("./.wh.c", b'0'))
            .gives(Tree::new().file("d/b", "")),
        Case::new("2", "names are bytes")
            .layer(Layer::new().file(b"\xff\xfe", "1").file("a\nb\t\x1b[0m", "2").symlink("s", b"\xc3\x28").dir("täglich", 0o755))
            .layer(Layer::new().whiteout(b"\xff\xfe").file(b"t\xc3\xa4glich/\x80", "3"))
            .gives(
                Tree::new()
                    .file("a\nb\t\x1b[0m", "2")
                    .symlink("s", b"\xc3\x28")
                    .dir("täglich", 0o755)
                    .file(b"t\xc3\xa4glich/\x80", "3"),
            ),
        Case::new("2", "names that only begin like others")
            .layer(Layer::new().file("d/a", "").file("d.x/a", "").file("da", "").file("d-/a", ""))
            .layer(Layer::new().whiteout("d"))
            .gives(Tree::new().file("d.x/a", "").file("da", "").file("d-/a", "")),
        Case::new("2", "dots and marks that are names")
            .layer(Layer::new().file("...", "").file("..a", "").file(".wh", "").file(".why", "").file("a.wh.b", "").file("-", ""))
            .layer(Layer::new().whiteout("...a").whiteout("..a").whiteout(".wh"))
            .gives(Tree::new().file("...", "").file(".why", "").file("a.wh.b", "").file("-", "")),
        Case::new("2", "a component of 255 bytes, and its whiteout of 259")
            .layer(Layer::new().file(&long, "x").file(format!("d/{long}"), "y"))
            .layer(Layer::new().whiteout(&long))
            .gives(Tree::new().file(format!("d/{long}"), "y")),
        Case::new("2", "a component of 256 bytes").layer(Layer::new().file(format!("{long}n"), "")).refused(),
        Case::new("2", "a whiteout of 256 bytes").layer(Layer::new().whiteout(format!("{long}n"))).refused(),
        Case::new("2", "a path of 3,600 bytes, its whiteout, and one beside it")
            .layer(Layer::new().file(format!("{deep}/a"), "1").file(format!("{deep}/b"), "2"))
            .layer(Layer::new().whiteout(format!("{deep}/a")))
            .gives(Tree::new().file(format!("{deep}/b"), "2")),
        Case::new("2", "a symlink's target is any bytes")
            .layer(Layer::new().symlink("a", "//x/../y/./").symlink("b", "z".repeat(1000)).symlink("c", ".wh.x/.."))
            .gives(Tree::new().symlink("a", "//x/../y/./").symlink("b", "z".repeat(1000)).symlink("c", ".wh.x/..")),
    ]
}

fn markers() -> Vec<Case> {
    let base = || Layer::new().file("d/a", "").file("d/b", "").file("c", "");
    vec![
        Case::new("2", "a whiteout with content")
            .layer(base())
            .layer(Layer::new().member("d/.wh.a", b'0').content("not empty"))
            .gives(Tree::new().file("d/b", "").file("c", "")),
        Case::new("2", "a whiteout that is a hardlink, a symlink, a directory, a fifo")
            .layer(base().file("e", ""))
            .layer(
                Layer::new()
                    .member("d/.wh.a", b'1')
                    .link("d/.wh.b")
                    .member(".wh.c", b'2')
                    .link("x")
                    .member(".wh.e/", b'5')
                    .member("d/.wh.b", b'6'),
            )
            .gives(Tree::new().implied("d")),
        Case::new("2", "an opaque marker that is a directory")
            .layer(base())
            .layer(Layer::new().member("d/.wh..wh..opq/", b'5'))
            .gives(Tree::new().implied("d").file("c", "")),
        Case::new("2", "aufs's own files are left out")
            .layer(
                base()
                    .file(".wh..wh.aufs", "")
                    .file("d/.wh..wh.orph/x", "")
                    .dir(".wh..wh.orph", 0o700)
                    .dir(".wh..wh.plnk", 0o700)
                    .file(".wh..wh.plnk/1.2", "x"),
            )
            .gives(Tree::new().file("d/a", "").file("d/b", "").file("c", "")),
        Case::new("2", "a name that begins like a marker of a marker")
            .layer(Layer::new().file(".whiteout", "").file(".wha", "").file("d/.wh", ""))
            .layer(Layer::new().whiteout(".wha").whiteout("d/.wh"))
            .gives(Tree::new().file(".whiteout", "").implied("d")),
    ]
}

fn forms() -> Vec<Case> {
    let long = format!("d/{}", "n".repeat(200));
    vec![
        Case::new("3", "GNU headers: long names and large numbers")
            .layer(
                Layer::new()
                    .file(&long, "x")
                    .form(Form::Gnu)
                    .symlink("s", &long)
                    .form(Form::Gnu)
                    .hardlink("h", &long)
                    .form(Form::Gnu)
                    .file("o", "")
                    .owner(3_000_000, 4_000_000)
                    .mtime(9_000_000_000, 0)
                    .form(Form::Gnu)
                    .file("before", "")
                    .mtime(-5, 0)
                    .form(Form::Gnu),
            )
            .gives(
                Tree::new()
                    .file(&long, "x")
                    .symlink("s", &long)
                    .hardlink("h", &long)
                    .file("o", "")
                    .owner(3_000_000, 4_000_000)
                    .mtime(9_000_000_000, 0)
                    .file("before", "")
                    .mtime(-5, 0),
            ),
        Case::new("3", "headers of Unix V7")
            .layer(
                Layer::new()
                    .dir("d", 0o700)
                    .form(Form::V7)
                    .file("d/a", "x")
                    .flag(0)
                    .form(Form::V7)
                    .hardlink("b", "d/a")
                    .form(Form::V7),
            )
            .gives(Tree::new().dir("d", 0o700).file("d/a", "x").hardlink("b", "d/a")),
        Case::new("3", "an old header with a trailing slash is a directory, and flag 7 a file")
            .layer(Layer::new().member("d/", 0).mode(0o700).form(Form::V7).member("c", b'7').content("x"))
            .gives(Tree::new().dir("d", 0o700).file("c", "x")),
        Case::new("3", "an unknown type flag").layer(Layer::new().member("a", b'V')).refused(),
        Case::new("3", "a character device 0:0 is no way to hide something")
            .layer(Layer::new().file("a", ""))
            .layer(Layer::new().char_device("a", 0, 0))
            .refused(),
        Case::new("3", "a type without a body that has one").layer(Layer::new().symlink("s", "a").content("body")).refused(),
        Case::new("3", "what is wrong at the end of a layer leaves nothing of it")
            .layer(Layer::new().file("a", "old"))
            .layer(Layer::new().file("a", "new").whiteout("a").member("b", b'?'))
            .refused(),
    ]
}
