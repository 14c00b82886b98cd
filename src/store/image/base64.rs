//! Base64 as JSON carries it in a descriptor's `data` (RFC 4648 section 4, padded). Pure.

/// The bytes that `text` stands for; `None` where it is not canonical padded base64.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity((bytes.len() / 4).saturating_mul(3));
    let last = (bytes.len() / 4).saturating_sub(1);
    for (number, group) in bytes.chunks_exact(4).enumerate() {
        let padding = group.iter().rev().take_while(|&&byte| byte == b'=').count();
        if padding > 2 || (padding > 0 && number != last) {
            return None;
        }
        let mut word = 0u32;
        for &byte in group.iter().take(4usize.saturating_sub(padding)) {
            word = word << 6 | sextet(byte)?;
        }
        let (word, kept) = match padding {
            0 => (word, 3),
            1 => (word << 6, 2),
            _ => (word << 12, 1),
        };
        let [_, a, b, c] = word.to_be_bytes();
        // Bits under the padding must be zero, else two texts would mean the same bytes.
        if [a, b, c].iter().skip(kept).any(|&byte| byte != 0) {
            return None;
        }
        out.extend([a, b, c].iter().take(kept));
    }
    Some(out)
}

fn sextet(byte: u8) -> Option<u32> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    ALPHABET.iter().position(|&letter| letter == byte).and_then(|at| u32::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn vectors_of_rfc_4648() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for text in ["Zg", "Zg=", "Zh==", "Zm9=", "====", "Z===", "Zg==Zm9v", "Zm 9", "Zm-_", "=AAA"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
