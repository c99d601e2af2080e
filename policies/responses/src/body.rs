//! What a request to create a response looks like, as far as it is acted on.
//! Source: OpenAI's API reference, "Create a model response".

use policy_chat::Text;
use policy_chat::text::{Json, OrList, if_text};
use serde::Deserialize;
use serde_json::Number;

/// Fields that are echoed in the answer are kept as they came, and read from there.
#[derive(Debug, Deserialize)]
pub(crate) struct Body<'a> {
    #[serde(borrow)]
    pub(crate) model: Text<'a>,
    #[serde(borrow)]
    pub(crate) input: OrList<'a, Item<'a>>,
    #[serde(borrow, default)]
    pub(crate) instructions: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) tools: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) tool_choice: Option<Json<'a>>,
    #[serde(default)]
    pub(crate) parallel_tool_calls: Option<bool>,
    #[serde(default)]
    pub(crate) max_output_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) temperature: Option<Number>,
    #[serde(default)]
    pub(crate) top_p: Option<Number>,
    #[serde(borrow, default)]
    pub(crate) reasoning: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) text: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) include: Option<Vec<Text<'a>>>,
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    #[serde(borrow, default)]
    pub(crate) user: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) safety_identifier: Option<Text<'a>>,
    /// The same over the turns of a conversation.
    #[serde(borrow, default)]
    pub(crate) prompt_cache_key: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) metadata: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) truncation: Option<Text<'a>>,
    // What would need something to be stored here.
    #[serde(borrow, default)]
    pub(crate) previous_response_id: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) conversation: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) prompt: Option<Json<'a>>,
    #[serde(default)]
    pub(crate) background: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Reasoning<'a> {
    #[serde(borrow, default)]
    pub(crate) effort: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TextConfig<'a> {
    #[serde(borrow, default)]
    pub(crate) format: Option<Format<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Format<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) schema: Option<Json<'a>>,
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

/// A tool of any kind; a choice of one, too.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) description: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<Json<'a>>,
    #[serde(default)]
    pub(crate) strict: Option<bool>,
    /// Of a custom tool: what its input must look like.
    #[serde(borrow, default)]
    pub(crate) format: Option<Grammar<'a>>,
    /// Of a namespace.
    #[serde(borrow, default)]
    pub(crate) tools: Option<Vec<Tool<'a>>>,
    /// Of a choice: `auto` or `required`.
    #[serde(borrow, default)]
    pub(crate) mode: Option<Text<'a>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Grammar<'a> {
    #[serde(borrow, default)]
    pub(crate) syntax: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) definition: Option<Text<'a>>,
}

/// An item of the input, of any kind; which fields it has follows from the kind.
#[derive(Debug, Deserialize)]
pub(crate) struct Item<'a> {
    /// Absent: a message.
    #[serde(borrow, rename = "type", default)]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) role: Option<Text<'a>>,
    /// Of a message, or of thoughts.
    #[serde(borrow, default)]
    pub(crate) content: Option<OrList<'a, Part<'a>>>,
    #[serde(borrow, default)]
    pub(crate) call_id: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) namespace: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) arguments: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) input: Option<Text<'a>>,
    /// Of others' tools it may be anything.
    #[serde(borrow, default)]
    pub(crate) output: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) summary: Option<Vec<Part<'a>>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) encrypted_content: Option<Text<'a>>,
    /// Tools that come with the conversation; others' lists of tools are called so, too.
    #[serde(borrow, default)]
    pub(crate) tools: Option<Json<'a>>,
}

/// A part of a message, of thoughts or of an output.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Part<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) text: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) refusal: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) image_url: Option<Text<'a>>,
}
