#!/usr/bin/env bash
# Makes the seed corpora again: small archives of every dialect, and the same compressed; stacks of layers; images; names. Needs GNU tar,
# python3, gzip, zstd. What a fuzzer found stands beside them under its own names, and stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/corpus"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p apply_diff apply_model decompress identifiers import_image member_names readers_agree tar_extensions tar_members tar_reader
ln -sfn apply_model import_model

mkdir -p "$work/tree/d"
cd "$work/tree"
printf 'hello' > d/f
ln d/f d/hard
ln -s ../x d/sym
mkfifo d/fifo
: > d/.wh.gone
: > d/.wh..wh..opq
truncate -s 40000 sparse
printf 'island' | dd of=sparse bs=1 seek=20000 conv=notrunc status=none
cd - > /dev/null

pack() { tar -C "$work/tree" --owner=0 --group=0 --numeric-owner --mtime=@1000000000.5 --sort=name -b 1 "$@"; }
for format in v7 ustar gnu posix; do
    pack --format=$format -cf "tar_reader/$format.tar" --exclude=sparse --exclude=fifo .
done
pack --format=gnu -cf tar_reader/fifo.tar d/fifo
pack --format=gnu --sparse -cf tar_reader/sparse-old.tar sparse
for version in 0.0 0.1 1.0; do
    pack --format=posix --sparse --sparse-version=$version -cf tar_reader/sparse-$version.tar sparse
done

python3 - tar_reader tar_members <<'PYTHON'
import io, struct, sys, tarfile
def archive(name, form, *members):
    with tarfile.open(f"{sys.argv[1]}/{name}.tar", "w", format=form) as out:
        out.copybufsize = 512
        for member, kind, more in members:
            info = tarfile.TarInfo(member)
            info.type = kind
            content = more.pop("content", b"")
            info.size = len(content)
            for key, value in more.items():
                setattr(info, key, value)
            out.addfile(info, io.BytesIO(content))
    path = f"{sys.argv[1]}/{name}.tar"
    data = open(path, "rb").read().rstrip(b"\0")
    data += bytes(-len(data) % 512 + 1024)
    open(path, "wb").write(data)
F, D, S, L = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
archive("long-gnu", tarfile.GNU_FORMAT, ("n" * 150, S, {"linkname": "l" * 150}))
archive("long-pax", tarfile.PAX_FORMAT, ("n" * 150, S, {"linkname": "l" * 150}))
archive("prefix", tarfile.USTAR_FORMAT, ("p" * 100 + "/" + "n" * 90, F, {"content": b"x"}))
archive("numbers-gnu", tarfile.GNU_FORMAT, ("n", F, {"uid": 4_000_000_000, "mtime": -5}))
archive("numbers-pax", tarfile.PAX_FORMAT, ("n", F, {"uid": 4_000_000_000, "mtime": -5.25}))
archive("xattr", tarfile.PAX_FORMAT, ("n", D, {"pax_headers": {"SCHILY.xattr.user.a": "1\n2=3", "comment": ""}}))
archive("devices", tarfile.USTAR_FORMAT, ("c", tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3}), ("b", tarfile.BLKTYPE, {"devmajor": 8}))
archive("links", tarfile.USTAR_FORMAT, ("a", F, {}), ("b", L, {"linkname": "/a"}), ("c", L, {"linkname": "b"}))
archive("aufs", tarfile.USTAR_FORMAT, (".wh..wh.plnk", D, {}), (".wh..wh.plnk/1", F, {}), ("a", L, {"linkname": ".wh..wh.plnk/1"}))
archive("root", tarfile.USTAR_FORMAT, ("./", D, {"mode": 0o700}), (".wh.x", F, {}), (".wh..wh..opq", F, {}))
with open(f"{sys.argv[1]}/global.tar", "wb") as out:
    info = tarfile.TarInfo("n")
    out.write(tarfile.TarInfo.create_pax_global_header({"comment": "c"}) + info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))

# Members for `tar_members`: choice, then pieces with a length byte before each.
def piece(data): return bytes([len(data)]) + data
def member(choice, name, flag, link=b"", body=b"", field=None):
    out = bytes([choice | (4 if field else 0)]) + piece(name) + piece(flag) + piece(link)
    if field:
        out += piece(bytes([field[0] // 2])) + piece(field[1])
    return out + piece(body)
def record(key, value):
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return f"{length} ".encode() + key + b"=" + value + b"\n"
def sparse(*pairs): return b"".join(b"%011o\0" % n for pair in pairs for n in pair)
lists = {
    "file": member(1, b"a", b"0", body=b"content"),
    "v7-directory": member(0, b"a/", b"\0"),
    "long": member(2, b"L", b"L", body=b"long/name\0") + member(2, b"K", b"K", body=b"target\0") + member(2, b"x", b"2"),
    "pax": member(1, b"x", b"x", body=record(b"path", b"p/q") + record(b"mtime", b"-1.5") + record(b"uid", b"7")) + member(1, b"a", b"0"),
    "pax-size": member(1, b"x", b"x", body=record(b"size", b"3")) + member(17, b"a", b"0", body=b"abc"),
    "xattr": member(1, b"x", b"x", body=record(b"SCHILY.xattr.user.a", b"\n=")) + member(1, b"a", b"5"),
    "sparse-0.0": member(1, b"x", b"x", body=record(b"GNU.sparse.size", b"99") + record(b"GNU.sparse.numblocks", b"1")
        + record(b"GNU.sparse.offset", b"5") + record(b"GNU.sparse.numbytes", b"3")) + member(1, b"a", b"0", body=b"abc"),
    "sparse-0.1": member(1, b"x", b"x", body=record(b"GNU.sparse.size", b"99") + record(b"GNU.sparse.numblocks", b"2")
        + record(b"GNU.sparse.map", b"5,1,9,2") + record(b"GNU.sparse.name", b"s")) + member(1, b"a", b"0", body=b"abc"),
    "sparse-1.0": member(1, b"x", b"x", body=record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
        + record(b"GNU.sparse.realsize", b"5100") + record(b"GNU.sparse.name", b"s"))
        + member(9, b"a", b"0", body=b"1\n0\n" + b"4588\n" + b"x" * 246),
    "sparse-old": member(2, b"s", b"S", body=b"abc", field=(386, sparse((5, 3)) + bytes(72) + b"\0" + b"%011o\0" % 99)),
    "global": member(1, b"g", b"g", body=record(b"comment", b"c")) + member(1, b"a", b"0"),
    "prefix": member(1, b"a", b"0", field=(344, b"\0prefix")),
    "devices": member(1, b"a", b"3", field=(328, b"\0" + b"0000001\0" + b"0000003\0")),
    "markers": member(1, b".wh.a", b"1", link=b"x") + member(1, b"d/.wh..wh..opq", b"0") + member(1, b".wh..wh.plnk/1", b"0"),
    "base256": member(2, b"a", b"0", field=(108, b"\x80\0\0\0\xff\xff\xff\0")),
    "newline": member(1, b"x", b"x", body=record(b"comment", b"a\nb") + record(b"path", b"p\nq")) + member(1, b"a", b"0"),
    "twice": member(1, b"x", b"x", body=record(b"path", b"p") + record(b"path", b"q")) + member(1, b"a", b"0"),
    "empty-value": member(1, b"x", b"x", body=record(b"linkpath", b"")) + member(1, b"a", b"2", link=b"t"),
    "long-nul": member(2, b"L", b"L", body=b"long\0tail\0") + member(2, b"a", b"0"),
    "before-1970": member(2, b"a", b"0", field=(136, b"\xff" * 12)),
}
for name, data in lists.items():
    open(f"{sys.argv[2]}/{name}", "wb").write(data)
# For `readers_agree` what the readers differ in; the fuzzer has the other two corpora as well.
for name in ("twice", "empty-value", "long-nul", "pax", "sparse-1.0"):
    open(f"readers_agree/{name}", "wb").write(lists[name])
PYTHON

gzip -n -9 < tar_reader/links.tar > decompress/one.gz
printf 'a' | gzip -n > "$work/a.gz"
printf '' | gzip -n > "$work/empty.gz"
cat "$work/a.gz" "$work/empty.gz" "$work/a.gz" > decompress/members.gz
{ cat "$work/a.gz"; head -c 20 /dev/zero; } > decompress/padded.gz
{ cat "$work/a.gz"; printf 'x'; } > decompress/followed.gz
head -c 15 "$work/a.gz" > decompress/truncated.gz
printf 'named' > "$work/name"; touch -d @1000000000 "$work/name"; gzip -c "$work/name" > decompress/named.gz
cp "$work/empty.gz" decompress/empty.gz
zstd -q -19 -c tar_reader/links.tar > decompress/one.zst
printf 'a' | zstd -q --no-check > "$work/a.zst"
printf '\x50\x2a\x4d\x18\x03\x00\x00\x00abc' > "$work/skippable"
cat "$work/skippable" "$work/a.zst" "$work/skippable" "$work/a.zst" > decompress/frames.zst
{ cat "$work/a.zst"; printf 'x'; } > decompress/followed.zst
head -c 8 "$work/a.zst" > decompress/truncated.zst
printf '\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00' > decompress/window.zst
printf '\x28\xb5\x2f\xfd\x01\x00\x05\x01\x00\x00' > decompress/dictionary.zst
cp tar_reader/links.tar decompress/plain.tar
printf '' > decompress/nothing

python3 - <<'PYTHON'
def write(target, name, data): open(f"{target}/{name}", "wb").write(data)

# Members of layers for `apply_model` and `apply_diff`: what, where, argument, extras.
KINDS = dict(dir=0, file=3, symlink=6, hardlink=8, fifo=10, device=11, whiteout=12, opaque=14, root=15, aside=16, link_aside=17, end=18)
TARGETS = "a b c a/b b/a / .. . ../.. /a /b /b/a /a/b/c ../a ../b ../c/a a/../b ../../b/c missing /missing/a b/..".split()
def path(text):
    names = text.split("/")
    byte = len(names) - 1
    for level, name in enumerate(names):
        byte |= "abcd".index(name) << (2 + 2 * level)
    return byte
def stack(text):
    out = b""
    for word in text.split():
        if word == "|":
            out += bytes([KINDS["end"], 0, 0, 0])
            continue
        what, _, rest = word.partition(":")
        where, _, argument = rest.partition(">")
        extras = 0
        where, _, more = where.partition("+")
        if more:
            extras = int(more)
        if what == "symlink":
            number = TARGETS.index(argument)
        elif what == "hardlink":
            number = path(argument)
        elif what == "opaque" and not where:
            number = 7
        else:
            number = int(argument or 0)
        out += bytes([KINDS[what], path(where) if where else 0, number, extras])
    return out
STACKS = {
    "replace": "file:a>1 | dir:a file:a/b>1 | file:a>2 | dir:a>1",
    "stale-children": "dir:a file:a/b>1 file:a/c>1 | dir:a>1 file:a>1 dir:a | file:a/d",
    "whiteouts": "file:a/b>1 file:a/c>1 dir:b file:b/a | whiteout:a/b whiteout:b file:b/c>1 | whiteout:a file:a/d>2",
    "opaque": "dir:a file:a/b>1 dir:a/c file:a/c/d>1 | opaque:a file:a/c/a>1 | dir:a/c opaque:a/c file:a/c/b",
    "cut": "dir:a+4 file:a/b>1 | opaque: file:c>1 root:>1 | file:d>2",
    "late-marker": "dir:a file:a/b>1 symlink:b>/a | file:b/c>1 hardlink:d>a/b whiteout:a whiteout:b",
    "parents-by-symlink": "dir:b file:b/a>1 symlink:a>/b | file:a/c>1 whiteout:a/a | symlink:c>a/../b file:c/d>2 opaque:c",
    "loops": "symlink:a>b symlink:b>a | file:a/c>1 | symlink:c>../.. file:c/a>1 symlink:d>missing file:d/a/b>2",
    "hardlinks": "file:a>1 hardlink:b>a hardlink:c/a>a symlink:d>a | hardlink:a>c/a hardlink:d/b>d | file:b>2 hardlink:c/b>b whiteout:a",
    "forward-links": "hardlink:a>b hardlink:c>a file:b>1 | file:a>2 hardlink:d>c",
    "links-of-the-lower-group": "file:a>1 hardlink:b>a hardlink:c>a | hardlink:d>b | file:b>2 | hardlink:b>c",
    "aufs": "aside:>0 link_aside:a>0 aside:>1 link_aside:b>1 link_aside:c>0 | hardlink:d>a",
    "attributes": "dir:a+28 dir:a/b+29 file:a/b/c>4 root:+36 | dir:a>1 file:a/b/d>1 | root:>2 file:a/b/c>9",
    "overlay-xattrs": "dir:a+52 file:a/b+60>1 dir:b+68 | file:a/c>1 dir:b/c+40 | opaque:b file:b/d>1",
    "specials": "fifo:a device:b hardlink:c>b | device:a fifo:b | whiteout:c dir:b file:b/a>1",
    "empty": "| | file:a>1 | |",
    "markers-below-links": "dir:a file:a/b>1 symlink:b>a | whiteout:b/b | symlink:b>/a whiteout:b/b opaque:b | dir:b whiteout:b/b",
    "root-twice": "root:>1 root:>2 file:a | root:+12>0 | dir:a",
}
for name, text in STACKS.items():
    write("apply_model", name, stack(text))
CHANGES = dict(write=0, append=1, truncate=2, open=3, mkdir=4, remove=5, remake=6, rename=7, link=8, symlink=9, fifo=10, chmod=11, back=12, time=13, xattr=14)
def changes(text):
    out = b""
    for word in text.split():
        what, _, rest = word.partition(":")
        where, _, argument = rest.partition(">")
        number = path(argument) if what in ("rename", "link") else TARGETS.index(argument) if what == "symlink" else int(argument or 0)
        out += bytes([CHANGES[what], path(where) if where else 0, number])
    return bytes([len(out) // 3]) + out
DIFFS = {
    "nothing": ("", "replace"),
    "write": ("write:a/b>2 append:a/c truncate:a/d open:b/c xattr:b/a", "whiteouts"),
    "remake": ("remake:a mkdir:b/b remove:a/a write:a/b>1 chmod:>193", "opaque"),
    "rename": ("rename:a>b rename:b/a>c link:c>a symlink:d>/a", "hardlinks"),
    "unlink-groups": ("remove:a link:b>d write:b>1 link:c>a/b", "links-of-the-lower-group"),
    "link-and-back": ("remove:b link:a>b back:a time:a>1 chmod:b>1", "forward-links"),
    "over-a-cut": ("write:a>1 remove:d mkdir:b write:b/a>2", "cut"),
    "specials": ("fifo:c rename:a>d link:b>a/a remove:b/a", "specials"),
    "attributes": ("chmod:a>2 xattr:>200 time:a/b>2 open:a/b/c", "attributes"),
    "overlay-xattrs": ("remake:b write:a/b>1 rename:a/c>b/c", "overlay-xattrs"),
    "links-for-directories": ("remove:a mkdir:a write:a/a>2 symlink:b/c>../b", "parents-by-symlink"),
}
for name, (made, below) in DIFFS.items():
    write("apply_diff", name, changes(made) + stack(STACKS[below]))
for name in ("late-marker", "root-twice", "empty", "aufs", "loops"):
    write("apply_diff", f"layers-{name}", b"\0" + stack(STACKS[name]))

# Extension headers for `tar_extensions`: the member's type, then choices with a piece each.
KEYWORDS = ["path", "linkpath", "size", "uid", "gid", "mtime", "uname", "comment", "SCHILY.xattr.user.a", "SCHILY.xattr.user.b", "SCHILY.xattr.",
            "LIBARCHIVE.xattr.user.a", "atime", ""]
def piece(choice, data): return bytes([choice, len(data)]) + data
def said(keyword, value): return piece(KEYWORDS.index(keyword) << 3, value)
def raw(data): return piece(4, data)
def name(data): return piece(5, data)
def link(data): return piece(6, data)
LOCAL, GLOBAL = piece(7, b""), piece(15, b"")
EXTENSIONS = {
    "path": b"\0" + said("path", b"p/q") + said("uid", b"7") + said("gid", b"8") + LOCAL,
    "last-wins": b"\0" + said("path", b"first") + said("path", b"second") + said("mtime", b"x") + said("mtime", b"-1.25") + LOCAL,
    "empty-values": b"\2" + said("path", b"") + said("linkpath", b"") + said("uid", b"") + LOCAL,
    "newline": b"\0" + said("SCHILY.xattr.user.a", b"1\n9 path=x\n") + said("SCHILY.xattr.user.b", b"") + LOCAL,
    "raw": b"\0" + raw(b"9 path=x\n12 mtime=0.5\n") + LOCAL,
    "bad-length": b"\0" + raw(b"8 path=x\n") + LOCAL,
    "long": b"\2" + name(b"long/name\0") + link(b"target\0tail") + said("uid", b"4294967294") + LOCAL,
    "both": b"\0" + name(b"n\0") + said("path", b"p") + LOCAL,
    "global": b"\0" + said("comment", b"c") + GLOBAL + said("path", b"p") + LOCAL,
    "global-sets": b"\0" + said("path", b"c") + GLOBAL,
    "two": b"\0" + said("path", b"p") + LOCAL + said("path", b"p") + LOCAL,
    "hardlink": b"\1" + said("linkpath", b"/a//b") + said("mtime", b"253402300800.999999999") + LOCAL,
    "directory": b"\3" + said("path", b"d/") + said("size", b"0") + said("uname", b"root") + said("atime", b"z") + LOCAL,
}
for title, data in EXTENSIONS.items():
    write("tar_extensions", title, data)

# Names for `member_names`: flag, the lengths of name and link, both.
def member(flag, name, link=b""): return bytes([flag, len(name), len(link)]) + name + link
FILE, DIRECTORY, HARDLINK, SYMLINK, NUL = 0, 2, 3, 4, 7
MEMBERS = {
    "plain": member(FILE, b"a/b") + member(DIRECTORY, b"./d//e/") + member(SYMLINK, b"/l", b"../x") + member(HARDLINK, b"h", b"/a/./b"),
    "markers": member(FILE, b"a/.wh.b") + member(SYMLINK, b".wh.c", b"x") + member(FILE, b"d/.wh..wh..opq") + member(FILE, b".wh..wh..opq"),
    "impossible": member(FILE, b"a/.wh.") , "impossible-dot": member(FILE, b".wh.."), "impossible-dots": member(FILE, b".wh..."),
    "in-parent": member(FILE, b".wh.a/b"), "opaque-parent": member(FILE, b".wh..wh..opq/a"),
    "aufs": member(DIRECTORY, b".wh..wh.plnk") + member(FILE, b".wh..wh.plnk/1") + member(HARDLINK, b"a", b".wh..wh.plnk/1") + member(FILE, b".wh..wh.orph/x"),
    "up": member(FILE, b"a/../b"), "root": member(DIRECTORY, b"./") + member(FILE, b"x"), "root-file": member(FILE, b"."),
    "long-component": member(FILE, b"n" * 255), "too-long": member(DIRECTORY, b"a/" + b"n" * 253),
    "v7": member(NUL, b"d/") + member(NUL, b"f"), "slash": member(FILE, b"f/"), "bytes": member(FILE, b"\xff\xfe/\x01\\"),
}
for title, data in MEMBERS.items():
    write("member_names", title, data)

HEX = "0123456789abcdef" * 4
TEXTS = {
    "sha256": f"sha256:{HEX}", "sha512": f"sha512:{HEX}{HEX}", "upper": f"sha256:{HEX.upper()}", "short": "sha256:abc", "key": "web-1",
    "path": "/run/containerd/x", "algorithm": f"md5:{HEX}",
    "descriptor": '{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:' + HEX + '","size":3,"annotations":{"a":"b"}}',
    "descriptor-more": '{"size":0,"digest":"sha512:' + HEX + HEX + '","mediaType":"","urls":["x"],"platform":{"os":"linux"}}',
    "descriptor-bad": '{"mediaType":"x","digest":"sha256:..","size":-1}',
}
for title, text in TEXTS.items():
    write("identifiers", title, text.encode())

# Images for `import_image`: the form, then files: which, length, text. What a text says of the files before is one byte.
def digest(n): return chr(0x80 | n).encode("latin1")
def size(n): return chr(0x90 | n).encode("latin1")
def diff_id(n): return chr(0xb0 | n).encode("latin1")
def file(which, text, kind=0): return bytes([which | kind << 4, len(text) & 255, len(text) >> 8]) + text
BLOB, OCI, INDEX, MANIFEST, CONFIG, LAYER, LAYER_IN = 0, 1, 2, 3, 5, 6, 7
PLAIN, TAR, GZIP, ZSTD = 0, 1, 2, 3
def descriptor(kind, n, more=b""):
    return b'{"mediaType":"application/vnd.oci.image.' + kind + b'","digest":"' + digest(n) + b'","size":' + size(n) + more + b"}"
def config(*layers):
    ids = b",".join(b'"' + diff_id(n) + b'"' for n in layers)
    return b'{"architecture":"amd64","os":"linux","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":[' + ids + b"]}}"
def manifest(of, layers, kinds):
    listed = b",".join(descriptor(b"layer.v1.tar" + kind, n) for n, kind in zip(layers, kinds))
    return b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":' + descriptor(b"config.v1+json", of) + b',"layers":[' + listed + b"]}"
def index(*of, kind=b"manifest.v1+json", more=b""):
    return b'{"schemaVersion":2,"manifests":[' + b",".join(descriptor(kind, n, more) for n in of) + b"]}"
LAYOUT = file(OCI, b'{"imageLayoutVersion":"1.0.0"}')
ONE, TWO = stack("file:a>1 dir:b"), stack("whiteout:a file:b/c>2")
def layout(kinds=(TAR,), names=(b"",), texts=(ONE,)):
    files = b"".join(file(BLOB, text, kind) for kind, text in zip(kinds, texts))
    count = len(kinds)
    return files + file(BLOB, config(*range(count))) + file(BLOB, manifest(count, range(count), names)), count + 1
plain, at = layout()
two, at_two = layout((GZIP, ZSTD), (b"+gzip", b"+zstd"), (ONE, TWO))
saved = lambda layers, tags=b'["a:b"]': b'[{"Config":"config.json","RepoTags":' + tags + b',"Layers":[' + b",".join(b'"' + l + b'"' for l in layers) + b"]}]"
IMAGES = {
    "layout": b"\1" + plain + file(INDEX, index(at)) + LAYOUT,
    "layout-archive": b"\0" + LAYOUT + plain + file(INDEX, index(at)),
    "layout-two": b"\1" + two + file(INDEX, index(at_two)) + LAYOUT,
    "layout-nested": b"\1" + two + file(BLOB, index(at_two, more=b',"platform":{"os":"linux","architecture":"amd64"}')) + file(INDEX, index(at_two + 1, kind=b"index.v1+json")) + LAYOUT,
    "layout-mixed-up": b"\1" + plain + file(INDEX, index(0)) + LAYOUT,
    "layout-without-index": b"\1" + plain + LAYOUT,
    "layout-of-another-size": b"\1" + plain + file(INDEX, index(at).replace(size(at), b"1")) + LAYOUT,
    "docker": b"\0" + file(LAYER, ONE, TAR) + file(CONFIG, config(0)) + file(MANIFEST, saved([b"layer.tar"])),
    "docker-two": b"\0" + file(MANIFEST, saved([b"layer.tar", b"a/layer.tar"], b"null")) + file(LAYER, ONE, TAR) + file(LAYER_IN, TWO, GZIP) + file(CONFIG, config(2, 3).replace(diff_id(2), diff_id(1)).replace(diff_id(3), diff_id(2))),
    "docker-directory": b"\1" + file(LAYER, ONE, TAR) + file(CONFIG, config(0)) + file(MANIFEST, saved([b"./layer.tar"])),
    "docker-outside": b"\1" + file(CONFIG, config()) + file(MANIFEST, saved([b"../layer.tar"])),
    "docker-no-layers": b"\0" + file(CONFIG, config()) + file(MANIFEST, saved([])),
    "nothing": b"\0",
}
for title, data in IMAGES.items():
    write("import_image", title, data)
PYTHON
