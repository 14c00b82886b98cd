use super::*;

fn sample() -> Tree {
    Tree::new().dir("d", 0o700).owner(5, 6).file("d/f", "x").xattr("user.a", "1").hardlink("g", "d/f").symlink("s", "d/f")
}

#[test]
fn a_literal_is_the_same_tree_in_any_order() {
    let other =
        Tree::new().file("g", "x").xattr("user.a", "1").symlink("s", "d/f").dir("d", 0o700).owner(5, 6).hardlink("d/f", "g");
    assert_same_tree(&sample(), &other);
    assert_eq!(sample(), other);
}

#[test]
fn each_property_makes_a_difference() {
    let changed = [
        sample().at("d").mode(0o701),
        sample().at("d").owner(5, 7),
        sample().at("g").mtime(1_000_000_000, 1),
        sample().at("d/f").xattr("user.a", "2"),
        sample().at("d/f").xattr("user.b", ""),
        sample().file("d/f", "x").xattr("user.a", "1"), // the link is broken
        sample().file("d/f", "y").xattr("user.a", "1"),
        sample().symlink("s", "d/g"),
        sample().fifo("s").mode(0o777),
        sample().file("new", ""),
        sample().at("").mtime(1, 0),
        sample().hardlink("d/h", "g"),
    ];
    for tree in &changed {
        assert_ne!(&sample(), tree);
        assert_ne!(tree, &sample());
    }
}

#[test]
fn groups_are_compared_as_sets() {
    let pairs = |b: &str, c: &str, d: &str| {
        let mut tree = Tree::new().file("a", "").file("z", "");
        for (name, with) in [("b", b), ("c", c), ("d", d)] {
            tree = tree.hardlink(name, with);
        }
        tree
    };
    assert_eq!(pairs("a", "z", "z"), pairs("a", "z", "c"));
    assert_ne!(pairs("a", "z", "z"), pairs("a", "a", "z"));
    assert_eq!(pairs("a", "z", "z").difference(&pairs("a", "a", "z")).len(), 3, "c, and d and z whose first name was c");
}

#[test]
fn a_directory_is_read_as_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    std::fs::create_dir(at("d")).unwrap();
    std::fs::write(at("d/f"), "text").unwrap();
    std::fs::hard_link(at("d/f"), at("g")).unwrap();
    std::fs::write(at("large"), vec![7; KEPT + 1]).unwrap();
    std::os::unix::fs::symlink("../nowhere", at("d/s")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("p"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let tree = Tree::read(scratch.path()).unwrap();
    assert_eq!(tree.get("d/f").unwrap().kind, Kind::File(Content::new("text")));
    assert_eq!(tree.get("large").unwrap().kind, Kind::File(Content::new(vec![7; KEPT + 1])));
    assert_eq!(tree.get("d/s").unwrap().kind, Kind::Symlink(b"../nowhere".to_vec()));
    assert_eq!(tree.get("p").unwrap().kind, Kind::Fifo);
    assert_eq!(tree.names_of(&literal_path("g")).len(), 2);
    assert_eq!(tree.len(), 7);
    let later = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(9, 5));
    std::fs::File::open(at("g")).unwrap().set_times(later).unwrap();
    let after = Tree::read(scratch.path()).unwrap();
    assert_eq!(after.get("d/f").unwrap().attributes.mtime, Timestamp { seconds: 9, nanoseconds: 5 });
    assert_eq!(tree.difference(&after).len(), 2, "both names of the one inode");
}

#[test]
fn a_listing_shows_groups() {
    let text = format!("{:?}", Tree::new().file("a", "x").hardlink("b", "a"));
    assert_eq!(text, "./ 0755 0:0 0 directory\na 0644 0:0 1000000000 file \"x\"\nb = a\n");
}
