use std::io::{self, Read, Write};

use super::*;

fn encode(compression: Compression, data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression, None).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn decode(blob: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    Decoder::new(blob)?.read_to_end(&mut out).map_err(|error| Error::io("read", error))?;
    Ok(out)
}

fn invalid(blob: &[u8]) -> String {
    let error = decode(blob).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidLayer, "{error}");
    error.to_string()
}

/// Not compressible to nothing, so that blocks and members really fill.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 28) as u8
        })
        .collect()
}

fn skippable(content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x53, 0x2a, 0x4d, 0x18];
    frame.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    frame.extend(content);
    frame
}

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

#[test]
fn names_go_both_ways() {
    for compression in ALL {
        assert_eq!(compression.as_str().parse::<Compression>().unwrap(), compression);
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{}", compression.media_type_suffix());
        assert_eq!(Compression::of_media_type(&media_type), Some(compression));
    }
    assert_eq!("lz4".parse::<Compression>().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(Compression::of_media_type("application/vnd.docker.image.rootfs.diff.tar.gzip"), Some(Compression::Gzip));
    assert_eq!(Compression::of_media_type("application/vnd.oci.image.layer.v1.tar.zstd"), Some(Compression::Zstd));
    for other in ["application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+lz4"] {
        assert_eq!(Compression::of_media_type(other), None);
    }
}

#[test]
fn what_is_encoded_is_decoded() {
    for compression in ALL {
        for len in [0, 1, 511, 128 * 1024, 128 * 1024 + 1, 1_000_000] {
            let data = sample(len);
            let blob = encode(compression, &data);
            assert_eq!(Decoder::new(blob.as_slice()).unwrap().compression(), compression);
            assert!(decode(&blob).unwrap() == data, "{compression} {len}");
        }
    }
}

#[test]
fn the_same_bytes_come_out_however_the_input_is_cut() {
    let data = sample(700_000);
    for compression in ALL {
        let whole = encode(compression, &data);
        for cut in [1usize, 1000, 131_071, 131_072, 131_073] {
            let mut encoder = Encoder::new(Vec::new(), compression, None).unwrap();
            for piece in data.chunks(cut) {
                encoder.write_all(piece).unwrap();
                encoder.flush().unwrap();
            }
            assert!(encoder.finish().unwrap() == whole, "{compression} {cut}");
        }
    }
}

#[test]
fn the_gzip_header_names_no_time_file_or_system() {
    assert_eq!(&encode(Compression::Gzip, b"x")[..10], &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
}

#[test]
fn every_gzip_member_is_read() {
    let mut blob = encode(Compression::Gzip, b"one ");
    blob.extend(encode(Compression::Gzip, b""));
    blob.extend(encode(Compression::Gzip, b"two"));
    assert_eq!(decode(&blob).unwrap(), b"one two");
    blob.extend([0; 1000]);
    assert_eq!(decode(&blob).unwrap(), b"one two", "NUL padding");
}

#[test]
fn nothing_but_nul_may_follow_the_last_gzip_member() {
    let member = encode(Compression::Gzip, b"one");
    for tail in [b"x".as_slice(), b"\0x", &[0x1f], &[0x1f, 0x8b]] {
        invalid(&[member.as_slice(), tail].concat());
    }
    invalid(&[member.as_slice(), &[0; 7], &member].concat());
    invalid(&[member.as_slice(), &encode(Compression::Zstd, b"two")].concat());
}

#[test]
fn each_gzip_checksum_counts() {
    let first = encode(Compression::Gzip, b"one");
    for from_end in 1..=8 {
        let mut bad = first.clone();
        let at = bad.len() - from_end;
        bad[at] ^= 1;
        invalid(&bad);
        invalid(&[bad.as_slice(), &first].concat());
        invalid(&[first.as_slice(), &bad].concat());
    }
}

#[test]
fn every_zstd_frame_is_read_and_skippable_ones_are_skipped() {
    let one = encode(Compression::Zstd, b"one ");
    let two = encode(Compression::Zstd, b"two");
    let blob = [skippable(b"a"), one, skippable(b""), two, skippable(&[7; 300_000])].concat();
    assert_eq!(decode(&blob).unwrap(), b"one two");
    assert_eq!(decode(&skippable(b"nothing else")).unwrap(), b"");
}

#[test]
fn nothing_may_follow_the_last_zstd_frame() {
    let frame = encode(Compression::Zstd, b"one");
    for tail in [b"x".as_slice(), b"\0", b"\0\0\0\0\0\0\0\0", &[0x28, 0xb5], b"long enough garbage"] {
        invalid(&[frame.as_slice(), tail].concat());
    }
}

#[test]
fn truncation_anywhere_is_an_error() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let blob = encode(compression, &sample(300));
        for len in Compression::SNIFFED..blob.len() {
            let message = invalid(&blob[..len]);
            assert!(message.contains("truncated"), "{compression} {len}: {message}");
        }
    }
    let frame = skippable(b"abc");
    for len in Compression::SNIFFED..frame.len() {
        invalid(&frame[..len]);
    }
}

#[test]
fn a_zstd_window_above_128_mib_is_refused() {
    // A frame header alone tells: descriptor without single segment, then the window descriptor (exponent << 3).
    let frame = |exponent: u8| vec![0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1, 0, 0];
    assert_eq!(decode(&frame(27 - 10)).unwrap(), b"");
    invalid(&frame(28 - 10));
}

#[test]
fn a_zstd_dictionary_is_refused() {
    // One empty frame, by its header made with dictionary 5, and the same without.
    assert_eq!(decode(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 1, 0, 0]).unwrap(), b"");
    invalid(&[0x28, 0xb5, 0x2f, 0xfd, 1, 0, 5, 1, 0, 0]);
}

#[test]
fn levels_outside_the_range_are_refused() {
    for (compression, level) in [(Compression::Gzip, 10), (Compression::Zstd, 0), (Compression::Zstd, 23)] {
        assert_eq!(Encoder::new(Vec::new(), compression, Some(level)).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    for (compression, level) in [(Compression::Gzip, 0), (Compression::Gzip, 9), (Compression::Zstd, 19), (Compression::None, 99)] {
        let mut encoder = Encoder::new(Vec::new(), compression, Some(level)).unwrap();
        encoder.write_all(b"level").unwrap();
        assert_eq!(decode(&encoder.finish().unwrap()).unwrap(), b"level");
    }
}

/// Is interrupted before each byte, then fails.
struct Failing<'a>(&'a [u8], bool);

impl Read for Failing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        match self.0.split_first() {
            _ if self.1 => Err(io::ErrorKind::Interrupted.into()),
            Some((&byte, rest)) => {
                self.0 = rest;
                out[0] = byte;
                Ok(1)
            }
            None => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }
}

#[test]
fn the_source_error_is_told_from_damage_wherever_it_comes() {
    let padded = [encode(Compression::Gzip, &sample(300)), encode(Compression::Gzip, b"two"), vec![0; 20]].concat();
    let frames = [encode(Compression::Zstd, &sample(300)), skippable(b"between"), encode(Compression::Zstd, b"two")].concat();
    for blob in [sample(300), padded, frames] {
        for len in 0..=blob.len() {
            let read = |mut decoder: Decoder<_>, out: &mut [u8]| loop {
                if let Err(error) = decoder.read(out) {
                    let again = Error::io("read", decoder.read(out).unwrap_err());
                    assert_eq!(again.kind(), ErrorKind::Io, "it stays so");
                    return Error::io("read", error);
                }
            };
            for most in [1, 64 << 10] {
                let error = Decoder::new(Failing(&blob[..len], false))
                    .map_or_else(|error| error, |decoder| read(decoder, &mut vec![0; most]));
                assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Io, Some(libc::EIO)), "{len} of {}", blob.len());
            }
        }
    }
}

/// Takes so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.len().min(self.0) {
            0 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            taken => {
                self.0 -= taken;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_writers_error_is_told_wherever_it_comes() {
    let data = sample((2 << 20) + 100);
    for compression in ALL {
        let length = encode(compression, &data).len();
        for threads in [1, 3] {
            let into = |room| {
                let encoder = Encoder::new(Full(room), compression, None).unwrap();
                let mut encoder = encoder.parallel(crate::Parallelism::new(threads));
                encoder.write_all(&data).map_err(|error| Error::io("write", error)).and_then(|()| encoder.finish())
            };
            assert_eq!(into(length).unwrap().0, 0);
            for room in (0..12).chain([length / 3, length / 2]).chain(length - 10..length) {
                let error = into(room).err().unwrap_or_else(|| panic!("{compression}: {room} of {length} bytes were enough"));
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{compression}: {room} of {length}");
            }
        }
    }
}

#[test]
fn a_failed_stream_stays_failed() {
    let mut blob = encode(Compression::Gzip, &sample(5000));
    let at = blob.len() - 5;
    blob[at] ^= 1;
    let mut decoder = Decoder::new(blob.as_slice()).unwrap();
    assert!(decoder.read_to_end(&mut Vec::new()).is_err());
    assert!(decoder.read(&mut [0; 10]).is_err());
}

#[test]
fn expansion_is_refused_one_byte_above_the_ratio() {
    let read = |compression, blob: &[u8], ratio, size| {
        let mut decoder = Decoder::new(blob).unwrap().expansion_ratio(Some(ratio), size);
        assert_eq!(decoder.compression(), compression);
        let first = decoder.read_to_end(&mut Vec::new()).map_err(|error| Error::io("read", error));
        let again = decoder.read(&mut [0]).map_err(|error| Error::io("read", error));
        assert_eq!(first.as_ref().err().map(Error::kind), again.err().map(|error| error.kind()), "it stays so");
        first.map_err(|error| (error.kind(), error.to_string()))
    };
    for compression in [Compression::Gzip, Compression::Zstd] {
        // The size is told, so that any will do: 100 times 40 bytes.
        let blob = |count: usize| encode(compression, &vec![0; count]);
        assert_eq!(read(compression, &blob(4000), 100, Some(40)), Ok(4000));
        let (kind, message) = read(compression, &blob(4001), 100, Some(40)).unwrap_err();
        assert_eq!(kind, ErrorKind::LimitExceeded);
        assert!(message.contains("more than 100 times as many bytes uncompressed as compressed"), "{message}");
        // Not told: the first MiB counts as read.
        assert_eq!(read(compression, &blob(3 << 20), 3, None), Ok(3 << 20));
        assert_eq!(read(compression, &blob((3 << 20) + 1), 3, None).unwrap_err().0, ErrorKind::LimitExceeded);
        // Or it counts at the end alone.
        let small = blob(10_000);
        let mut exact = Decoder::new(small.as_slice()).unwrap().expansion_ratio(Some(3), None).exact_at_the_end();
        let error = Error::io("read", exact.read_to_end(&mut Vec::new()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{} bytes", small.len());
    }
    assert_eq!(read(Compression::None, b"plain", 0, Some(1)), Ok(5));
}

/// Text of which a window holds enough to find repeats.
fn text(len: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut state = 1_u64;
    while text.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(format!("line {} of {}\n", state >> 50, state >> 57).as_bytes());
    }
    text
}

/// Compresses by so many threads what comes in pieces of this size.
fn by(compression: Compression, threads: usize, cut: usize, plain: &[u8]) -> Vec<u8> {
    let encoder = Encoder::new(Vec::new(), compression, None).unwrap();
    let mut encoder = encoder.parallel(crate::Parallelism::new(threads));
    plain.chunks(cut).for_each(|piece| encoder.write_all(piece).unwrap());
    encoder.finish().unwrap()
}

#[test]
fn gzip_is_the_same_by_any_number_of_threads_and_costs_little() {
    // Over several blocks.
    let text = text((5 << 20) + 77);
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20, text.len()] {
        let plain = &text[..length];
        let one = by(Compression::Gzip, 1, 1 << 16, plain);
        for (threads, cut) in [(2, 1 << 20), (3, 4097), (8, 7 << 20)] {
            assert!(by(Compression::Gzip, threads, cut, plain) == one, "{length} bytes by {threads} threads");
        }
        let mut whole = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(one.as_slice());
        std::io::Read::read_to_end(&mut reader, &mut whole).unwrap();
        assert!(whole == plain && reader.into_inner().is_empty(), "one member of {length} bytes");
        let mut serial = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        serial.write_all(plain).unwrap();
        let serial = serial.finish().unwrap().len();
        assert!(one.len() <= serial + serial / 20 + 32, "{} bytes against {serial}", one.len());
    }
}

#[test]
fn zstd_is_the_same_by_any_number_of_threads_and_costs_little() {
    // A worker gets 8 MiB at a time.
    let text = text((19 << 20) + 77);
    for length in [0, 1, 128 << 10, 8 << 20, text.len()] {
        let plain = &text[..length];
        let mut without = Encoder::new(Vec::new(), Compression::Zstd, None).unwrap();
        without.write_all(plain).unwrap();
        let one = without.finish().unwrap();
        for (threads, cut) in [(1, 1 << 16), (2, 1 << 20), (4, 7 << 20)] {
            assert!(by(Compression::Zstd, threads, cut, plain) == one, "{length} bytes by {threads} threads");
        }
        assert!(decode(&one).unwrap() == plain, "{length} bytes");
        let serial = zstd::encode_all(plain, 3).unwrap().len();
        assert!(one.len() <= serial + serial / 50 + 32, "{} bytes against {serial}", one.len());
    }
}

#[test]
fn the_source_is_lent_and_comes_back() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut encoder = Encoder::new(Vec::new(), compression, None).unwrap();
        assert_eq!(encoder.compression(), compression);
        assert_eq!(format!("{encoder:?}"), format!("Encoder {{ compression: {compression:?}, .. }}"));
        encoder.write_all(b"text").unwrap();
        let blob = encoder.finish().unwrap();
        let mut decoder = Decoder::new(blob.as_slice()).unwrap();
        assert_eq!(decoder.read(&mut []).unwrap(), 0, "nothing was asked for");
        let mut text = Vec::new();
        decoder.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"text");
        assert_eq!(decoder.get_ref(), Some(&&b""[..]), "read to its end");
        assert_eq!(format!("{decoder:?}"), "Decoder { failed: None, .. }");
        assert_eq!(decoder.into_inner(), Some(&b""[..]));
    }
}
