//! What an image says, as an OCI runtime's `config.json` (runtime-spec; image-spec, "Conversion to OCI Runtime Configuration").
//!
//! Pure. The namespaces, mounts and capabilities are those that engines give a container by default; no seccomp filter.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ImageConfig;
use crate::mount::{IdMap, mappings};
use crate::store::User;

/// What of the runtime-spec this is.
const VERSION: &str = "1.0.2";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What root of a container may do by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What of the kernel's files tells or changes more than a container should.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What [`ImageConfig::runtime_config`] cannot know from the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// The root file system's directory, relative to the bundle or absolute; `rootfs` by default.
    pub root: Option<String>,
    /// Nothing can be written to it; it can by default.
    pub read_only: bool,
    /// What is run instead of the image's entrypoint and command.
    pub args: Option<Vec<String>>,
    /// With a terminal; without by default.
    pub terminal: bool,
    /// For a runtime that runs in a user namespace with few ids: no cgroups, and no owner but root for what is mounted.
    pub in_user_namespace: bool,
    /// The runtime makes a user namespace with this map for the container, whose root file system is mounted with it. None by default.
    pub id_map: Option<IdMap>,
}

impl RuntimeOptions {
    /// A root file system that cannot be written to.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The root file system's directory.
    #[must_use]
    pub fn root(mut self, root: impl Into<String>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// What to run.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// With a terminal.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// A container in a user namespace with this map.
    #[must_use]
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.id_map = Some(map);
        self
    }

    /// For a runtime in a user namespace.
    #[must_use]
    pub fn in_user_namespace(mut self) -> Self {
        self.in_user_namespace = true;
        self
    }
}

impl ImageConfig {
    /// The `config.json` of a bundle in which a container of this image runs: `runc run` takes it at once.
    ///
    /// ```
    /// use plywood::store::{ImageConfig, User};
    ///
    /// let json = br#"{"os":"linux","architecture":"arm64","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    /// let config = ImageConfig::parse(json.to_vec())?.runtime_config(&User::default(), &Default::default());
    /// assert_eq!(config["process"]["args"][0], "/bin/sh");
    /// assert_eq!(config["root"]["path"], "rootfs");
    /// # Ok::<(), plywood::Error>(())
    /// ```
    pub fn runtime_config(&self, user: &User, options: &RuntimeOptions) -> Value {
        let args = options.args.clone().unwrap_or_else(|| [self.entrypoint(), self.cmd()].concat());
        // A runtime refuses to run nothing; a shell is what people mean.
        let args = if args.is_empty() { vec!["sh".to_owned()] } else { args };
        let mut env = self.env().to_vec();
        if !env.iter().any(|variable| variable.starts_with("PATH=")) {
            env.push(PATH.to_owned());
        }
        if options.terminal && !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        let cwd = match self.working_dir() {
            "" => "/".to_owned(),
            absolute if absolute.starts_with('/') => absolute.to_owned(),
            relative => format!("/{relative}"),
        };
        let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
        let mut config = json!({
            "ociVersion": VERSION,
            "process": {
                "terminal": options.terminal,
                "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
                "args": args,
                "env": env,
                "cwd": cwd,
                "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
                "noNewPrivileges": true,
            },
            "root": { "path": options.root.as_deref().unwrap_or("rootfs"), "readonly": options.read_only },
            "hostname": "plywood",
            "mounts": mounts(options.in_user_namespace),
            "annotations": self.annotations(),
            "linux": { "namespaces": namespaces, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY },
        });
        if !options.in_user_namespace
            && let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut)
        {
            linux.insert("resources".to_owned(), json!({ "devices": [{ "allow": false, "access": "rwm" }] }));
        }
        if let Some(map) = &options.id_map
            && let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut)
        {
            linux.insert("uidMappings".to_owned(), mappings(map.uids()));
            linux.insert("gidMappings".to_owned(), mappings(map.gids()));
            if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
                namespaces.push(json!({ "type": "user" }));
            }
        }
        config
    }

    /// As image-spec's conversion names them; the image's own labels win.
    fn annotations(&self) -> BTreeMap<String, String> {
        let platform = self.platform().map(ToString::to_string).unwrap_or_default();
        let mut parts = platform.split('/');
        let ports = self.exposed_ports().collect::<Vec<_>>().join(",");
        let known = [
            ("os", parts.next()),
            ("architecture", parts.next()),
            ("variant", parts.next()),
            ("created", self.created()),
            ("stopSignal", self.stop_signal()),
            ("exposedPorts", Some(ports.as_str())),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
        let mut all: BTreeMap<String, String> =
            known.map(|(name, value)| (format!("org.opencontainers.image.{name}"), value.to_owned())).collect();
        all.extend(self.labels().map(|(name, value)| (name.to_owned(), value.to_owned())));
        all
    }
}

fn mounts(in_user_namespace: bool) -> Vec<Value> {
    let entry = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !in_user_namespace {
        // The group `tty`, as distributions have it.
        pts.push("gid=5");
    }
    let mut mounts = vec![
        entry("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry("/dev/pts", "devpts", &pts),
        entry("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        entry("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        entry("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if !in_user_namespace {
        mounts.push(entry("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]));
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_says_what_runs() {
        let document = json!({
            "os": "linux", "architecture": "arm", "variant": "v6", "created": "2026-01-02T03:04:05Z",
            "rootfs": { "type": "layers", "diff_ids": [] },
            "config": {
                "Entrypoint": ["/init"], "Cmd": ["-x"], "Env": ["A=b", "PATH=/bin"], "WorkingDir": "srv", "StopSignal": "SIGINT",
                "ExposedPorts": { "80/tcp": {}, "53/udp": {} }, "Labels": { "org.opencontainers.image.os": "mine", "l": "v" },
            },
        });
        let image = ImageConfig::parse(document.to_string().into_bytes()).unwrap();
        let user = User::find("7:8", b"", b"").unwrap();
        let config = image.runtime_config(&user, &RuntimeOptions::default());
        let process = &config["process"];
        assert_eq!(process["args"], json!(["/init", "-x"]));
        assert_eq!(process["env"], json!(["A=b", "PATH=/bin"]));
        assert_eq!((&process["cwd"], &process["user"]), (&json!("/srv"), &json!({ "uid": 7, "gid": 8, "additionalGids": [] })));
        let annotation = |name: &str| config["annotations"][name].as_str().unwrap().to_owned();
        assert_eq!(annotation("org.opencontainers.image.os"), "mine");
        assert_eq!(annotation("org.opencontainers.image.architecture"), "arm");
        assert_eq!(annotation("org.opencontainers.image.variant"), "v6");
        assert_eq!(annotation("org.opencontainers.image.stopSignal"), "SIGINT");
        assert_eq!(annotation("org.opencontainers.image.exposedPorts"), "53/udp,80/tcp");
        assert_eq!(config["linux"]["resources"]["devices"][0]["allow"], false);
        let inside = RuntimeOptions::default().in_user_namespace().read_only().root("/r").args(["true"]).terminal();
        let config = image.runtime_config(&user, &inside);
        assert_eq!((&config["process"]["args"], &config["root"]), (&json!(["true"]), &json!({ "path": "/r", "readonly": true })));
        let map = "0:100000:65536".parse().unwrap();
        let mapped = image.runtime_config(&user, &RuntimeOptions::default().id_map(map));
        assert_eq!(mapped["linux"]["gidMappings"], json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]));
        assert!(mapped["linux"]["namespaces"].as_array().unwrap().contains(&json!({ "type": "user" })));
        let text = config.to_string();
        assert!(!text.contains("cgroup\",\"options") && !text.contains("gid=") && !text.contains("resources"), "{text}");
    }
}
