//! SEMANTICS §3, sentence by sentence: the archive's own spellings, and what in them is refused.

use crate::testing::conformance::Case;
use crate::testing::layer::Form;
use crate::testing::{Layer, Tree};

pub(super) fn cases() -> Vec<Case> {
    [headers(), numbers(), records(), extensions(), sparse(), ends(), refused()].concat()
}

/// The mtime of literals, in octal.
const MTIME: &[u8] = b"07346545000\0";

/// A ustar member with a body, changed before its checksum is written.
fn member(name: &str, flag: u8, body: impl AsRef<[u8]>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    (old.linkflag, old.mtime) = ([flag], *b"07346545000\0");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(body.as_ref().len() as u64);
    change(header.as_mut_bytes());
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(body.as_ref());
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn file(name: &str, body: &str) -> Vec<u8> {
    member(name, b'0', body, |_| ())
}

/// A PAX header of these bytes.
fn pax(flag: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    member("pax", flag, body, |_| ())
}

fn record(keyword: &str, value: &str) -> String {
    let rest = keyword.len() + value.len() + 3;
    let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap_or(1);
    format!("{} {keyword}={value}\n", rest + digits)
}

fn gnu(header: &mut [u8]) {
    header[257..265].copy_from_slice(b"ustar  \0");
}

/// A layer of raw members.
fn raw(members: impl IntoIterator<Item = Vec<u8>>) -> Layer {
    members.into_iter().fold(Layer::new(), Layer::raw)
}

fn at(offset: usize, bytes: &'static [u8]) -> impl FnOnce(&mut [u8]) {
    move |header| header[offset..offset + bytes.len()].copy_from_slice(bytes)
}

fn case(name: &'static str, layer: Layer) -> Case {
    Case::new("3", name).layer(layer)
}

fn headers() -> Vec<Case> {
    let lengths = [99, 100, 101, 155, 156, 255].map(|length| "n".repeat(length));
    let both = [Form::Pax, Form::Gnu];
    let long = lengths.iter().fold(Layer::new(), |layer, name| {
        both.iter().fold(layer, |layer, &form| {
            let directory = if form == Form::Gnu { "g" } else { "p" };
            layer
                .file(format!("{directory}/{name}"), "x")
                .form(form)
                .symlink(format!("{directory}/s{}", &name[1..]), name)
                .form(form)
        })
    });
    let all = lengths.iter().fold(Tree::new().implied("g").implied("p"), |tree, name| {
        ["g", "p"].iter().fold(tree, |tree, directory| {
            tree.file(format!("{directory}/{name}"), "x").symlink(format!("{directory}/s{}", &name[1..]), name)
        })
    });
    let (prefix, name) = (format!("{}/{}", "p".repeat(77), "q".repeat(77)), "n".repeat(100));
    vec![
        case("names and targets of 99, 100, 101, 155, 156 and 255 bytes, in PAX and in GNU headers", long).gives(all),
        case(
            "a name of 256 bytes in name and prefix",
            raw([member(&name, b'0', "x", |header| header[345..500].copy_from_slice(prefix.as_bytes()))]),
        )
        .gives(Tree::new().implied("p".repeat(77)).implied(&prefix).file(format!("{prefix}/{name}"), "x")),
        case("GNU headers have no prefix: its place holds times", {
            raw([member("a", b'0', "x", |header| {
                gnu(header);
                header[345..369].copy_from_slice([MTIME, MTIME].concat().as_slice());
            })])
        })
        .gives(Tree::new().file("a", "x")),
        case("a GNU long name ends at its first NUL", raw([member("L", b'L', "long\0ignored", gnu), file("short", "x")]))
            .gives(Tree::new().file("long", "x")),
        case("a checksum of signed bytes", {
            let mut bytes = member("\u{e9}", b'0', "", |_| ());
            let sum: i64 = bytes[..512]
                .iter()
                .enumerate()
                .map(|(at, &b)| if (148..156).contains(&at) { 32 } else { i64::from(b as i8) })
                .sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            raw([bytes])
        })
        .gives(Tree::new().file("\u{e9}", "")),
        case(
            "names of users and groups mean nothing",
            raw([member("a", b'0', "", |header| header[265..271].copy_from_slice(b"nobody"))]),
        )
        .gives(Tree::new().file("a", "")),
    ]
}

fn numbers() -> Vec<Case> {
    let spelled = |offset, spelling| raw([member("a", b'0', "", at(offset, spelling))]);
    let mode = |name, spelling| case(name, spelled(100, spelling)).gives(Tree::new().file("a", "").mode(0o640));
    let mtime = |name, spelling, seconds| case(name, spelled(136, spelling)).gives(Tree::new().file("a", "").mtime(seconds, 0));
    vec![
        mode("a number that ends with NUL", b"0000640\0"),
        mode("a number that ends with a blank", b"000640 \0"),
        mode("a number after blanks", b"   640 \0"),
        mode("a number that fills its field", b"00000640"),
        mode("a number in base 256", b"\x80\0\0\0\0\0\x01\xa0"),
        mode("a mode with the type above it", b"0100640\0"),
        mtime("an empty number is zero", b"\0\0\0\0\0\0\0\0\0\0\0\0", 0),
        mtime("a negative number in base 256", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        mtime("a time that octal digits cannot say", b"\x80\0\0\0\0\0\0\x02\0\0\0\0", 1 << 33),
    ]
}

fn records() -> Vec<Case> {
    let with = |body: String| raw([pax(b'x', body), file("a", "x")]);
    vec![
        case("a record is as long as it says: a newline in a value", with(record("SCHILY.xattr.user.a", "1\n12 path=evil\n")))
            .gives(Tree::new().file("a", "x").xattr("user.a", "1\n12 path=evil\n")),
        case("the last record of a keyword counts", with(record("path", "first") + &record("path", "last")))
            .gives(Tree::new().file("last", "x")),
        case("an empty value keeps the header's", with(record("path", "b") + &record("path", "") + &record("mtime", "")))
            .gives(Tree::new().file("a", "x")),
        case("an empty xattr is one", with(record("SCHILY.xattr.user.a", "")))
            .gives(Tree::new().file("a", "x").xattr("user.a", "")),
        case(
            "records of other writers mean nothing",
            with(
                [
                    "LIBARCHIVE.xattr.user.b",
                    "RHT.security.selinux",
                    "SCHILY.acl.access",
                    "SCHILY.dev",
                    "uname",
                    "gname",
                    "atime",
                    "comment",
                ]
                .map(|keyword| record(keyword, "x"))
                .concat(),
            ),
        )
        .gives(Tree::new().file("a", "x")),
        case("the record's size is the body's, and says where the next header stands", {
            let inner = file("smuggled", "");
            raw([pax(b'x', record("size", "512")), member("a", b'0', "", |_| ()), inner, file("b", "")])
        })
        .gives(Tree::new().file("a", file("smuggled", "")).file("b", "")),
        case("a fraction finer than nanoseconds is cut off", with(record("mtime", "-1.0000000019")))
            .gives(Tree::new().file("a", "x").mtime(-2, 999_999_999)),
        case("times after 2262", with(record("mtime", "10500000000.000000001")))
            .gives(Tree::new().file("a", "x").mtime(10_500_000_000, 1)),
        case("a record's length may have leading zeros", with("0018 path=renamed\n".to_owned()))
            .gives(Tree::new().file("renamed", "x")),
    ]
}

fn extensions() -> Vec<Case> {
    let long = || member("L", b'L', "long\0", gnu);
    vec![
        case("a PAX header before a GNU long name belongs to the member", {
            raw([pax(b'x', record("size", "3")), long(), member("short", b'0', "", gnu), member_body("abc"), file("b", "")])
        })
        .gives(Tree::new().file("long", "abc").file("b", "")),
        case("a global header is none of the layer's", raw([pax(b'g', record("comment", "c")), file("a", "x")]))
            .gives(Tree::new().file("a", "x")),
    ]
}

fn member_body(body: &str) -> Vec<u8> {
    let mut out = body.as_bytes().to_vec();
    out.resize(512, 0);
    out
}

fn octal(number: u64) -> Vec<u8> {
    format!("{number:011o}\0").into_bytes()
}

/// GNU's old form: 3 bytes at 5, 4 bytes at 1000, in a file of 2000.
fn old_sparse(segments: &[(u64, u64)], size: u64) -> Vec<u8> {
    member("s", b'S', "abcWXYZ", |header| {
        gnu(header);
        for (&(offset, length), place) in segments.iter().zip((386..).step_by(24)) {
            header[place..place + 24].copy_from_slice(&[octal(offset), octal(length)].concat());
        }
        header[483..495].copy_from_slice(&octal(size));
    })
}

fn sparse_records(records: &[(&str, &str)]) -> String {
    records.iter().map(|(keyword, value)| record(&format!("GNU.sparse.{keyword}"), value)).collect()
}

fn sparse() -> Vec<Case> {
    let mut content = vec![0; 2000];
    content[5..8].copy_from_slice(b"abc");
    content[1000..1004].copy_from_slice(b"WXYZ");
    let tree = || Tree::new().file("s", &content);
    let with = |records: &[(&str, &str)], body: &str| raw([pax(b'x', sparse_records(records)), file("s", body)]);
    let v01 = |map| [("size", "2000"), ("numblocks", "2"), ("name", "s"), ("map", map)];
    let map = format!("{:\0<512}abcWXYZ", "2\n5\n3\n1000\n4\n");
    let version = [("major", "1"), ("minor", "0"), ("name", "s"), ("realsize", "2000")];
    vec![
        case("a sparse file in GNU's old form", raw([old_sparse(&[(5, 3), (1000, 4)], 2000)])).gives(tree()),
        case(
            "a sparse file in PAX 0.0",
            with(
                &[("size", "2000"), ("numblocks", "2"), ("offset", "5"), ("numbytes", "3"), ("offset", "1000"), ("numbytes", "4")],
                "abcWXYZ",
            ),
        )
        .gives(tree()),
        case("a sparse file in PAX 0.1", with(&v01("5,3,1000,4"), "abcWXYZ")).gives(tree()),
        case("a sparse file in PAX 1.0", with(&version, &map)).gives(tree()),
        case("sparse segments that overlap", raw([old_sparse(&[(5, 3), (7, 4)], 2000)])).refused(),
        case("sparse segments that are not sorted", with(&v01("1000,4,5,3"), "abcWXYZ")).refused(),
        case("a sparse segment beyond the end", raw([old_sparse(&[(5, 3), (1997, 4)], 2000)])).refused(),
        case("sparse segments of more than is stored", with(&v01("5,3,1000,5"), "abcWXYZ")).refused(),
        case("sparse records that belong to nothing", with(&[("name", "s")], "")).refused(),
        case("sparse records on a directory", raw([pax(b'x', sparse_records(&v01("5,0,1000,0"))), member("s", b'5', "", |_| ())]))
            .refused(),
    ]
}

fn ends() -> Vec<Case> {
    let open = |layer: Layer| layer.without_end();
    let zeros = |blocks: usize| vec![0; blocks * 512];
    vec![
        case("an archive that ends with its last member", open(raw([file("a", "x")]))).gives(Tree::new().file("a", "x")),
        case("an archive that ends with one block of zeros", open(raw([file("a", "x"), zeros(1)])))
            .gives(Tree::new().file("a", "x")),
        case("an archive that is padded with zeros", open(raw([file("a", "x"), zeros(20)]))).gives(Tree::new().file("a", "x")),
        case("what follows the end is no entry", open(raw([file("a", "x"), zeros(2), file("b", "")])))
            .gives(Tree::new().file("a", "x")),
        case("one block of zeros, and data", open(raw([file("a", ""), zeros(1), file("b", "")]))).refused(),
        case("an end inside a member", open(raw([file("a", "x")[..700].to_vec()]))).refused(),
        case("an end inside a header", open(raw([file("a", "x"), file("b", "")[..300].to_vec()]))).refused(),
    ]
}

fn refused() -> Vec<Case> {
    let long = || member("L", b'L', "long\0", gnu);
    let with = |body: &str| raw([pax(b'x', body), file("a", "")]);
    let spelled = |offset, spelling| raw([member("a", b'0', "", at(offset, spelling))]);
    let device = |offset, spelling| raw([member("a", b'4', "", at(offset, spelling))]);
    let mut unsummed = file("a", "");
    unsummed[0] = b'b';
    vec![
        case("a checksum that is wrong", raw([unsummed])).refused(),
        case("a record with a bad length", with("9 a=b\n")).refused(),
        case("a record without =", with("6 abc\n")).refused(),
        case("a record without a newline", with("6 a=bc")).refused(),
        case("two PAX headers before one member", raw([pax(b'x', "6 a=b\n"), pax(b'x', "6 a=b\n"), file("a", "")])).refused(),
        case("two GNU long names before one member", raw([long(), long(), file("a", "")])).refused(),
        case("a GNU long name and a PAX path", raw([long(), pax(b'x', record("path", "p")), file("a", "")])).refused(),
        case("extension headers without a member", raw([file("a", ""), long()])).refused(),
        case("a NUL in a PAX path", with(&record("path", "a\0b"))).refused(),
        case("a global header that renames", raw([pax(b'g', record("path", "p")), file("a", "")])).refused(),
        case("a global header that sets xattrs", raw([pax(b'g', record("SCHILY.xattr.user.a", "1")), file("a", "")])).refused(),
        case("a global header that sets an owner", raw([pax(b'g', record("uid", "0")), file("a", "")])).refused(),
        case("a number with a sign", spelled(108, b"-000001\0")).refused(),
        case("a number that is none", spelled(116, b"00000x1\0")).refused(),
        case("a number that overflows", spelled(136, b"\x80\x01\0\0\0\0\0\0\0\0\0\0")).refused(),
        case("a size below zero", spelled(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")).refused(),
        case("an owner that is nobody's", spelled(108, b"\x80\0\0\0\xff\xff\xff\xff")).refused(),
        case("an owner above 2^32", with(&record("uid", "4294967296"))).refused(),
        case("a device number that the kernel cannot hold", device(329, b"0010000\0")).refused(),
        case("a prefix in a header that is not ustar", {
            raw([member("a", b'0', "", |header| {
                header[257..265].fill(0);
                header[345] = b'p';
            })])
        })
        .refused(),
        case("a regular file whose name ends in a slash", raw([member("d/", b'0', "", |_| ())])).refused(),
        case("a sparse flag in a ustar header", raw([member("a", b'S', "", |_| ())])).refused(),
    ]
}
