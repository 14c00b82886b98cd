//! Random trees, changed at random by what containers do: an upperdir and the whole tree say the same, and it is the tree.

use std::fs;

use super::*;

/// A small generator of numbers: the same seed, the same tree.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A path of few names, up to three deep, so that paths meet.
    fn path(&mut self) -> PathBuf {
        (0..=self.below(3)).map(|_| ["a", "b", "c"][self.below(3) as usize]).collect()
    }
}

/// Does one thing; most fail where the tree is not made for it, and that is as well.
fn act(root: &Path, numbers: &mut Numbers) {
    let (one, other) = (root.join(numbers.path()), root.join(numbers.path()));
    let remove = |path: &Path| match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    // All times are one of few, so that only what differs in substance differs.
    let at = |path: &Path, second: u64| {
        let time = Timestamp::from_seconds(second as i64);
        if let Ok(file) = fs::File::open(path)
            && fs::symlink_metadata(path).is_ok_and(|found| !found.is_symlink())
        {
            inode::set_times(&file, time, time).unwrap();
        }
    };
    match numbers.below(14) {
        0..=2 => {
            let _ = fs::write(&one, ["", "x", "y", "zz"][numbers.below(4) as usize]);
            at(&one, numbers.below(2));
        }
        3..=4 => drop(fs::create_dir(&one)),
        5 => drop(remove(&one)),
        6..=8 => drop(fs::hard_link(&one, &other)),
        9 => {
            let _ = remove(&other);
            let _ = fs::hard_link(&one, &other);
        }
        10 => drop(fs::rename(&one, &other)),
        11 => {
            // An inode of its own that is otherwise the same.
            let copied = Command::new("cp").arg("-pP").arg(&one).arg(root.join("t")).output();
            if copied.is_ok_and(|done| done.status.success()) {
                fs::rename(root.join("t"), &one).unwrap();
            }
        }
        12 => {
            let mode = if numbers.below(2) == 0 { 0o644 } else { 0o755 };
            if fs::symlink_metadata(&one).is_ok_and(|found| !found.is_symlink()) {
                fs::set_permissions(&one, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            }
        }
        _ => {
            // A symlink's own time is the clock's.
            let _ = std::os::unix::fs::symlink("a", &one);
        }
    }
}

/// As many as a test run bears; `PLYWOOD_TEST_ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("PLYWOOD_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60)
}

#[test]
fn whatever_a_container_does_comes_back() {
    if !can_run("whatever_a_container_does_comes_back") {
        return;
    }
    for seed in 0..rounds() {
        let mut numbers = Numbers(seed);
        let scene = Scene::over(|lower| (0..numbers.below(40)).for_each(|_| act(lower, &mut numbers)));
        let merged = scene.merged();
        (0..numbers.below(25)).for_each(|_| act(&merged, &mut numbers));
        // Shown where it fails.
        println!("seed {seed}");
        still(&merged);
        scene.diff();
    }
}
