//! Random stacks of layers over a small alphabet of paths, and random changes to their trees.

use plywood::testing::Layer;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fuzz_properties::changes::Change;
use crate::fuzz_properties::members::{Extra, Member, Power, Stack, TARGETS, XATTRS, XATTRS_OF_ROOT, layer, with_possible_links};

pub(super) fn path() -> impl Strategy<Value = String> {
    // Few names and little depth: paths are to meet.
    let few = prop_oneof![2 => Just("a"), 1 => Just("b")];
    let more = prop_oneof![4 => Just("a"), 3 => Just("b"), 2 => Just("c"), 1 => Just("d")];
    prop_oneof![vec(few, 1..4), vec(more, 1..4)].prop_map(|names| names.join("/"))
}

pub(super) fn target() -> impl Strategy<Value = &'static str> {
    prop::sample::select(TARGETS.to_vec())
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
    let mut xattrs = XATTRS.to_vec();
    let mut owners = vec![0];
    if power == Power::Root {
        xattrs.extend(XATTRS_OF_ROOT);
        owners.extend([0, 5]);
    }
    let extra = (0_u32..4, prop::sample::select(owners), prop::sample::select(xattrs));
    let extra = extra.prop_map(|(nanoseconds, owner, xattr)| Extra { nanoseconds, owner, xattr });
    vec((member(power), extra), count)
}

/// One to five layers.
pub(super) fn stacks(power: Power) -> impl Strategy<Value = Stack> {
    vec(members(power, 0..12), 1..6)
        .prop_map(|layers| Stack(with_possible_links(layers).iter().map(|members| layer(members)).collect()))
}

/// A stack, a layer over it, and the same layer with its markers elsewhere in the tar.
pub(super) fn with_markers_moved() -> impl Strategy<Value = (Stack, Layer, Layer)> {
    (stacks(Power::Root), members(Power::Root, 1..9), vec(any::<prop::sample::Index>(), 8)).prop_map(|(below, members, places)| {
        let (markers, mut moved): (Vec<_>, Vec<_>) =
            members.iter().cloned().partition(|(member, _)| matches!(member, Member::Whiteout(_) | Member::Opaque(_)));
        for (marker, place) in markers.into_iter().zip(places) {
            let place = place.index(moved.len() + 1);
            moved.insert(place, marker);
        }
        (below, layer(&members), layer(&moved))
    })
}

pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (path(), prop::sample::select(vec!["", "x", "new"])).prop_map(|(path, content)| Change::Write(path, content)),
        1 => path().prop_map(Change::Append),
        1 => path().prop_map(Change::Truncate),
        2 => path().prop_map(Change::Open),
        3 => path().prop_map(Change::Mkdir),
        4 => path().prop_map(Change::Remove),
        3 => path().prop_map(Change::Remake),
        3 => (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        3 => (path(), path()).prop_map(|(from, to)| Change::Link(from, to)),
        2 => (path(), target()).prop_map(|(path, target)| Change::Symlink(path, target)),
        1 => path().prop_map(Change::Fifo),
        // The root too.
        2 => (prop_oneof![4 => path(), 1 => Just(String::new())], prop::sample::select(vec![0o600, 0o4711, 0o755])).prop_map(|(path, mode)| Change::Chmod(path, mode)),
        2 => path().prop_map(Change::ChmodBack),
        2 => (path(), 0_u32..3).prop_map(|(path, nanoseconds)| Change::Time(path, nanoseconds)),
        1 => prop_oneof![3 => path(), 1 => Just(String::new())].prop_map(Change::Xattr),
    ];
    vec(change, 0..10)
}
