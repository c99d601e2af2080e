//! Files that cannot be loaded: refused by kind and in words, before memory is touched.

use serde_json::{Value, json};

use crate::support::{Daemon, Gguf, Meta, install, model_file};

/// What the daemon says to a load of these bytes.
async fn refusal(bytes: &[u8]) -> Value {
    let hub = tempfile::tempdir().unwrap();
    install(hub.path(), "bad", bytes);
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let reply = client.post("/models/load", json!({ "model_id": "test/bad" })).await;
    assert_eq!(reply.status, 422, "{:?}", reply.body);
    assert_eq!(client.json("/models").await, json!([]));
    reply.json()["error"].clone()
}

async fn check(bytes: &[u8], kind: &str, words: &str) {
    let error = refusal(bytes).await;
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["kind"], kind, "{error}");
    assert!(message.contains(words), "{message}");
}

#[tokio::test]
async fn a_file_cut_short() {
    let whole = std::fs::read(model_file()).unwrap();
    check(&whole[..whole.len() - 1_000_000], "invalid_file", "ends at byte").await;
    check(&whole[..1_000_000], "invalid_file", "an array says 48900, where at most").await;
    check(&whole[..1_780_000], "invalid_file", "ends at byte 1780000, inside").await;
    check(&whole[..3], "invalid_file", "ends at byte 3").await;
    check(b"", "invalid_file", "ends at byte 0").await;
}

#[tokio::test]
async fn a_file_of_another_kind() {
    check(b"<html>not found</html>", "invalid_file", "does not start with GGUF").await;
    check(b"GGUF\x09\0\0\0", "invalid_file", "version 9").await;
}

#[tokio::test]
async fn an_unknown_architecture_or_variant() {
    let unknown = "unsupported_architecture";
    let tiny = || Gguf::tiny("llama");
    let error = refusal(&Gguf::tiny("mamba").bytes()).await;
    assert_eq!((&error["kind"], &error["architecture"]), (&json!(unknown), &json!("mamba")));
    assert_eq!(error["supported"], json!(["llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "glm4", "lfm2"]));
    check(&tiny().with_number("llama.expert_count", 8).bytes(), unknown, "experts").await;
    check(&tiny().with_text("llama.rope.scaling.type", "yarn").bytes(), unknown, "yarn").await;
    check(&tiny().with_number("llama.rope.dimension_count", 8).bytes(), unknown, "partly rotated").await;
    let capped = tiny().with("llama.final_logit_softcapping", Meta::F32(30.0));
    check(&capped.bytes(), unknown, "llama with llama.final_logit_softcapping").await;
    let mut biased = tiny();
    biased.tensors.push(("blk.1.attn_q.bias".into(), vec![64], 0));
    check(&biased.bytes(), unknown, "llama with the tensor blk.1.attn_q.bias").await;
}

#[tokio::test]
async fn what_candle_would_miss_or_pass_over() {
    let tiny = || Gguf::tiny("glm4");
    check(&tiny().bytes(), "invalid_file", "tensor blk.0.post_attention_norm.weight is missing").await;
    let layers = |count| tiny().with_number("glm4.block_count", count).bytes();
    check(&layers(u32::MAX), "invalid_file", "block_count is 4294967295, where at most 4096").await;
    check(&layers(0), "unsupported_architecture", "glm4 with the tensor blk.0.").await;
    let mut none = tiny();
    none.metadata.retain(|(key, _)| !key.ends_with("head_count"));
    check(&none.bytes(), "invalid_file", "glm4.attention.head_count is missing").await;
    check(&Gguf::tiny("lfm2").bytes(), "invalid_file", "lfm2.attention.head_count_kv").await;
}

#[tokio::test]
async fn what_the_forward_knows_is_no_variant() {
    let hub = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(hub.path(), "").await;
    for architecture in ["llama", "qwen2", "qwen3", "qwen3moe", "gemma3"] {
        let mut model = Gguf::tiny(architecture);
        model.tensors.push(("output.weight".into(), vec![64, 259], 0));
        model.tensors.push(("rope_freqs.weight".into(), vec![8], 0));
        model.metadata.retain(|(key, _)| !key.ends_with("rope.freq_base"));
        model
            .with(&format!("{architecture}.rope.scaling.factor"), Meta::F32(4.0))
            .install(hub.path(), architecture);
        daemon.load(&format!("test/{architecture}")).await;
    }
}

#[tokio::test]
async fn an_unknown_tokenizer() {
    let with = |key: &str, value: &str| Gguf::tiny("llama").with_text(key, value).bytes();
    let error = refusal(&with("tokenizer.ggml.pre", "klingon")).await;
    assert_eq!((&error["kind"], &error["tokenizer"]), (&json!("unsupported_tokenizer"), &json!("klingon")));
    assert!(error["supported"].as_array().unwrap().contains(&json!("smollm")));
    assert!(error["supported"].as_array().unwrap().contains(&json!("llama")));
    check(&with("tokenizer.ggml.model", "t5"), "unsupported_tokenizer", "\"t5\"").await;
}

#[tokio::test]
async fn a_sentencepiece_vocabulary_with_holes() {
    let check = async |key: &str, value: Meta, expected: &str| {
        let file = Gguf::spm("llama").with(key, value);
        check(&file.bytes(), "invalid_file", expected).await;
    };
    check("tokenizer.ggml.scores", Meta::Floats(vec![0.0; 5]), "904 tokens have 5 scores").await;
    check("tokenizer.ggml.scores", Meta::Floats(vec![f32::NAN; 904]), "no number").await;
    check("tokenizer.ggml.scores", Meta::U32(1), "an array of floats").await;
    // Without its bytes, a character that is no piece is the unknown token.
    let mut file = Gguf::spm("llama").with("tokenizer.ggml.unknown_token_id", Meta::U32(904));
    for (_, value) in &mut file.metadata {
        if let Meta::Texts(texts) = value {
            texts.iter_mut().for_each(|text| *text = text.replace("<0x", "<byte "));
        }
    }
    self::check(&file.bytes(), "invalid_file", "unknown_token_id").await;
}

#[tokio::test]
async fn a_tensor_format_without_a_kernel() {
    let bytes = Gguf::tiny("llama").with_format("ffn_up.weight", 18).bytes();
    let error = refusal(&bytes).await;
    assert_eq!(error["kind"], "unsupported_quant");
    assert_eq!((&error["quant"], &error["tensor"]), (&json!("IQ3_XXS"), &json!("blk.0.ffn_up.weight")));
}

#[tokio::test]
async fn a_header_that_contradicts_itself() {
    let with = |key: &str, value: u32| Gguf::tiny("llama").with_number(key, value).bytes();
    check(&with("llama.attention.head_count", 0), "invalid_file", "64 dimensions over 0 heads").await;
    check(&with("llama.attention.head_count_kv", 3), "invalid_file", "4 heads, 3 for keys").await;
    check(&with("llama.block_count", 3), "invalid_file", "blk.2.attn_k.weight is missing").await;
    check(&with("llama.feed_forward_length", 97), "invalid_file", "impossible shape").await;
    check(&with("llama.context_length", 0), "invalid_file", "context of 0").await;
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    for bad in [Meta::F32(0.0), Meta::F32(-1.0), Meta::F32(f32::NAN), Meta::U32(1)] {
        check(&Gguf::tiny("llama").with(epsilon, bad).bytes(), "invalid_file", epsilon).await;
    }
    let mut without = Gguf::tiny("llama");
    without.metadata.retain(|(key, _)| key != epsilon);
    check(&without.bytes(), "invalid_file", "epsilon is missing").await;
    check(&with("llama.rope.freq_base", 10_000), "invalid_file", "freq_base is not a float").await;
    let infinite = Gguf::tiny("llama").with("llama.rope.freq_base", Meta::F32(f32::INFINITY));
    check(&infinite.bytes(), "invalid_file", "freq_base = inf").await;
    check(&with("general.alignment", 3), "invalid_file", "alignment is 3").await;
    check(&with("tokenizer.ggml.tokens", 3), "invalid_file", "array of texts").await;
    let template = Gguf::tiny("llama").with_text("tokenizer.chat_template", "{% if %}");
    check(&template.bytes(), "invalid_file", "chat template does not parse").await;
}
