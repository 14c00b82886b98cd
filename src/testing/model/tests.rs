use super::*;
use crate::testing::tree::assert_same_tree;

#[track_caller]
fn gives(layers: &[Layer], tree: &Tree) {
    match fold(layers) {
        Ok(found) => assert_same_tree(tree, &found),
        Err(invalid) => panic!("{invalid}"),
    }
}

#[test]
fn markers_that_depend_on_each_other_are_contradictory() {
    // `b` leads to `deep`; without `a` it leads to the root, where `b/q` becomes the `q` that keeps the marker from `a`.
    let lower = Layer::new().dir("deep/dir", 0o755).symlink("a", "deep/dir").symlink("b", "a/..").symlink("q", ".");
    let layer = Layer::new().file("b/q", "").whiteout("q/a");
    assert!(fold(&[lower, layer]).unwrap_err().contradictory);
}

#[test]
fn a_woken_link_wakes_others_in_the_order_of_the_tar() {
    let layer = Layer::new().hardlink("c", "b").hardlink("b", "a").file("a", "x");
    gives(&[layer], &Tree::new().file("a", "x").hardlink("b", "a").hardlink("c", "a"));
}
