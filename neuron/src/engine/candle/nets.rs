//! candle-transformers' models behind one trait.

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use candle_transformers::models as m;

/// A model with the state of one sequence.
pub(super) trait Net {
    /// Logits after the last of `tokens`, in whatever shape; `tokens` is `[1, n]` and stands at `position`.
    fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor>;

    /// Forgets its sequence; `false`: it cannot, and has to be built anew.
    fn clear(&mut self) -> Result<bool>;
}

/// Models that take the position and can forget.
macro_rules! nets {
    ($($model:ty),+) => {
        $(impl Net for $model {
            fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
                <$model>::forward(self, tokens, position)
            }

            fn clear(&mut self) -> Result<bool> {
                self.clear_kv_cache();
                Ok(true)
            }
        })+
    };
}

/// Models that take the position and cannot forget.
macro_rules! nets_built_anew {
    ($($model:ty),+) => {
        $(impl Net for $model {
            fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
                <$model>::forward(self, tokens, position)
            }

            fn clear(&mut self) -> Result<bool> {
                Ok(false)
            }
        })+
    };
}

/// Models that count for themselves.
macro_rules! nets_without_position {
    ($($model:ty),+) => {
        $(impl Net for $model {
            fn forward(&mut self, tokens: &Tensor, _: usize) -> Result<Tensor> {
                <$model>::forward(self, tokens)
            }

            fn clear(&mut self) -> Result<bool> {
                self.clear_kv_cache();
                Ok(true)
            }
        })+
    };
}

nets!(
    m::deepseek2::DeepSeekV2,
    m::gemma::Model,
    m::gemma2::Model,
    m::glm4_new::ModelForCausalLM,
    m::helium::Model,
    m::olmo::Model,
    m::olmo2::Model,
    m::phi3::Model,
    m::qwen2_moe::Model,
    m::smol::smollm3::ModelForCausalLM,
    m::starcoder2::Model
);
nets_built_anew!(m::bigcode::GPTBigCode, m::mixtral::Model, m::recurrent_gemma::Model, m::stable_lm::Model);
nets_without_position!(m::falcon::Falcon, m::phi::Model);

/// What keeps its state outside itself.
pub(super) struct GraniteHybrid {
    pub(super) model: m::granitemoehybrid::GraniteMoeHybrid,
    pub(super) config: m::granitemoehybrid::GraniteMoeHybridInternalConfig,
    pub(super) cache: m::granitemoehybrid::GraniteMoeHybridCache,
}

impl Net for GraniteHybrid {
    fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
        self.model.forward(tokens, position, &mut self.cache)
    }

    fn clear(&mut self) -> Result<bool> {
        self.cache =
            m::granitemoehybrid::GraniteMoeHybridCache::new(true, DType::F32, &self.config, &Device::Cpu)?;
        Ok(true)
    }
}

pub(super) struct Lfm2 {
    pub(super) model: m::lfm2::Model,
    pub(super) cache: m::lfm2::Cache,
}

impl Net for Lfm2 {
    fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
        self.model.forward(tokens, position, &mut self.cache)
    }

    fn clear(&mut self) -> Result<bool> {
        self.cache.clear();
        Ok(true)
    }
}

pub(super) struct Mamba {
    pub(super) model: m::mamba::Model,
    pub(super) config: m::mamba::Config,
    pub(super) state: m::mamba::State,
}

impl Net for Mamba {
    /// One token.
    fn forward(&mut self, tokens: &Tensor, _: usize) -> Result<Tensor> {
        self.model.forward(&tokens.i(0)?, &mut self.state)
    }

    fn clear(&mut self) -> Result<bool> {
        self.state = m::mamba::State::new(1, &self.config, DType::F32, &Device::Cpu)?;
        Ok(true)
    }
}

pub(super) struct Mamba2 {
    pub(super) model: m::mamba2::Model,
    pub(super) config: m::mamba2::Config,
    pub(super) state: m::mamba2::State,
}

impl Net for Mamba2 {
    /// One token.
    fn forward(&mut self, tokens: &Tensor, _: usize) -> Result<Tensor> {
        self.model.forward(&tokens.i(0)?, &mut self.state)
    }

    fn clear(&mut self) -> Result<bool> {
        self.state = m::mamba2::State::new(1, &self.config, DType::F32, &Device::Cpu)?;
        Ok(true)
    }
}
