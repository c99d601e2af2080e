//! config.json as candle-transformers reads it. Newer files say the same under other names, and some things
//! that a model may want are computed by nobody here: those are refused by name.

use serde_json::{Map, Value};

use crate::folder::Problem;

/// The most that any model has, with room.
const BOUNDS: &[(&str, u64)] = &[
    ("num_hidden_layers", 4096),
    ("n_layer", 4096),
    ("num_attention_heads", 4096),
    ("n_head", 4096),
    ("num_heads", 4096),
    ("num_key_value_heads", 4096),
    ("num_experts", 4096),
    ("num_local_experts", 4096),
    ("n_routed_experts", 4096),
    ("n_shared_experts", 4096),
    ("hidden_size", MAX_WIDTH),
    ("n_embd", MAX_WIDTH),
    ("d_model", MAX_WIDTH),
    ("head_dim", MAX_WIDTH),
    ("qk_nope_head_dim", MAX_WIDTH),
    ("qk_rope_head_dim", MAX_WIDTH),
    ("intermediate_size", MAX_WIDTH),
    ("n_inner", MAX_WIDTH),
    ("lru_width", MAX_WIDTH),
    ("state_size", MAX_WIDTH),
    ("d_state", MAX_WIDTH),
    ("headdim", MAX_WIDTH),
    ("block_ff_dim", MAX_WIDTH),
    ("block_multiple_of", MAX_WIDTH),
    ("moe_intermediate_size", MAX_WIDTH),
    ("ngroups", 4096),
    ("n_groups", 4096),
    ("expand", 4096),
    ("conv_L_cache", 4096),
    ("vocab_size", MAX_POSITIONS),
    ("max_position_embeddings", MAX_POSITIONS),
    ("n_positions", MAX_POSITIONS),
    ("sliding_window", u32::MAX as u64),
];
const MAX_WIDTH: u64 = 1 << 20;
const MAX_POSITIONS: u64 = 1 << 24;

/// A model's config.json while it is prepared.
pub(super) struct Config<'a>(pub(super) &'a mut Map<String, Value>);

/// What of a model is not computed, in words that go on from its name: "with …".
pub(super) type Refused = String;

impl Config<'_> {
    /// What all have in common.
    pub(super) fn prepare(&mut self) -> Result<(), Refused> {
        if let Some(Value::Object(rope)) = self.0.get("rope_parameters").cloned() {
            for key in ["rope_theta", "partial_rotary_factor"] {
                if let Some(value) = rope.get(key) {
                    self.default(key, value.clone());
                }
            }
            self.default("rope_scaling", Value::Object(rope));
        }
        let scaling = self.0.get("rope_scaling").filter(|scaling| !scaling.is_null());
        let kind = scaling.and_then(|s| s.get("rope_type").or(s.get("type"))).and_then(Value::as_str);
        match (scaling, kind) {
            (None, _) => {}
            // A plain one is none, and candle would look for more in it.
            (Some(_), Some("default")) => self.set("rope_scaling", Value::Null),
            (Some(_), kind) => {
                return Err(format!("rope scaled by {}", kind.unwrap_or("an unnamed rule")));
            }
        }
        match self.0.get("quantization_config").filter(|how| !how.is_null()) {
            Some(_) => Err("quantized weights".to_owned()),
            None => Ok(()),
        }
    }

    /// Errors name the key: what is allocated by a number is bounded before it is believed.
    pub(super) fn check_bounds(&self) -> Result<(), Problem> {
        for (what, max) in BOUNDS {
            if let Some(value) = self.number(what).filter(|value| value > max) {
                return Err(Problem::TooLarge { what, value, max: *max });
            }
        }
        match self.0.get("partial_rotary_factor").and_then(Value::as_f64) {
            Some(part) if !(part > 0.0 && part <= 1.0) => {
                let text =
                    format!("partial_rotary_factor is {part}, where more than 0 and at most 1 is possible");
                Err(Problem::Inconsistent(text))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// Where the key is not there, or null.
    pub(super) fn default(&mut self, key: &str, value: Value) {
        if self.0.get(key).is_none_or(Value::is_null) {
            self.set(key, value);
        }
    }

    /// The same value under another name.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.0.get(from).cloned() {
            self.default(to, value);
        }
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.as_u64()
    }

    /// Refuses where the key says anything but this, or nothing.
    pub(super) fn only(&self, key: &str, value: &Value) -> Result<(), Refused> {
        match self.0.get(key).filter(|other| !other.is_null() && *other != value) {
            Some(other) => Err(format!("{key} = {other}")),
            None => Ok(()),
        }
    }

    /// Refuses where the key does not say this.
    pub(super) fn exactly(&self, key: &str, value: &Value) -> Result<(), Refused> {
        match self.0.get(key) {
            Some(said) if said == value => Ok(()),
            Some(other) => Err(format!("{key} = {other}")),
            None => Err(format!("no {key}")),
        }
    }

    /// Refuses where the key is another number.
    pub(super) fn only_number(&self, key: &str, value: f64) -> Result<(), Refused> {
        match self.0.get(key).and_then(Value::as_f64).filter(|other| *other != value) {
            Some(other) => Err(format!("{key} = {other}")),
            None => Ok(()),
        }
    }

    /// The window of the attention, where there is one; what is past it is not masked here, so the context
    /// ends there.
    pub(super) fn window(&self) -> Option<u64> {
        let used = self.0.get("use_sliding_window").is_none_or(|used| used != &Value::Bool(false));
        self.number("sliding_window").filter(|window| used && *window > 0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prepared(config: Value) -> Result<Value, Refused> {
        let Value::Object(mut map) = config else { panic!("an object") };
        Config(&mut map).prepare()?;
        Ok(Value::Object(map))
    }

    #[test]
    fn newer_names_mean_the_same() {
        let got = prepared(json!({ "rope_parameters":
            { "rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.5 } }));
        let got = got.unwrap();
        assert_eq!((&got["rope_theta"], &got["partial_rotary_factor"]), (&json!(5.0), &json!(0.5)));
        assert_eq!(got["rope_scaling"], Value::Null);
        // What is said twice is taken from where candle looks.
        let got = prepared(
            json!({ "rope_theta": 7.0, "rope_parameters": { "rope_type": "default", "rope_theta": 5.0 } }),
        );
        assert_eq!(got.unwrap()["rope_theta"], json!(7.0));
    }

    #[test]
    fn what_nobody_computes_is_refused_by_name() {
        let refused = |config| prepared(config).unwrap_err();
        assert_eq!(
            refused(json!({ "rope_scaling": { "type": "linear", "factor": 2 } })),
            "rope scaled by linear"
        );
        assert_eq!(refused(json!({ "rope_parameters": { "rope_type": "yarn" } })), "rope scaled by yarn");
        assert_eq!(refused(json!({ "rope_scaling": {} })), "rope scaled by an unnamed rule");
        assert_eq!(refused(json!({ "quantization_config": {} })), "quantized weights");
        let mut map = Map::from_iter([("a".to_owned(), json!(true)), ("b".to_owned(), Value::Null)]);
        let config = Config(&mut map);
        assert_eq!(config.only("a", &json!(false)).unwrap_err(), "a = true");
        assert_eq!((config.only("b", &json!(1)), config.only("c", &json!(1))), (Ok(()), Ok(())));
    }

    #[test]
    fn a_window_that_is_not_used_is_none() {
        let window = |config: Value| {
            let Value::Object(mut map) = config else { panic!("an object") };
            Config(&mut map).window()
        };
        assert_eq!(window(json!({ "sliding_window": 5 })), Some(5));
        assert_eq!(window(json!({ "sliding_window": 5, "use_sliding_window": false })), None);
        assert_eq!(window(json!({ "sliding_window": 0 })), None);
        assert_eq!(window(json!({ "sliding_window": null })), None);
    }
}
