//! The chunk that nearly every event is: some more words, and nothing else that matters. Read in one pass, with
//! no tree built for it; whatever is otherwise than expected is left to the whole reader.

use serde::{Deserialize, de::IgnoredAny};
use std::borrow::Cow;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: (Choice<'a>,),
    #[serde(default)]
    usage: Option<IgnoredAny>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Delta<'a>,
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    reasoning_content: Option<IgnoredAny>,
    #[serde(default)]
    reasoning: Option<IgnoredAny>,
    #[serde(default)]
    tool_calls: Option<IgnoredAny>,
}

/// The words of such a chunk; `None` where it is another.
pub(super) fn of(data: &[u8]) -> Option<Cow<'_, str>> {
    let Chunk { choices: (Choice { delta, finish_reason },), usage, error } =
        serde_json::from_slice(data).ok()?;
    let others = [usage, error, finish_reason, delta.reasoning_content, delta.reasoning, delta.tool_calls];
    let plain = others.iter().all(Option::is_none) && !delta.content.is_empty();
    plain.then_some(delta.content)
}
