//! GGUF's names for tensors to those of the transformers library.

/// Where a model's parts are, within one that may see as well: prefixes of the decoder, and of its output.
const PLACES: [(&str, &str); 3] =
    [("model.", ""), ("language_model.model.", "language_model."), ("model.language_model.", "")];

/// What a model that sees has beside its text model; with or without `model.` in front.
const NOT_TEXT: [&str; 4] = ["vision_tower.", "multi_modal_projector.", "visual.", "vision_model."];
/// Computed from the configuration; older files have it all the same.
const COMPUTED: &str = "rotary_emb.inv_freq";

/// How one model's files name what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names {
    place: (&'static str, &'static str),
    /// What attention and feed-forward add has norms of its own. The norm after attention is one of these
    /// then, and not the feed-forward's.
    has_post_norms: bool,
}

impl Names {
    /// `has`: there is a tensor of that name.
    pub(super) fn of(has: impl Fn(&str) -> bool) -> Self {
        let is_here = |place: &&(&str, &str)| has(&format!("{}embed_tokens.weight", place.0));
        let place = PLACES.iter().find(is_here).copied().unwrap_or(PLACES[0]);
        let post_norm = format!("{}layers.0.pre_feedforward_layernorm.weight", place.0);
        Self { place, has_post_norms: has(&post_norm) }
    }

    /// The name in the files; `None`: they have no name for it. `expert`: which, where GGUF's name stands for all.
    pub(super) fn name(self, gguf: &str, expert: Option<u64>) -> Option<String> {
        let (decoder, output) = self.place;
        if let Some(in_layer) = gguf.strip_prefix("blk.") {
            let (layer, part) = in_layer.split_once('.')?;
            let (part, kind) = part.rsplit_once('.')?;
            let part = self.part(part, expert)?;
            return Some(format!("{decoder}layers.{layer}.{part}.{kind}"));
        }
        Some(match gguf {
            "token_embd.weight" => format!("{decoder}embed_tokens.weight"),
            "output_norm.weight" => format!("{decoder}norm.weight"),
            "output.weight" => format!("{output}lm_head.weight"),
            _ => return None,
        })
    }

    /// Of a layer, without `weight` or `bias`.
    fn part(self, gguf: &str, expert: Option<u64>) -> Option<String> {
        if let Some(matrix) = gguf.strip_prefix("ffn_").and_then(|rest| rest.strip_suffix("_exps")) {
            return expert.map(|expert| format!("mlp.experts.{expert}.{matrix}_proj"));
        }
        let name = match gguf {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" => "self_attn.q_norm",
            "attn_k_norm" => "self_attn.k_norm",
            "ffn_norm" if self.has_post_norms => "pre_feedforward_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            "post_attention_norm" => "post_attention_layernorm",
            "post_ffw_norm" => "post_feedforward_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            "ffn_gate_inp" => "mlp.gate",
            _ => return None,
        };
        Some(name.to_owned())
    }

    /// The tensor changes nothing of what the text model says. `tied`: its output is its embeddings.
    pub(super) fn is_beside(self, name: &str, tied: bool) -> bool {
        let bare = name.strip_prefix("model.").unwrap_or(name);
        NOT_TEXT.iter().any(|prefix| bare.starts_with(prefix))
            || name.ends_with(COMPUTED)
            || (tied && self.name("output.weight", None).as_deref() == Some(name))
    }
}
