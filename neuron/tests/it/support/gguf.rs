//! GGUF files made here: tiny models with random weights, whole or damaged.

use std::{fs, path::Path};

use tempfile::TempDir;

/// The id of the model in [`tiny_hub`].
pub(crate) const TINY: &str = "test/tiny";

const LAYERS: u32 = 2;
const HIDDEN: u64 = 64;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const FEED_FORWARD: u64 = 96;
const EXPERTS: u64 = 8;
const EXPERT_FEED_FORWARD: u64 = 32;
const END: &str = "<|im_end|>";

/// A metadata value, by its GGUF type.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
    Bool(bool),
}

/// A file before it is written.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) metadata: Vec<(String, Meta)>,
    /// Name, dimensions, format; the data is random.
    pub(crate) tensors: Vec<(String, Vec<u64>, u32)>,
}

impl Gguf {
    /// A model of `architecture` that splits text by `smollm` and knows every byte.
    pub(crate) fn tiny(architecture: &str) -> Self {
        Self::tiny_with(architecture, &[])
    }

    /// The same with more control tokens.
    pub(crate) fn tiny_with(architecture: &str, control: &[&str]) -> Self {
        let mut tokens: Vec<String> = (0..=255).map(|byte| byte_char(byte).to_string()).collect();
        tokens.extend([END, "<|im_start|>", "Ġt"].map(str::to_owned));
        let mut kinds = vec![1; tokens.len()];
        (kinds[256], kinds[257]) = (3, 3);
        tokens.extend(control.iter().map(|token| (*token).to_owned()));
        kinds.resize(tokens.len(), 3);
        let vocab = tokens.len() as u64;

        let of = |key: &str| format!("{architecture}.{key}");
        let text = |text: &str| Meta::Text(text.to_owned());
        let metadata = vec![
            ("general.architecture".to_owned(), text(architecture)),
            (of("block_count"), Meta::U32(LAYERS)),
            (of("context_length"), Meta::U32(512)),
            (of("embedding_length"), Meta::U32(64)),
            (of("feed_forward_length"), Meta::U32(96)),
            (of("attention.head_count"), Meta::U32(HEADS)),
            (of("attention.head_count_kv"), Meta::U32(KV_HEADS)),
            (of("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5)),
            (of("rope.freq_base"), Meta::F32(10_000.0)),
            ("tokenizer.ggml.model".to_owned(), text("gpt2")),
            ("tokenizer.ggml.pre".to_owned(), text("smollm")),
            ("tokenizer.ggml.tokens".to_owned(), Meta::Texts(tokens)),
            ("tokenizer.ggml.token_type".to_owned(), Meta::Ints(kinds)),
            ("tokenizer.ggml.merges".to_owned(), Meta::Texts(vec!["Ġ t".to_owned()])),
            ("tokenizer.ggml.eos_token_id".to_owned(), Meta::U32(256)),
            (
                "tokenizer.chat_template".to_owned(),
                text("{% for m in messages %}{{ m.content }}{% endfor %}"),
            ),
        ];
        let tiny = Self { metadata, tensors: tensors(architecture, vocab) };
        match architecture {
            "qwen3moe" => tiny
                .with_number("qwen3moe.expert_count", 8)
                .with_number("qwen3moe.expert_used_count", 3)
                .with_number("qwen3moe.expert_feed_forward_length", 32),
            "gemma3" => tiny.with_number("gemma3.attention.sliding_window", 40),
            _ => tiny,
        }
    }

    /// A model of `architecture` with the SentencePiece vocabulary of `tokenizer-spm.json`.
    pub(crate) fn spm(architecture: &str) -> Self {
        let data = super::data("tokenizer-spm.json");
        let tokens = data["tokens"].as_array().unwrap();
        let column = |n: usize| tokens.iter().map(move |token| &token[n]);
        #[expect(clippy::cast_possible_truncation, reason = "they were single floats")]
        let scores = column(1).map(|score| score.as_f64().unwrap() as f32).collect();
        let kinds = column(2).map(|kind| i32::try_from(kind.as_i64().unwrap()).unwrap()).collect();
        let mut spm = Self::tiny(architecture)
            .with_text("tokenizer.ggml.model", "llama")
            .with(
                "tokenizer.ggml.tokens",
                Meta::Texts(column(0).map(|t| t.as_str().unwrap().to_owned()).collect()),
            )
            .with("tokenizer.ggml.scores", Meta::Floats(scores))
            .with("tokenizer.ggml.token_type", Meta::Ints(kinds))
            .with_number("tokenizer.ggml.bos_token_id", 1)
            .with_number("tokenizer.ggml.eos_token_id", 2)
            .with_number("tokenizer.ggml.unknown_token_id", 0);
        spm.metadata.retain(|(key, _)| key != "tokenizer.ggml.merges");
        spm.tensors = tensors(architecture, tokens.len() as u64);
        spm
    }

    /// Replaces or adds a metadata value.
    pub(crate) fn with(mut self, key: &str, value: Meta) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    pub(crate) fn with_text(self, key: &str, value: &str) -> Self {
        self.with(key, Meta::Text(value.to_owned()))
    }

    pub(crate) fn with_number(self, key: &str, value: u32) -> Self {
        self.with(key, Meta::U32(value))
    }

    /// Gives every tensor whose name ends so another format; its data stays as long as F32.
    pub(crate) fn with_format(mut self, suffix: &str, format: u32) -> Self {
        self.tensors.iter_mut().filter(|(name, ..)| name.ends_with(suffix)).for_each(|t| t.2 = format);
        self
    }

    /// The same model in so many files, each as it is named and its bytes.
    pub(crate) fn parts(&self, stem: &str, count: usize) -> Vec<(String, Vec<u8>)> {
        let whole = self.bytes();
        // Tensors are random in the order of the whole: each is taken out of it.
        let mut at = whole.len();
        for (_, dims, _) in self.tensors.iter().rev() {
            at -= usize::try_from((dims.iter().product::<u64>() * 4).next_multiple_of(32)).unwrap();
        }
        let each = self.tensors.len().div_ceil(count);
        let parts = self.tensors.chunks(each).enumerate().map(|(n, tensors)| {
            let number = |key: &str, value: usize| (key.to_owned(), Meta::U32(u32::try_from(value).unwrap()));
            let mut metadata = if n == 0 { self.metadata.clone() } else { Vec::new() };
            metadata.extend([number("split.no", n), number("split.count", count)]);
            metadata.push(number("split.tensors.count", self.tensors.len()));
            let part = Self { metadata, tensors: tensors.to_vec() };
            let len: u64 =
                tensors.iter().map(|(_, d, _)| (d.iter().product::<u64>() * 4).next_multiple_of(32)).sum();
            let len = usize::try_from(len).unwrap();
            let mut bytes = part.bytes();
            let header = bytes.len() - len;
            bytes.truncate(header);
            bytes.extend_from_slice(&whole[at..at + len]);
            at += len;
            (format!("{stem}-{:05}-of-{count:05}.gguf", n + 1), bytes)
        });
        parts.collect()
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for (name, dims, format) in &self.tensors {
            put_text(&mut out, name);
            out.extend(u32::try_from(dims.len()).unwrap().to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(format.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (dims.iter().product::<u64>() * 4).next_multiple_of(32);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        let mut random = 1u32;
        for (name, dims, _) in &self.tensors {
            for _ in 0..dims.iter().product() {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let unit = f32::from(u16::try_from(random >> 16).unwrap()) / 65_536.0 - 0.5;
                let value = if name.ends_with("norm.weight") { 1.0 + 0.1 * unit } else { 0.5 * unit };
                out.extend(value.to_le_bytes());
            }
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out
    }

    /// Writes it into a hub cache as `test/NAME`, the only file of the model.
    pub(crate) fn install(&self, hub: &Path, name: &str) {
        install(hub, name, &self.bytes());
    }
}

/// Puts bytes into a hub cache as the only file of `test/NAME`.
pub(crate) fn install(hub: &Path, name: &str, bytes: &[u8]) {
    let repo = hub.join(format!("models--test--{name}"));
    fs::create_dir_all(repo.join("snapshots/one")).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), "one").unwrap();
    fs::write(repo.join(format!("snapshots/one/{name}.F32.gguf")), bytes).unwrap();
}

/// A hub cache with a tiny llama as [`TINY`].
pub(crate) fn tiny_hub() -> TempDir {
    let hub = tempfile::tempdir().unwrap();
    Gguf::tiny("llama").install(hub.path(), "tiny");
    hub
}

fn tensors(architecture: &str, vocab: u64) -> Vec<(String, Vec<u64>, u32)> {
    let head = HIDDEN / u64::from(HEADS);
    let keys = head * u64::from(KV_HEADS);
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![HIDDEN, vocab], 0),
        ("output_norm.weight".to_owned(), vec![HIDDEN], 0),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, dims: &[u64]| {
            tensors.push((format!("blk.{layer}.{name}"), dims.to_vec(), 0));
        };
        add("attn_norm.weight", &[HIDDEN]);
        add("attn_q.weight", &[HIDDEN, HIDDEN]);
        add("attn_k.weight", &[HIDDEN, keys]);
        add("attn_v.weight", &[HIDDEN, keys]);
        add("attn_output.weight", &[HIDDEN, HIDDEN]);
        add("ffn_norm.weight", &[HIDDEN]);
        if architecture == "qwen3moe" {
            add("ffn_gate_inp.weight", &[HIDDEN, EXPERTS]);
            add("ffn_gate_exps.weight", &[HIDDEN, EXPERT_FEED_FORWARD, EXPERTS]);
            add("ffn_up_exps.weight", &[HIDDEN, EXPERT_FEED_FORWARD, EXPERTS]);
            add("ffn_down_exps.weight", &[EXPERT_FEED_FORWARD, HIDDEN, EXPERTS]);
        } else {
            add("ffn_gate.weight", &[HIDDEN, FEED_FORWARD]);
            add("ffn_up.weight", &[HIDDEN, FEED_FORWARD]);
            add("ffn_down.weight", &[FEED_FORWARD, HIDDEN]);
        }
        if architecture == "qwen2" {
            add("attn_q.bias", &[HIDDEN]);
            add("attn_k.bias", &[keys]);
            add("attn_v.bias", &[keys]);
        }
        if ["qwen3", "qwen3moe", "gemma3"].contains(&architecture) {
            add("attn_q_norm.weight", &[head]);
            add("attn_k_norm.weight", &[head]);
        }
        if architecture == "gemma3" {
            add("post_attention_norm.weight", &[HIDDEN]);
            add("post_ffw_norm.weight", &[HIDDEN]);
        }
    }
    tensors
}

/// The byte-level alphabet.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count();
    char::from_u32(0x100 + u32::try_from(before).unwrap()).unwrap()
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Meta) {
    let mut kind = |number: u32| out.extend(number.to_le_bytes());
    match value {
        Meta::U32(n) => {
            kind(4);
            out.extend(n.to_le_bytes());
        }
        Meta::F32(x) => {
            kind(6);
            out.extend(x.to_le_bytes());
        }
        Meta::Text(text) => {
            kind(8);
            put_text(out, text);
        }
        Meta::Texts(texts) => {
            kind(9);
            out.extend(8u32.to_le_bytes());
            out.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| put_text(out, text));
        }
        Meta::Ints(ints) => {
            kind(9);
            out.extend(5u32.to_le_bytes());
            out.extend((ints.len() as u64).to_le_bytes());
            ints.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::Floats(floats) => {
            kind(9);
            out.extend(6u32.to_le_bytes());
            out.extend((floats.len() as u64).to_le_bytes());
            floats.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Meta::Bool(bool) => {
            kind(7);
            out.push(u8::from(*bool));
        }
    }
}
