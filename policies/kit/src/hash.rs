//! Hashing names and mixing numbers: short and quick, for placement alone. Not for foreign input that
//! could be chosen to collide.

/// FNV-1a, then mixed: 64 bits of a name.
pub fn name(name: &str) -> u64 {
    let hash = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash))
}

/// Every bit of the answer depends on every bit of `x` (the finaliser of MurmurHash3).
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_spread_evenly() {
        let mut buckets = [0u32; 16];
        for i in 0..16_000 {
            buckets[(name(&format!("node-{i}.internal")) >> 60) as usize] += 1;
        }
        // Three standard deviations of a fair draw are 92.
        assert!(buckets.iter().all(|b| (880..1120).contains(b)), "{buckets:?}");
        assert_ne!(name("a"), name("b"));
        assert_ne!(name(""), name("\0"));
    }
}
