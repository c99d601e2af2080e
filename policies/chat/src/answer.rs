//! What servers answer: whole completions, and the chunks of streamed ones, read as leniently as they are written.

use crate::Text;
use crate::text::{count, if_text};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A whole answer, or a chunk of one.
#[derive(Debug, Default, Deserialize)]
pub struct Completion<'a> {
    #[serde(borrow, default)]
    pub choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Seconds since the Unix epoch.
    #[serde(default, deserialize_with = "count")]
    pub created: u64,
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Choice<'a> {
    #[serde(default)]
    pub index: Option<u64>,
    #[serde(borrow, default)]
    pub message: Option<Said<'a>>,
    #[serde(borrow, default)]
    pub delta: Option<Said<'a>>,
    #[serde(borrow, default)]
    pub finish_reason: Option<Text<'a>>,
    /// The stop text, where the server says which one it was; some put a token's number there.
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub stop_reason: Option<Text<'a>>,
}

/// What was said, whole or a piece of it.
#[derive(Debug, Default, Deserialize)]
pub struct Said<'a> {
    #[serde(borrow, default)]
    pub content: Option<Text<'a>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    reasoning: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub refusal: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub tool_calls: Option<Vec<CallPiece<'a>>>,
}

/// A call, whole or a piece of it.
#[derive(Debug, Default, Deserialize)]
pub struct CallPiece<'a> {
    #[serde(default)]
    pub index: Option<u64>,
    #[serde(borrow, default)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub function: Option<FunctionPiece<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub struct FunctionPiece<'a> {
    #[serde(borrow, default)]
    pub name: Option<Text<'a>>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

impl<'a> FunctionPiece<'a> {
    /// JSON in a string; some servers leave the string out.
    pub fn arguments(&self) -> Text<'a> {
        match self.arguments.map(RawValue::get) {
            None | Some("null") => Text::default(),
            Some(raw) => serde_json::from_str(raw).unwrap_or(raw.into()),
        }
    }
}

impl<'a> Said<'a> {
    /// Thoughts, under either of the names in use.
    pub fn thoughts(&self) -> Option<&Text<'a>> {
        let told = |text: &&Text<'a>| !text.is_empty();
        self.reasoning_content.as_ref().filter(told).or(self.reasoning.as_ref().filter(told))
    }

    /// Words; a refusal is said, too.
    pub fn words(&self) -> Option<&Text<'a>> {
        let told = |text: &&Text<'a>| !text.is_empty();
        self.content.as_ref().filter(told).or(self.refusal.as_ref().filter(told))
    }
}

/// Tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    #[serde(default, deserialize_with = "count")]
    pub prompt_tokens: u64,
    #[serde(default, deserialize_with = "count")]
    pub completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    #[serde(default, deserialize_with = "count")]
    cached_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct CompletionDetails {
    #[serde(default, deserialize_with = "count")]
    reasoning_tokens: u64,
}

impl Usage {
    /// Of the prompt's tokens, those that came out of a cache.
    pub fn cached(&self) -> u64 {
        self.prompt_tokens_details.map_or(0, |d| d.cached_tokens).min(self.prompt_tokens)
    }

    /// Of the completion's tokens, those of thoughts.
    pub fn reasoning(&self) -> u64 {
        self.completion_tokens_details.map_or(0, |d| d.reasoning_tokens)
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    Stop {
        /// The stop text that the model said, where the server tells.
        sequence: Option<String>,
    },
    Length,
    Filtered,
    Called,
}

impl Finish {
    /// Some servers say `stop` although they called; `None` where the answer has not ended.
    pub fn of(choice: &Choice<'_>, called: bool) -> Option<Self> {
        Some(match choice.finish_reason.as_deref().filter(|reason| !reason.is_empty())? {
            "length" => Self::Length,
            "content_filter" => Self::Filtered,
            "tool_calls" | "function_call" => Self::Called,
            _ if called => Self::Called,
            _ => Self::Stop { sequence: choice.stop_reason.as_ref().map(|text| text.to_string()) },
        })
    }
}

/// A whole answer, sorted.
#[derive(Debug)]
pub struct Whole<'a> {
    pub thoughts: Option<Text<'a>>,
    pub words: Option<Text<'a>>,
    pub calls: Vec<WholeCall<'a>>,
    pub finish: Finish,
    pub usage: Usage,
    /// Seconds since the Unix epoch; 0 where the server does not tell.
    pub created: u64,
}

#[derive(Debug)]
pub struct WholeCall<'a> {
    /// Made where the server sent none.
    pub id: Text<'a>,
    pub name: Text<'a>,
    /// As the model wrote them: JSON of an object, if all is well.
    pub arguments: Text<'a>,
}

impl WholeCall<'_> {
    /// Arguments are an object, in most dialects, whatever the model wrote.
    pub fn object(&self) -> &str {
        let is_object = self.arguments.trim_start().starts_with('{')
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_ok();
        if is_object { &self.arguments } else { "{}" }
    }
}

impl<'a> Whole<'a> {
    /// `seed`: for the ids of calls that have none. The error is for the log: the server's answer is at fault.
    pub fn read(body: &'a [u8], seed: u64) -> Result<Self, String> {
        let completion: Completion<'a> = serde_json::from_slice(body)
            .map_err(|e| format!("the native answer is not a completion: {e}"))?;
        let choice = completion.choices.into_iter().flatten().next();
        let choice = choice.ok_or("the native answer has no choice")?;
        let said = choice.message.as_ref().ok_or("the native answer has no message")?;
        let pieces = said.tool_calls.iter().flatten().enumerate();
        let calls: Vec<WholeCall<'a>> = pieces
            .filter_map(|(at, piece)| {
                let function = piece.function.as_ref()?;
                let name = function.name.clone().filter(|name| !name.is_empty())?;
                let id = piece.id.clone().filter(|id| !id.is_empty());
                let id = id.unwrap_or_else(|| made_id(seed, at).into());
                Some(WholeCall { id, name, arguments: function.arguments() })
            })
            .collect();
        let finish = Finish::of(&choice, !calls.is_empty()).unwrap_or(Finish::Stop { sequence: None });
        let (thoughts, words) = (said.thoughts().cloned(), said.words().cloned());
        let (usage, created) = (completion.usage.unwrap_or_default(), completion.created);
        Ok(Self { thoughts, words, calls, finish, usage, created })
    }
}

/// The id of a call that has none.
pub(crate) fn made_id(seed: u64, at: usize) -> String {
    format!("call_{}", crate::id::digits(seed, 1000 + at as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_servers_write() {
        let body = br#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"reasoning":"hm",
            "tool_calls":[{"function":{"name":"f","arguments":{"a":1}}},{"id":"x","function":{"name":"g","arguments":"oops"}},
            {"id":"y","function":{"name":null}}]},
            "finish_reason":"stop","stop_reason":151645}],"usage":{"prompt_tokens":5.0,"completion_tokens":null,
            "prompt_tokens_details":null}}"#;
        let whole = Whole::read(body, 1).unwrap();
        assert_eq!((whole.thoughts.as_deref(), whole.words.as_deref()), (Some("hm"), None));
        assert_eq!(whole.finish, Finish::Called);
        assert_eq!((whole.usage.prompt_tokens, whole.usage.completion_tokens), (5, 0));
        let calls: Vec<(&str, &str)> = whole.calls.iter().map(|c| (&*c.name, c.object())).collect();
        assert_eq!(calls, [("f", r#"{"a":1}"#), ("g", "{}")]);
        assert!(whole.calls[0].id.starts_with("call_") && &*whole.calls[1].id == "x");
    }

    #[test]
    fn what_is_no_answer() {
        for body in ["", "[]", "{}", r#"{"choices":[]}"#, r#"{"choices":[{}]}"#, r#"{"choices":5}"#] {
            assert!(Whole::read(body.as_bytes(), 1).is_err(), "{body}");
        }
    }
}
