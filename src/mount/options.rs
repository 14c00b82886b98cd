//! [`MountOptions`]: what a caller may ask of a mount beside its directories, and the limit on it.
//!
//! Invariant: no option changes what the layers mean. Which directories are stacked, in which style, and the three options that keep
//! hostile layers harmless are the store's alone; what else overlayfs knows is taken only where it is known to keep the layer contract.
//! A list of what is refused would be short by what the next kernel brings.

use std::str::FromStr;

use nix::mount::MsFlags;
use rustix::mount::MountAttrFlags;

use super::IdMap;
use crate::error::{Error, ErrorKind, Result};

/// The longest value that `fsconfig` takes.
const VALUE_MAX: usize = 255;

/// SELinux's, which go to the kernel as they are.
const LABELS: [&str; 3] = ["fscontext", "defcontext", "rootcontext"];

/// What [`MountOptions::overlay`] takes, for messages.
const TAKEN: &str = "uuid=on|off|null|auto, fscontext=, defcontext= and rootcontext=";

/// Options that the store alone decides on, and why.
const REFUSED: [(&[&str], &str); 7] = [
    (
        &["lowerdir", "lowerdir+", "datadir+", "upperdir", "upperdir+", "workdir", "workdir+"],
        "which directories are stacked is the store's to say",
    ),
    (
        &["redirect_dir"],
        "a layer could redirect a directory anywhere, and a directory that a container renamed would be missing in its diff",
    ),
    (&["metacopy", "verity"], "files whose content stays in another layer would be empty in a diff"),
    (
        &["index", "nfs_export", "inodes_index"],
        "overlayfs would leave an index behind that ties the snapshot to this very stack of layers",
    ),
    (&["userxattr"], "the style of whiteouts was recorded when the store was made"),
    (&["override_creds", "nooverride_creds"], "who may not see overlayfs's xattrs would see what the layers hide"),
    (&["fsync"], "say `volatile`: plywood keeps a record of that"),
];

/// Whether overlayfs makes inode numbers unique over layers on several file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xino {
    /// Where the file systems leave room for it.
    Auto,
    /// Always; where there is no room, the kernel does without.
    On,
    /// Never.
    Off,
}

impl Xino {
    const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];

    /// `auto`, `on`, `off`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// How a [`Mount`](super::Mount) is mounted, beside what is. By default as the kernel does it.
///
/// ```
/// use plywood::mount::MountOptions;
///
/// let options: MountOptions = "ro,nosuid,nodev,context=\"system_u:object_r:container_file_t:s0:c1,c2\"".parse()?;
/// assert!(options.read_only && options.nosuid && !options.noexec);
/// assert!("ro,metacopy=on".parse::<MountOptions>().is_err());
/// # Ok::<_, plywood::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountOptions {
    /// Nothing can be written, also where the snapshot is Active. It counts as mounted all the same.
    pub read_only: bool,
    /// For throw-away containers: overlayfs leaves out every sync, also those that the container asks for. See
    /// [`volatile`](Self::volatile).
    pub volatile: bool,
    /// Set-user-id and set-group-id bits and file capabilities do nothing.
    pub nosuid: bool,
    /// Device files cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Reading changes no access time.
    pub noatime: bool,
    /// The SELinux context that all files have, whatever their xattrs say. Overlay mounts alone.
    pub context: Option<String>,
    /// Unique inode numbers.
    pub xino: Option<Xino>,
    /// Which owners are shown for those on the disk: the map of the container's user namespace. For root of the host, on file systems
    /// with idmapped mounts. See [`id_map`](Self::id_map).
    pub id_map: Option<IdMap>,
    /// More options of overlayfs, for those who know: `uuid` and SELinux's `fscontext`, `defcontext`, `rootcontext`. Overlay mounts alone.
    pub overlay: Vec<(String, String)>,
}

impl MountOptions {
    /// Nothing but what the kernel does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing can be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// No syncs. After a power cut the snapshot may hold anything, so that from the next start of the system on it is refused as
    /// `Corrupt` wherever its content would count: it is not mounted, diffed or committed any more, only removed. Until then it can be
    /// mounted again, volatile or not, and committed: what it holds is synced then. A View, and the copy backend, have nothing to leave
    /// out, and take the option.
    #[must_use]
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// No set-user-id, no set-group-id, no file capabilities.
    #[must_use]
    pub fn nosuid(mut self) -> Self {
        self.nosuid = true;
        self
    }

    /// No devices.
    #[must_use]
    pub fn nodev(mut self) -> Self {
        self.nodev = true;
        self
    }

    /// No executables.
    #[must_use]
    pub fn noexec(mut self) -> Self {
        self.noexec = true;
        self
    }

    /// No access times.
    #[must_use]
    pub fn noatime(mut self) -> Self {
        self.noatime = true;
        self
    }

    /// One SELinux context for all files.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Unique inode numbers, or not.
    #[must_use]
    pub fn xino(mut self, xino: Xino) -> Self {
        self.xino = Some(xino);
        self
    }

    /// Owners through the map of the container's user namespace: all containers share one copy of each layer, and whatever is written
    /// has the container's ids on the disk, in its diff and where it is committed. An owner outside the map is the overflow id
    /// (`nobody`) in the container, which cannot change what belongs to it;
    /// [`PrepareOptions::id_map`](crate::store::PrepareOptions::id_map) refuses such a parent.
    ///
    /// This process makes the mount: [`attach`](super::Mount::attach), [`detached`](super::Mount::detached). `mount(2)` and `mount(8)` cannot,
    /// so rendering it for them is `Unsupported`, but for an OCI runtime's bind mount (of the copy backend), which carries the map.
    #[must_use]
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.id_map = Some(map);
        self
    }

    /// One more option of overlayfs.
    #[must_use]
    pub fn overlay(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.overlay.push((key.into(), value.into()));
        self
    }

    /// Refuses what could break the layer contract, or could not reach the kernel whole.
    ///
    /// # Errors
    /// `InvalidArgument`, with the reason.
    pub fn check(&self) -> Result<()> {
        let labels = self.context.iter().map(|context| ("context", context.as_str()));
        for (key, value) in labels.chain(self.overlay.iter().map(|(key, value)| (key.as_str(), value.as_str()))) {
            if key == "context" || LABELS.contains(&key) {
                check_label(key, value)?;
            } else {
                check_overlay(key, value)?;
            }
        }
        Ok(())
    }

    /// Whether something is asked for that overlayfs alone can do.
    pub(super) fn overlay_only(&self) -> Option<&str> {
        match (&self.context, self.overlay.first()) {
            (Some(_), _) => Some("context"),
            (None, Some((key, _))) => Some(key),
            (None, None) => None,
        }
    }

    /// What overlayfs itself is told; `None` for the value of a flag.
    pub(super) fn of_overlay(&self, writable: bool) -> Vec<(&str, Option<&str>)> {
        let volatile = (self.volatile && writable).then_some(("volatile", None));
        let xino = self.xino.map(|xino| ("xino", Some(xino.as_str())));
        let context = self.context.as_deref().map(|context| ("context", Some(context)));
        let more = self.overlay.iter().map(|(key, value)| (key.as_str(), Some(value.as_str())));
        [volatile, xino, context].into_iter().flatten().chain(more).collect()
    }

    /// What concerns the one mount, as `mount(8)` calls it; `ro` is the mount's to say.
    pub(super) fn of_mount(&self) -> Vec<&'static str> {
        self.flags().into_iter().filter(|flag| flag.0).map(|flag| flag.1).collect()
    }

    /// The same for `mount_setattr` and `fsmount`.
    pub(super) fn attributes(&self) -> MountAttrFlags {
        self.flags().into_iter().filter(|flag| flag.0).map(|flag| flag.2).collect()
    }

    /// The same for `mount(2)`.
    pub(super) fn ms_flags(&self) -> MsFlags {
        self.flags().into_iter().filter(|flag| flag.0).map(|flag| flag.3).collect()
    }

    fn flags(&self) -> [(bool, &'static str, MountAttrFlags, MsFlags); 4] {
        [
            (self.nosuid, "nosuid", MountAttrFlags::MOUNT_ATTR_NOSUID, MsFlags::MS_NOSUID),
            (self.nodev, "nodev", MountAttrFlags::MOUNT_ATTR_NODEV, MsFlags::MS_NODEV),
            (self.noexec, "noexec", MountAttrFlags::MOUNT_ATTR_NOEXEC, MsFlags::MS_NOEXEC),
            (self.noatime, "noatime", MountAttrFlags::MOUNT_ATTR_NOATIME, MsFlags::MS_NOATIME),
        ]
    }

    fn set(&mut self, word: &str) -> Result<()> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(unquoted(key, value)?)),
            None => (word, None),
        };
        match (key, value) {
            ("defaults", None) => {}
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("nosuid", None) => self.nosuid = true,
            ("suid", None) => self.nosuid = false,
            ("nodev", None) => self.nodev = true,
            ("dev", None) => self.nodev = false,
            ("noexec", None) => self.noexec = true,
            ("exec", None) => self.noexec = false,
            ("noatime", None) => self.noatime = true,
            ("atime", None) => self.noatime = false,
            ("volatile", None) => self.volatile = true,
            ("context", Some(value)) => self.context = Some(value.to_owned()),
            ("xino", Some(value)) => {
                let xino = Xino::ALL.into_iter().find(|xino| xino.as_str() == value);
                self.xino = Some(xino.ok_or_else(|| refused("xino", "its value is on, off or auto"))?);
            }
            (key, value) => self.overlay.push((key.to_owned(), value.unwrap_or_default().to_owned())),
        }
        self.check()
    }
}

/// As `mount(8)` has them after `-o`: separated by commas, a value with a comma in double quotes. `ro`, `rw`, `nosuid`, `suid`, `nodev`,
/// `dev`, `noexec`, `exec`, `noatime`, `atime`, `defaults`, `volatile`, `context=`, `xino=`, and those of [`overlay`](Self::overlay).
impl FromStr for MountOptions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut options = Self::default();
        let mut quoted = false;
        let words = text.split(|c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        words.filter(|word| !word.is_empty()).try_for_each(|word| options.set(word))?;
        Ok(options)
    }
}

fn unquoted<'a>(key: &str, value: &'a str) -> Result<&'a str> {
    match value.strip_prefix('"') {
        None => Ok(value),
        Some(rest) => rest.strip_suffix('"').ok_or_else(|| refused(key, "its value begins with a quote and does not end with one")),
    }
}

fn check_label(key: &str, value: &str) -> Result<()> {
    // What could end the value for one of the readers on the way: the kernel, mount(8), a runtime.
    if value.is_empty() || value.len() > VALUE_MAX || value.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
        return Err(refused(key, "a context has 1 to 255 bytes, without quotes, backslashes and control characters"));
    }
    Ok(())
}

fn check_overlay(key: &str, value: &str) -> Result<()> {
    if key == "uuid" && ["on", "off", "null", "auto"].contains(&value) {
        return Ok(());
    }
    match REFUSED.iter().find(|(keys, _)| keys.contains(&key)) {
        Some((_, reason)) => Err(refused(key, reason)),
        None => Err(refused(key, &format!("it is not known to keep the layer contract; of overlayfs's own there are {TAKEN}"))),
    }
}

fn refused(key: &str, reason: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "mount options").because(format!("{}: {reason}", key.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_mount_8() {
        let options: MountOptions = "ro,nosuid,nodev,noexec,noatime,volatile,xino=on,uuid=null".parse().unwrap();
        let built = MountOptions::new().read_only().nosuid().nodev().noexec().noatime().volatile().xino(Xino::On);
        assert_eq!(options, built.overlay("uuid", "null"));
        assert_eq!(
            "ro,rw,nosuid,suid,nodev,dev,noexec,exec,noatime,atime,defaults,,".parse::<MountOptions>().unwrap(),
            MountOptions::new()
        );
        let labels: MountOptions = "context=\"u:r:t:s0:c1,c2\",nodev,rootcontext=u:r:t:s0".parse().unwrap();
        assert_eq!(labels, MountOptions::new().context("u:r:t:s0:c1,c2").nodev().overlay("rootcontext", "u:r:t:s0"));
    }

    #[test]
    fn no_option_breaks_the_contract() {
        let known = REFUSED.iter().flat_map(|(keys, _)| keys.iter().copied());
        for key in known.chain(["nonsense", "default_permissions", "sync", "LOWERDIR", "x\ny", ""]) {
            for value in ["on", "off", "", "/etc", "nofollow"] {
                let error = MountOptions::new().overlay(key, value).check().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{key}={value}");
                if !key.is_empty() {
                    assert!(format!("{key}={value}").parse::<MountOptions>().is_err(), "{key}={value}");
                }
            }
        }
        // Nor through a value.
        for value in ["", "on,metacopy=on", "null\0", "On"] {
            assert!(MountOptions::new().overlay("uuid", value).check().is_err(), "{value:?}");
        }
        for value in ["", "a\"", "a\\", "a\nb", &"x".repeat(256)] {
            assert!(MountOptions::new().context(value).check().is_err(), "{value:?}");
        }
        for text in ["context=\"a", "context=\"a,ro", "xino=maybe", "xino", "ro=1", "volatile=on", "context"] {
            assert!(text.parse::<MountOptions>().is_err(), "{text}");
        }
        let reason = "upperdir=/etc".parse::<MountOptions>().unwrap_err();
        assert!(reason.reason().unwrap().contains("the store's to say"), "{reason}");
    }
}
