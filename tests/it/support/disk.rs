//! File systems of every kind, on memory, that die with the mount namespace they are made in.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A file system to mount. The image is a sparse file on a tmpfs of the sandbox, the loop device clears itself: when the last process
/// of the sandbox is gone, so are they.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// ext4: no reflinks, little room for xattrs.
    Ext4,
    /// ext4 with fast commits.
    #[cfg_attr(not(feature = "testing"), allow(dead_code))]
    FastExt4,
    /// ext4 whose journal is on a disk of its own.
    #[cfg_attr(not(feature = "testing"), allow(dead_code))]
    TwoDiskExt4,
    /// ext4 of few bytes, all of them for everybody, and few inodes: to be filled.
    #[cfg_attr(not(feature = "testing"), allow(dead_code))]
    SmallExt4,
    /// ext2 whose directories do not tell the types of what is in them.
    #[cfg_attr(not(feature = "testing"), allow(dead_code))]
    Ext2WithoutTypes,
    /// xfs as small as it can be, with few inodes: to be filled.
    #[cfg_attr(not(feature = "testing"), allow(dead_code))]
    SmallXfs,
    /// btrfs as small as it can be: to be filled.
    #[cfg_attr(not(feature = "testing"), allow(dead_code))]
    SmallBtrfs,
    /// xfs with reflinks.
    Xfs,
    /// btrfs.
    Btrfs,
    /// ramfs: no xattrs of any kind.
    Ramfs,
    /// A tmpfs of so many bytes.
    Tmpfs(u64),
}

impl Disk {
    /// What makes this file system, and must be installed.
    fn maker(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Ext4 => Some(("mkfs.ext4", &["-q", "-F"])),
            Self::TwoDiskExt4 => Some(("mkfs.ext4", &["-q", "-F", "-b", "4096"])),
            Self::FastExt4 => Some(("mkfs.ext4", &["-q", "-F", "-O", "fast_commit"])),
            Self::SmallExt4 => Some(("mkfs.ext4", &["-q", "-F", "-m", "0", "-N", "512"])),
            Self::Ext2WithoutTypes => Some(("mkfs.ext2", &["-q", "-F", "-O", "^filetype"])),
            // So much of it may become inodes: 1,536 of this size.
            Self::SmallXfs => Some(("mkfs.xfs", &["-q", "-m", "reflink=1", "-i", "size=2048,maxpct=1"])),
            Self::Xfs => Some(("mkfs.xfs", &["-q", "-m", "reflink=1"])),
            Self::Btrfs | Self::SmallBtrfs => Some(("mkfs.btrfs", &["-q"])),
            Self::Ramfs | Self::Tmpfs(_) => None,
        }
    }

    /// How large its image is.
    fn size(self) -> u64 {
        match self {
            Self::SmallExt4 => 16 << 20,
            Self::SmallXfs => 300 << 20,
            Self::SmallBtrfs => 128 << 20,
            _ => 2 << 30,
        }
    }

    /// Why it cannot be made here.
    pub(crate) fn missing(self) -> Option<String> {
        let (maker, _) = self.maker()?;
        let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(maker).exists());
        if !found {
            return Some(format!("{maker} is not installed"));
        }
        (!Path::new("/dev/loop-control").exists()).then(|| "there are no loop devices".to_owned())
    }

    /// Mounts a new one at `target`, writable for everybody. Only within a root sandbox.
    #[track_caller]
    pub(crate) fn mount(self, target: &Path) {
        fs::create_dir_all(target).unwrap();
        let target_text = target.to_str().unwrap();
        let Some((maker, arguments)) = self.maker() else {
            let (kind, options) = match self {
                Self::Tmpfs(size) => ("tmpfs", format!("size={size},mode=1777")),
                _ => ("ramfs", "mode=1777".to_owned()),
            };
            run("mount", &["-t", kind, "-o", &options, kind, target_text]);
            return;
        };
        let image = Path::new(super::sandbox::STAGE).join(format!("{}.img", target_text.replace('/', "_")));
        File::create(&image).unwrap().set_len(self.size()).unwrap();
        let image_text = image.to_str().unwrap();
        let journal = (self == Self::TwoDiskExt4).then(|| journal(&image.with_extension("journal")));
        let journal_option = journal.as_ref().map(|device| format!("device={device}"));
        let journal_arguments: Vec<&str> = journal_option.iter().flat_map(|option| ["-J", option.as_str()]).collect();
        run(maker, &[arguments, &journal_arguments, &[image_text]].concat());
        run("mount", &["-o", "loop", image_text, target_text]);
        // It stays as long as it is in use.
        journal.iter().for_each(|device| drop(run("losetup", &["--detach", device])));
        fs::set_permissions(target, Permissions::from_mode(0o1777)).unwrap();
    }
}

/// A device with a journal for an ext4.
#[track_caller]
fn journal(image: &Path) -> String {
    File::create(image).unwrap().set_len(32 << 20).unwrap();
    let image = image.to_str().unwrap();
    run("mke2fs", &["-q", "-F", "-b", "4096", "-O", "journal_dev", image]);
    run("losetup", &["--find", "--show", image]).trim().to_owned()
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Somebody else, who has written much that is not on the disk yet.
#[cfg(feature = "testing")]
pub(crate) struct Others(File);

#[cfg(feature = "testing")]
impl Others {
    /// On an ext4 of its own, mounted there. Only within a root sandbox.
    pub(crate) fn on(target: &Path) -> Self {
        Disk::Ext4.mount(target);
        Self(File::create(target.join("data")).unwrap())
    }

    /// Writes it, again: from here on for some seconds it waits.
    pub(crate) fn write(&self) {
        std::os::unix::fs::FileExt::write_all_at(&self.0, &vec![7; 192 << 20], 0).unwrap();
    }
}
