//! One header block: v7, ustar (POSIX.1-1988) and old GNU.
//!
//! Numbers are read as Go and GNU tar both read them; a spelling on which they differ is a fault, and so is a byte in a field that
//! one reader takes for part of the name and another does not.

use super::fault::Fault;
use super::{BLOCK, sparse};

type Result<T, E = Fault> = std::result::Result<T, E>;

/// Which fields a block has beyond v7's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// No magic: no prefix, no device numbers.
    V7,
    /// A name prefix and device numbers.
    Ustar,
    /// Device numbers, times and a sparse map, where ustar has the prefix.
    Gnu,
}

/// What a header block says, before extension headers are merged in.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) dialect: Dialect,
    pub(super) flag: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    /// Major and minor, for device members of dialects that have them.
    pub(super) device: Option<(i64, i64)>,
}

/// Reads a header block whose checksum was [compared](verify).
pub(super) fn decode(block: &mut tar::Header) -> Result<Header> {
    let dialect = dialect(block);
    let old = block.as_old();
    let [flag] = old.linkflag;
    let mut name = string(&old.name).to_vec();
    if let Some(prefix) = prefix(block, dialect)? {
        name = [prefix, b"/", &name].concat();
    }
    let device = match (flag, dialect) {
        (b'3' | b'4', Dialect::V7) => return Err(Fault::new("a device in a v7 header has no numbers")),
        (b'3' | b'4', _) => {
            let bytes = block.as_bytes();
            let major = number(bytes.get(329..337).unwrap_or_default(), "device major")?;
            Some((major, number(bytes.get(337..345).unwrap_or_default(), "device minor")?))
        }
        _ => None,
    };
    Ok(Header {
        dialect,
        flag,
        name,
        link: string(&old.linkname).to_vec(),
        mode: mode(&old.mode)?,
        uid: number(&old.uid, "uid")?,
        gid: number(&old.gid, "gid")?,
        size: u64::try_from(number(&old.size, "size")?).map_err(|_| Fault::new("the size is negative"))?,
        mtime: number(&old.mtime, "mtime")?,
        device,
    })
}

/// Whether a block is all zeros, as the end of an archive is marked.
pub(super) fn is_zero(block: &tar::Header) -> bool {
    block.as_bytes().iter().all(|&byte| byte == 0)
}

/// Compares the checksum: POSIX sums unsigned bytes, old Sun tars signed ones.
pub(super) fn verify(block: &tar::Header) -> Result<()> {
    let given = octal(&block.as_old().cksum, "checksum").ok();
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (at, &byte) in block.as_bytes().iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        unsigned = unsigned.saturating_add(i64::from(byte));
        signed = signed.saturating_add(i64::from(byte.cast_signed()));
    }
    if given == Some(unsigned) || given == Some(signed) {
        Ok(())
    } else {
        Err(Fault::new("the header's checksum is wrong: no tar archive, or a damaged one"))
    }
}

fn dialect(block: &mut tar::Header) -> Dialect {
    let magic = block.as_bytes().get(257..265).unwrap_or_default();
    if magic == b"ustar  \0" {
        return Dialect::Gnu;
    }
    if !magic.starts_with(b"ustar\0") {
        return Dialect::V7;
    }
    // Every reader goes by the magic; the codec below wants the version too.
    for (byte, digit) in block.as_mut_bytes().iter_mut().skip(263).zip(*b"00") {
        *byte = digit;
    }
    Dialect::Ustar
}

/// The first part of a long name, where the dialect has one.
fn prefix(block: &tar::Header, dialect: Dialect) -> Result<Option<&[u8]>> {
    match dialect {
        // Python joins a prefix whatever the magic; Go, GNU tar and libarchive do not.
        Dialect::V7 => match block.as_bytes().get(345..500) {
            Some(field) if string(field).is_empty() => Ok(None),
            _ => Err(Fault::new("a name prefix in a header that is not ustar")),
        },
        Dialect::Gnu => {
            // Go before 1.8 wrote a prefix into these two fields, and still reads one where they are no numbers.
            for field in block.as_gnu().iter().flat_map(|gnu| [&gnu.atime, &gnu.ctime]) {
                if field.first() != Some(&0) {
                    number(field, "atime or ctime")?;
                }
            }
            Ok(None)
        }
        Dialect::Ustar => {
            let prefix = block.as_ustar().map(|ustar| string(&ustar.prefix)).unwrap_or_default();
            // star's variant ends the prefix 24 bytes earlier and keeps two times there.
            if block.as_bytes().ends_with(b"tar\0") && prefix.len() > 131 {
                return Err(Fault::new("a name prefix that ustar and star read differently"));
            }
            Ok((!prefix.is_empty()).then_some(prefix))
        }
    }
}

/// The name as it stands in the block itself, for messages.
pub(super) fn short_name(block: &tar::Header) -> &[u8] {
    string(&block.as_old().name)
}

/// What stands before the first NUL.
pub(super) fn string(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn mode(field: &[u8]) -> Result<u32> {
    let mode = number(field, "mode")?;
    if mode < 0 {
        return Err(Fault::new("the mode is negative"));
    }
    // Some writers put the file type above the permission bits.
    Ok(u32::try_from(mode & 0o7777).unwrap_or_default())
}

/// A number in octal digits, or in base 256 where the first byte is 0x80 (positive) or 0xff (negative).
pub(super) fn number(field: &[u8], what: &'static str) -> Result<i64> {
    match field.split_first() {
        Some((&sign @ (0x80 | 0xff), digits)) => {
            let start = if sign == 0xff { -1i128 } else { 0 };
            // Twelve bytes at most: 88 bits never overflow 128.
            let value = digits.iter().fold(start, |value, &digit| value.wrapping_shl(8) | i128::from(digit));
            i64::try_from(value).map_err(|_| Fault::new(format!("the {what} overflows")))
        }
        Some((0x81..=0xfe, _)) => Err(Fault::new(format!("the {what} is neither octal nor base 256"))),
        _ => octal(field, what),
    }
}

fn octal(field: &[u8], what: &'static str) -> Result<i64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    let bad = || Fault::new(format!("the {what} is no number"));
    let blanks = field.iter().take_while(|&&byte| byte == b' ').count();
    let field = field.get(blanks..).unwrap_or_default();
    let digits = field.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, rest) = field.split_at_checked(digits).unwrap_or((field, &[]));
    let ends = match rest.first() {
        None | Some(0) => true,
        Some(b' ') => rest.iter().all(|byte| matches!(byte, 0 | b' ')),
        Some(_) => false,
    };
    if digits.is_empty() || !ends {
        return Err(bad());
    }
    // Twelve digits at most: 36 bits.
    Ok(digits.iter().fold(0i64, |value, digit| value.wrapping_shl(3) | i64::from(digit & 7)))
}

/// The sparse map in an old GNU header block, and whether extension blocks follow; the file's real size.
pub(super) fn old_sparse(block: &tar::Header) -> Result<(sparse::Builder, u64)> {
    // Who asks has refused other formats already; nothing gets here with one.
    let gnu = block.as_gnu().ok_or_else(|| Fault::new("a sparse member that is not in GNU's format"))?;
    let size = u64::try_from(number(&gnu.realsize, "real size")?).map_err(|_| Fault::new("the real size is negative"))?;
    let mut builder = sparse::Builder::default();
    builder.block(&gnu.sparse, gnu.isextended != [0])?;
    Ok((builder, size))
}

const _: () = assert!(size_of::<tar::Header>() == BLOCK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_spelling() {
        for (field, value) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"000644 \0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\0 \0 \0 \0 ", Some(0)),
            (b"77777777777\0", Some(8_589_934_591)),
            (b"777777777777", Some(68_719_476_735)),
            (b"\x80\0\0\0\0\0\0\x05", Some(5)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff", Some((1 << 56) - 1)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", Some(-256)),
            // Overflow, and what two readers take for two numbers.
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0", None),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            (b"\x81\0\0\0\0\0\0\0", None),
            (b"\xc0\0\0\0\0\0\0\0", None),
            (b"\xfe\xff\xff\xff\xff\xff\xff\xff", None),
            (b"-0000001", None),
            (b"+0000001", None),
            (b"00000008", None),
            (b"0x1ff\0\0\0", None),
            (b"64 4\0\0\0\0", None),
            (b"644 \0abc", None),
            (b"\x000644\0\0", None),
            (b"6_4\0\0\0\0\0", None),
            (b"\t000644\0", None),
        ] {
            assert_eq!(number(field, "x").ok(), value, "{}", field.escape_ascii());
        }
    }
}
