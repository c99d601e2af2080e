use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A file of weights: this header, and so many bytes of data that count up.
fn file(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|i| u8::try_from(i % 256).unwrap()));
    bytes
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// A folder with this header and 64 bytes of data.
fn one(header: &Value) -> TempDir {
    folder(&[(CONFIG, b"{}"), (WHOLE, &file(header, 64))])
}

fn tensor(dtype: &str, shape: Value, start: u64, end: u64) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] })
}

fn problem(dir: &TempDir) -> (String, String) {
    let error = Safetensors::open(dir.path()).unwrap_err();
    (error.file.clone(), error.to_string())
}

#[test]
fn tensors_are_read_by_the_names_that_gguf_has() {
    let header = json!({
        "__metadata__": { "format": "pt" },
        "model.embed_tokens.weight": tensor("F32", json!([2, 3]), 0, 24),
        "model.layers.1.mlp.experts.7.up_proj.weight": tensor("BF16", json!([3, 2]), 24, 36),
        "model.norm.weight": tensor("F16", json!([2]), 36, 40),
        "counts": tensor("I64", json!([3]), 40, 64),
    });
    let dir = one(&header);
    let files = Safetensors::open(dir.path()).unwrap();
    assert_eq!(files.bytes(), 64);
    let check = |name: &str, expert: Option<u64>, rows: usize, columns: usize, first: u8, len: usize| {
        let tensor = files.stored(name, expert).unwrap();
        let bytes = tensor.bytes().unwrap();
        assert_eq!((tensor.rows, tensor.columns, bytes.len()), (rows, columns, len), "{name}");
        assert_eq!(bytes[0], first, "{name}");
        assert_eq!(Some(tensor.kind).filter(|_| expert.is_none()), files.kind(name), "{name}");
    };
    check("token_embd.weight", None, 2, 3, 0, 24);
    check("blk.1.ffn_up_exps.weight", Some(7), 3, 2, 24, 12);
    check("output_norm.weight", None, 1, 2, 36, 4);
    for absent in ["output.weight", "blk.0.attn_q.weight", "rope_freqs.weight", "blk.0.attn_q"] {
        assert!(files.stored(absent, None).is_err() && files.kind(absent).is_none(), "{absent}");
    }
}

#[test]
fn names_follow_the_place_of_the_text_model_and_its_norms() {
    let check = |present: &[&str], gguf: &str, expected: &str| {
        let names = Names::of(|name| present.contains(&name));
        assert_eq!(names.name(gguf, None).as_deref(), Some(expected), "{present:?}");
    };
    let query = "blk.12.attn_q.bias";
    check(&[], query, "model.layers.12.self_attn.q_proj.bias");
    let outer = "language_model.model.";
    check(
        &[&format!("{outer}embed_tokens.weight")],
        query,
        &format!("{outer}layers.12.self_attn.q_proj.bias"),
    );
    check(&[&format!("{outer}embed_tokens.weight")], "output.weight", "language_model.lm_head.weight");
    check(
        &["model.language_model.embed_tokens.weight"],
        "output_norm.weight",
        "model.language_model.norm.weight",
    );
    check(&["model.language_model.embed_tokens.weight"], "output.weight", "lm_head.weight");
    let norm = "blk.0.ffn_norm.weight";
    check(&[], norm, "model.layers.0.post_attention_layernorm.weight");
    let gemma = "model.layers.0.pre_feedforward_layernorm.weight";
    check(&["model.embed_tokens.weight", gemma], norm, gemma);
    check(&[gemma], "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight");
}

#[test]
fn several_files_are_one_model() {
    let part = |name: &str| file(&json!({ name: tensor("F32", json!([2]), 0, 8) }), 8);
    let (a, b) = (part("a"), part("b"));
    let check = |index: Value, files: &[(&str, &[u8])], expected: Result<usize, (&str, &str)>| {
        let index = index.to_string();
        let dir = folder(&[&[(CONFIG, b"{}".as_slice()), (INDEX, index.as_bytes())], files].concat());
        let got = Safetensors::open(dir.path()).map(|files| files.tensors.len());
        match (got, expected) {
            (Ok(count), Ok(expected)) => assert_eq!(count, expected),
            (Err(e), Err((file, words))) => {
                assert!(e.file == file && e.to_string().contains(words), "{}: {e}", e.file);
            }
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    };
    let map = |a: &str, b: &str| json!({ "weight_map": { "a": a, "b": b } });
    let both = [("1.safetensors", a.as_slice()), ("2.safetensors", b.as_slice())];
    check(map("1.safetensors", "2.safetensors"), &both, Ok(2));
    // The whole file counts.
    check(map("1.safetensors", "2.safetensors"), &[(WHOLE, a.as_slice())], Ok(1));
    check(map("2.safetensors", "1.safetensors"), &both, Err(("2.safetensors", "tensor a")));
    check(map("1.safetensors", "2.safetensors"), &both[..1], Err(("2.safetensors", "no such file")));
    let twice = [("1.safetensors", a.as_slice()), ("2.safetensors", a.as_slice())];
    check(
        map("1.safetensors", "2.safetensors"),
        &twice,
        Err(("2.safetensors", "the tensor a appears twice")),
    );
    for outside in ["../1.safetensors", "/1.safetensors", "x\\1.safetensors", "..", "1.bin", ".safetensors"] {
        check(map("1.safetensors", outside), &both, Err((INDEX, "none of this folder's")));
    }
    check(json!({ "weight_map": { "a": 1 } }), &both, Err((INDEX, "the file \"1\"")));
    check(json!({ "weight_map": {} }), &both, Err((INDEX, "lists no tensors")));
    check(json!({ "weight_map": [] }), &both, Err((INDEX, "weight_map is not an object")));
    check(json!({}), &both, Err((INDEX, "weight_map is missing")));
    check(json!([]), &both, Err((INDEX, "no object")));
}

#[test]
fn a_header_that_cannot_be_is_refused() {
    let check = |tensor: Value, words: &str| {
        let (file, got) = problem(&one(&json!({ "t": tensor })));
        assert!(file == WHOLE && got.contains(words), "{file}: {got}");
    };
    check(tensor("F32", json!([2, 3]), 0, 20), "tensor t has 20 bytes, where its shape needs 24");
    check(tensor("F32", json!([2, 3]), 24, 0), "where its shape needs 24");
    check(tensor("F32", json!([2, 3]), 48, 72), "tensor t ends at byte");
    check(tensor("F32", json!([2]), u64::MAX - 8, u64::MAX), "ends at byte 18446744073709551615");
    check(tensor("F32", json!([1u64 << 62, 4]), 0, 0), "the impossible shape");
    check(tensor("F32", json!([u64::MAX, u64::MAX]), 0, 1), "the impossible shape");
    check(tensor("F4", json!([3]), 0, 2), "the impossible shape");
    check(tensor("F32", json!([1, 1, 1, 1, 1, 1, 1, 1, 1]), 0, 4), "the impossible shape");
    check(tensor("F33", json!([2]), 0, 8), "F33 is not a type");
    check(tensor("F32", json!([-1]), 0, 8), "not the JSON that it should be");
    check(json!({ "dtype": "F32", "shape": [2] }), "data_offsets");
    let two =
        |a: u64| json!({ "a": tensor("F32", json!([2]), a, a + 8), "b": tensor("F32", json!([2]), 8, 16) });
    let (_, got) = problem(&one(&two(4)));
    assert!(got.contains("tensors a and b lie over each other"), "{got}");
    assert!(Safetensors::open(one(&two(0)).path()).is_ok());
    check(json!(1), "not the JSON");
}

#[test]
fn a_file_that_is_none_is_refused() {
    let check = |bytes: &[u8], words: &str| {
        let (file, got) = problem(&folder(&[(CONFIG, b"{}"), (WHOLE, bytes)]));
        assert!(file == WHOLE && got.contains(words), "{file}: {got}");
    };
    check(b"", "ends at byte 0, inside the length of its header");
    check(b"1234567", "ends at byte 7");
    check(&100u64.to_le_bytes(), "ends at byte 8, inside its header");
    check(&u64::MAX.to_le_bytes(), "the length of its header says 18446744073709551615");
    check(&(MAX_HEADER_BYTES + 1).to_le_bytes(), "where at most");
    check(&[&2u64.to_le_bytes()[..], b"[]"].concat(), "not the JSON");
    let double = br#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    check(&[&(double.len() as u64).to_le_bytes()[..], double].concat(), "the tensor a appears twice");
    assert_eq!(problem(&folder(&[(CONFIG, b"{}")])), (WHOLE.to_owned(), "there is no such file".to_owned()));
    assert_eq!(problem(&folder(&[])), (CONFIG.to_owned(), "there is no such file".to_owned()));
    assert_eq!(problem(&folder(&[(CONFIG, b"{")])).0, CONFIG);
}

#[test]
fn a_folder_lacks_what_is_not_there() {
    let check = |present: &[&str], expected: &[&str]| {
        let index = json!({ "weight_map": { "a": "1.safetensors" } }).to_string();
        let text = |name: &str| if name == INDEX { index.clone() } else { String::new() };
        let dir = tempfile::tempdir().unwrap();
        present.iter().for_each(|name| fs::write(dir.path().join(name), text(name)).unwrap());
        assert_eq!(missing_files(dir.path()), expected, "{present:?}");
    };
    check(&[], &[CONFIG, "tokenizer.json", WHOLE]);
    check(&[CONFIG, "tokenizer.json", WHOLE], &[]);
    check(&[CONFIG, "tokenizer.json", INDEX], &["1.safetensors"]);
    check(&[CONFIG, "tokenizer.json", INDEX, "1.safetensors"], &[]);
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..180, any::<u8>()), 1..6), cut in 0usize..250) {
        let header = json!({
            "a": tensor("F32", json!([2, 3]), 0, 24),
            "b": tensor("F16", json!([4]), 24, 32),
        });
        let mut bytes = file(&header, 64);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut.max(1));
        if let Ok(tensors) = header::read(bytes.as_slice(), bytes.len() as u64, 0) {
            for tensor in tensors.values() {
                prop_assert!(tensor.start + tensor.len <= bytes.len() as u64);
            }
        }
    }
}
