//! What is peculiar to each of BERT's descendants: names, and where positions begin.

/// A descendant that computes as BERT does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// As config.json names it.
    pub(super) model_type: &'static str,
    /// Positions begin after the padding's id.
    pub(super) positions_follow_padding: bool,
    /// It tells sentences of a pair apart; the first one's kind is added everywhere.
    pub(super) has_kinds: bool,
    pub(super) keys: &'static Keys,
    pub(super) names: &'static Names,
}

/// Keys of config.json.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) layers: &'static str,
    pub(super) hidden: &'static str,
    pub(super) heads: &'static str,
    pub(super) feed_forward: &'static str,
    pub(super) activation: &'static str,
}

/// Parts of a layer, as the files call them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// Before the layer's number.
    pub(super) layers: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) attention_out: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) norm: &'static str,
}

const BERT_KEYS: Keys = Keys {
    layers: "num_hidden_layers",
    hidden: "hidden_size",
    heads: "num_attention_heads",
    feed_forward: "intermediate_size",
    activation: "hidden_act",
};

const BERT_NAMES: Names = Names {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const BERT: Family = Family {
    model_type: "bert",
    positions_follow_padding: false,
    has_kinds: true,
    keys: &BERT_KEYS,
    names: &BERT_NAMES,
};

/// In the order in which errors name them.
pub(super) const FAMILIES: [Family; 5] = [
    BERT,
    Family { model_type: "camembert", positions_follow_padding: true, ..BERT },
    Family {
        model_type: "distilbert",
        has_kinds: false,
        keys: &Keys {
            layers: "n_layers",
            hidden: "dim",
            heads: "n_heads",
            feed_forward: "hidden_dim",
            activation: "activation",
        },
        names: &Names {
            layers: "transformer.layer",
            query: "attention.q_lin",
            key: "attention.k_lin",
            value: "attention.v_lin",
            attention_out: "attention.out_lin",
            attention_norm: "sa_layer_norm",
            up: "ffn.lin1",
            down: "ffn.lin2",
            norm: "output_layer_norm",
        },
        ..BERT
    },
    Family { model_type: "roberta", positions_follow_padding: true, ..BERT },
    Family { model_type: "xlm-roberta", positions_follow_padding: true, ..BERT },
];

impl Family {
    pub(super) fn of(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// What files with a head for some task have before every name of the encoder.
    pub(super) fn prefix(&self) -> String {
        let name = if self.positions_follow_padding { "roberta" } else { self.model_type };
        format!("{name}.")
    }
}
