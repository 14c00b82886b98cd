# shellcheck shell=bash
# What the scripts of the folders beside this one stand on. They source it, and define `inside PLACE ARGUMENTS...`.
#
# Everything they make lives on loop file systems whose files are unlinked at once, in a mount and a process namespace of their own that
# the kernel ends with the script, however it ends: nothing stays mounted, looped or on the disk.
PATH=$PATH:/usr/sbin:/sbin
script=${BASH_SOURCE[1]}
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

skip() { echo "SKIP $(basename "$(dirname "$script")")/$(basename "$script"): $*"; exit 0; }

say() { printf '== %s (%d s)\n' "$*" "$SECONDS" >&2; }

# Runs `inside` in the namespaces, with a new folder in TMPDIR and the arguments, if root is here and the programs named in `programs`.
isolated() {
    if [ "${1:-}" = --inside ]; then
        shift
        inside "$@"
        return
    fi
    local program child status=0
    [ "$(id -u)" -eq 0 ] || skip "needs root"
    [ -e /dev/loop-control ] || skip "there are no loop devices"
    for program in "${programs[@]}" mkfs.ext4 unshare setpriv python3; do
        command -v "$program" >/dev/null || skip "$program is not installed"
    done
    # buildah takes no capitals in a path.
    place=${TMPDIR:-/var/tmp}/plywood-$(basename "$script")-$$
    mkdir -m 755 "$place"
    trap 'rm -rf --one-file-system "$place"' EXIT
    setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child --mount-proc -- \
        "$script" --inside "$place" "$@" &
    child=$!
    # shellcheck disable=SC2064 # the number is known now
    trap "kill -KILL $child; wait $child || true; exit 130" INT TERM HUP
    wait "$child" || status=$?
    exit "$status"
}

# A new ext4 of so many GB at a folder, inside. Its file has no name any more when this returns.
fresh() {
    local image=$place/disk
    mkdir -p "$2"
    truncate -s "$1G" "$image"
    mkfs.ext4 -q -F -m 0 -E lazy_itable_init=0,lazy_journal_init=0 "$image"
    mount -o loop "$image" "$2"
    rm "$image"
}

# Debian's mirror, as this machine's apt knows it, and the name of its release.
codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }
mirror() {
    apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
        | awk -v codename="$(codename)" '$2 == codename && $3 == "main" { print $1; exit }'
}
