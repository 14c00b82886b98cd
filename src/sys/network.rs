//! Whether a file system may be another machine's: locks and mapped memory, on which a store rests, end at this one's kernel.

use std::os::fd::AsFd;

/// `statfs(2)` numbers of file systems that several machines may have mounted at once, and what they are called.
const NUMBERS: [(u64, &str); 14] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "kafs"),
    (0x7375_7245, "coda"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x7461_636f, "ocfs2"),
    (0x0116_1970, "gfs2"),
    (0x786f_4256, "vboxsf"),
];
const FUSE: u64 = 0x6573_5546;
/// Programs behind FUSE that fetch what they show from elsewhere.
const FETCHING: [&str; 10] = ["sshfs", "rclone", "s3fs", "gcsfuse", "glusterfs", "ceph", "ceph-fuse", "juicefs", "goofys", "davfs"];

/// What the file system of a directory is called, where other machines may have it too.
pub(crate) fn shared_between_machines(dir: impl AsFd) -> Option<String> {
    let stat = rustix::fs::fstatfs(&dir).ok()?;
    // Some numbers have the highest bit of 32 set, and the field its sign.
    let number = u64::from_ne_bytes(stat.f_type.to_ne_bytes()) & 0xffff_ffff;
    classify(number, || mounted_as(&dir).unwrap_or_default())
}

fn classify(number: u64, name: impl FnOnce() -> String) -> Option<String> {
    if number == FUSE {
        let name = name();
        let program = name.strip_prefix("fuse.").unwrap_or_default();
        return FETCHING.contains(&program).then_some(name);
    }
    NUMBERS.iter().find(|known| known.0 == number).map(|known| known.1.to_owned())
}

/// The type of the mount that a descriptor is in, as the mount table has it.
pub(crate) fn mounted_as(fd: impl AsFd) -> Option<String> {
    let id = super::inode::mount_id(fd)?.to_string();
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    table.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        (mount.split(' ').next() == Some(&id)).then(|| file_system.split(' ').next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_other_machines_are_told_by_their_numbers() {
        let never = || -> String { panic!("the number says it") };
        assert_eq!(classify(0x6969, never).as_deref(), Some("nfs"));
        assert_eq!(classify(0xff53_4d42, never).as_deref(), Some("cifs"));
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(classify(local, never), None, "{local:x}");
        }
    }

    #[test]
    fn fuse_is_told_by_the_program_behind_it() {
        assert_eq!(classify(FUSE, || "fuse.sshfs".to_owned()).as_deref(), Some("fuse.sshfs"));
        for local in ["fuse.fuse-overlayfs", "fuseblk", "fuse", "virtiofs", ""] {
            assert_eq!(classify(FUSE, || local.to_owned()), None, "{local}");
        }
    }

    #[test]
    fn a_directory_here_is_here() {
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        assert_eq!(shared_between_machines(&dir), None);
        assert!(mounted_as(&dir).is_some());
    }
}
