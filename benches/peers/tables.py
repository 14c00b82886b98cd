#!/usr/bin/env python3
"""The tables of benches/peers/run: RESULTS MADE VERSIONS KEEP README. Prints them; with a folder KEEP also writes them."""
import os
import shutil
import statistics
import sys

NAMES = ["wall", "user", "system", "sync", "peak", "longest"]
BOUNDS = ["bound-inflate", "bound-create"]
# Those that keep what plywood keeps: the blob, verified, and trees that images share.
STORES = ["containerd-overlayfs", "containerd-native", "podman-overlay", "skopeo-overlay"]

# What is no import.
DIFF = "python-diff"

SECTION = """## Speed

Seconds of an import, from an OCI layout to a root that can be mounted, the sync included, beside the newest peers from Debian testing.
`benches/peers/run` (root, network, a quiet machine) makes the images of packages of Debian, PyPI and npm and measures all in one go:
[all figures](benches/peers/results.md), with what the bound is.

"""


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*cells):
    return row(*cells) + "\n" + "|---" * len(cells) + "|"


def main():
    results, made, versions, keep, readme = sys.argv[1:]
    runs = {}
    for line in open(results):
        image, compression, tool, _, *numbers = line.split()
        runs.setdefault((image, compression), {}).setdefault(tool, []).append(dict(zip(NAMES, map(float, numbers))))
    diffs = runs.pop((DIFF, "none"), {})
    rounds = max(len(of_tool) for tools in runs.values() for of_tool in tools.values())
    images = {name: (int(layers), int(size)) for name, layers, size in (line.split() for line in open(made))}
    about = "; ".join(line.strip() for line in open(versions)) + "."

    def median(tools, tool, *names):
        return statistics.median(sum(run[name] for name in names) for run in tools[tool])

    def cell(tools, tool, *names, scale=1.0, digits=2):
        values = [sum(run[name] for name in names) * scale for run in tools[tool]]
        text = f"{statistics.median(values):.{digits}f}"
        return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"

    whole = []
    for (image, compression), tools in runs.items():
        layers, size = images[image]
        whole.append(f"\n### {image}, {compression}\n\nLayers: {layers}; {size / 1e6:.0f} MB of tar.\n")
        whole.append(head("", "wall, s", "sync, s", "user, s", "system, s", "peak memory, MiB"))
        for tool in tools:
            times = [cell(tools, tool, name) for name in ("wall", "sync", "user", "system")]
            peak = "" if tool in BOUNDS else cell(tools, tool, "peak", scale=1 / 1024, digits=0)
            whole.append(row(tool.replace("-", " "), *times, peak))

    tools_shown = list(dict.fromkeys(tool for tools in runs.values() for tool in tools if tool not in BOUNDS))
    short = [head("seconds, sync included", *[tool.replace("-", " ") for tool in tools_shown])]
    for (image, compression), tools in runs.items():
        cells = [f"{median(tools, tool, 'wall', 'sync'):.1f}" if tool in tools else "" for tool in tools_shown]
        short.append(row(f"{image}, {compression}", *cells))

    ratios = [head("plywood overlay", "wall and sync : fastest store among the peers", "CPU : bound", "wall and sync : bound",
                   "wall : with one thread")]
    for (image, compression), tools in runs.items():
        if "plywood-overlay" not in tools:
            continue
        mine, cells = median(tools, "plywood-overlay", "wall", "sync"), ["", "", "", ""]
        peers = {tool: median(tools, tool, "wall", "sync") for tool in STORES if tool in tools}
        if peers:
            fastest = min(peers, key=peers.get)
            cells[0] = f"{mine / peers[fastest]:.2f} ({fastest.replace('-', ' ')})"
        if all(bound in tools for bound in BOUNDS):
            cpu = sum(median(tools, bound, "user", "system") for bound in BOUNDS)
            cells[1] = f"{median(tools, 'plywood-overlay', 'user', 'system') / cpu:.2f}"
            serial = median(tools, "bound-inflate", "longest")
            sync = median(tools, "bound-inflate", "sync") + median(tools, "bound-create", "sync")
            cells[2] = f"{mine / (max(serial, cpu / os.cpu_count()) + sync):.2f}"
        if "plywood-overlay-single" in tools:
            cells[3] = f"{median(tools, 'plywood-overlay', 'wall') / median(tools, 'plywood-overlay-single', 'wall'):.2f}"
        ratios.append(row(f"{image}, {compression}", *cells))

    changes = []
    if diffs:
        mine, theirs = (median(diffs, tool, "wall") for tool in ("plywood-overlay", "containerd-overlayfs"))
        changes = [f"The layer of 2,000 changed files in a container on the python image, uncompressed: {mine:.2f} s, containerd {theirs:.2f} s "
                   f"({mine / theirs:.3f}).", ""]
        whole.append("\n### python, 2,000 files changed, their layer uncompressed\n")
        whole.append(head("", "wall, s", "user, s", "system, s", "peak memory, MiB"))
        for tool in diffs:
            times = [cell(diffs, tool, name) for name in ("wall", "user", "system")]
            whole.append(row(tool.replace("-", " "), *times, cell(diffs, tool, "peak", scale=1 / 1024, digits=0)))

    reading = (
        f"Medians of {rounds} alternating runs (least and most), each on a new ext4. The tool's own wall clock, CPU seconds and peak memory,\n"
        "of containerd with its daemon's, and plywood's where that is its snapshotter and differ; the sync of the file system after it on\n"
        "its own. umoci, GNU tar and bsdtar keep no store: they leave one plain directory. The bound is one thread: `inflate` has both\n"
        "digests and the writing of the blobs, `create` makes the same inodes with content, owner, mode and times. A peak below 16 MiB is\n"
        "the measuring program's own."
    )
    against = (
        "Against the bound: its CPU seconds are the sum of both parts; its wall is the longer of its longest layer's inflation and its CPU\n"
        "spread over all cores, and the syncs of both parts."
    )
    text = "\n".join([about, "", reading, "", *short, "", *ratios, "", *changes, against, *whole]) + "\n"
    print(text)
    if not keep:
        return
    with open(f"{keep}/results.md", "w") as out:
        out.write("# Imports, plywood and its peers\n\nWritten by `benches/peers/run`; not edited. Raw: [results.tsv](results.tsv).\n\n" + text)
    with open(f"{keep}/results.tsv", "w") as out:
        out.write("\t".join(["image", "compression", "tool", "round", *NAMES]) + "\n")
        shutil.copyfileobj(open(results), out)
    begin, end = "<!-- begin: benches/peers/run -->\n", "<!-- end: benches/peers/run -->\n"
    before, rest = open(readme).read().split(begin)
    after = rest.split(end)[1]
    with open(readme, "w") as out:
        out.write(before + begin + SECTION + "\n".join([about, "", *short, "", *ratios, "", *changes]).rstrip() + "\n" + end + after)


main()
