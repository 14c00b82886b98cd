//! A layer literal as the bytes of an archive.

use std::io::Write as _;

use super::{Form, Header, Layer, Member};
use crate::compression::Compression;
use crate::digest::{Algorithm, DiffId};
use crate::entry::Timestamp;

const BLOCK: usize = 512;

impl Layer {
    /// The archive, uncompressed.
    pub fn tar(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for member in &self.members {
            match member {
                Member::Header(header) => header.write(&mut out),
                Member::Raw(blocks) => out.extend_from_slice(blocks),
            }
        }
        if !self.unended {
            out.resize(out.len() + 2 * BLOCK, 0);
        }
        out
    }

    /// The archive, compressed.
    pub fn packed(&self, compression: Compression) -> Vec<u8> {
        pack(&self.tar(), compression)
    }

    /// The digest of the uncompressed archive.
    pub fn diff_id(&self) -> DiffId {
        DiffId(Algorithm::Sha256.digest(&self.tar()))
    }
}

/// Compresses, by the compressors' own crates: what the library writes is checked elsewhere.
pub(in crate::testing) fn pack(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes all bytes")
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, 3).expect("memory takes all bytes"),
    }
}

impl Header {
    fn write(&self, out: &mut Vec<u8>) {
        match self.form {
            Form::Pax => {
                let records = self.needed_records();
                if !records.is_empty() {
                    write_extension(out, b'x', b"PaxHeaders/x", &records, Form::Pax);
                }
            }
            Form::Gnu => {
                for (flag, text) in [(b'K', &self.link), (b'L', &self.name)] {
                    if text.len() > 100 {
                        let mut text = text.clone();
                        text.push(0);
                        write_extension(out, flag, b"././@LongLink", &text, Form::Gnu);
                    }
                }
            }
            Form::V7 => {}
        }
        self.write_header(out);
        write_padded(out, &self.content);
    }

    /// What the ustar fields cannot say, as PAX records.
    fn needed_records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let attributes = &self.attributes;
        for (key, text) in [("path", &self.name), ("linkpath", &self.link)] {
            if text.len() > 100 {
                write_record(&mut out, key.as_bytes(), text);
            }
        }
        for (key, id) in [("uid", attributes.uid), ("gid", attributes.gid)] {
            if u64::from(id) > octal_max(8) {
                write_record(&mut out, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if !fits(attributes.mtime) {
            write_record(&mut out, b"mtime", decimal(attributes.mtime).as_bytes());
        }
        for (name, value) in &attributes.xattrs {
            write_record(&mut out, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        for (key, value) in &self.records {
            write_record(&mut out, key, value);
        }
        out
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        let mut header = match self.form {
            Form::Pax => tar::Header::new_ustar(),
            Form::Gnu => tar::Header::new_gnu(),
            Form::V7 => tar::Header::new_old(),
        };
        let attributes = &self.attributes;
        let base_256 = self.form == Form::Gnu;
        let old = header.as_old_mut();
        put(&mut old.name, &self.name);
        put(&mut old.linkname, &self.link);
        old.linkflag = [self.flag];
        put_number(&mut old.mode, i128::from(attributes.mode), base_256);
        put_number(&mut old.uid, i128::from(attributes.uid), base_256);
        put_number(&mut old.gid, i128::from(attributes.gid), base_256);
        put_number(&mut old.size, self.content.len() as i128, base_256);
        put_number(&mut old.mtime, i128::from(attributes.mtime.seconds), base_256);
        let (major, minor) = (i128::from(self.device.0), i128::from(self.device.1));
        if let Some(ustar) = header.as_ustar_mut() {
            put_number(&mut ustar.dev_major, major, false);
            put_number(&mut ustar.dev_minor, minor, false);
        } else if let Some(gnu) = header.as_gnu_mut() {
            put_number(&mut gnu.dev_major, major, true);
            put_number(&mut gnu.dev_minor, minor, true);
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
    }
}

/// A member that belongs to the next one.
fn write_extension(out: &mut Vec<u8>, flag: u8, name: &[u8], body: &[u8], form: Form) {
    let mut header = if form == Form::Gnu { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
    let old = header.as_old_mut();
    put(&mut old.name, name);
    old.linkflag = [flag];
    put_number(&mut old.mode, 0o644, false);
    put_number(&mut old.uid, 0, false);
    put_number(&mut old.gid, 0, false);
    put_number(&mut old.mtime, 0, false);
    put_number(&mut old.size, body.len() as i128, false);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    write_padded(out, body);
}

fn write_padded(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// As much of a text as the field takes; what is longer stands in a record or member before it.
fn put(field: &mut [u8], text: &[u8]) {
    for (place, byte) in field.iter_mut().zip(text) {
        *place = *byte;
    }
}

/// Octal, or base-256 where that is allowed and needed; else zero: then a record says it.
fn put_number(field: &mut [u8], number: i128, base_256: bool) {
    let width = field.len() - 1;
    if (0..=i128::from(octal_max(field.len()))).contains(&number) {
        put(field, format!("{number:0width$o}").as_bytes());
    } else if base_256 {
        let bytes = number.to_be_bytes();
        let (skip, length) = (bytes.len() - field.len(), field.len());
        put(field, bytes.get(skip..skip + length).unwrap_or_default());
        if let Some(first) = field.first_mut() {
            *first |= 0x80;
        }
    } else {
        put(field, format!("{:0width$o}", 0).as_bytes());
    }
}

fn octal_max(field: usize) -> u64 {
    (1 << (3 * (field - 1))) - 1
}

fn fits(time: Timestamp) -> bool {
    time.nanoseconds == 0 && u64::try_from(time.seconds).is_ok_and(|seconds| seconds <= octal_max(12))
}

/// Seconds with a fraction, as PAX has times.
fn decimal(time: Timestamp) -> String {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let (sign, size) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    let (whole, fraction) = (size / 1_000_000_000, size % 1_000_000_000);
    if fraction == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:09}") }
}
