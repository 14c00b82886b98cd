#!/usr/bin/env bash
# Makes the seed corpora again: small archives of every dialect, and the same compressed. Needs GNU tar, python3, gzip, zstd.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/corpus"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p tar_reader tar_members decompress

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
}
for name, data in lists.items():
    open(f"{sys.argv[2]}/{name}", "wb").write(data)
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
