//! Token ids against llama.cpp's.

use neuron::{gguf::Header, tokenizer::Tokenizer};

use crate::support;

#[test]
fn ids_are_llama_cpps() {
    let tokenizer = Tokenizer::from_header(&Header::open(&support::model_file()).unwrap()).unwrap();
    let data = support::data("tokenizer-smollm.json");
    let check = |cases: &str, encode: &dyn Fn(&str) -> Vec<u32>| {
        let cases = data[cases].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids = encode(text);
            assert_eq!(ids, support::ids(&case["ids"]), "{text:?}");
        }
    };
    check("cases", &|text| tokenizer.encode_literal(text));
    check("special", &|text| tokenizer.encode(text));
}

#[test]
fn decoding_undoes_encoding() {
    let tokenizer = Tokenizer::from_header(&Header::open(&support::model_file()).unwrap()).unwrap();
    for case in support::data("tokenizer-smollm.json")["cases"].as_array().unwrap() {
        // The vocabulary has no entry for some bytes (control characters, private planes), and llama.cpp
        // drops them as well.
        let text = case["text"].as_str().unwrap();
        let is_rare = |c: char| (c.is_ascii_control() && !c.is_ascii_whitespace()) || c > '\u{3ffff}';
        if text.contains(is_rare) {
            continue;
        }
        assert_eq!(tokenizer.decode(&tokenizer.encode_literal(text)), text);
    }
}
