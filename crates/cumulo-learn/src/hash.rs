//! A stable 64-bit hash of values: the same on every machine, in every version.
//! Not for adversaries: it spreads rows over a split, it guards nothing.

/// The finaliser of SplitMix64 (Stafford's variant 13 of MurmurHash3's): a
/// bijection on 64 bits in which every input bit moves half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hashes bytes, eight at a time, with their length.
pub(crate) fn bytes(bytes: &[u8]) -> u64 {
    let mut state = mix(0x517c_c1b7_2722_0a95 ^ bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    let rest = chunks.remainder();
    let mut word = [0u8; 8];
    word[..rest.len()].copy_from_slice(rest);
    mix(state ^ u64::from_le_bytes(word))
}

/// Hashes a number by its value: `-0.0` is `0.0`, every `NaN` is the missing value.
pub(crate) fn number(value: f64) -> u64 {
    if value.is_nan() {
        MISSING
    } else {
        mix((value + 0.0).to_bits() ^ 0x2545_f491_4f6c_dd1d)
    }
}

/// The hash of a missing value, whatever the column's type.
pub(crate) const MISSING: u64 = 0x6a09_e667_f3bc_c908;
