//! Token ids against llama.cpp's.

use std::collections::BTreeMap;

use neuron::{gguf::Header, tokenizer::Tokenizer};
use serde_json::{Value, json};

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

/// The model's vocabulary as the tokenizer.json that it was converted from has it.
fn as_tokenizer_json(header: &Header) -> Value {
    let (tokens, kinds) =
        (header.texts("tokenizer.ggml.tokens").unwrap(), header.numbers("tokenizer.ggml.token_type"));
    let kinds = kinds.unwrap().unwrap();
    let control = || tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| **kind == 3);
    let added = control().map(|(id, (content, _))| {
        json!({
            "id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level] },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": tokens.iter().cloned().zip(0u32..).collect::<BTreeMap<_, _>>(),
            "merges": header.texts("tokenizer.ggml.merges").unwrap(),
        },
    })
}

#[test]
fn a_vocabulary_has_the_same_ids_out_of_either_file() {
    let header = Header::open(&support::model_file()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), as_tokenizer_json(&header).to_string()).unwrap();
    let (folder, file) =
        (Tokenizer::from_folder(dir.path()).unwrap(), Tokenizer::from_header(&header).unwrap());
    let data = support::data("tokenizer-smollm.json");
    for case in ["cases", "special"].iter().flat_map(|cases| data[cases].as_array().unwrap()) {
        let text = case["text"].as_str().unwrap();
        assert_eq!(folder.encode(text), file.encode(text), "{text:?}");
        assert_eq!(folder.encode_literal(text), file.encode_literal(text), "{text:?}");
    }
    assert_eq!(folder.vocab_size(), file.vocab_size());
    let ids = u32::try_from(file.vocab_size()).unwrap();
    let other = (0..ids).find(|id| folder.piece(*id) != file.piece(*id));
    assert_eq!(other, None, "{:?}", other.map(|id| (folder.piece(id), file.piece(id))));
}
