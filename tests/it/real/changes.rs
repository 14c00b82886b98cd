//! Five hundred changes to a mounted root, in every way a container can make them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use super::input::shell;

/// How many changes of each of the fifteen kinds are made, at least.
const EACH: usize = 33;

/// Changes the Debian tree at `root`. The files to change are taken in the order of their names, so that two roots are changed alike.
pub(super) fn make(root: &Path) {
    let mut files = regular_files(&root.join("usr/share/zoneinfo"));
    files.extend(regular_files(&root.join("usr/lib")));
    assert!(files.len() > 9 * EACH, "{} files", files.len());
    let mut files = files.into_iter();
    let mut take = |count: usize| files.by_ref().take(count).collect::<Vec<PathBuf>>();
    let fresh = root.join("srv/fresh");
    fs::create_dir(&fresh).unwrap();

    for number in 0..EACH {
        fs::write(fresh.join(format!("file-{number}")), vec![b'n'; number * 777]).unwrap();
        symlink(format!("file-{number}"), fresh.join(format!("link-{number}"))).unwrap();
        mkfifo(&fresh.join(format!("fifo-{number}")), Mode::from_bits_truncate(0o640)).unwrap();
        let device = makedev(1, 3 + number as u64);
        mknod(&fresh.join(format!("device-{number}")), SFlag::S_IFCHR, Mode::from_bits_truncate(0o660), device).unwrap();
        lchown(fresh.join(format!("link-{number}")), Some(5), Some(number as u32)).unwrap();
    }
    for path in take(EACH) {
        fs::write(&path, "edited").unwrap();
    }
    for path in take(EACH) {
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"appended").unwrap();
    }
    for path in take(EACH) {
        File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
    }
    for path in take(EACH) {
        fs::remove_file(&path).unwrap();
    }
    for path in take(EACH) {
        let new = path.with_extension("renamed-over");
        fs::write(&new, "renamed over").unwrap();
        fs::rename(&new, &path).unwrap();
    }
    for path in take(EACH) {
        fs::set_permissions(&path, Permissions::from_mode(0o4711)).unwrap();
    }
    for path in take(EACH) {
        chown(&path, Some(1234), Some(70_000)).unwrap();
    }
    for (number, path) in take(EACH).into_iter().enumerate() {
        fs::hard_link(&path, fresh.join(format!("hard-{number}"))).unwrap();
    }
    for (number, path) in take(EACH).into_iter().enumerate() {
        let times = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_600_000_000 + number as u64, 123_456_789);
        File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    }
    shell(root, SCRIPT);
}

/// What is easier to say to a shell, with what has no call in the standard library.
const SCRIPT: &str = r#"
for i in $(seq 33); do
    printf cap > srv/fresh/cap-$i; setcap cap_net_bind_service+ep srv/fresh/cap-$i
    printf acl > srv/fresh/acl-$i; setfacl -m u:$i:rw srv/fresh/acl-$i
    printf attr > srv/fresh/attr-$i; setfattr -n user.number -v $i srv/fresh/attr-$i
done
# Directories made again, emptied, replaced by other things and the other way round.
rm -r usr/share/perl5 && mkdir -m 0711 usr/share/perl5 && printf new > usr/share/perl5/only
rm -r srv/app/node_modules && ln -s app srv/app/node_modules
rm srv/app/loop && mkdir srv/app/loop && printf x > srv/app/loop/x
rm -r srv/app/empty && mkdir srv/app/empty
mkdir srv/gone && printf x > srv/gone/x && rm -r srv/gone
mkdir -p opt/moved && mv opt/kept/shared3 opt/moved/shared3
chmod 0750 usr/share/zoneinfo; chown 7:8 usr/share/zoneinfo; setfacl -d -m g:5:rx home/me
touch -d '1969-07-20 20:17:40.5 UTC' etc/debian_version
# Changed and changed back: no change.
cp -p etc/host.conf /tmp/plywood-keep.$$ && printf x >> etc/host.conf && cat /tmp/plywood-keep.$$ > etc/host.conf \
    && touch -r /tmp/plywood-keep.$$ etc/host.conf && rm /tmp/plywood-keep.$$
"#;

/// All regular files with one name below `directory`, by path.
fn regular_files(directory: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let entries = walkdir::WalkDir::new(directory).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_file() && entry.metadata().unwrap().nlink() == 1);
    files.map(walkdir::DirEntry::into_path).collect()
}
