//! The GGUF reader against bytes of bad intent: whatever comes, an error or a header, no panic, no flood.

use neuron::{engine::Shape, gguf::Header, text::TextModel};
use proptest::prelude::*;

use crate::support::{Gguf, model_file};

/// Everything that preflight does with bytes.
fn read(bytes: &[u8]) -> bool {
    let Ok(header) = Header::parse(bytes) else { return false };
    let shape = Shape::from_header(&header);
    TextModel::from_header(&header).is_ok() && shape.is_ok()
}

#[test]
fn every_truncation_is_an_error() {
    let whole = Gguf::tiny("llama").bytes();
    assert!(read(&whole));
    // A prime step, and every length around the start; the padding behind the last tensor may go.
    let last = whole.len() - 32;
    for len in (0..last).step_by(61).chain(0..2000).chain([last]) {
        assert!(Header::parse(&whole[..len]).is_err(), "{len} of {} bytes", whole.len());
    }
}

#[test]
fn every_truncation_of_the_real_header_is_an_error() {
    let whole = std::fs::read(model_file()).unwrap();
    for len in (0..1_785_664).step_by(9973) {
        assert!(Header::parse(&whole[..len]).is_err(), "{len}");
    }
}

#[test]
fn tensors_that_lie_over_each_other_are_an_error() {
    let mut bytes = Gguf::tiny("llama").bytes();
    let name = b"output_norm.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    let rank = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    // Behind the rank, the dimensions and the format.
    let offset = at + 4 + 8 * rank + 4;
    assert_ne!(bytes[offset..offset + 8], [0; 8], "it is not the first");
    bytes[offset..offset + 8].fill(0);
    let error = Header::parse(&bytes).unwrap_err().to_string();
    assert!(error.contains("output_norm.weight") && error.contains("lie over each other"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..12_000, any::<u8>()), 1..6)) {
        let mut bytes = Gguf::tiny("llama").bytes();
        for (at, value) in flips {
            bytes[at] = value;
        }
        read(&bytes);
    }

    #[test]
    fn any_bytes_behind_the_magic_never_panic(tail: Vec<u8>, counts: [u8; 2]) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        for count in counts {
            bytes.extend(u64::from(count).to_le_bytes());
        }
        bytes.extend(tail);
        prop_assert!(!read(&bytes));
    }

    #[test]
    fn lengths_beyond_the_file_allocate_nothing(length in 1u64 << 20.., kind in 0u32..14) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.push(b'k');
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        prop_assert!(Header::parse(&bytes).is_err());
    }
}
