# shellcheck shell=bash
# The peers, from Debian testing: a root of their own, in which they can hurt nothing else. Sourced by the scripts beside it.
# igzip (isal) and unpigz are what containerd inflates with where they are.
peer_packages=umoci,containerd,podman,skopeo,libarchive-tools,tar,gzip,zstd,isal,pigz

# Makes that root at $root, in the sandbox of benches/scratch.sh: Debian testing, by debootstrap or from the folder PEERS_ROOT, below an
# overlay whose changes are in $changes. The peers' own files belong in /work, which is $stores from outside.
peers_root() {
    local lower=${PEERS_ROOT:-$work/testing} device
    root=$work/root changes=$work/changes stores=$work/stores
    if [ -z "${PEERS_ROOT:-}" ]; then
        say "debootstrap testing"
        debootstrap --variant=minbase --include="$peer_packages" testing "$lower" "$(mirror)" >"$work/debootstrap.log" \
            || { tail -n 20 "$work/debootstrap.log" >&2; skip "Debian testing cannot be had here"; }
        umount -q "$lower/proc" "$lower/sys" || true
    fi
    mkdir -p "$root" "$changes" "$work/workdir" "$stores"
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$changes,workdir=$work/workdir" "$root"
    mkdir -p "$root/work"
    mount --bind "$stores" "$root/work"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for device in null zero full random urandom tty; do
        cp -a "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/shm" "$stores/tmp"
    cp "$plywood" "$root/usr/local/bin/plywood"
}

# Runs a program in the peers' root: no network, no environment, no longer than it should take.
peer() { timeout -k 5 "${PEER_SECONDS:-120}" unshare --net chroot "$root" "${peer_env[@]}" "$@"; }
peer_env=(env -i PATH=/usr/local/bin:/usr/bin:/usr/sbin HOME=/root TMPDIR=/work/tmp LC_ALL=C.UTF-8 PODMAN_IGNORE_CGROUPSV1_WARNING=yes)

# What stands where, outside of the peers' own files and of what they keep for themselves in /run and the like.
outside() {
    find "$changes" "$stores/canary" \( -path "$changes/run" -o -path "$changes/tmp" -o -path "$changes/var/tmp" -o -path "$changes/root" \
        -o -path "$changes/var/lib/containers" -o -path "$changes/var/cache" \) -prune -o -printf '%p %y %m %U:%G %s %T@ %C@ %l\n'
}

# Starts the daemon with its files in a folder of the peers' root, and waits for it; where `plywood` is said, with plywood as its
# snapshotter and differ beside its own. Their processes are in $containerd_pids.
start_containerd() {
    containerd=$1/containerd
    containerd_pids=()
    mkdir -p "$root$containerd"
    cat >"$root$containerd/config.toml" <<TOML
version = 3
root = "$containerd/root"
state = "$containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = "$containerd/socket"
[ttrpc]
address = "$containerd/socket.ttrpc"
TOML
    if [ "${2:-}" = plywood ]; then
        cat >>"$root$containerd/config.toml" <<TOML
[proxy_plugins.plywood]
type = "snapshot"
address = "$1/plywood.sock"
[proxy_plugins.plywood-diff]
type = "diff"
address = "$1/plywood.sock"
[plugins."io.containerd.service.v1.diff-service"]
default = ["plywood-diff", "walking"]
TOML
        unshare --net chroot "$root" "${peer_env[@]}" plywood -q --root "$1/plywood" --backend overlay containerd \
            --address "$1/plywood.sock" --containerd-address "$containerd/socket" >"$root$containerd/log.plywood" 2>&1 &
        containerd_pids+=("$!")
    fi
    unshare --net chroot "$root" "${peer_env[@]}" containerd --config "$containerd/config.toml" >"$root$containerd/log" 2>&1 &
    containerd_pids+=("$!")
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if ctr version >/dev/null 2>&1 && { [ "${2:-}" != plywood ] || ctr snapshots --snapshotter plywood ls >/dev/null 2>&1; }; then
            return 0
        fi
        sleep 0.1
    done
    tail -n 20 "$root$containerd/log" >&2
    return 1
}

ctr() { peer ctr --address "$containerd/socket" "$@"; }

# How a peer calls itself.
version_of() {
    case $1 in
        plywood) peer plywood --version ;;
        umoci) peer umoci --version | sed -n '1s, version,,p' ;;
        containerd) peer containerd --version | awk '{ print "containerd", $3 }' ;;
        podman) peer podman --version | sed 's/ version//' ;;
        skopeo) peer skopeo --version | sed 's/ version//' ;;
        tar) peer tar --version | sed -n '1s,tar (GNU tar),GNU tar,p' ;;
        bsdtar) peer bsdtar --version | cut -d ' ' -f 1,2 ;;
    esac
}
