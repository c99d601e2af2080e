//! Which architectures there are, and what is peculiar to each: one table.

use candle_core::{DType, Device, Error, Result};
use candle_nn::VarBuilder;
use candle_transformers::models as m;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    config::{Config, Refused},
    nets::{GraniteHybrid, Lfm2, Mamba, Mamba2, Net},
};

/// An architecture.
pub(super) struct Entry {
    /// As config.json names it.
    pub(super) model_type: &'static str,
    /// Tokens in one forward: where a model's mask knows nothing of what was run before, one.
    pub(super) chunk: usize,
    /// Whether a tensor has a row for each position: then their number is not ours to choose.
    pub(super) learns_positions: bool,
    /// Whether every token leaves something behind, and not only a state of one size.
    pub(super) keeps_positions: bool,
    /// Fills in what candle asks for, and refuses what it does not compute.
    pub(super) prepare: fn(&mut Config<'_>) -> std::result::Result<(), Refused>,
    pub(super) build: fn(&Value, VarBuilder<'_>) -> Result<Box<dyn Net>>,
    /// The file's name for a tensor, by candle's.
    pub(super) name: fn(&str) -> String,
}

/// Tokens in one forward where nothing speaks against several.
pub(super) const CHUNK: usize = 256;

const PLAIN: Entry = Entry {
    model_type: "",
    chunk: CHUNK,
    learns_positions: false,
    keeps_positions: true,
    prepare: |_| Ok(()),
    build: |_, _| Err(Error::Msg("an entry builds something".to_owned())),
    name: str::to_owned,
};

pub(super) fn entry(model_type: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.model_type == model_type)
}

fn read<C: DeserializeOwned>(config: &Value) -> Result<C> {
    C::deserialize(config).map_err(|e| Error::Msg(e.to_string()))
}

fn boxed<N: Net + 'static>(net: N) -> Box<dyn Net> {
    Box::new(net)
}

/// In the order in which errors name them.
pub(super) const CATALOGUE: &[Entry] = &[
    Entry {
        model_type: "deepseek_v2",
        prepare: |config| {
            config.default("n_group", json!(1));
            config.default("topk_group", json!(1));
            config.default("attention_bias", json!(false));
            // Of groups of experts, candle chooses others.
            config.only("topk_method", &json!("greedy"))?;
            let parts = ["qk_nope_head_dim", "qk_rope_head_dim"].map(|key| config.number(key).unwrap_or(0));
            config.set("qk_head_dim", json!(parts.iter().sum::<u64>()));
            Ok(())
        },
        build: |config, vb| m::deepseek2::DeepSeekV2::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "falcon",
        chunk: 1,
        prepare: |config| {
            config.only("alibi", &json!(false))?;
            config.only("activation", &json!("gelu"))?;
            config.only("new_decoder_architecture", &json!(false))?;
            config.only("multi_query", &json!(true))?;
            config.set("num_key_value_heads", json!(1));
            // candle keeps nothing of a conversation where this says so.
            config.set("use_cache", json!(true));
            config.only_number("rope_theta", 10_000.0)?;
            let positions = config.number("max_position_embeddings").unwrap_or(FALCON_POSITIONS);
            config.set("max_position_embeddings", json!(positions.min(FALCON_MAX_POSITIONS)));
            Ok(())
        },
        build: |config, vb| m::falcon::Falcon::load(vb, read(config)?).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "gemma",
        prepare: |config| {
            // Both are set where the first was wrong.
            if config.0.get("hidden_activation").is_some_and(|act| !act.is_null()) {
                config.set("hidden_act", Value::Null);
            }
            Ok(())
        },
        build: |config, vb| m::gemma::Model::new(false, &read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "gemma2",
        prepare: |config| {
            // What queries are scaled by is taken from the heads' width.
            let width = config.0.get("head_dim").cloned().unwrap_or_default();
            config.only("query_pre_attn_scalar", &width)
        },
        build: |config, vb| m::gemma2::Model::new(false, &read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "glm4",
        build: |config, vb| m::glm4_new::ModelForCausalLM::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "gpt_bigcode",
        learns_positions: true,
        prepare: |config| {
            config.only("scale_attn_weights", &json!(true))?;
            config.only("multi_query", &json!(true))?;
            // Another GELU is a ten-thousandth away; another activation is another model.
            match config.0.get("activation_function").and_then(Value::as_str) {
                Some(other) if !other.starts_with("gelu") => {
                    return Err(format!("activation_function = {other}"));
                }
                _ => {}
            }
            for (from, to) in [
                ("n_positions", "max_position_embeddings"),
                ("n_layer", "num_hidden_layers"),
                ("n_embd", "hidden_size"),
                ("n_head", "num_attention_heads"),
            ] {
                config.rename(from, to);
            }
            config.set("num_key_value_heads", json!(1));
            Ok(())
        },
        build: |config, vb| m::bigcode::GPTBigCode::load(vb, bigcode(config)?).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "granitemoehybrid",
        // Of several tokens a mask is kept, for every length that there was.
        chunk: 1,
        prepare: |config| {
            config.only("num_local_experts", &json!(0))?;
            config.exactly("position_embedding_type", &json!("rope"))?;
            config.only("tie_word_embeddings", &json!(true))?;
            if let Some(Value::Array(kinds)) = config.0.get_mut("layer_types") {
                for kind in kinds.iter_mut().filter(|kind| **kind == "full_attention") {
                    *kind = json!("attention");
                }
            }
            Ok(())
        },
        build: |config, vb| {
            let config: m::granitemoehybrid::GraniteMoeHybridConfig = read(config)?;
            let config = config.into_config(false);
            let model = m::granitemoehybrid::GraniteMoeHybrid::load(vb, &config)?;
            let cache =
                m::granitemoehybrid::GraniteMoeHybridCache::new(true, DType::F32, &config, &Device::Cpu)?;
            Ok(boxed(GraniteHybrid { model, config, cache }))
        },
        ..PLAIN
    },
    Entry {
        model_type: "helium",
        build: |config, vb| m::helium::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "lfm2",
        chunk: 1,
        prepare: |config| {
            config.rename("tie_word_embeddings", "tie_embedding");
            // candle computes the width by another rule; half a one more, for it cuts off.
            if let (Some(hidden), Some(width)) = (config.number("hidden_size"), lfm2_width(config)) {
                config.set("block_ffn_dim_multiplier", json!((width as f64 + 0.5) / (hidden * 4) as f64));
                config.set("block_multiple_of", json!(1));
            }
            Ok(())
        },
        build: |config, vb| {
            let config: m::lfm2::Lfm2Config = read(config)?;
            let config = config.into_config(false);
            let model = m::lfm2::Model::new(&config, vb)?;
            let cache = m::lfm2::Cache::new(true, DType::F32, &config, &Device::Cpu)?;
            Ok(boxed(Lfm2 { model, cache }))
        },
        ..PLAIN
    },
    Entry {
        model_type: "mamba",
        chunk: 1,
        keeps_positions: false,
        prepare: |config| {
            config.rename("hidden_size", "d_model");
            config.rename("num_hidden_layers", "n_layer");
            config.set("pad_vocab_size_multiple", json!(1));
            config.only("use_bias", &json!(false))?;
            config.only("expand", &json!(2))?;
            config.only("state_size", &json!(16))?;
            config.only("conv_kernel", &json!(4))
        },
        build: |config, vb| {
            let config: m::mamba::Config = read(config)?;
            let model = m::mamba::Model::new(&config, vb.pp("backbone"))?;
            let state = m::mamba::State::new(1, &config, DType::F32, &Device::Cpu)?;
            Ok(boxed(Mamba { model, config, state }))
        },
        name: |name| name.replace("backbone.embedding.", "backbone.embeddings."),
        ..PLAIN
    },
    Entry {
        model_type: "mamba2",
        chunk: 1,
        keeps_positions: false,
        prepare: |config| {
            if let Some([least, most]) =
                config.0.get("time_step_limit").and_then(Value::as_array).map(Vec::as_slice)
                && (least.as_f64() != Some(0.0) || most.as_f64().is_some())
            {
                return Err(format!("time_step_limit = [{least}, {most}]"));
            }
            config.set("pad_vocab_size_multiple", json!(1));
            config.only("use_bias", &json!(false))?;
            config.only("conv_kernel", &json!(4))
        },
        build: |config, vb| {
            let config: m::mamba2::Config = read(config)?;
            let model = m::mamba2::Model::new(&config, vb.pp("backbone"))?;
            let state = m::mamba2::State::new(1, &config, DType::F32, &Device::Cpu)?;
            Ok(boxed(Mamba2 { model, config, state }))
        },
        ..PLAIN
    },
    Entry {
        model_type: "mixtral",
        prepare: |config| {
            // It must be a number; one that reaches over everything is none.
            config.default("sliding_window", json!(u32::MAX));
            config.set("use_flash_attn", json!(false));
            Ok(())
        },
        build: |config, vb| m::mixtral::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "olmo",
        build: |config, vb| m::olmo::Model::new(&read(config)?, vb).map(boxed),
        prepare: |config| config.only("clip_qkv", &Value::Null),
        ..PLAIN
    },
    Entry {
        model_type: "olmo2",
        build: |config, vb| m::olmo2::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "phi",
        chunk: 1,
        prepare: |config| config.only("qk_layernorm", &json!(false)),
        build: |config, vb| m::phi::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "phi3",
        build: |config, vb| m::phi3::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "qwen2_moe",
        prepare: |config| {
            config.only("mlp_only_layers", &json!([]))?;
            config.default("sliding_window", json!(0));
            config.default("max_window_layers", json!(0));
            // Masked where it is not used, too.
            if config.window().is_none() {
                config.set("sliding_window", json!(u32::MAX));
                config.set("use_sliding_window", json!(false));
            }
            Ok(())
        },
        build: |config, vb| m::qwen2_moe::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "recurrent_gemma",
        chunk: 1,
        prepare: |config| {
            config.rename("max_position_embeddings", "max_seq_len");
            config.rename("attention_window_size", "sliding_window");
            Ok(())
        },
        build: |config, vb| m::recurrent_gemma::Model::new(&read(config)?, vb.pp("model")).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "smollm3",
        build: |config, vb| m::smol::smollm3::ModelForCausalLM::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "stablelm",
        prepare: |config| {
            config.only("use_parallel_residual", &json!(false))?;
            config.only("qk_layernorm", &json!(false))?;
            // candle keeps nothing of a conversation where this says so.
            config.set("use_cache", json!(true));
            Ok(())
        },
        build: |config, vb| m::stable_lm::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
    Entry {
        model_type: "starcoder2",
        build: |config, vb| m::starcoder2::Model::new(&read(config)?, vb).map(boxed),
        ..PLAIN
    },
];

/// Positions that Falcon was trained for, where its file does not say.
const FALCON_POSITIONS: u64 = 2048;
/// candle's table has no more.
const FALCON_MAX_POSITIONS: u64 = 5000;

/// The width of LFM2's feed-forward, as its authors' code computes it.
fn lfm2_width(config: &Config<'_>) -> Option<u64> {
    let said = config.number("intermediate_size").or_else(|| config.number("block_ff_dim"))?;
    if config.0.get("block_auto_adjust_ff_dim") == Some(&json!(false)) {
        return Some(said);
    }
    let multiplier = config.0.get("block_ffn_dim_multiplier").and_then(Value::as_f64).unwrap_or(1.0);
    let multiple = config.number("block_multiple_of").filter(|n| *n > 0).unwrap_or(256);
    let width = (multiplier * (2 * said / 3) as f64) as u64;
    Some(width.div_ceil(multiple) * multiple)
}

/// It reads no JSON by itself.
fn bigcode(config: &Value) -> Result<m::bigcode::Config> {
    let number = |key: &str| {
        let number = config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| Error::Msg(format!("missing field `{key}`")))
    };
    Ok(m::bigcode::Config {
        vocab_size: number("vocab_size")?,
        max_position_embeddings: number("max_position_embeddings")?,
        num_hidden_layers: number("num_hidden_layers")?,
        hidden_size: number("hidden_size")?,
        layer_norm_epsilon: config.get("layer_norm_epsilon").and_then(Value::as_f64).unwrap_or(1e-5),
        n_inner: number("n_inner").ok(),
        num_attention_heads: number("num_attention_heads")?,
        multi_query: config.get("multi_query").and_then(Value::as_bool).unwrap_or(true),
        use_cache: true,
    })
}
