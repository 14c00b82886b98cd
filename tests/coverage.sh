#!/usr/bin/env bash
# What the unit tests, the conformance kit and the fuzz targets' corpora reach of the modules that read layers: the places that nothing
# reaches, and a table. Tests themselves are not counted. Needs python3, `rustup component add llvm-tools`, and root (else the kit runs in
# part). Builds in `target/coverage` (CARGO_TARGET_DIR), which may be removed afterwards.
#
#   bash tests/coverage.sh                 those three
#   bash tests/coverage.sh ARGUMENT...     what `cargo test --all-features` runs with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
modules=(tar whiteout path entry compression apply)
llvm=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
work=$(mktemp -d /var/tmp/plywood-coverage.XXXXXX)
trap 'rm -rf "$work"' EXIT
# Ordinary users write theirs as well.
chmod 755 "$work"
mkdir -m 1777 "$work/raw"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/coverage} CARGO_PROFILE_DEV_DEBUG=0 RUSTFLAGS="${RUSTFLAGS:-} -C instrument-coverage"

# Without the profiles of compilers' and build scripts' runs.
LLVM_PROFILE_FILE=/dev/null cargo test --all-features --lib --test it --no-run 2>&1 | tee "$work/built"
mapfile -t binaries < <(sed -n 's/^ *Executable.*(\(.*\))$/\1/p' "$work/built")
export LLVM_PROFILE_FILE=$work/raw/%p-%m.profraw
if [ $# -gt 0 ]; then
    cargo test --all-features "$@"
else
    cargo test --all-features --lib -- "${modules[@]/%/::}"
    # Root is kept out of nothing.
    if [ "$(id -u)" = 0 ]; then
        cp "${binaries[0]}" "$work/lib"
        (cd / && TMPDIR=$work/raw setpriv --reuid 65534 --regid 65534 --clear-groups -- "$work/lib" apply::)
    fi
    cargo test --all-features --test it -- conformance:: fuzz_replay::
fi

find "$work/raw" -name '*.profraw' > "$work/list"
"$llvm/llvm-profdata" merge --sparse --failure-mode=all --input-files="$work/list" -o "$work/merged"
export_as() {
    "$llvm/llvm-cov" export --format="$1" --instr-profile="$work/merged" "${binaries[0]}" --object "${binaries[1]}" --sources src
}
export_as text > "$work/regions"
export_as lcov > "$work/lines"
python3 - "$work" "${modules[@]}" <<'PYTHON'
import collections, json, os, re, sys

work, modules = sys.argv[1], "|".join(sys.argv[2:])
counted = re.compile(rf"src/(?:{modules})(?:\.rs|/(?!testing\.rs|round_trip\.rs|(?:.*/)?tests(?:\.rs|/)).*)$")
sources = {}

def source(name):
    """Our name of a file, and its lines without the tests at its end; none for what is not counted."""
    name = os.path.relpath(name)
    if name not in sources:
        text = open(name).read().split("#[cfg(test)]\nmod tests {")[0] if counted.match(name) else ""
        sources[name] = text.splitlines()
    return name, sources[name]

# A function is there once for each type and each binary.
regions = collections.defaultdict(collections.Counter)
for function in json.load(open(f"{work}/regions"))["data"][0]["functions"]:
    for *place, count, of, _, kind in function["regions"]:
        name, text = source(function["filenames"][of])
        if kind == 0 and place[0] <= len(text):
            regions[name][tuple(place)] += count
lines = collections.defaultdict(dict)
for line in open(f"{work}/lines"):
    kind, _, rest = line.strip().partition(":")
    if kind == "SF":
        name, text = source(rest)
    elif kind == "DA":
        number, count = map(int, rest.split(",")[:2])
        if number <= len(text):
            lines[name][number] = count

failures = collections.Counter()
for name in sorted(regions):
    for (line, column, last, end), count in sorted(regions[name].items()):
        cut = sources[name][line - 1][column - 1 : end - 1 if line == last else None]
        failures[name] += not count and cut == "?"
        if not count:
            print(f"{name}:{line}:{column}: {cut}")

def reached(counts):
    there, missed = len(counts), sum(not count for count in counts)
    return f"{there:6} {missed:6} {100 * (there - missed) / max(there, 1):6.2f}"

print(f"\n{'':28} lines missed      % regions missed      %  of these `?`")
for name in sorted(regions):
    print(f"{name:28}{reached(lines[name].values())}  {reached(regions[name].values())}  {failures[name]:4}")
both = [[count for name in regions for count in part[name].values()] for part in (lines, regions)]
print(f"{'':28}{reached(both[0])}  {reached(both[1])}  {failures.total():4}")
PYTHON
