//! Metadata: SEMANTICS §4, as far as a tree shows it.

use crate::testing::conformance::Case;
use crate::testing::{Layer, Tree};

pub(super) fn cases() -> Vec<Case> {
    [modes_and_owners(), times(), xattrs(), overlay_names(), contents()].concat()
}

fn modes_and_owners() -> Vec<Case> {
    vec![
        Case::new("4", "set-uid, set-gid and sticky bits survive the change of owner")
            .layer(
                Layer::new()
                    .file("u", "")
                    .mode(0o4755)
                    .owner(5, 6)
                    .file("g", "")
                    .mode(0o2711)
                    .owner(5, 6)
                    .dir("t", 0o7777)
                    .owner(5, 6),
            )
            .gives(
                Tree::new()
                    .file("u", "")
                    .mode(0o4755)
                    .owner(5, 6)
                    .file("g", "")
                    .mode(0o2711)
                    .owner(5, 6)
                    .dir("t", 0o7777)
                    .owner(5, 6),
            ),
        Case::new("4", "modes are exact, wide open and shut")
            .layer(Layer::new().file("a", "").mode(0o777).file("b", "").mode(0).dir("c", 0o777).dir("d", 0).fifo("e").mode(0o666))
            .gives(Tree::new().file("a", "").mode(0o777).file("b", "").mode(0).dir("c", 0o777).dir("d", 0).fifo("e").mode(0o666)),
        Case::new("4", "a set-gid directory hands nothing down")
            .layer(
                Layer::new().dir("d", 0o2755).owner(0, 6).dir("d/e", 0o755).file("d/f", "").symlink("d/s", "f").file("d/g/h", ""),
            )
            .layer(Layer::new().dir("d/i", 0o755).file("d/j/k", ""))
            .gives(
                Tree::new()
                    .dir("d", 0o2755)
                    .owner(0, 6)
                    .dir("d/e", 0o755)
                    .file("d/f", "")
                    .symlink("d/s", "f")
                    .file("d/g/h", "")
                    .dir("d/i", 0o755)
                    .file("d/j/k", ""),
            ),
        Case::new("4", "owners of every type")
            .layer(
                Layer::new()
                    .dir("d", 0o755)
                    .owner(1, 2)
                    .file("f", "")
                    .owner(3, 4)
                    .symlink("s", "nowhere")
                    .owner(5, 6)
                    .fifo("p")
                    .owner(7, 8),
            )
            .gives(
                Tree::new()
                    .dir("d", 0o755)
                    .owner(1, 2)
                    .file("f", "")
                    .owner(3, 4)
                    .symlink("s", "nowhere")
                    .owner(5, 6)
                    .fifo("p")
                    .owner(7, 8),
            ),
        Case::new("4", "the largest owner")
            .layer(Layer::new().file("f", "").owner(u32::MAX - 1, u32::MAX - 1))
            .gives(Tree::new().file("f", "").owner(u32::MAX - 1, u32::MAX - 1)),
        Case::new("4", "devices")
            .layer(
                Layer::new()
                    .char_device("null", 1, 3)
                    .mode(0o666)
                    .block_device("disk", 8, 1)
                    .owner(0, 6)
                    .char_device("far", 300, 70_000),
            )
            .gives(
                Tree::new()
                    .char_device("null", 1, 3)
                    .mode(0o666)
                    .block_device("disk", 8, 1)
                    .owner(0, 6)
                    .char_device("far", 300, 70_000),
            ),
        Case::new("4", "a device is linked, replaced and hidden")
            .layer(Layer::new().char_device("null", 1, 3).char_device("zero", 1, 5).block_device("disk", 8, 1))
            .layer(Layer::new().hardlink("void", "null").file("zero", "").whiteout("disk"))
            .gives(Tree::new().char_device("null", 1, 3).hardlink("void", "null").file("zero", "")),
    ]
}

fn times() -> Vec<Case> {
    vec![
        Case::new("4", "nanoseconds of every type")
            .layer(
                Layer::new()
                    .dir("d", 0o755)
                    .mtime(1, 1)
                    .file("f", "")
                    .mtime(1_234_567_890, 123_456_789)
                    .symlink("s", "f")
                    .mtime(2, 999_999_999)
                    .fifo("p")
                    .mtime(0, 500_000_000),
            )
            .gives(
                Tree::new()
                    .dir("d", 0o755)
                    .mtime(1, 1)
                    .file("f", "")
                    .mtime(1_234_567_890, 123_456_789)
                    .symlink("s", "f")
                    .mtime(2, 999_999_999)
                    .fifo("p")
                    .mtime(0, 500_000_000),
            ),
        Case::new("4", "times before 1970")
            .layer(Layer::new().file("a", "").mtime(-1, 0).file("b", "").mtime(-1, 999_999_999).dir("c", 0o755).mtime(-86_400, 1))
            .gives(Tree::new().file("a", "").mtime(-1, 0).file("b", "").mtime(-1, 999_999_999).dir("c", 0o755).mtime(-86_400, 1)),
        Case::new("4", "times after 2038")
            .layer(Layer::new().file("a", "").mtime(5_000_000_000, 7).dir("d", 0o755).mtime(10_000_000_000, 0))
            .gives(Tree::new().file("a", "").mtime(5_000_000_000, 7).dir("d", 0o755).mtime(10_000_000_000, 0)),
        Case::new("4", "the epoch itself")
            .layer(Layer::new().file("a", "x").mtime(0, 0))
            .gives(Tree::new().file("a", "x").mtime(0, 0)),
    ]
}

/// `security.capability` of version 2: effective `cap_net_raw`.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The same of version 3, for the namespaces whose root is 1000 outside.
const CAPABILITY_3: &[u8] = b"\x01\0\0\x03\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xe8\x03\0\0";

/// A POSIX ACL: owner `rw-`, user 5 `r--`, group `r--`, mask `r--`, others `r--`. The mode that goes with it is 0644.
const ACL: &[u8] = b"\x02\0\0\0\
    \x01\0\x06\0\xff\xff\xff\xff\
    \x02\0\x04\0\x05\0\0\0\
    \x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\
    \x20\0\x04\0\xff\xff\xff\xff";

fn xattrs() -> Vec<Case> {
    vec![
        Case::new("4", "xattrs of files and directories")
            .layer(
                Layer::new().file("f", "").xattr("user.a", "1").xattr("user.b", b"\0\xff\n=").dir("d", 0o755).xattr("user.c", "3"),
            )
            .gives(
                Tree::new().file("f", "").xattr("user.a", "1").xattr("user.b", b"\0\xff\n=").dir("d", 0o755).xattr("user.c", "3"),
            ),
        Case::new("4", "an empty xattr is there")
            .layer(Layer::new().file("f", "").xattr("user.empty", ""))
            .gives(Tree::new().file("f", "").xattr("user.empty", "")),
        Case::new("4", "an xattr on a file that nobody may write")
            .layer(Layer::new().file("f", "").mode(0o400).xattr("user.a", "1").dir("d", 0o500).xattr("user.b", "2"))
            .gives(Tree::new().file("f", "").mode(0o400).xattr("user.a", "1").dir("d", 0o500).xattr("user.b", "2")),
        Case::new("4", "a file capability survives the change of owner")
            .layer(Layer::new().file("ping", "").mode(0o755).owner(5, 6).xattr("security.capability", CAPABILITY))
            .gives(Tree::new().file("ping", "").mode(0o755).owner(5, 6).xattr("security.capability", CAPABILITY)),
        Case::new("4", "a file capability survives a link from a layer above")
            .layer(Layer::new().file("ping", "").mode(0o755).xattr("security.capability", CAPABILITY))
            .layer(Layer::new().hardlink("pong", "ping"))
            .gives(Tree::new().file("ping", "").mode(0o755).xattr("security.capability", CAPABILITY).hardlink("pong", "ping")),
        Case::new("4", "a file capability of version 3 keeps its root id")
            .layer(Layer::new().file("ping", "").mode(0o755).xattr("security.capability", CAPABILITY_3))
            .layer(Layer::new().hardlink("pong", "ping"))
            .gives(Tree::new().file("ping", "").mode(0o755).xattr("security.capability", CAPABILITY_3).hardlink("pong", "ping")),
        Case::new("4", "an access ACL")
            .layer(Layer::new().file("f", "").mode(0o644).xattr("system.posix_acl_access", ACL))
            .gives(Tree::new().file("f", "").mode(0o644).xattr("system.posix_acl_access", ACL)),
        Case::new("4", "a default ACL hands nothing down")
            .layer(
                Layer::new().dir("d", 0o755).xattr("system.posix_acl_default", ACL).file("d/f", "").mode(0o666).dir("d/e", 0o777),
            )
            .layer(Layer::new().file("d/g", "").mode(0o666).dir("d/h", 0o777).file("d/i/j", "").fifo("d/p").mode(0o666))
            .gives(
                Tree::new()
                    .dir("d", 0o755)
                    .xattr("system.posix_acl_default", ACL)
                    .file("d/f", "")
                    .mode(0o666)
                    .dir("d/e", 0o777)
                    .file("d/g", "")
                    .mode(0o666)
                    .dir("d/h", 0o777)
                    .file("d/i/j", "")
                    .fifo("d/p")
                    .mode(0o666),
            ),
        Case::new("4", "a stale ACL goes with the directory's next entry")
            .layer(Layer::new().dir("d", 0o755).xattr("system.posix_acl_default", ACL).xattr("user.a", "1"))
            .layer(Layer::new().dir("d", 0o711))
            .gives(Tree::new().dir("d", 0o711)),
        Case::new("4", "labels of the host and foreign trusted names are left out")
            .layer(
                Layer::new()
                    .file("f", "")
                    .xattr("trusted.other", "1")
                    .xattr("security.selinux", "label")
                    .xattr("security.ima", "x")
                    .xattr("security.evm", "x")
                    .xattr("security.apparmor", "x")
                    .xattr("user.kept", "2"),
            )
            .gives(Tree::new().file("f", "").xattr("user.kept", "2")),
    ]
}

/// A layer never speaks overlayfs to the host: such names look unchanged inside, and do nothing.
fn overlay_names() -> Vec<Case> {
    let base = || Layer::new().dir("d", 0o755).file("d/a", "a").file("f", "f");
    let tree = || Tree::new().dir("d", 0o755).file("d/a", "a").file("f", "f");
    vec![
        Case::new("4", "an opaque xattr from a layer hides nothing")
            .layer(base())
            .layer(Layer::new().dir("d", 0o755).xattr("trusted.overlay.opaque", "y"))
            .gives(tree().at("d").xattr("trusted.overlay.opaque", "y")),
        Case::new("4", "redirect and metacopy from a layer lead nowhere")
            .layer(base().dir("secret", 0o700).file("secret/key", "key"))
            .layer(
                Layer::new()
                    .dir("n", 0o755)
                    .xattr("trusted.overlay.redirect", "/secret")
                    .file("m", "m")
                    .xattr("trusted.overlay.metacopy", "")
                    .xattr("trusted.overlay.redirect", "/secret/key"),
            )
            .gives(
                tree()
                    .dir("secret", 0o700)
                    .file("secret/key", "key")
                    .dir("n", 0o755)
                    .xattr("trusted.overlay.redirect", "/secret")
                    .file("m", "m")
                    .xattr("trusted.overlay.metacopy", "")
                    .xattr("trusted.overlay.redirect", "/secret/key"),
            ),
        Case::new("4", "a whiteout xattr from a layer hides nothing")
            .layer(base())
            .layer(
                Layer::new()
                    .dir("d", 0o755)
                    .xattr("trusted.overlay.opaque", "x")
                    .file("d/a", "")
                    .xattr("trusted.overlay.whiteout", ""),
            )
            .gives(tree().at("d").xattr("trusted.overlay.opaque", "x").file("d/a", "").xattr("trusted.overlay.whiteout", "")),
        Case::new("4", "an escaped name is escaped once more")
            .layer(base().file("e", "").xattr("trusted.overlay.overlay.opaque", "y"))
            .gives(tree().file("e", "").xattr("trusted.overlay.overlay.opaque", "y")),
        Case::new("4", "names of the other style are ordinary")
            .layer(base())
            .layer(Layer::new().dir("d", 0o755).xattr("user.overlay.opaque", "y").file("f", "").xattr("user.overlay.whiteout", "y"))
            .gives(tree().at("d").xattr("user.overlay.opaque", "y").file("f", "").xattr("user.overlay.whiteout", "y")),
        Case::new("4", "such a name on a directory that later layers work in")
            .layer(base().dir("d", 0o755).xattr("trusted.overlay.opaque", "y"))
            .layer(Layer::new().file("d/b", "b"))
            .layer(Layer::new().whiteout("d/a"))
            .gives(Tree::new().dir("d", 0o755).xattr("trusted.overlay.opaque", "y").file("d/b", "b").file("f", "f")),
    ]
}

fn contents() -> Vec<Case> {
    let mut holes = vec![0; 1 << 20];
    holes.extend_from_slice(b"in the middle");
    holes.resize(3 << 20, 0);
    let large: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    vec![
        Case::new("4", "files of all sizes around a block")
            .layer(
                [0, 1, 511, 512, 513, 4095, 4096, 4097].iter().fold(Layer::new(), |l, n| l.file(format!("f{n}"), vec![b'x'; *n])),
            )
            .gives(
                [0, 1, 511, 512, 513, 4095, 4096, 4097].iter().fold(Tree::new(), |t, n| t.file(format!("f{n}"), vec![b'x'; *n])),
            ),
        Case::new("4", "a large file, and a shorter one over it")
            .layer(Layer::new().file("a", &large).file("b", &large))
            .layer(Layer::new().file("b", "short"))
            .gives(Tree::new().file("a", &large).file("b", "short")),
        Case::new("4", "long runs of zeros, one at the end")
            .layer(Layer::new().file("a", &holes).file("zero", vec![0; 1 << 20]))
            .layer(Layer::new().hardlink("b", "a"))
            .gives(Tree::new().file("a", &holes).hardlink("b", "a").file("zero", vec![0; 1 << 20])),
    ]
}
