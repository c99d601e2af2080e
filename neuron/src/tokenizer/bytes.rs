//! The byte-level alphabet: every byte as a printable character, as GPT-2 defined it.

/// The byte that a character of the alphabet stands for.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        // The 68 bytes that are not printable follow from U+0100, in order.
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The character of the alphabet that stands for a byte.
pub(super) fn char_of(byte: u8) -> char {
    let after = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => return char::from(byte),
        0x00..=0x20 => byte,
        0x7f..=0xa0 => byte - 0x7f + 0x21,
        0xad => 0x43,
    };
    char::from_u32(0x100 + u32::from(after)).unwrap_or_default()
}

/// Bytes of a vocabulary entry. What is not of the alphabet stands for itself.
pub(super) fn to_bytes(piece: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(piece.len());
    for c in piece.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_names_every_byte_once() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert!((0..=255).all(|byte| byte_of(char_of(byte)) == Some(byte)));
    }

    #[test]
    fn the_known_ones_are_right() {
        assert_eq!(to_bytes("Ġthe"), b" the");
        assert_eq!(to_bytes("Ċ"), b"\n");
        assert_eq!(to_bytes("âĤ¬"), "€".as_bytes());
        assert_eq!(to_bytes("日"), "日".as_bytes());
    }
}
