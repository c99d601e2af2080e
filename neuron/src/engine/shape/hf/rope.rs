//! How positions turn queries and keys, in the two ways in which config.json has said it.

use super::Config;
use crate::{
    engine::{
        Architecture, ShapeError,
        shape::{Rope, Scaling},
    },
    folder::Object,
};

/// What is taken where a file does not say.
const BASE: f32 = 10_000.0;
const GEMMA3_BASE: f32 = 1_000_000.0;

impl Config<'_> {
    pub(super) fn rope(&self) -> Result<Rope, ShapeError> {
        let gemma = self.architecture == Architecture::Gemma3;
        let told = self.text.optional_object("rope_parameters")?;
        // For each kind of layer, where the kinds differ.
        let (all, local) = match &told {
            Some(told) => match told.optional_object("full_attention")? {
                Some(all) => (Some(all), told.optional_object("sliding_attention")?),
                None => (Some(told.clone()), None),
            },
            None => (self.text.optional_object("rope_scaling")?, None),
        };
        let base = match &all {
            Some(all) => all.optional_positive("rope_theta")?,
            None => None,
        };
        let base = match base {
            Some(base) => Some(base),
            None => self.text.optional_positive("rope_theta")?,
        };
        Ok(Rope {
            base: base.unwrap_or(if gemma { GEMMA3_BASE } else { BASE }),
            scaling: all.map_or(Ok(Scaling::None), |all| self.scaling(&all))?,
            local_base: if gemma { Some(self.local_base(local)?) } else { None },
        })
    }

    fn local_base(&self, local: Option<Object<'_>>) -> Result<f32, ShapeError> {
        let base = match &local {
            Some(local) if self.scaling(local)? != Scaling::None => {
                return Err(self.unsupported("scaled positions in layers with a window"));
            }
            Some(local) => local.optional_positive("rope_theta")?,
            None => None,
        };
        let base = match base {
            Some(base) => Some(base),
            None => self.text.optional_positive("rope_local_base_freq")?,
        };
        Ok(base.unwrap_or(BASE))
    }

    fn scaling(&self, told: &Object<'_>) -> Result<Scaling, ShapeError> {
        if told.optional_positive("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(self.unsupported("partly rotated heads"));
        }
        let kind = match told.optional_text("rope_type")? {
            Some(kind) => Some(kind),
            None => told.optional_text("type")?,
        };
        match kind.unwrap_or("default") {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear(told.positive("factor")?)),
            "llama3" => {
                let (low, high) = (told.positive("low_freq_factor")?, told.positive("high_freq_factor")?);
                if low >= high {
                    let text = format!("low_freq_factor is {low}, and high_freq_factor only {high}");
                    return Err(told.inconsistent(text).into());
                }
                let original = told.positive("original_max_position_embeddings")?;
                Ok(Scaling::Llama3 { factor: told.positive("factor")?, low, high, original })
            }
            other => Err(self.unsupported(&format!("rope scaling {other:?}"))),
        }
    }
}
