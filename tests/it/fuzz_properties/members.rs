//! Layers over a small alphabet of paths, so that entries meet, follow, replace and hide each other: what they are made of, and how
//! bytes say them. The model's tests choose at random what the fuzzer chooses by what it reaches.

use std::fmt;

use arbitrary::{Arbitrary, Unstructured};
use plywood::testing::Layer;

use super::changes::Change;

/// Layers, bottom first.
#[derive(Clone)]
pub(crate) struct Stack(pub(crate) Vec<Layer>);

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|layer| writeln!(f, "    .layer({layer:?})"))
    }
}

/// One member of a layer.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    Dir(String, u32),
    File(String, &'static str, u32),
    Symlink(String, &'static str),
    Hardlink(String, String),
    Fifo(String),
    Device(String),
    Whiteout(String),
    Opaque(String),
    Root(u32),
    /// A file in aufs's directory of link targets, and a link to it.
    Aside(&'static str),
    LinkAside(String, &'static str),
}

/// How a member's owner, time and xattrs vary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extra {
    pub(crate) nanoseconds: u32,
    pub(crate) owner: u32,
    pub(crate) xattr: Option<(&'static str, &'static str)>,
}

/// What the process that unpacks the stacks may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    /// Any owner, devices, `trusted.` xattrs.
    Root,
    /// None of these.
    UserNamespace,
}

impl Member {
    fn add_to(&self, layer: Layer, extra: Extra) -> Layer {
        let Extra { nanoseconds, owner, xattr } = extra;
        let layer = match self {
            Self::Dir(path, mode) => layer.dir(path, *mode),
            Self::File(path, content, mode) => layer.file(path, content).mode(*mode),
            Self::Symlink(path, target) => layer.symlink(path, target),
            Self::Hardlink(path, target) => return layer.hardlink(path, target),
            Self::Fifo(path) => layer.fifo(path),
            Self::Device(path) => layer.char_device(path, 1, 3),
            Self::Whiteout(path) => return layer.whiteout(path),
            Self::Opaque(path) => return layer.opaque(path),
            Self::Root(mode) => layer.dir("", *mode),
            Self::Aside(name) => return layer.file(format!(".wh..wh.plnk/{name}"), *name),
            Self::LinkAside(path, name) => return layer.hardlink(path, format!(".wh..wh.plnk/{name}")),
        };
        let layer = if nanoseconds == 0 { layer } else { layer.mtime(1_500_000_000, nanoseconds) };
        let layer = layer.owner(owner, owner);
        match xattr {
            Some((name, value)) if matches!(self, Self::Dir(..) | Self::File(..) | Self::Root(_)) => layer.xattr(name, value),
            _ => layer,
        }
    }
}

/// What symlinks point to.
pub(crate) const TARGETS: [&str; 21] = [
    "a",
    "b",
    "c",
    "a/b",
    "b/a",
    "/",
    "..",
    ".",
    "../..",
    "/a",
    "/b",
    "/b/a",
    "/a/b/c",
    "../a",
    "../b",
    "../c/a",
    "a/../b",
    "../../b/c",
    "missing",
    "/missing/a",
    "b/..",
];

/// Xattrs that anybody may set; mostly none.
pub(crate) const XATTRS: [Option<(&str, &str)>; 6] =
    [None, None, None, Some(("user.x", "1")), Some(("user.y", "")), Some(("user.overlay.opaque", "y"))];

/// Xattrs that root alone may set, or that no layer may.
pub(crate) const XATTRS_OF_ROOT: [Option<(&str, &str)>; 3] =
    [Some(("trusted.overlay.opaque", "y")), Some(("trusted.overlay.redirect", "/a")), Some(("trusted.x", "left out"))];

pub(crate) fn layer(members: &[(Member, Extra)]) -> Layer {
    members.iter().fold(Layer::new(), |layer, (member, extra)| member.add_to(layer, *extra))
}

/// Hardlinks whose target a layer cannot have make it invalid, and most random ones are such. Those that the layer or one below names
/// nowhere are left out, but for one in ten.
pub(crate) fn with_possible_links(layers: Vec<Vec<(Member, Extra)>>) -> Vec<Vec<(Member, Extra)>> {
    let mut named = std::collections::BTreeSet::new();
    let mut aside = std::collections::BTreeSet::new();
    let mut out = Vec::new();
    for members in layers {
        aside.clear();
        for (member, _) in &members {
            match member {
                Member::File(path, ..) | Member::Symlink(path, _) | Member::Fifo(path) | Member::Device(path) => {
                    named.insert(path.clone());
                }
                Member::Aside(name) => {
                    aside.insert(*name);
                }
                _ => {}
            }
        }
        let possible = |(index, (member, _)): &(usize, (Member, Extra))| match member {
            Member::Hardlink(_, target) => named.contains(target) || index % 10 == 9,
            Member::LinkAside(_, name) => aside.contains(name),
            _ => true,
        };
        out.push(members.into_iter().enumerate().filter(possible).map(|(_, member)| member).collect());
    }
    out
}

/// More than this says nothing new, and takes time.
const MEMBERS_MAX: usize = 48;
const LAYERS_MAX: usize = 6;
const CHANGES_MAX: usize = 12;

/// A path of one to three components, of four names.
fn path(byte: u8) -> String {
    let depth = [1, 2, 3, 2][usize::from(byte & 3)];
    let names = (0..depth).map(|level| ["a", "b", "c", "d"][usize::from(byte >> (2 + 2 * level) & 3)]);
    names.collect::<Vec<_>>().join("/")
}

fn pick<T: Copy>(from: &[T], byte: u8) -> T {
    from[usize::from(byte) % from.len()]
}

/// Four bytes: what, where, with which argument, and the extras. `None` ends the layer.
fn member([kind, place, argument, more]: [u8; 4], power: Power) -> Option<(Member, Extra)> {
    let mode = pick(&[0o755, 0o700, 0o1777], argument);
    let member = match kind % 20 {
        0..=2 => Member::Dir(path(place), mode),
        3..=5 => Member::File(path(place), pick(&["", "x", "yy"], argument), pick(&[0o644, 0o600, 0o4755], argument >> 2)),
        6..=7 => Member::Symlink(path(place), pick(&TARGETS, argument)),
        8..=9 => Member::Hardlink(path(place), path(argument)),
        10 => Member::Fifo(path(place)),
        11 if power == Power::Root => Member::Device(path(place)),
        11 => Member::Fifo(path(place)),
        12..=13 => Member::Whiteout(path(place)),
        14 if argument % 8 == 7 => Member::Opaque(String::new()),
        14 => Member::Opaque(path(place)),
        15 => Member::Root(mode),
        16 => Member::Aside(pick(&["1", "2"], argument)),
        17 => Member::LinkAside(path(place), pick(&["1", "2"], argument)),
        _ => return None,
    };
    let (mut owners, mut xattrs) = (vec![0], XATTRS.to_vec());
    if power == Power::Root {
        owners.push(5);
        xattrs.extend(XATTRS_OF_ROOT);
    }
    let extra = Extra { nanoseconds: u32::from(more & 3), owner: pick(&owners, more >> 2 & 1), xattr: pick(&xattrs, more >> 3) };
    Some((member, extra))
}

/// The stack of layers that the bytes say.
pub(crate) fn stack(bytes: &mut Unstructured<'_>, power: Power) -> Stack {
    let (mut layers, mut count) = (vec![Vec::new()], 0);
    while bytes.len() >= 4 && count < MEMBERS_MAX {
        count += 1;
        match member(Arbitrary::arbitrary(bytes).unwrap_or_default(), power) {
            Some(member) => layers.last_mut().unwrap().push(member),
            None if layers.len() == LAYERS_MAX => break,
            None => layers.push(Vec::new()),
        }
    }
    Stack(with_possible_links(layers).iter().map(|members| layer(members)).collect())
}

/// The changes that the bytes say: their number, and three bytes for each.
pub(crate) fn changes(bytes: &mut Unstructured<'_>) -> Vec<Change> {
    let count = usize::from(u8::arbitrary(bytes).unwrap_or_default()).min(CHANGES_MAX);
    (0..count).map(|_| change(Arbitrary::arbitrary(bytes).unwrap_or_default())).collect()
}

fn change([kind, place, argument]: [u8; 3]) -> Change {
    // The root's attributes can change too.
    let or_root = || if argument >= 0xc0 { String::new() } else { path(place) };
    match kind % 15 {
        0 => Change::Write(path(place), pick(&["", "x", "new"], argument)),
        1 => Change::Append(path(place)),
        2 => Change::Truncate(path(place)),
        3 => Change::Open(path(place)),
        4 => Change::Mkdir(path(place)),
        5 => Change::Remove(path(place)),
        6 => Change::Remake(path(place)),
        7 => Change::Rename(path(place), path(argument)),
        8 => Change::Link(path(place), path(argument)),
        9 => Change::Symlink(path(place), pick(&TARGETS, argument)),
        10 => Change::Fifo(path(place)),
        11 => Change::Chmod(or_root(), pick(&[0o600, 0o4711, 0o755], argument)),
        12 => Change::ChmodBack(path(place)),
        13 => Change::Time(path(place), u32::from(argument % 3)),
        _ => Change::Xattr(or_root()),
    }
}
