//! Ids that an answer needs and the native dialect does not give, made of the session's seed: a session that is
//! repeated makes the same ones.

/// 24 hexadecimal digits; `salt` tells the ids of one session apart.
pub fn digits(seed: u64, salt: u64) -> String {
    let first = mix(seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    format!("{first:016x}{:08x}", mix(first) as u32)
}

/// The finaliser of splitmix64, a bijection: different inputs, different ids.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64-bit FNV-1a.
pub fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Before what stands for an id that had characters which a dialect does not allow.
const ESCAPED: &str = "toolu_hex_";

/// A call's id as dialects take it that allow letters, digits, `_` and `-`.
pub fn escape(id: &str) -> String {
    let fits = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if fits && !id.starts_with(ESCAPED) {
        return id.to_owned();
    }
    id.bytes().fold(ESCAPED.to_owned(), |escaped, byte| escaped + &format!("{byte:02x}"))
}

/// What [`escape`] was given.
pub fn unescape(id: &str) -> Option<String> {
    let whole = |d: &&str| !d.is_empty() && d.len().is_multiple_of(2) && d.is_ascii();
    let digits = id.strip_prefix(ESCAPED).filter(whole)?;
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    String::from_utf8((0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_were() {
        let check = |id: &str, escaped: &str| {
            assert_eq!(escape(id), escaped);
            let back = unescape(escaped).unwrap_or_else(|| escaped.to_owned());
            assert_eq!(back, id);
        };
        check("call_1-x", "call_1-x");
        check("f:0", "toolu_hex_663a30");
        check("é", "toolu_hex_c3a9");
        check("toolu_hex_00", "toolu_hex_746f6f6c755f6865785f3030");
        for not_ours in ["toolu_1", "toolu_hex_0", "toolu_hex_zz", "toolu_hex_ff", "toolu_hex_é"] {
            assert_eq!(unescape(not_ours), None);
        }
    }

    #[test]
    fn ids_differ() {
        let mut all: Vec<String> = (0..100).flat_map(|s| (0..10).map(move |n| digits(s, n))).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|id| id.len() == 24));
    }
}
