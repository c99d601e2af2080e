//! Chat completion requests as Messages requests.

use crate::settings::Settings;
use policy_chat::id::escape;
use policy_chat::request::{Message, Part, Request, Tool, ToolChoice};
use policy_chat::text::{Json, OrList};
use policy_chat::{Text, parse};
use serde_json::{Map, Value, json};

/// Errors name the native field, for the client. `counting`: only what is part of the prompt; more is refused there.
pub(crate) fn to_messages(body: &[u8], counting: bool, settings: &Settings) -> Result<Value, String> {
    let request: Request<'_> = parse(body)?;
    let mut to = Map::new();
    to.insert("model".into(), json!(request.model));
    let (system, messages) = conversation(&request.messages)?;
    if !system.is_empty() {
        to.insert("system".into(), system.join("\n\n").into());
    }
    to.insert("messages".into(), messages.into());
    copy_tools(&request, &mut to)?;
    if !counting {
        let asked = request.max_completion_tokens.or(request.max_tokens).filter(|&n| n > 0);
        to.insert("max_tokens".into(), asked.unwrap_or(settings.default_max_tokens).into());
        copy_parameters(&request, &mut to);
    }
    Ok(to.into())
}

/// System messages at the beginning, and the others with tools' results as the user's.
fn conversation<'r>(messages: &'r [Message<'_>]) -> Result<(Vec<&'r str>, Vec<Value>), String> {
    let (mut system, mut turns) = (Vec::new(), Turns::default());
    for (at, message) in messages.iter().enumerate() {
        let named = |e: String| format!("messages.{at}.{e}");
        match &*message.role {
            "system" | "developer" if turns.0.is_empty() => system.extend(texts(message)),
            // Elsewhere there is no such role: it is told to the model in its place all the same.
            "user" | "system" | "developer" => turns.add("user", parts(message).map_err(named)?),
            "assistant" => turns.add("assistant", assistant(message).map_err(named)?),
            "tool" => turns.add("user", vec![tool_result(message).map_err(named)?]),
            other => {
                return Err(named(format!("role: {other:?} is not one of system, user, assistant, tool")));
            }
        }
    }
    Ok((system, turns.0))
}

/// Messages whose roles alternate: what one side says in a row is one message.
#[derive(Default)]
struct Turns(Vec<Value>);

impl Turns {
    fn add(&mut self, role: &str, blocks: Vec<Value>) {
        if blocks.is_empty() {
            return;
        }
        match self
            .0
            .last_mut()
            .filter(|last| last["role"] == role)
            .and_then(|last| last["content"].as_array_mut())
        {
            Some(content) => content.extend(blocks),
            None => self.0.push(json!({"role": role, "content": blocks})),
        }
    }
}

fn texts<'r>(message: &'r Message<'_>) -> Vec<&'r str> {
    match &message.content {
        None => Vec::new(),
        Some(OrList::Text(text)) => vec![text],
        Some(OrList::List(parts)) => parts.iter().filter_map(|part| part.text.as_deref()).collect(),
    }
}

fn parts(message: &Message<'_>) -> Result<Vec<Value>, String> {
    match &message.content {
        None => Ok(Vec::new()),
        Some(OrList::Text(text)) => Ok(text_block(text).into_iter().collect()),
        Some(OrList::List(parts)) => {
            let blocks = parts.iter().enumerate();
            let blocks = blocks.map(|(at, part)| block(part).map_err(|e| format!("content.{at}.{e}")));
            Ok(blocks.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
    }
}

/// Those that say nothing are refused there.
fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

fn block(part: &Part<'_>) -> Result<Option<Value>, String> {
    if let Some(text) = &part.text {
        return Ok(text_block(text));
    }
    let url = &part.image_url.as_ref().ok_or("type: expected text or image_url")?.url;
    let Some(data) = url.strip_prefix("data:") else {
        return Ok(Some(json!({"type": "image", "source": {"type": "url", "url": url}})));
    };
    let (media_type, data) =
        data.split_once(";base64,").ok_or("image_url.url: a data: URL must be base64")?;
    Ok(Some(json!({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}})))
}

/// Thoughts stay here: without the signature that only their server can write they would be refused.
fn assistant(message: &Message<'_>) -> Result<Vec<Value>, String> {
    let mut blocks = parts(message)?;
    for (at, call) in message.tool_calls.iter().flatten().enumerate() {
        let arguments = &call.function.arguments;
        let input: Value = match arguments.trim() {
            "" => json!({}),
            json => serde_json::from_str(json).unwrap_or_default(),
        };
        if !input.is_object() {
            return Err(format!("tool_calls.{at}.function.arguments: expected the JSON of an object"));
        }
        blocks.push(
            json!({"type": "tool_use", "id": escape(&call.id), "name": call.function.name, "input": input}),
        );
    }
    Ok(blocks)
}

fn tool_result(message: &Message<'_>) -> Result<Value, String> {
    let id = message.tool_call_id.as_ref().ok_or("tool_call_id: a string is required")?;
    let content = parts(message)?;
    Ok(json!({"type": "tool_result", "tool_use_id": escape(id), "content": content}))
}

fn copy_tools(request: &Request<'_>, to: &mut Map<String, Value>) -> Result<(), String> {
    let tools: Vec<Value> = request.tools.iter().flatten().map(tool).collect();
    if tools.is_empty() {
        return Ok(());
    }
    to.insert("tools".into(), tools.into());
    let mut choice = match &request.tool_choice {
        None => json!({"type": "auto"}),
        Some(ToolChoice::Function { function, .. }) => json!({"type": "tool", "name": function.name}),
        Some(ToolChoice::Mode(mode)) => match &**mode {
            "auto" | "none" => json!({"type": mode}),
            "required" => json!({"type": "any"}),
            _ => return Err("tool_choice: expected auto, none, required or a function".into()),
        },
    };
    if request.parallel_tool_calls == Some(false) && choice["type"] != "none" {
        choice["disable_parallel_tool_use"] = true.into();
    }
    if request.tool_choice.is_some() || request.parallel_tool_calls == Some(false) {
        to.insert("tool_choice".into(), choice);
    }
    Ok(())
}

fn tool(tool: &Tool<'_>) -> Value {
    let function = &tool.function;
    let schema = function.parameters.as_ref().filter(|p| p.is_object());
    let schema: Value =
        schema.and_then(|p| serde_json::from_str(p.get()).ok()).unwrap_or_else(|| json!({"type": "object"}));
    let mut tool = json!({"name": function.name, "input_schema": schema});
    if let Some(description) = &function.description {
        tool["description"] = json!(description);
    }
    if let Some(strict) = function.strict {
        tool["strict"] = strict.into();
    }
    tool
}

fn copy_parameters(request: &Request<'_>, to: &mut Map<String, Value>) {
    // Half of OpenAI's range is all that there is.
    let temperature =
        request.temperature.as_ref().map(|t| if t.as_f64() > Some(1.0) { json!(1) } else { json!(t) });
    let stop: Vec<&str> = match &request.stop {
        None => Vec::new(),
        Some(OrList::Text(text)) => vec![text],
        Some(OrList::List(list)) => list.iter().map(|text| &**text).collect(),
    };
    let stop = (!stop.is_empty()).then(|| json!(stop));
    let number = |n: &Option<serde_json::Number>| n.as_ref().map(|n| json!(n));
    let (thinking, effort) = match request.reasoning_effort.as_deref() {
        Some("none") => (Some(json!({"type": "disabled"})), None),
        Some("minimal") => (None, Some("low")),
        Some("xhigh") => (None, Some("max")),
        effort => (None, effort),
    };
    let schema = request.response_format.as_ref().and_then(|f| f.json_schema.as_ref()?.schema.as_ref());
    let mut output = Map::new();
    output.extend(effort.map(|effort| ("effort".to_owned(), json!(effort))));
    output.extend(
        schema.map(|s: &Json<'_>| ("format".to_owned(), json!({"type": "json_schema", "schema": s}))),
    );
    let user = request.user.as_ref().map(|user: &Text<'_>| json!({"user_id": user}));
    let stream = request.stream.filter(|&on| on).map(Value::from);
    let fields = [
        ("temperature", temperature),
        ("top_p", number(&request.top_p)),
        ("top_k", number(&request.top_k)),
        ("stop_sequences", stop),
        ("thinking", thinking),
        ("output_config", (!output.is_empty()).then(|| output.into())),
        ("metadata", user),
        ("stream", stream),
    ];
    to.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
}
