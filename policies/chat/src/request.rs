//! `POST /v1/chat/completions`, as far as dialects have words for it.
//! Source: OpenAI's API reference, "Create chat completion".

use crate::Text;
use crate::text::{Json, OrList};
use crate::write::string;
use serde::{Deserialize, Serialize};
use serde_json::Number;

/// A request. Absent fields are left out when it is written: by [`Request::json`], as the messages are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Request<'a> {
    #[serde(borrow, skip_serializing)]
    pub model: Text<'a>,
    #[serde(borrow, skip_serializing)]
    pub messages: Vec<Message<'a>>,
    #[serde(borrow, default, skip_serializing_if = "no_tools")]
    pub tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Newer clients' name for the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<Number>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<OrList<'a, Text<'a>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Whose conversation it is.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Format<'a>>,
}

fn no_tools(tools: &Option<Vec<Tool<'_>>>) -> bool {
    tools.as_ref().is_none_or(Vec::is_empty)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// One message. `content` is written as null where there is none: some servers want to see it.
#[derive(Debug, Default, Deserialize)]
pub struct Message<'a> {
    #[serde(borrow)]
    pub role: Text<'a>,
    #[serde(borrow, default)]
    pub content: Option<OrList<'a, Part<'a>>>,
    #[serde(borrow, default)]
    pub reasoning_content: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub tool_calls: Option<Vec<Call<'a>>>,
    #[serde(borrow, default)]
    pub tool_call_id: Option<Text<'a>>,
}

impl<'a> Message<'a> {
    pub fn new(role: &'a str, content: OrList<'a, Part<'a>>) -> Self {
        Self { role: role.into(), content: Some(content), ..Self::default() }
    }

    pub fn text(role: &'a str, text: impl Into<Text<'a>>) -> Self {
        Self::new(role, OrList::Text(text.into()))
    }

    /// What a tool gave.
    pub fn tool(call: Text<'a>, text: impl Into<Text<'a>>) -> Self {
        Self { tool_call_id: Some(call), ..Self::text("tool", text) }
    }
}

/// A part of a message: text, or an image by its URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Part<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow, default)]
    pub text: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub image_url: Option<ImageUrl<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageUrl<'a> {
    /// `https:` or `data:`.
    #[serde(borrow)]
    pub url: Text<'a>,
}

impl<'a> Part<'a> {
    pub fn text(text: impl Into<Text<'a>>) -> Self {
        Self { kind: "text".into(), text: Some(text.into()), image_url: None }
    }

    pub fn image(url: impl Into<Text<'a>>) -> Self {
        Self { kind: "image_url".into(), text: None, image_url: Some(ImageUrl { url: url.into() }) }
    }
}

/// Text alone travels as a string, which every chat template takes.
pub fn simplest<'a>(mut parts: Vec<Part<'a>>) -> OrList<'a, Part<'a>> {
    if parts.len() == 1
        && let Some(text) = parts[0].text.take()
    {
        return OrList::Text(text);
    }
    if parts.iter().any(|part| part.text.is_none()) {
        return OrList::List(parts);
    }
    let texts: Vec<&str> = parts.iter().filter_map(|part| part.text.as_deref()).collect();
    OrList::Text(texts.join("\n\n").into())
}

/// What the assistant called.
#[derive(Debug, Clone, Deserialize)]
pub struct Call<'a> {
    #[serde(borrow, default)]
    pub id: Text<'a>,
    #[serde(borrow, rename = "type", default = "function")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub function: Called<'a>,
}

fn function<'a>() -> Text<'a> {
    "function".into()
}

#[derive(Debug, Clone, Deserialize)]
pub struct Called<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    /// JSON, in a string.
    #[serde(borrow, default)]
    pub arguments: Text<'a>,
}

impl<'a> Call<'a> {
    pub fn new(id: Text<'a>, name: Text<'a>, arguments: impl Into<Text<'a>>) -> Self {
        Self { id, kind: function(), function: Called { name, arguments: arguments.into() } }
    }
}

/// A function that the model may call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tool<'a> {
    #[serde(borrow, rename = "type", default = "function")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub function: Function<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Function<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Text<'a>>,
    /// A JSON schema, written as it came.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Json<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

impl<'a> Tool<'a> {
    pub fn new(function: Function<'a>) -> Self {
        Self { kind: "function".into(), function }
    }
}

/// What the model may or must call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ToolChoice<'a> {
    /// `auto`, `required`, `none`.
    Mode(#[serde(borrow)] Text<'a>),
    Function {
        #[serde(borrow, rename = "type")]
        kind: Text<'a>,
        #[serde(borrow)]
        function: Chosen<'a>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Chosen<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
}

impl<'a> ToolChoice<'a> {
    pub fn function(name: Text<'a>) -> Self {
        Self::Function { kind: "function".into(), function: Chosen { name } }
    }
}

/// `response_format`
#[derive(Debug, Serialize, Deserialize)]
pub struct Format<'a> {
    /// `text`, `json_object` or `json_schema`.
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<JsonSchema<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct JsonSchema<'a> {
    #[serde(borrow, default = "output")]
    pub name: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

fn output<'a>() -> Text<'a> {
    "output".into()
}

impl<'a> Format<'a> {
    pub fn schema(name: Text<'a>, schema: Json<'a>, strict: Option<bool>) -> Self {
        let json_schema = Some(JsonSchema { name, schema: Some(schema), strict });
        Self { kind: "json_schema".into(), json_schema }
    }
}

impl Request<'_> {
    /// For a stream, with the usage at its end.
    pub fn streamed(&mut self) {
        self.stream = Some(true);
        self.stream_options = Some(StreamOptions { include_usage: true });
    }

    /// `bytes`: about how many it will be. Memory is touched once, and what a conversation says is written without a
    /// detour: it is nearly all of a request.
    pub fn json(&self, bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes + bytes / 16 + 512);
        out.extend_from_slice(b"{\"model\":");
        string(&mut out, &self.model);
        out.extend_from_slice(b",\"messages\":[");
        for (at, message) in self.messages.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            message.write(&mut out);
        }
        out.push(b']');
        // The other fields, as an object of their own whose braces are these.
        let rest = out.len();
        crate::sse::json(&mut out, self);
        match out.get(rest + 1) {
            Some(b'}') => drop(out.remove(rest)),
            _ => out[rest] = b',',
        }
        out
    }
}

impl Message<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut field = |name: &[u8], text: &str| {
            out.extend_from_slice(name);
            string(out, text);
        };
        field(b"{\"role\":", &self.role);
        match &self.content {
            None => out.extend_from_slice(b",\"content\":null"),
            Some(OrList::Text(text)) => field(b",\"content\":", text),
            Some(OrList::List(parts)) => {
                out.extend_from_slice(b",\"content\":[");
                for (at, part) in parts.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    part.write(out);
                }
                out.push(b']');
            }
        }
        let mut field = |name: &[u8], text: &Option<Text<'_>>| {
            if let Some(text) = text {
                out.extend_from_slice(name);
                string(out, text);
            }
        };
        field(b",\"reasoning_content\":", &self.reasoning_content);
        field(b",\"tool_call_id\":", &self.tool_call_id);
        for (at, call) in self.tool_calls.iter().flatten().enumerate() {
            out.extend_from_slice(if at == 0 { b",\"tool_calls\":[" } else { b"," });
            call.write(out);
        }
        let has_calls = self.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
        out.extend_from_slice(if has_calls { b"]}" } else { b"}" });
    }
}

impl Part<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let (name, text): (&[u8], &str) = match (&self.text, &self.image_url) {
            (Some(text), _) => (b",\"text\":", text),
            (None, Some(image)) => (b",\"image_url\":{\"url\":", &image.url),
            (None, None) => (b"", ""),
        };
        out.extend_from_slice(b"{\"type\":");
        string(out, &self.kind);
        out.extend_from_slice(name);
        if !name.is_empty() {
            string(out, text);
        }
        out.extend_from_slice(if self.text.is_none() && self.image_url.is_some() { b"}}" } else { b"}" });
    }
}

impl Call<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        for (name, text) in [
            (&b"{\"id\":"[..], &self.id),
            (b",\"type\":", &self.kind),
            (b",\"function\":{\"name\":", &self.function.name),
            (b",\"arguments\":", &self.function.arguments),
        ] {
            out.extend_from_slice(name);
            string(out, text);
        }
        out.extend_from_slice(b"}}");
    }
}
