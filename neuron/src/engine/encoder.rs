//! Models that read whole texts and give a state for each token: BERT and its descendants.
//!
//! Texts of a batch lie one after the other, without padding; only attention knows which tokens belong
//! together. What comes out for a text depends on nothing else in the batch, to the last bit.
//!
//! Reading order: [`family`] is what is peculiar to each; [`form`] reads and checks a model's files; [`load`]
//! reads its tensors; here they are run.

mod family;
mod form;
mod load;
#[cfg(test)]
mod tests;

use neuron_kernels::{
    Input, Matrix, Pool, Product,
    dense::Float,
    each_row, multiply, ops,
    texts::{Text, attend_texts},
};

use super::{Batch, Limits, Logits, Model, ModelError};
use form::Between;
pub use form::EncoderForm;
pub(crate) use form::encoder_types;

/// Tokens in one forward.
pub(super) const TOKENS: usize = 2048;
/// Texts in one forward.
const TEXTS: usize = 64;
/// Tokens that go through all layers together, a longer text aside: what lies between two matrices stays in the
/// cache. Fewer, and the weights are read too often.
const GROUP: usize = 512;

pub(crate) struct Encoder {
    form: EncoderForm,
    pool: Pool,
    context: usize,
    words: Table,
    /// Each with the first sentence's kind added, from a text's first on: [positions, hidden]
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    buffers: Buffers,
    /// Of the whole batch: [tokens, hidden]
    states: Vec<f32>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Linear {
    matrix: Matrix,
    bias: Vec<f32>,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Rows that are looked up, as they lie in the file.
struct Table {
    float: Float,
    bytes: Vec<u8>,
}

/// Memory of a group of texts, used again by the next.
#[derive(Default)]
struct Buffers {
    /// The residual stream: [tokens, hidden]
    x: Input,
    /// What attention saw: [tokens, hidden]
    seen: Input,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// [tokens, feed_forward]
    wide: Input,
}

impl Model for Encoder {
    fn limits(&self) -> Limits {
        Limits {
            sequences: TEXTS,
            tokens: TOKENS.max(self.context),
            block: self.context,
            blocks: TEXTS,
            block_bytes: 0,
            every_row: false,
            shares_blocks: false,
            draws: false,
            whole: true,
        }
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        self.check(batch)?;
        self.states.clear();
        let (mut tokens, mut parts) = (batch.tokens, batch.parts);
        while !parts.is_empty() {
            let (mut first, mut texts) = (0, Vec::new());
            for part in parts {
                if first > 0 && first + part.len > GROUP {
                    break;
                }
                texts.push(Text { first, len: part.len });
                first += part.len;
            }
            let (group, others) = tokens.split_at(first);
            (tokens, parts) = (others, &parts[texts.len()..]);
            self.embed(group, &texts);
            let Self { form, pool, layers, buffers, states, .. } = self;
            layers.iter().for_each(|layer| layer.run(form, pool, buffers, &texts));
            states.extend_from_slice(buffers.x.floats_mut());
        }
        Ok(Logits { data: &mut [], vocab: 1, states: &self.states, width: self.form.width(), drawn: &[] })
    }

    fn weights_bytes(&self) -> u64 {
        self.form.weights_bytes()
    }
}

impl Encoder {
    /// What a table has no row for.
    fn check(&self, batch: &Batch<'_>) -> Result<(), ModelError> {
        let vocab = self.form.vocab();
        if let Some(token) = batch.tokens.iter().find(|token| u64::from(**token) >= vocab) {
            return Err(ModelError(format!("the token {token}, where the model has {vocab}")));
        }
        let positions = self.positions.len() / self.form.width();
        match batch.parts.iter().find(|part| part.len > positions) {
            Some(part) => {
                Err(ModelError(format!("{} tokens, where the model has {positions} positions", part.len)))
            }
            None => Ok(()),
        }
    }

    fn embed(&mut self, tokens: &[u32], texts: &[Text]) {
        let Self { form, pool, words, positions, norm, buffers, .. } = self;
        let hidden = form.width();
        let places: Vec<usize> = texts.iter().flat_map(|text| 0..text.len).collect();
        each_row(pool, buffers.x.start(tokens.len(), hidden), hidden, |row, x| {
            words.float.widen(&words.bytes, tokens[row] as usize * hidden, x);
            ops::add(x, &positions[places[row] * hidden..(places[row] + 1) * hidden]);
            norm.run(x, form.epsilon);
        });
    }
}

impl Layer {
    fn run(&self, form: &EncoderForm, pool: &mut Pool, buffers: &mut Buffers, texts: &[Text]) {
        let Buffers { x, seen, queries, keys, values, wide } = buffers;
        for out in [&mut *queries, keys, values] {
            out.resize(x.rows() * form.width(), 0.0);
        }
        multiply(
            pool,
            &mut [self.query.product(x, queries), self.key.product(x, keys), self.value.product(x, values)],
        );
        let out = seen.start(x.rows(), form.width());
        attend_texts(pool, &form.text_heads(), texts, [queries, keys, values], out);
        self.attention_out.add_to(pool, seen, x, &self.attention_norm, form.epsilon);
        let then = match form.between {
            Between::Gelu => ops::gelu,
            Between::GeluTanh => ops::gelu_tanh,
            Between::Relu => ops::relu,
        };
        let up = self.up.product(x, wide.start(x.rows(), self.up.bias.len()));
        multiply(pool, &mut [Product { then: Some(then), ..up }]);
        self.down.add_to(pool, wide, x, &self.norm, form.epsilon);
    }
}

impl Linear {
    /// out = input * matrix + bias
    fn product<'a>(&'a self, input: &'a Input, out: &'a mut [f32]) -> Product<'a> {
        Product { bias: Some(&self.bias), ..Product::new(&self.matrix, input, out) }
    }

    /// x = norm(x + input * matrix + bias)
    fn add_to(&self, pool: &mut Pool, input: &Input, x: &mut Input, norm: &Norm, epsilon: f32) {
        let x = x.floats_mut();
        multiply(pool, &mut [Product { add: true, ..self.product(input, x) }]);
        each_row(pool, x, self.bias.len(), |_, row| norm.run(row, epsilon));
    }
}

impl Norm {
    fn run(&self, x: &mut [f32], epsilon: f32) {
        ops::layer_norm(x, &self.weight, &self.bias, epsilon);
    }
}
