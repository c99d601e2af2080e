//! Tokens that are found in text by their spelling, as the tokenizers library finds them: at each place the
//! longest, from left to right.

use std::ops::Range;

use tokenizers::AddedToken;

use super::spellings::Spellings;

/// Tokens by their spellings.
#[derive(Default)]
pub(super) struct Added(Spellings<Token>);

struct Token {
    id: u32,
    /// No user's text should hold it.
    is_control: bool,
    /// Not within a word.
    single_word: bool,
    /// White space before and after it is taken with it.
    strips: (bool, bool),
}

/// A stretch of text: a token, or what is yet to be split.
pub(super) type Stretch = (Range<usize>, Option<u32>);

impl Added {
    /// `spelling`: what is looked for, where it is not what the token says.
    pub(super) fn insert(&mut self, id: u32, token: &AddedToken, spelling: &str, is_control: bool) {
        let strips = (token.lstrip, token.rstrip);
        self.0.insert(spelling, Token { id, is_control, single_word: token.single_word, strips });
    }

    /// Some spelling has a space in it.
    pub(super) fn has_space(&self) -> bool {
        self.0.iter().any(|spelling| spelling.contains(' '))
    }

    /// The whole text in stretches. Without `control`, the spelling of a control token is text.
    pub(super) fn split(&self, text: &str, control: bool) -> Vec<Stretch> {
        let (mut stretches, mut done, mut at) = (Vec::new(), 0, 0);
        while let Some((start, end, token)) = self.0.next(text, at) {
            at = end;
            let splits_word = || ends_in_word(&text[..start]) || starts_in_word(&text[end..]);
            if (token.is_control && !control) || (token.single_word && splits_word()) {
                continue;
            }
            let start = if token.strips.0 { text[..start].trim_end().len().max(done) } else { start };
            let end = if token.strips.1 { text.len() - text[end..].trim_start().len() } else { end };
            if done < start {
                stretches.push((done..start, None));
            }
            stretches.push((start..end, Some(token.id)));
            (done, at) = (end, end);
        }
        if done < text.len() {
            stretches.push((done..text.len(), None));
        }
        stretches
    }
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_of_word)
}

fn starts_in_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_of_word)
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
