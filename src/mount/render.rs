//! A mount in the words of other clients: `mount(8)` and containerd, `mount(2)`, an OCI runtime's `config.json`.
//!
//! In options, overlayfs wants `\`, `:` and `,` of a path behind a `\` (overlayfs(5)); the names relative to the base have none of them.

use std::ffi::c_ulong;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use serde_json::{Value, json};

use super::{ALWAYS, IdRange, Mount, Upper, What};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::sys::mount::legacy::options_max;
use crate::tree::Access;
use crate::whiteout::XattrStyle;

/// The arguments of one call of `mount(2)`, beside the target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount2 {
    /// `overlay`, or empty for a bind mount.
    pub fstype: &'static str,
    /// `overlay`, or the directory to bind.
    pub source: String,
    /// `MS_RDONLY`, `MS_NOSUID` and the like; `MS_BIND`. A bind mount gets the others only by a second call with `MS_REMOUNT`.
    pub flags: c_ulong,
    /// The options. Never longer than the kernel takes.
    pub data: String,
    /// The directory that must be the working directory of the call, where the options are relative to it.
    pub directory: Option<PathBuf>,
}

impl Mount {
    /// `overlay` or `bind`.
    pub fn fstype(&self) -> &'static str {
        match self.what {
            What::Overlay { .. } => "overlay",
            What::Bind { .. } => "bind",
        }
    }

    /// `overlay`, or the absolute path of the directory to bind.
    pub fn source(&self) -> PathBuf {
        match &self.what {
            What::Overlay { .. } => PathBuf::from("overlay"),
            What::Bind { source, .. } => self.base.path().join(source),
        }
    }

    /// The directory that [`relative_options`](Self::relative_options) are relative to.
    pub fn directory(&self) -> &Path {
        self.base.path()
    }

    /// What `mount(2)` cannot do.
    fn refuse_unsayable(&self) -> Result<()> {
        let reason = match (&self.id_map, &self.root) {
            (None, None) => return Ok(()),
            (Some(_), _) => "mount(2) has no id maps: whoever mounted it so would see and leave unmapped owners",
            (None, Some(_)) => "its root directory is in memory, and mount(2) cannot be told to make it",
        };
        Err(Error::new(ErrorKind::Unsupported, "render mount")
            .at(self.base.path())
            .because(reason)
            .with_hint("attach it through plywood, or give the client the detached mount"))
    }

    /// The options for `mount -t FSTYPE -o OPTIONS SOURCE TARGET`, one by one, as containerd has them; paths are absolute and escaped.
    ///
    /// # Errors
    /// `InvalidArgument` where the store's path is not UTF-8; `Unsupported` with an id map. It can be [attached](Self::attach) all the same.
    pub fn options(&self) -> Result<Vec<String>> {
        self.refuse_unsayable()?;
        let base = self.base.path();
        if base.to_str().is_none() {
            return Err(Error::new(ErrorKind::InvalidArgument, "render mount").at(base).because("the path is not UTF-8"));
        }
        self.note_volatile()?;
        self.render(|name| escape(base.join(name).as_os_str().as_bytes()))
    }

    /// The same with names relative to [`directory`](Self::directory), which is then the working directory of the call. Much shorter: 128
    /// layers fit one page.
    ///
    /// # Errors
    /// `InvalidArgument` where a name is not UTF-8, which those of a store always are; `Unsupported` with an id map.
    pub fn relative_options(&self) -> Result<Vec<String>> {
        self.refuse_unsayable()?;
        self.note_volatile()?;
        self.render(|name| escape(name.as_bytes()))
    }

    /// The mount for one call of `mount(2)`: with absolute paths where they fit, else with relative ones.
    ///
    /// # Errors
    /// `LimitExceeded` with the figure: the kernel would cut the options off *without an error* and mount only some of the layers.
    /// `Unsupported` with an id map.
    pub fn to_mount2(&self) -> Result<Mount2> {
        self.refuse_unsayable()?;
        let mut flags = self.ms_flags();
        let What::Overlay { .. } = self.what else {
            flags |= MsFlags::MS_BIND;
            let source = self.utf8(self.source().into_os_string().into_encoded_bytes())?;
            return Ok(Mount2 { fstype: "", source, flags: flags.bits(), data: String::new(), directory: None });
        };
        let arguments =
            |data, directory| Mount2 { fstype: "overlay", source: "overlay".into(), flags: flags.bits(), data, directory };
        // These are flags there.
        let words = self.words();
        let join = |options: Vec<String>| {
            options.into_iter().filter(|option| !words.contains(&option.as_str())).collect::<Vec<_>>().join(",")
        };
        if let Ok(data) = self.options().map(join)
            && data.len() <= options_max()
        {
            return Ok(arguments(data, None));
        }
        let data = join(self.relative_options()?);
        let (length, max) = (data.len(), options_max());
        if length > max {
            return Err(Error::new(ErrorKind::LimitExceeded, "render mount")
                .at(self.base.path())
                .because(format!("the options take {length} bytes, and mount(2) takes {max}"))
                .with_hint("attach it through plywood, or give the client a detached mount: that has no such limit"));
        }
        Ok(arguments(data, Some(self.base.path().to_owned())))
    }

    /// Whether a client can mount it with one call of `mount(2)`.
    ///
    /// # Errors
    /// As [`to_mount2`](Self::to_mount2).
    pub fn check_page(&self) -> Result<()> {
        self.to_mount2().map(drop)
    }

    /// An element of `mounts` in an OCI runtime's `config.json` (runtime-spec, "Mounts"). Runtimes mount by `mount(2)` with absolute paths.
    ///
    /// # Errors
    /// `InvalidArgument` where a path is not UTF-8; `LimitExceeded` where the options do not fit a page; `Unsupported` for an overlay with an
    /// id map, which runtimes cannot make. A bind mount's is in the document (`uidMappings`, `gidMappings`; runtime-spec 1.1).
    pub fn to_oci(&self, destination: &str) -> Result<Value> {
        if let (What::Bind { .. }, Some(map)) = (&self.what, &self.id_map) {
            let plain = Self { id_map: None, ..self.clone() };
            let mut document = plain.to_oci(destination)?;
            if let Some(fields) = document.as_object_mut() {
                fields.insert("uidMappings".to_owned(), mappings(map.uids()));
                fields.insert("gidMappings".to_owned(), mappings(map.gids()));
            }
            return Ok(document);
        }
        let options = self.options()?;
        let (length, max) = (options.join(",").len(), options_max());
        if length > max {
            return Err(Error::new(ErrorKind::LimitExceeded, "render mount")
                .at(self.base.path())
                .because(format!("the options take {length} bytes, and a runtime has {max}"))
                .with_hint("attach it first, and give the runtime the directory"));
        }
        let source = self.utf8(self.source().into_os_string().into_encoded_bytes())?;
        Ok(json!({ "destination": destination, "type": self.fstype(), "source": source, "options": options }))
    }

    fn render(&self, name: impl Fn(&EntryPath) -> Vec<u8>) -> Result<Vec<String>> {
        match &self.what {
            What::Bind { .. } => {
                let writable = (self.access() == Access::ReadWrite).then_some("rw");
                Ok(["rbind"].into_iter().chain(writable).chain(self.words()).map(str::to_owned).collect())
            }
            What::Overlay { style, lowers, upper } => {
                let options = self.overlay_options(*style, lowers, upper.as_ref(), name);
                let words = self.words().into_iter().map(|word| word.as_bytes().to_vec());
                options.into_iter().chain(words).map(|option| self.utf8(option)).collect()
            }
        }
    }

    /// What concerns the one mount.
    fn words(&self) -> Vec<&'static str> {
        let read_only = (self.access() == Access::ReadOnly).then_some("ro");
        read_only.into_iter().chain(self.options.of_mount()).collect()
    }

    /// The options of one page, with names relative to the base.
    pub(super) fn page(&self, style: XattrStyle, lowers: &[EntryPath], upper: Option<&Upper>) -> Vec<u8> {
        self.overlay_options(style, lowers, upper, |name| escape(name.as_bytes())).join(&b',')
    }

    fn overlay_options(
        &self,
        style: XattrStyle,
        lowers: &[EntryPath],
        upper: Option<&Upper>,
        name: impl Fn(&EntryPath) -> Vec<u8>,
    ) -> Vec<Vec<u8>> {
        let option = |key: &str, value: &[u8]| [key.as_bytes(), b"=", value].concat();
        let mut options: Vec<Vec<u8>> = ALWAYS.iter().map(|(key, value)| option(key, value.as_bytes())).collect();
        if style == XattrStyle::User {
            options.push(b"userxattr".to_vec());
        }
        options.extend(self.options.of_overlay(upper.is_some()).into_iter().map(|(key, value)| match value {
            None => key.as_bytes().to_vec(),
            // The kernel and mount(8) take the commas of a quoted context for its own; nothing else has any.
            Some(value) if value.contains(',') => option(key, format!("\"{value}\"").as_bytes()),
            Some(value) => option(key, value.as_bytes()),
        }));
        if let Some(upper) = upper {
            options.push(option("workdir", &name(&upper.work)));
            options.push(option("upperdir", &name(&upper.upper)));
        }
        options.push(option("lowerdir", &lowers.iter().map(name).collect::<Vec<_>>().join(&b':')));
        options
    }

    fn utf8(&self, bytes: Vec<u8>) -> Result<String> {
        String::from_utf8(bytes).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "render mount")
                .at(self.base.path())
                .because("the path is not UTF-8")
                .with_source(error)
        })
    }
}

/// Ranges in the words of the runtime-spec.
pub(crate) fn mappings(ranges: &[IdRange]) -> Value {
    ranges.iter().map(|range| json!({ "containerID": range.inside, "hostID": range.outside, "size": range.count })).collect()
}

fn escape(path: &[u8]) -> Vec<u8> {
    path.iter()
        .flat_map(|&byte| match byte {
            b'\\' | b':' | b',' => [Some(b'\\'), Some(byte)],
            _ => [Some(byte), None],
        })
        .flatten()
        .collect()
}
