//! Grammars that bind a model's answers: JSON by a schema, a regular expression, a grammar in Lark's notation.
//!
//! llguidance works out which tokens may come next; here a model's vocabulary is laid out for it, what clients
//! send is bounded and compiled, and what is wrong with it is said.

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::{
    Matcher, ParserFactory,
    api::{GrammarWithLexer, ParserLimits, StopReason, TopLevelGrammar},
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};

use crate::{engine::Grammar, reasoning::Marks, tokenizer::Tokenizer, tools::escape};

/// Bytes of a schema or grammar.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Grammars that are kept compiled: clients send the same one again and again.
const KEPT: usize = 32;
/// Bytes of one that is kept.
const MAX_KEPT: usize = 64 << 10;
/// What stands between the parts of JSON: enough for an indented line, not for a model that has lost its way.
const SPACE: &str = r"[ \n\r\t]{1,24}";

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) form: Form,
    /// What may or must stand in front, as the start rule of a grammar in Lark's notation.
    pub(crate) after: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON by this schema. Where it is not strict, what cannot be enforced is let be.
    Schema {
        schema: String,
        strict: bool,
    },
    Regex(String),
    Lark(String),
}

/// What is wrong with a bound, for the one who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct GrammarError(pub(crate) String);

/// Compiles grammars for one model's vocabulary.
pub(crate) struct Grammars {
    factory: ParserFactory,
    /// The one used last at the end.
    kept: Mutex<Vec<(Bound, Matcher)>>,
}

impl Grammars {
    /// Lays the vocabulary out: some 100 ms for the largest.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let words: Vec<Vec<u8>> =
            (0u32..).take(tokenizer.vocab_size()).map(|id| word(tokenizer, id)).collect();
        let count = u32::try_from(words.len()).map_err(wrong)?;
        let [eos, ..] = *tokenizer.end_ids() else {
            return Err(GrammarError("the model has no token that ends an answer".to_owned()));
        };
        let trie = TokTrie::from(&TokRxInfo::new(count, eos), &words).with_eos_tokens(tokenizer.end_ids());
        let env = Arc::new(ApproximateTokEnv::new(trie)) as llguidance::toktrie::TokEnv;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(wrong)?;
        factory.quiet();
        // What a client may have us spend: 20 ms for what its lexer needs, some 10 ms for a token.
        *factory.limits_mut() =
            ParserLimits { verbose_errors: false, max_lexer_states: 50_000, ..ParserLimits::default() };
        Ok(Self { factory, kept: Mutex::default() })
    }

    /// A mark as a terminal of a grammar: its token where it is a control token, which no text spells.
    pub(crate) fn literal(tokenizer: &Tokenizer, mark: &str) -> String {
        match tokenizer.control_id(mark) {
            Some(id) => format!("<[{id}]>"),
            None => Value::from(mark).to_string(),
        }
    }

    /// A grammar at its beginning.
    pub(crate) fn compile(&self, bound: &Bound) -> Result<Box<dyn Grammar>, GrammarError> {
        if let Some(known) = self.known(bound) {
            return Ok(Box::new(Following(known)));
        }
        let grammar = bound.grammar()?;
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // What is wrong may show only now: a lexer that is too large, a grammar that says nothing.
        let begun = matcher.compute_mask();
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError(tidy(&error)));
        }
        if begun.is_ok_and(|mask| mask.is_zero()) {
            return Err(GrammarError("nothing at all satisfies it".to_owned()));
        }
        if let Some(warning) = matcher.grammar_warnings().first().filter(|_| bound.is_strict()) {
            return Err(GrammarError(tidy(warning)));
        }
        if bound.bytes() > MAX_KEPT {
            return Ok(Box::new(Following(matcher)));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((bound.clone(), matcher.deep_clone()));
        Ok(Box::new(Following(matcher)))
    }

    fn known(&self, bound: &Bound) -> Option<Matcher> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known == bound)?;
        let known = kept.remove(at);
        let matcher = known.1.deep_clone();
        kept.push(known);
        Some(matcher)
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// What a token says; one that says nothing, control tokens above all, is marked so that no text is it.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.piece(id) {
        [] => [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.spelling_of(id).as_bytes()].concat(),
        piece => piece.to_vec(),
    }
}

impl Form {
    /// Any JSON object.
    pub(crate) fn object() -> Self {
        Self::Schema { schema: r#"{"type":"object"}"#.to_owned(), strict: true }
    }
}

impl Bound {
    fn is_strict(&self) -> bool {
        matches!(self.form, Form::Schema { strict: true, .. })
    }

    fn bytes(&self) -> usize {
        match &self.form {
            Form::Schema { schema: text, .. } | Form::Regex(text) | Form::Lark(text) => text.len(),
        }
    }

    fn grammar(&self) -> Result<TopLevelGrammar, GrammarError> {
        let bytes = self.bytes();
        if bytes > MAX_BYTES {
            return Err(GrammarError(format!("{bytes} bytes, where at most {MAX_BYTES} are taken")));
        }
        let mut answer = match &self.form {
            Form::Schema { schema, strict } => {
                GrammarWithLexer::from_json_schema(schema_of(schema, *strict)?)
            }
            Form::Regex(regex) => GrammarWithLexer::from_regex(regex),
            Form::Lark(lark) => GrammarWithLexer::from_lark(lark.clone()),
        };
        let Some(after) = &self.after else { return Ok(TopLevelGrammar::from_grammar(answer)) };
        answer.name = Some("answer".to_owned());
        let front = GrammarWithLexer::from_lark(after.clone());
        Ok(TopLevelGrammar { grammars: vec![front, answer], max_tokens: None })
    }
}

/// The grammar of thoughts with an answer behind them; `literal` says a mark as a terminal. `open`: the prompt has
/// opened them.
pub(crate) fn after_thoughts(marks: Marks, open: bool, literal: impl Fn(&str) -> String) -> String {
    let (start, end) = (literal(marks.start), literal(marks.end));
    let thoughts = if end.starts_with('<') {
        format!("thoughts: TEXT {end} SPACE\nTEXT: /(?s:.*)/\n")
    } else {
        format!("thoughts: text SPACE\ntext[lazy]: /(?s:.*){}/\n", escape(marks.end))
    };
    let front = if open { "thoughts".to_owned() } else { format!("({start} thoughts)?") };
    format!("start: {front} @answer\n{thoughts}SPACE: /[ \\n]{{0,4}}/\n")
}

/// The schema with how it is to be taken.
pub(crate) fn schema_of(schema: &str, strict: bool) -> Result<Value, GrammarError> {
    let mut schema: Value = serde_json::from_str(schema).map_err(wrong)?;
    let object = match &mut schema {
        Value::Bool(true) => return schema_of("{}", strict),
        Value::Bool(false) => return Err(GrammarError("nothing at all satisfies it".to_owned())),
        Value::Object(object) => object,
        other => return Err(GrammarError(format!("{other} is no schema: an object is expected"))),
    };
    let taken = json!({ "whitespace_pattern": SPACE, "lenient": !strict, "coerce_one_of": !strict });
    object.insert("x-guidance".to_owned(), taken);
    Ok(schema)
}

fn wrong(error: impl std::fmt::Display) -> GrammarError {
    GrammarError(tidy(&error.to_string()))
}

/// The library's words without what it says for its own developers.
fn tidy(words: &str) -> String {
    let words = words.replace("<non-verbose/>", "");
    words.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A grammar that a sequence follows.
struct Following(Matcher);

impl Grammar for Following {
    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.consume_token(token).map_err(|e| tidy(&e.to_string()))
    }

    fn allowed(&mut self) -> Result<Option<Vec<u32>>, String> {
        match self.0.stop_reason() {
            StopReason::NotStopped => {
                let mask = self.0.compute_mask().map_err(|e| tidy(&e.to_string()))?;
                Ok(Some(mask.as_slice().to_vec()))
            }
            reason if reason.is_ok() => Ok(None),
            reason => Err(self.0.get_error().map_or_else(|| reason.to_string(), |error| tidy(&error))),
        }
    }

    fn fork(&self) -> Box<dyn Grammar> {
        Box::new(Self(self.0.deep_clone()))
    }
}

#[cfg(test)]
mod tests;
