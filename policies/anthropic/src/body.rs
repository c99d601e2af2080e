//! What a Messages request looks like, as far as it is acted on: the rest is skipped, and betas come and go.
//! Source: Anthropic's API reference, "Create a Message".

use policy_chat::Text;
use policy_chat::text::{Json, OrList};
use serde::Deserialize;
use serde_json::Number;

#[derive(Debug, Deserialize)]
pub(crate) struct Body<'a> {
    #[serde(borrow)]
    pub(crate) model: Text<'a>,
    #[serde(borrow)]
    pub(crate) messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    pub(crate) system: Option<OrList<'a, Block<'a>>>,
    #[serde(default)]
    pub(crate) max_tokens: Option<u64>,
    #[serde(borrow, default)]
    pub(crate) stop_sequences: Option<Vec<Text<'a>>>,
    #[serde(default)]
    pub(crate) temperature: Option<Number>,
    #[serde(default)]
    pub(crate) top_p: Option<Number>,
    #[serde(default)]
    pub(crate) top_k: Option<u64>,
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    #[serde(borrow, default)]
    pub(crate) metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    pub(crate) thinking: Option<Thinking<'a>>,
    #[serde(borrow, default)]
    pub(crate) output_config: Option<OutputConfig<'a>>,
    /// Where the format was while it was a beta.
    #[serde(borrow, default)]
    pub(crate) output_format: Option<Format<'a>>,
    #[serde(borrow, default)]
    pub(crate) tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow, default)]
    pub(crate) tool_choice: Option<ToolChoice<'a>>,
    /// A conversation that the server is to keep, of which only what is new is sent.
    #[serde(borrow, default)]
    pub(crate) thread: Option<Json<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Metadata<'a> {
    #[serde(borrow, default)]
    pub(crate) user_id: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Thinking<'a> {
    /// `enabled`, `disabled`, `adaptive`.
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OutputConfig<'a> {
    #[serde(borrow, default)]
    pub(crate) effort: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) format: Option<Format<'a>>,
}

/// `{"type": "json_schema", "schema": …}`
#[derive(Debug, Deserialize)]
pub(crate) struct Format<'a> {
    #[serde(borrow, default)]
    pub(crate) schema: Option<Json<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Tool<'a> {
    /// Absent or `custom` for those that the client runs; the others are Anthropic's.
    #[serde(borrow, rename = "type", default)]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) description: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) input_schema: Option<Json<'a>>,
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ToolChoice<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(default)]
    pub(crate) disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) role: Text<'a>,
    #[serde(borrow)]
    pub(crate) content: OrList<'a, Block<'a>>,
}

/// A content block of any kind; which fields it has follows from the kind.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) text: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) thinking: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) input: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) tool_use_id: Option<Text<'a>>,
    /// Of a tool's result, or of a document.
    #[serde(borrow, default)]
    pub(crate) content: Option<Inner<'a>>,
    #[serde(default)]
    pub(crate) is_error: Option<bool>,
    /// Of images and documents an object, of search results a text.
    #[serde(borrow, default)]
    pub(crate) source: Option<Json<'a>>,
    #[serde(borrow, default)]
    pub(crate) title: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) tool_name: Option<Text<'a>>,
}

/// What blocks hold inside: text, blocks, or an object of a kind that nobody reads.
#[derive(Debug, Clone)]
pub(crate) enum Inner<'a> {
    Text(Text<'a>),
    Blocks(Vec<Block<'a>>),
    Object,
}

impl<'de: 'a, 'a> Deserialize<'de> for Inner<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> serde::de::Visitor<'de> for Seen {
            type Value = Inner<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of blocks")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Inner<'de>, E> {
                Ok(Inner::Text(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Inner<'de>, E> {
                Ok(Inner::Text(text.to_owned().into()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Inner<'de>, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = list.next_element()? {
                    blocks.push(block);
                }
                Ok(Inner::Blocks(blocks))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Inner<'de>, A::Error> {
                use serde::de::IgnoredAny;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Inner::Object)
            }
        }
        from.deserialize_any(Seen)
    }
}

/// Where an image or a document is.
#[derive(Debug, Deserialize)]
pub(crate) struct Source<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(crate) media_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) data: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) url: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) content: Option<OrList<'a, Block<'a>>>,
}
