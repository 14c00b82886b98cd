//! What can be said on the command line, as clap reads it, with an example per command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::leases;
use super::limits::{self, Limit};
use super::stats::Stats;
use crate::digest::DiffId;
use crate::error::Error;
use crate::mount::{IdMap, MountOptions};
use crate::store::Platform;

/// Where the help of each command lists the options that all have.
const GLOBAL: &str = "Options of every command";

/// Image-layer storage: OCI layers in, mounted root file systems out, changes back as layers.
#[derive(Debug, Parser)]
#[command(name = "plywood", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Where a KEY, NAME or PARENT is asked for: an exact key or name, then an image's reference, then the beginning of a chain id (4 digits or more).

Example:
  skopeo copy -q docker://alpine docker-archive:/dev/stdout | plywood import - --ref alpine
  plywood prepare box alpine --mount /mnt")]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Before or after the command.
#[derive(Args, Clone, Debug)]
pub(super) struct Global {
    /// The store's directory [default: /var/lib/plywood for root, $XDG_DATA_HOME/plywood for others]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) root: Option<PathBuf>,
    /// How trees are kept and stacked; fixed when the store is made
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "BACKEND", default_value = "auto")]
    pub(super) backend: BackendName,
    /// Keep trees with the host's ids of this map, by the copy backend: for containers with that map on file systems without idmapped
    /// mounts; fixed when the store is made: CONTAINER:HOST:COUNT, several separated by commas, `u:` or `g:` before one that is for
    /// users or groups alone
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "MAP", value_parser = parsed::<IdMap>)]
    pub(super) id_shift: Option<IdMap>,
    /// Also on a file system of the network, where two processes that use the store at once can destroy it
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) any_file_system: bool,
    /// With how many threads; 1 starts none [default: as many as there are processors]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "N")]
    pub(super) threads: Option<std::num::NonZeroUsize>,
    /// What an import survives
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "HOW", default_value = "full")]
    pub(super) durability: DurabilityName,
    /// One JSON document on standard output; an error as one JSON object on standard error
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) json: bool,
    /// No progress, no remarks
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(super) quiet: bool,
    /// Say what is done; twice: say all
    #[arg(short, long, global = true, help_heading = GLOBAL, action = ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BackendName {
    /// What works best here
    Auto,
    /// The kernel's overlayfs
    Overlay,
    /// A full copy of the parent, sharing blocks where the file system can
    Copy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DurabilityName {
    /// A power cut
    Full,
    /// The end of the process; after a power cut layers may be damaged, and nothing but a full check tells
    Relaxed,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Import an image: an OCI layout (directory or tar) or a `docker save` archive; prints its chain id
    Import(Import),
    /// Single layers
    #[command(subcommand_required = true, after_help = "Example:\n  plywood layer import base.tar.gz")]
    Layer {
        #[command(subcommand)]
        command: LayerCommand,
    },
    /// List the images
    #[command(after_help = "Example:\n  plywood images --json")]
    Images,
    /// One image
    #[command(subcommand_required = true, after_help = "Example:\n  plywood image inspect alpine")]
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Remove references (as `image rm`); `gc` deletes what nothing reaches then
    #[command(after_help = "Example:\n  plywood rmi alpine")]
    Rmi {
        /// References of images
        #[arg(value_name = "REF", required = true)]
        references: Vec<String>,
    },
    /// Show all snapshots as a tree
    #[command(after_help = "Example:\n  plywood snapshots")]
    Snapshots,
    /// What is known of a snapshot
    #[command(after_help = "Example:\n  plywood stat box")]
    Stat {
        /// Key or name
        key: String,
    },
    /// What a snapshot alone takes: inodes and bytes
    #[command(after_help = "Example:\n  plywood usage box")]
    Usage {
        /// Key or name
        key: String,
    },
    /// How much there is of everything: images, snapshots, trees, blobs, bytes
    Stats(Stats),
    /// What each image takes: alone, and together with others
    ///
    /// UNIQUE goes with `rmi` and `gc`. SHARED is held by other images, keys, names or leases as well. Both are unpacked layers (disk space)
    /// and blobs (their sizes). Below, each byte counts once: what images share, what only keys, names and leases hold, what nothing holds,
    /// and the sum. What is being written is not in it: `plywood usage KEY`.
    #[command(after_help = "Example:\n  plywood du")]
    Du,
    /// Set labels of a snapshot; an empty VALUE removes the label
    #[command(after_help = "Example:\n  plywood label box owner=ci stage=")]
    Label {
        /// Key or name
        key: String,
        /// Labels
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = label)]
        labels: Vec<Label>,
    },
    /// Make a writable snapshot; prints its key
    #[command(after_help = "Example:\n  plywood prepare box alpine --mount /mnt")]
    Prepare(Prepare),
    /// Make a read-only snapshot; prints its key
    #[command(after_help = "Example:\n  plywood view look alpine --mount /mnt")]
    View(Prepare),
    /// Freeze a writable snapshot under a name; prints the name
    #[command(after_help = "Example:\n  plywood commit box-1 box")]
    Commit {
        /// The new name
        name: String,
        /// The snapshot's key, which is free afterwards
        key: String,
    },
    /// Remove snapshots: at once, whatever their size; their space comes back with `gc`
    #[command(after_help = "Example:\n  plywood remove box")]
    Remove {
        /// Delete what they take as well, and wait for that
        #[arg(long)]
        now: bool,
        /// Keys or names
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
    /// Show what a runtime would mount for a snapshot
    #[command(after_help = "Example:\n  plywood mounts box --json")]
    Mounts {
        #[command(flatten)]
        options: How,
        /// The snapshot's key
        key: String,
    },
    /// Mount a snapshot at a directory
    #[command(after_help = "Example:\n  plywood mount -o nosuid,nodev box /mnt")]
    Mount {
        #[command(flatten)]
        options: How,
        /// The snapshot's key
        key: String,
        /// An existing directory
        #[arg(value_hint = ValueHint::DirPath)]
        target: PathBuf,
    },
    /// Unmount a directory
    #[command(after_help = "Example:\n  plywood umount /mnt")]
    Umount {
        /// Where the snapshot is mounted
        #[arg(value_hint = ValueHint::DirPath)]
        target: PathBuf,
    },
    /// Make a bundle that an OCI runtime runs at once: the image's config as config.json, and rootfs, mounted; prints the key
    Bundle(Bundle),
    /// Write files of a snapshot to standard output, without mounting it
    #[command(after_help = "Example:\n  plywood cat alpine /etc/os-release")]
    Cat {
        /// Key or name
        key: String,
        /// Files; symlinks are followed within the snapshot
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
    },
    /// List a directory of a snapshot, without mounting it
    #[command(after_help = "Example:\n  plywood ls alpine /etc")]
    Ls {
        /// Key or name
        key: String,
        /// Directory or file
        #[arg(value_name = "PATH", default_value = "/")]
        path: PathBuf,
    },
    /// Copy a file or directory out of a snapshot, without mounting it
    ///
    /// Files, directories and symlinks, with permissions and times; they become yours, without set-user-id and set-group-id bits. Nothing
    /// is written over.
    #[command(after_help = "Example:\n  plywood cp alpine /etc/apk ./apk")]
    Cp {
        /// Key or name
        key: String,
        /// What to copy; symlinks are followed within the snapshot
        path: PathBuf,
        /// Where to; into it, where it is a directory
        #[arg(value_name = "DEST", value_hint = ValueHint::AnyPath)]
        target: PathBuf,
    },
    /// Which layer made what stands at a path, and what the layers below had there; topmost first
    #[command(after_help = "Example:\n  plywood explain alpine /etc/os-release")]
    Explain {
        /// Key or name
        key: String,
        /// The path; symlinks on the way are followed within the snapshot
        path: PathBuf,
    },
    /// List what a snapshot changes in its parent: A (added), C (changed), D (deleted)
    #[command(after_help = "Example:\n  plywood changes box")]
    Changes {
        /// Key or name
        key: String,
    },
    /// Write what a snapshot changes in its parent as a layer
    Diff(Diff),
    /// Write an image, or a snapshot as an image, to an OCI image layout
    Export(Export),
    /// Delete what nothing reaches
    ///
    /// Kept is what images, keys (of `prepare` and `view`), names (of `commit`), leases and running operations stand on. The chain id
    /// of a layer is no such name: what `layer import` brought goes if nothing was prepared on it and no image or lease has it.
    #[command(after_help = "Example:\n  plywood gc --dry-run")]
    Gc(Gc),
    /// Leases keep what nothing names yet, until their time is over
    #[command(subcommand_required = true, after_help = "Example:\n  plywood lease add build sha256:4f8a --expires 2h")]
    Lease {
        #[command(subcommand)]
        command: LeaseCommand,
    },
    /// Look for damage: database, trees and blobs; each finding is a line that names the path
    ///
    /// Exit status: 0 where all is well or was mended, 3 where damage is found and stays, 1 where it could not look.
    #[command(after_help = "Example:\n  plywood check --full --repair")]
    Check {
        /// Hash every blob, and compare every tree byte by byte with its layer
        #[arg(long)]
        full: bool,
        /// Make anew what a blob covers; say what else is to be done
        #[arg(long)]
        repair: bool,
    },
    /// Run a command (default: your shell) in the user and mount namespace where an ordinary user can mount
    #[command(after_help = "Example:\n  plywood unshare sh -c 'plywood mount box /mnt && ls /mnt'")]
    Unshare {
        /// Command and arguments
        #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::CommandWithArguments)]
        command: Vec<OsString>,
    },
    /// Serve the store to containerd as a snapshotter and a differ, until SIGTERM or SIGINT
    ///
    /// On a unix socket (mode 0600) that containerd's config.toml names under `proxy_plugins`; on the one that a service manager hands over
    /// where it does. Several servers may serve one store, each at its own address.
    #[cfg(feature = "containerd")]
    #[command(after_help = "Example:\n  plywood containerd --root /var/lib/plywood --address /run/plywood/containerd.sock")]
    Containerd {
        /// The socket [default: /run/plywood/containerd.sock]
        #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
        address: Option<PathBuf>,
        /// containerd's own socket, from whose content store the differ reads layers, and to which it writes them
        /// [default: /run/containerd/containerd.sock]
        #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
        containerd_address: Option<PathBuf>,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  plywood completion bash > /etc/bash_completion.d/plywood")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// What this kernel, file system and user can do, what each missing thing costs, and how to mend it
    #[command(after_help = "Example:\n  plywood doctor --root /srv/plywood")]
    Doctor,
}

#[derive(Debug, Subcommand)]
pub(super) enum LayerCommand {
    /// Import one layer onto a committed parent, or onto nothing; prints its name, the chain id
    ///
    /// The chain id keeps it from no `gc`: a key that is prepared on it, or a name that is committed, does.
    Import(LayerImport),
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Show an image: platform, config, layers
    #[command(after_help = "Example:\n  plywood image inspect alpine --json")]
    Inspect {
        /// The image's reference
        #[arg(value_name = "REF")]
        reference: String,
    },
    /// Give an image one more reference
    #[command(after_help = "Example:\n  plywood image tag alpine alpine:tested")]
    Tag {
        /// The image's reference
        #[arg(value_name = "REF")]
        source: String,
        /// The new reference
        #[arg(value_name = "NEW")]
        reference: String,
    },
    /// Remove references; `gc` deletes what nothing reaches then
    #[command(after_help = "Example:\n  plywood image rm alpine")]
    Rm {
        /// References of images
        #[arg(value_name = "REF", required = true)]
        references: Vec<String>,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  skopeo copy -q docker://alpine docker-archive:/dev/stdout | plywood import - --ref alpine")]
pub(super) struct Import {
    /// A directory, a tar, or `-` for a tar on standard input
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(super) source: String,
    /// The reference to keep it under [default: what the source calls it]
    #[arg(long = "ref", value_name = "NAME")]
    pub(super) reference: Option<String>,
    /// Which of several platforms: os/arch[/variant] [default: the host's]
    #[arg(long, value_name = "PLATFORM", value_parser = parsed::<Platform>)]
    pub(super) platform: Option<Platform>,
    /// Keep the layers' blobs no longer than it takes to unpack them; `diff` and `export` make layers anew then, with other digests
    #[arg(long)]
    pub(super) drop_blobs: bool,
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = limits::parse, help = limits::HELP)]
    pub(super) limits: Vec<Limit>,
    /// What becomes of owners that this user's ids cannot express
    #[arg(long, value_name = "IDS", default_value = "exact")]
    pub(super) ids: IdsName,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  plywood layer import changes.tar.gz --parent alpine --limit unpacked-bytes=10G --limit entries=100000"
)]
pub(super) struct LayerImport {
    /// The layer: a tar, plain or compressed with gzip or zstd; `-` for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) tar: PathBuf,
    /// The committed snapshot below it, imported or not [default: nothing]
    #[arg(long, value_name = "NAME")]
    pub(super) parent: Option<String>,
    /// The digest that the uncompressed tar must have
    #[arg(long, value_name = "DIGEST", value_parser = parsed::<DiffId>)]
    pub(super) diff_id: Option<DiffId>,
    /// The lease that keeps it; without one, and with nothing on it, it goes with the next `gc`
    #[arg(long, value_name = "NAME")]
    pub(super) lease: Option<String>,
    /// Fail where something would be left out
    #[arg(long)]
    pub(super) strict: bool,
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = limits::parse, help = limits::HELP)]
    pub(super) limits: Vec<Limit>,
    /// What becomes of owners that this user's ids cannot express
    #[arg(long, value_name = "IDS", default_value = "exact")]
    pub(super) ids: IdsName,
}

#[derive(Args, Debug)]
pub(super) struct Gc {
    /// Only say what would go, with sizes
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Keep this snapshot too, with all below it
    #[arg(long, value_name = "NAME")]
    pub(super) keep: Vec<String>,
    /// Delete what lies in `lost+found` too: trees that were found without a name, perhaps with a container's data
    #[arg(long)]
    pub(super) lost_found: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    /// Make a lease, or renew one and have it keep more
    #[command(after_help = "Example:\n  plywood lease add build sha256:4f8a --expires 2h")]
    Add {
        /// What the lease is called
        name: String,
        /// What it keeps: snapshots, with all below them, and blobs by their whole digests
        #[arg(value_name = "NAME|DIGEST")]
        what: Vec<String>,
        /// When it ends, from now on: a number with s, m, h or d; or `never`
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = leases::duration)]
        expires: Duration,
    },
    /// List the leases, and what they keep
    #[command(after_help = "Example:\n  plywood lease ls --json")]
    Ls,
    /// End leases; what they alone kept goes with `gc`
    #[command(after_help = "Example:\n  plywood lease rm build")]
    Rm {
        /// Names of leases
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum IdsName {
    /// An error
    Exact,
    /// They become root's, and are reported
    Squash,
}

#[derive(Args, Debug)]
pub(super) struct Prepare {
    /// The new key
    pub(super) key: String,
    /// The committed snapshot below it, imported or not [default: nothing]
    pub(super) parent: Option<String>,
    /// Mount it there as well
    #[arg(long, value_name = "TARGET", value_hint = ValueHint::DirPath)]
    pub(super) mount: Option<PathBuf>,
    #[command(flatten)]
    pub(super) options: How,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  plywood bundle alpine box && runc run --bundle box box-1; plywood umount box/rootfs")]
pub(super) struct Bundle {
    /// An image, a committed snapshot, or the key of one that was prepared
    #[arg(value_name = "REF|KEY")]
    pub(super) source: String,
    /// The bundle's directory; made where it is missing
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) dir: PathBuf,
    /// The key of the snapshot that is made of an image [default: the bundle's absolute path]
    #[arg(long)]
    pub(super) key: Option<String>,
    /// With a terminal
    #[arg(short, long)]
    pub(super) terminal: bool,
    #[command(flatten)]
    pub(super) options: How,
    /// What to run instead of what the image says
    #[arg(value_name = "CMD", last = true)]
    pub(super) command: Vec<String>,
}

/// How a snapshot is mounted.
#[derive(Args, Clone, Debug)]
pub(super) struct How {
    /// How to mount it, as mount(8) has it: ro, nosuid, nodev, noexec, noatime, volatile, xino=on|off|auto, context=LABEL; of overlayfs's
    /// own, uuid=. `volatile` is for throw-away containers: no syncs; after a power cut the snapshot can only be removed
    #[arg(short = 'o', long = "options", value_name = "OPTIONS", value_parser = parsed::<MountOptions>)]
    pub(super) options: Option<MountOptions>,
    /// Show owners through the map of the container's user namespace, and keep the container's ids on the disk: INSIDE:OUTSIDE:COUNT,
    /// several separated by commas, `u:` or `g:` before one that is for users or groups alone
    #[arg(long, value_name = "MAP", value_parser = parsed::<IdMap>)]
    pub(super) id_map: Option<IdMap>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  plywood diff box --compression zstd -o changes.tar.zst")]
pub(super) struct Diff {
    /// Key or name
    pub(super) key: String,
    /// The file to write [default: standard output, which `-` means too]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: Option<PathBuf>,
    /// How to compress it
    #[arg(long, value_name = "ALGORITHM", default_value = "none")]
    pub(super) compression: CompressionName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CompressionName {
    /// A plain tar
    None,
    /// gzip
    Gzip,
    /// Zstandard
    Zstd,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  plywood export box-1 ./layout --ref box:1")]
pub(super) struct Export {
    /// A committed snapshot or an image's reference
    #[arg(value_name = "NAME|REF")]
    pub(super) source: String,
    /// The layout's directory; made where it is missing, added to where it is a layout
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) dir: PathBuf,
    /// What the layout calls it [default: the reference it is kept under]
    #[arg(long = "ref", value_name = "NAME")]
    pub(super) reference: Option<String>,
}

/// A label to set, or to remove where the value is empty.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) name: String,
    pub(super) value: String,
}

fn label(text: &str) -> Result<Label, String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("a label is given as NAME=VALUE")?;
    Ok(Label { name: name.to_owned(), value: value.to_owned() })
}

/// A value of the library's; what is none is a mistake in the command line.
fn parsed<T: FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: Error| error.reason().map_or_else(|| error.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_make_sense_to_clap() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn look(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            command.get_subcommands().for_each(look);
            assert!(help.contains(command.get_name()) && help.contains("Example"), "{}: {help}", command.get_name());
        }
        look(&Cli::command());
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for arguments in [["plywood", "--json", "images"], ["plywood", "images", "--json"]] {
            assert!(Cli::try_parse_from(arguments).unwrap().global.json);
        }
    }
}
