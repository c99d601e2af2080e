//! How text is split into words before merging: one row for each `tokenizer.ggml.pre` that is known.

use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, SplitDelimiterBehavior,
    pre_tokenizers::split::{Split, SplitPattern},
};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A word of one case, or one that starts with capitals: Mistral's.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// One way of splitting. The patterns apply in order, each to what the one before has left in pieces.
pub(super) struct Rule {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// A word that is a vocabulary entry as a whole is not merged from its parts.
    pub(super) ignores_merges: bool,
    /// Whether a prompt starts with the start token where the file does not say.
    pub(super) adds_bos: bool,
}

const RULES: &[Rule] = &[
    Rule {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ignores_merges: false,
        adds_bos: false,
    },
    Rule {
        names: &["gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "olmo"],
        patterns: &[GPT2],
        ignores_merges: false,
        adds_bos: false,
    },
    Rule {
        names: &["qwen2", "deepseek-r1-qwen", "kormo"],
        patterns: &[QWEN2],
        ignores_merges: false,
        adds_bos: false,
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        patterns: &[LLAMA3],
        ignores_merges: true,
        adds_bos: true,
    },
    Rule { names: &["glm4", "glm5"], patterns: &[LLAMA3], ignores_merges: true, adds_bos: false },
    Rule { names: &["tekken"], patterns: &[TEKKEN], ignores_merges: true, adds_bos: true },
    Rule {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        ignores_merges: false,
        adds_bos: false,
    },
];

/// The rule that goes by `name`.
pub(super) fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.names.contains(&name))
}

/// The pattern is one of the table's.
pub(super) fn is_rule(pattern: &str) -> bool {
    RULES.iter().any(|rule| rule.patterns.contains(&pattern))
}

/// The pattern by itself starts a word where [`cut`] cuts.
pub(super) fn is_whole_rule(pattern: &str) -> bool {
    [GPT2, QWEN2, LLAMA3, TEKKEN].contains(&pattern)
}

/// Every `tokenizer.ggml.pre` that is known.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.names).copied()
}

impl Rule {
    pub(super) fn compile(&self) -> PreTokenizer {
        let split = |pattern: &&str| {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        };
        let splits = self.patterns.iter().map(split).collect::<Result<_, _>>();
        PreTokenizer { splits: splits.unwrap_or_else(|e| unreachable!("a pattern of the table: {e}")) }
    }
}

/// A compiled rule.
pub(super) struct PreTokenizer {
    splits: Vec<Split>,
}

impl PreTokenizer {
    /// Calls `word` for each word of the text, in order.
    pub(super) fn each_word(&self, text: &str, mut word: impl FnMut(&str)) {
        let mut words = PreTokenizedString::from(text);
        for split in &self.splits {
            // A pattern gives up where it would have to go back too often; none of the table's does.
            if let Err(error) = split.pre_tokenize(&mut words) {
                tracing::error!(%error, "text could not be split into words");
            }
        }
        let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        words.iter().for_each(|(_, range, _)| word(&text[range.0..range.1]));
    }
}

/// Splits off a piece of at least `least` bytes that any rule splits just as it would inside the whole:
/// the cut is between a letter and a single space before another letter, where every rule starts a word
/// and none looks across. The rest is empty where there is no such place.
pub(super) fn cut(text: &str, least: usize) -> (&str, &str) {
    let bytes = text.as_bytes();
    let is_cut = |at: &usize| {
        bytes[at - 1].is_ascii_alphabetic() && bytes[*at] == b' ' && bytes[at + 1].is_ascii_alphabetic()
    };
    let at = (least.max(1)..bytes.len().saturating_sub(1)).find(is_cut);
    text.split_at(at.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use proptest::prelude::*;

    static COMPILED: LazyLock<Vec<(&str, PreTokenizer)>> =
        LazyLock::new(|| RULES.iter().map(|rule| (rule.names[0], rule.compile())).collect());

    fn words(pre: &str, text: &str) -> Vec<String> {
        words_of(&rule(pre).unwrap().compile(), text)
    }

    fn words_of(pre: &PreTokenizer, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        pre.each_word(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn every_rule_splits_as_its_model_was_trained() {
        let check = |pre: &str, text: &str, expected: &[&str]| {
            assert_eq!(words(pre, text), expected, "{pre}: {text:?}");
        };
        check("smollm", "in 2024 it's", &["in", " ", "2", "0", "2", "4", " it", "'s"]);
        check("gpt-2", "in 2024 it's", &["in", " 2024", " it", "'s"]);
        check("qwen2", "in 2024\n\nIt'S", &["in", " ", "2", "0", "2", "4", "\n\n", "It", "'S"]);
        check("llama-bpe", "a 12345", &["a", " ", "123", "45"]);
        check("tekken", "aBcDE 12 fooBar/\n", &["a", "Bc", "DE", " ", "1", "2", " foo", "Bar", "/\n"]);
        check("default", "x=12345!", &["x", "=", "123", "45", "!"]);
        check("gpt-2", "a  b \n", &["a", " ", " b", " \n"]);
    }

    #[test]
    fn every_pattern_compiles_and_names_are_unique() {
        let mut names: Vec<_> = names().collect();
        RULES.iter().for_each(|rule| drop(rule.compile()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    proptest! {
        #[test]
        fn pieces_split_as_the_whole_does(text in "[aBé日 \\n.'1st<|>\\r\\t]{0,60}", least in 0usize..9) {
            for (name, compiled) in COMPILED.iter() {
                let words = |text: &str| words_of(compiled, text);
                let (mut rest, mut pieces) = (text.as_str(), Vec::new());
                while !rest.is_empty() {
                    let (piece, after) = cut(rest, least);
                    pieces.extend(words(piece));
                    rest = after;
                }
                prop_assert_eq!(pieces, words(&text), "{}", name);
            }
        }
    }
}
