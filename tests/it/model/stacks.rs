//! Random stacks of layers over a small alphabet of paths, so that entries meet, follow, replace and hide each other.

use std::fmt;

use plywood::testing::Layer;
use proptest::collection::vec;
use proptest::prelude::*;

/// Layers, bottom first.
#[derive(Clone)]
pub(super) struct Stack(pub(super) Vec<Layer>);

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|layer| writeln!(f, "    .layer({layer:?})"))
    }
}

/// One member of a layer.
#[derive(Clone, Debug)]
enum Member {
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
struct Extra {
    nanoseconds: u32,
    owner: u32,
    xattr: Option<(&'static str, &'static str)>,
}

/// What the process that unpacks the stacks may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// Any owner, devices, `trusted.` xattrs.
    Root,
    /// None of these.
    UserNamespace,
}

impl Member {
    fn is_marker(&self) -> bool {
        matches!(self, Self::Whiteout(_) | Self::Opaque(_))
    }

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

pub(super) fn path() -> impl Strategy<Value = String> {
    // Few names and little depth: paths are to meet.
    let few = prop_oneof![2 => Just("a"), 1 => Just("b")];
    let more = prop_oneof![4 => Just("a"), 3 => Just("b"), 2 => Just("c"), 1 => Just("d")];
    prop_oneof![vec(few, 1..4), vec(more, 1..4)].prop_map(|names| names.join("/"))
}

pub(super) fn target() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
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
    ])
}

fn member(power: Power) -> impl Strategy<Value = Member> {
    let special = move |path| if power == Power::Root { Member::Device(path) } else { Member::Fifo(path) };
    let mode = || prop::sample::select(vec![0o755, 0o700, 0o1777]);
    prop_oneof![
        5 => (path(), mode()).prop_map(|(path, mode)| Member::Dir(path, mode)),
        6 => (path(), prop::sample::select(vec!["", "x", "yy"]), prop::sample::select(vec![0o644, 0o600, 0o4755]))
            .prop_map(|(path, content, mode)| Member::File(path, content, mode)),
        4 => (path(), target()).prop_map(|(path, target)| Member::Symlink(path, target)),
        4 => (path(), path()).prop_map(|(path, target)| Member::Hardlink(path, target)),
        1 => path().prop_map(Member::Fifo),
        1 => path().prop_map(special),
        4 => path().prop_map(Member::Whiteout),
        2 => prop_oneof![9 => path(), 1 => Just(String::new())].prop_map(Member::Opaque),
        1 => mode().prop_map(Member::Root),
        1 => prop::sample::select(vec!["1", "2"]).prop_map(Member::Aside),
        1 => (path(), prop::sample::select(vec!["1", "2"])).prop_map(|(path, name)| Member::LinkAside(path, name)),
    ]
}

fn members(power: Power, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(Member, Extra)>> {
    let mut xattrs = vec![None, None, None, Some(("user.x", "1")), Some(("user.y", "")), Some(("user.overlay.opaque", "y"))];
    let mut owners = vec![0];
    if power == Power::Root {
        xattrs.extend([
            Some(("trusted.overlay.opaque", "y")),
            Some(("trusted.overlay.redirect", "/a")),
            Some(("trusted.x", "left out")),
        ]);
        owners.extend([0, 5]);
    }
    let extra = (0_u32..4, prop::sample::select(owners), prop::sample::select(xattrs));
    let extra = extra.prop_map(|(nanoseconds, owner, xattr)| Extra { nanoseconds, owner, xattr });
    vec((member(power), extra), count)
}

fn layer(members: &[(Member, Extra)]) -> Layer {
    members.iter().fold(Layer::new(), |layer, (member, extra)| member.add_to(layer, *extra))
}

/// Hardlinks whose target a layer cannot have make it invalid, and most random ones are such. Those that the layer or one below names
/// nowhere are left out, but for one in ten.
fn with_possible_links(layers: Vec<Vec<(Member, Extra)>>) -> Vec<Vec<(Member, Extra)>> {
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

/// One to five layers.
pub(super) fn stacks(power: Power) -> impl Strategy<Value = Stack> {
    vec(members(power, 0..12), 1..6)
        .prop_map(|layers| Stack(with_possible_links(layers).iter().map(|members| layer(members)).collect()))
}

/// A stack, a layer over it, and the same layer with its markers elsewhere in the tar.
pub(super) fn with_markers_moved() -> impl Strategy<Value = (Stack, Layer, Layer)> {
    (stacks(Power::Root), members(Power::Root, 1..9), vec(any::<prop::sample::Index>(), 8)).prop_map(|(below, members, places)| {
        let (markers, mut moved): (Vec<_>, Vec<_>) = members.iter().cloned().partition(|(member, _)| member.is_marker());
        for (marker, place) in markers.into_iter().zip(places) {
            let place = place.index(moved.len() + 1);
            moved.insert(place, marker);
        }
        (below, layer(&members), layer(&moved))
    })
}
