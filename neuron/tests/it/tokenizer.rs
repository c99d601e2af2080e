//! Token ids against llama.cpp's.

use std::collections::BTreeMap;

use neuron::{gguf::Header, tokenizer::Tokenizer};
use serde_json::{Value, json};

use crate::support::{self, Daemon, Gguf, Meta};

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

/// The first token of the vocabulary that its users define.
const DEFINED: u32 = 900;

#[test]
fn ids_of_sentencepiece_vocabularies_are_llama_cpps() {
    let data = support::data("tokenizer-spm.json");
    for (variant, adds_space) in [("prefixed", true), ("bare", false)] {
        let file = Gguf::spm("llama").with("tokenizer.ggml.add_space_prefix", Meta::Bool(adds_space));
        let tokenizer = Tokenizer::from_header(&Header::parse(&file.bytes()).unwrap()).unwrap();
        for case in data[variant]["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode_literal(text);
            assert_eq!(ids, support::ids(&case["ids"]), "{variant}: {text:?}");
            // After a token that users define there is a space of the tokenizer's own.
            if adds_space && ids.iter().any(|id| *id >= DEFINED) {
                continue;
            }
            // Its own mark of a space is a space to the vocabulary.
            assert_eq!(tokenizer.decode(&ids), text.replace('\u{2581}', " "), "{variant}: {text:?}");
        }
        for case in data[variant]["special"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text), support::ids(&case["ids"]), "{variant}: {text:?}");
        }
        let prompt = &data[variant]["prompt"];
        assert_eq!(tokenizer.encode_prompt(prompt["text"].as_str().unwrap()), support::ids(&prompt["ids"]));
    }
}

#[test]
fn no_text_merges_into_a_control_token_or_a_byte() {
    // Pieces that would make "</s>" and "<0x41>" of what users write.
    let mut file = Gguf::spm("llama");
    for (key, value) in &mut file.metadata {
        match value {
            Meta::Texts(texts) => texts.extend(["</", "s>", "<0", "x41", "x41>"].map(str::to_owned)),
            Meta::Floats(scores) if key.ends_with("scores") => scores.extend([1.0; 5]),
            Meta::Ints(kinds) => kinds.extend([1; 5]),
            _ => {}
        }
    }
    file.tensors.iter_mut().filter(|(name, ..)| name == "token_embd.weight").for_each(|t| t.1[1] += 5);
    let tokenizer = Tokenizer::from_header(&Header::parse(&file.bytes()).unwrap()).unwrap();
    for (text, other) in [("</s>", 2), ("<0x41>", 3 + 0x41)] {
        let ids = tokenizer.encode_literal(text);
        assert!(!ids.contains(&other), "{text}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
    assert_eq!(tokenizer.encode("</s>"), [2]);
}

#[tokio::test]
async fn models_with_sentencepiece_vocabularies_answer() {
    let hub = tempfile::tempdir().unwrap();
    for architecture in ["llama", "gemma3"] {
        Gguf::spm(architecture).install(hub.path(), architecture);
        let daemon = Daemon::start(hub.path(), "").await;
        let model = format!("test/{architecture}");
        let client = daemon.load(&model).await;
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hello wörld" }], "max_tokens": 8 });
        let answer = client.post("/v1/chat/completions", body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        // The start token, a space in front and what follows.
        assert!(answer.json()["usage"]["prompt_tokens"].as_u64().unwrap() > 4);
        daemon.stop().await;
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
            "vocab": tokens.iter().zip(0u32..).collect::<BTreeMap<_, _>>(),
            "merges": header.texts("tokenizer.ggml.merges").unwrap().iter().collect::<Vec<_>>(),
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
