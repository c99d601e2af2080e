use std::fs;

use proptest::prelude::*;
use serde_json::{Map, json};
use tempfile::TempDir;

use super::*;
use crate::tokenizer::{MARK, bytes::to_bytes};

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}

/// A letter of the byte-level alphabet: it stands for a byte, and is not merely one.
fn is_letter(c: char) -> bool {
    let other = matches!(u32::from(c), 0..=0x20 | 0x7f..=0xa0 | 0xad);
    !other && to_bytes(&c.to_string()).len() == 1
}

/// A byte-level vocabulary, split as Qwen's are, with a few merges and two user-defined tokens.
fn byte_level() -> Value {
    let alphabet = (0..0x200).filter_map(char::from_u32).filter(|c| is_letter(*c));
    let mut vocab: Map<String, Value> = alphabet.zip(0..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    assert_eq!(vocab.len(), 256);
    let merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("l", "l"), ("Ã", "©"), ("i", "m")];
    for (id, (left, right)) in (256..).zip(merges) {
        vocab.insert(format!("{left}{right}"), json!(id));
    }
    let mut word = added(265, "Tool", false);
    (word["normalized"], word["single_word"]) = (json!(true), json!(true));
    let mut strips = added(266, "<|mask|>", true);
    (strips["lstrip"], strips["rstrip"]) = (json!(true), json!(true));
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [
            added(262, "<|im_end|>", true), added(263, "<|im_start|>", true), added(264, "<think>", false), word, strips,
        ],
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "behavior": "Isolated", "invert": false, "pattern": { "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+" } },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        ] },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": merges.map(|(left, right)| format!("{left} {right}")),
        },
    })
}

const START: [&str; 3] = ["<unk>", "<s>", "</s>"];
const WORDS: [&str; 9] = ["▁", "t", "h", "e", "▁t", "he", "▁the", "a", "é"];

/// A vocabulary of sentencepiece's kind, by merges, with a byte for what has no token.
fn sentencepiece() -> Value {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let entries = START.map(str::to_owned).into_iter().chain(bytes).chain(WORDS.map(str::to_owned));
    let vocab: Map<String, Value> = entries.zip(0..).map(|(text, id)| (text, json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true), added(268, "[x]", false)],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": ["▁ t", "h e", "▁t he"],
        },
    })
}

/// The same with a space only at the start of the whole text.
fn spaced_once() -> Value {
    let mut file = sentencepiece();
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    file
}

/// The same by probabilities.
fn unigram() -> Value {
    let mut file = sentencepiece();
    let vocab = file["model"]["vocab"].as_object().unwrap();
    let scored: Vec<Value> =
        vocab.keys().map(|text| json!([text, -(12.0 - text.chars().count() as f64)])).collect();
    file["model"] = json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": scored });
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    file
}

fn folder(tokenizer: &Value, beside: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), tokenizer.to_string()).unwrap();
    for (name, value) in beside {
        fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

fn tokenizer(file: &Value, beside: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_folder(folder(file, beside).path())
}

/// The tokenizers library as it is; with `literal`, control tokens are text to it.
fn library(file: &Value, literal: bool) -> tokenizers::Tokenizer {
    let mut library = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    library.set_encode_special_tokens(literal);
    library
}

/// Ours, the library's, and the library's to which control tokens are text.
type Pair = (Tokenizer, tokenizers::Tokenizer, tokenizers::Tokenizer);

fn pairs() -> Vec<Pair> {
    let files = [byte_level(), sentencepiece(), spaced_once(), unigram()];
    files
        .iter()
        .map(|file| (tokenizer(file, &[]).unwrap(), library(file, false), library(file, true)))
        .collect()
}

fn compare((ours, library, literal): &Pair, text: &str) {
    let ids = |library: &tokenizers::Tokenizer| library.encode_fast(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ours.encode(text), ids(library), "{text:?}");
    assert_eq!(ours.encode_literal(text), ids(literal), "{text:?} as text");
    assert_eq!(
        ours.encode_guarded(text)[usize::from(ours.add_bos && !text.starts_with("<s>"))..],
        ids(library),
        "{text:?} guarded"
    );
    assert!(ours.fewest(text.len()) <= ours.encode(text).len(), "{text:?}");
    let ids = ours.encode_literal(text);
    assert_eq!(ours.decode(&ids), library.decode(&ids, true).unwrap(), "{text:?} back");
}

#[test]
fn ids_and_texts_are_the_librarys() {
    let texts = [
        "",
        " ",
        "the",
        " the the",
        "he said: the é日🦀!",
        "  two\n\nlines\t",
        "e\u{301}",
        "<think>the</think>",
        "<|im_start|>user\nthe<|im_end|>",
        "<s>the</s> the [x] the",
        "the<s>the",
        "Tool Tools aTool _Tool Tool.",
        "the  <|mask|> \n the",
        "<|im_<|im_end|>end|>",
        "<|im_end|",
        "a<0x41>b ▁ c",
        "▁the",
    ];
    for pair in &pairs() {
        texts.iter().for_each(|text| compare(pair, text));
    }
}

#[test]
fn a_text_never_has_fewer_tokens_than_are_promised() {
    let spaces = format!("the{}<|mask|>{}", " ".repeat(500), "\n".repeat(500));
    let texts = [spaces, "▁the".repeat(40), "e\u{301}".repeat(40), "<think>".repeat(40)];
    for (ours, ..) in &pairs() {
        for text in &texts {
            assert!(ours.fewest(text.len()) <= ours.encode(text).len(), "{text:?}");
        }
    }
    let plain = tokenizer(&sentencepiece(), &[]).unwrap();
    assert!(plain.fewest(6_000) >= 1_000, "a bound that says something: {}", plain.fewest(6_000));
}

#[test]
fn long_texts_are_split_in_pieces_without_a_seam() {
    let text = "the she he <think> said\n\n it 12345's ".repeat(1500);
    assert!(text.len() > 3 * crate::tokenizer::PIECE_BYTES);
    pairs().iter().for_each(|pair| compare(pair, &text));
}

proptest! {
    #[test]
    fn whatever_the_text_ids_are_the_librarys(text in "(the|he| |  |\n|t|é|e\u{301}|日|1|'s|Tool|_|<think>|<s>|</s>|<unk>|\\[x\\]|<\\|mask\\|>|<\\|im_end\\|>|<\\|im_|end\\|>|▁|<0x0A>){0,12}") {
        // Once for every case would be slow.
        static PAIRS: std::sync::LazyLock<Vec<Pair>> = std::sync::LazyLock::new(pairs);
        PAIRS.iter().for_each(|pair| compare(pair, &text));
    }

    #[test]
    fn what_is_marked_has_no_control_token(text in "(<\\|im_|end\\|>|<\\|im_end\\|>|<s>|</s>|<unk>|<|s>| |the){0,8}") {
        for file in [byte_level(), sentencepiece()] {
            let (ours, literal) = (tokenizer(&file, &[]).unwrap(), library(&file, true));
            let mut value = Value::String(text.clone());
            ours.guard().mark(&mut value).unwrap();
            let ids = ours.encode_guarded(value.as_str().unwrap());
            let expected = literal.encode_fast(text.as_str(), false).unwrap();
            prop_assert_eq!(&ids[usize::from(ours.add_bos)..], expected.get_ids());
        }
    }
}

#[test]
fn pieces_are_bytes_of_text() {
    let check = |file: &Value, id: u32, expected: &[u8]| {
        assert_eq!(tokenizer(file, &[]).unwrap().piece(id), expected, "{id}");
    };
    let spm = sentencepiece();
    let word =
        |text: &str| 259 + u32::try_from(WORDS.iter().position(|word| *word == text).unwrap()).unwrap();
    check(&spm, 3 + 0x0a, b"\n");
    check(&spm, 3 + 0xe6, &[0xe6]);
    check(&spm, word("▁the"), b" the");
    check(&spm, word("é"), "é".as_bytes());
    check(&spm, 268, b"[x]");
    let bytes = byte_level();
    check(&bytes, 258, b" the");
    check(&bytes, 260, "é".as_bytes());
    check(&bytes, 264, b"<think>");
    for (file, control) in [(&spm, [0, 1, 2]), (&bytes, [262, 263, 266])] {
        control.iter().for_each(|id| check(file, *id, b""));
        check(file, 5000, b"");
    }
}

#[test]
fn marks_go_and_roles_are_kept() {
    let ours = tokenizer(&byte_level(), &[]).unwrap();
    let ids = ours.encode_guarded(&format!("<|im_start|>the<{MARK}|im_end|><|im_end|>"));
    assert_eq!((ids[0], ids[ids.len() - 1], ids.iter().filter(|id| **id == 262).count()), (263, 262, 1));
    assert_eq!(ours.decode(&ids), "the<|im_end|>");
    // Told of by the files beside, or known for what it ends: not for users' texts either.
    let mut file = byte_level();
    file["added_tokens"][0]["special"] = json!(false);
    let named = ("tokenizer_config.json", json!({ "additional_special_tokens": ["<think>"] }));
    let ours = tokenizer(&file, &[named]).unwrap();
    for (text, id) in [("<|im_end|>", 262), ("<think>", 264)] {
        assert!(!ours.encode_literal(text).contains(&id) && ours.encode(text) == [id], "{text}");
        assert!(ours.piece(id).is_empty());
    }
}

#[test]
fn tokens_with_a_role_are_found_in_the_files_beside() {
    let check = |file: Value, beside: &[(&str, Value)], bos: &str, eos: &str, add_bos: bool, end: &[u32]| {
        let ours = tokenizer(&file, beside).unwrap();
        assert_eq!((ours.bos_text(), ours.eos_text(), ours.end_ids()), (bos, eos, end), "{beside:?}");
        assert_eq!(
            ours.encode_prompt("the").len() - ours.encode("the").len(),
            usize::from(add_bos),
            "{beside:?}"
        );
        assert_eq!(ours.encode_prompt("<s>").len(), ours.encode("<s>").len(), "{beside:?}");
    };
    let settings = |value: Value| ("tokenizer_config.json", value);
    check(byte_level(), &[], "", "", false, &[262]);
    check(sentencepiece(), &[], "<s>", "", true, &[2]);
    check(sentencepiece(), &[settings(json!({ "add_bos_token": false }))], "<s>", "", false, &[2]);
    let both = json!({ "bos_token": { "content": "<s>" }, "eos_token": "</s>", "add_bos_token": true });
    check(sentencepiece(), &[settings(both.clone())], "<s>", "</s>", true, &[2]);
    check(sentencepiece(), &[("special_tokens_map.json", both)], "<s>", "</s>", true, &[2]);
    let none = json!({ "bos_token": null, "eos_token": "<|im_end|>" });
    let ids = ("generation_config.json", json!({ "eos_token_id": [262, 263, 5000] }));
    check(byte_level(), &[settings(none), ids], "", "<|im_end|>", false, &[262, 263]);
    let inner = ("config.json", json!({ "text_config": { "eos_token_id": 263 }, "eos_token_id": 264 }));
    check(byte_level(), &[inner], "", "", false, &[262, 263, 264]);
}

#[test]
fn a_token_without_embeddings_is_no_token() {
    let rows = |rows: u64| [("config.json", json!({ "vocab_size": rows }))];
    let ours = tokenizer(&byte_level(), &rows(264)).unwrap();
    assert_eq!((ours.vocab_size(), ours.encode("<|im_start|>")), (264, vec![263]));
    assert!(ours.encode("<think>").len() > 1 && ours.guard().mark(&mut json!("<think>")).is_ok());
    let error = tokenizer(&byte_level(), &rows(200)).unwrap_err().to_string();
    assert!(error.contains("the id 261, but there are embeddings for 200"), "{error}");
}

#[test]
fn what_is_not_known_is_refused() {
    let check = |change: &dyn Fn(&mut Value), words: &str| {
        let mut file = sentencepiece();
        change(&mut file);
        let error = tokenizer(&file, &[]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let decoder = |decoder: Value, words: &str| check(&move |file| file["decoder"] = decoder.clone(), words);
    decoder(
        json!({ "type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true }),
        "tokenizer \"CTC\" is not supported",
    );
    decoder(json!({ "type": "BPEDecoder", "suffix": "</w>" }), "BPEDecoder");
    decoder(Value::Null, "without a decoder");
    decoder(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }), "Strip");
    let pattern = json!({ "type": "Replace", "pattern": { "Regex": "x" }, "content": "y" });
    decoder(pattern, "Replace by a pattern");
    check(&|file| file["model"] = json!({ "type": "BPE" }), "not the JSON that it should be");
    check(&|file| file["version"] = json!("2.0"), "not the JSON that it should be");
    check(&|file| file["model"]["vocab"]["far"] = json!(u32::MAX), "the id 4294967295");
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(dir.path()).unwrap_err();
    assert!(error.to_string().contains("there is no such file"), "{error}");
    let wrong = [("tokenizer_config.json", json!({ "add_bos_token": "yes" }))];
    let error = tokenizer(&sentencepiece(), &wrong).unwrap_err().to_string();
    assert_eq!(error, "add_bos_token is not true or false");
}
