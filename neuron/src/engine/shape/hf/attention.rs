//! What a token sees, and how it looks.

use serde_json::Value;

use super::Config;
use crate::engine::{Architecture, ShapeError, shape::Window};

/// What is taken where a file does not say.
const WINDOW: u64 = 4096;
/// Gemma 3 has five layers with a window to each that sees everything.
const GEMMA3_ALL_EVERY: u64 = 6;
const GEMMA3_SCALED_BY: f32 = 256.0;

const SEES_ALL: &str = "full_attention";

impl Config<'_> {
    pub(super) fn attention_scale(&self, head_dim: u64) -> Result<f32, ShapeError> {
        let scaled_by = match self.architecture {
            Architecture::Gemma3 => {
                self.text.optional_positive("query_pre_attn_scalar")?.unwrap_or(GEMMA3_SCALED_BY)
            }
            _ => head_dim as f32,
        };
        Ok(1.0 / scaled_by.sqrt())
    }

    pub(super) fn window(&self, layers: u64) -> Result<Option<Window>, ShapeError> {
        let gemma = self.architecture == Architecture::Gemma3;
        if self.model_type != "mistral" && !gemma {
            return self.refuse_windows().map(|()| None);
        }
        if self.text.says_none("sliding_window") {
            // Its layers without a window would go on turning as those with one.
            return if gemma { Err(self.unsupported("no sliding_window")) } else { Ok(None) };
        }
        let tokens = self.text.optional_number("sliding_window")?.unwrap_or(WINDOW);
        if tokens == 0 {
            return Err(self.text.inconsistent("sliding_window is 0".to_owned()).into());
        }
        let all_every = if gemma { self.all_every(layers)? } else { 0 };
        Ok(Some(Window { tokens, all_every }))
    }

    /// No published model of these has windows, so which layers would have them is nowhere to be checked.
    fn refuse_windows(&self) -> Result<(), ShapeError> {
        let used = self.text.optional_flag("use_sliding_window")?.unwrap_or(false);
        let kinds = self.text.optional_array("layer_types")?.unwrap_or_default();
        match used || kinds.iter().any(|kind| kind != SEES_ALL) {
            true => Err(self.unsupported("sliding windows")),
            false => Ok(()),
        }
    }

    /// Each so many-th layer sees everything.
    fn all_every(&self, layers: u64) -> Result<u64, ShapeError> {
        let Some(kinds) = self.text.optional_array("layer_types")? else {
            let told = match self.text.optional_number("sliding_window_pattern")? {
                Some(every) => Some(every),
                None => self.text.optional_number("_sliding_window_pattern")?,
            };
            return match told.unwrap_or(GEMMA3_ALL_EVERY) {
                0 => Err(self.text.inconsistent("sliding_window_pattern is 0".to_owned()).into()),
                every => Ok(every),
            };
        };
        if kinds.len() as u64 != layers {
            let text = format!("it has {layers} layers, but layer_types for {}", kinds.len());
            return Err(self.text.inconsistent(text).into());
        }
        let sees_all = |kind: &Value| kind == SEES_ALL;
        let every = kinds.iter().position(sees_all).map_or(0, |first| first + 1);
        let expected = |layer: usize| every > 0 && (layer + 1).is_multiple_of(every);
        let regular = kinds.iter().enumerate().all(|(layer, kind)| {
            sees_all(kind) == expected(layer) && (sees_all(kind) || kind == "sliding_attention")
        });
        if regular { Ok(every as u64) } else { Err(self.unsupported("such an order of layer_types")) }
    }
}
