//! Anthropic Messages requests as chat completion requests.

use serde_json::{Map, Value, json};

/// Errors name the field and what was expected there.
pub fn to_chat(body: &Value, counting: bool, keep_billing_header: bool) -> Result<Value, String> {
    let body = body.as_object().ok_or("the request body must be a JSON object")?;
    let model = body.get("model").and_then(Value::as_str).filter(|m| !m.is_empty());
    let model = model.ok_or("model: a non-empty string is required")?;
    let messages = body.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or("messages: a list is required")?;
    if messages.is_empty() {
        return Err("messages: at least one message is required".into());
    }
    let mut chat = Vec::new();
    if let Some(system) = body.get("system") {
        let text = system_text(system, keep_billing_header)?;
        if !text.is_empty() {
            chat.push(json!({"role": "system", "content": text}));
        }
    }
    for (at, message) in messages.iter().enumerate() {
        push_message(&mut chat, message).map_err(|e| format!("messages.{at}.{e}"))?;
    }
    let mut native = Map::new();
    native.insert("model".into(), model.into());
    native.insert("messages".into(), chat.into());
    copy_tools(body, &mut native)?;
    if !counting {
        copy_parameters(body, &mut native)?;
    }
    Ok(native.into())
}

fn copy_parameters(body: &Map<String, Value>, native: &mut Map<String, Value>) -> Result<(), String> {
    let max_tokens = body.get("max_tokens").and_then(Value::as_u64).filter(|&n| n > 0);
    let max_tokens = max_tokens.ok_or("max_tokens: a positive integer is required")?;
    native.insert("max_tokens".into(), max_tokens.into());
    for (from, to, expected) in [
        ("temperature", "temperature", "a number"),
        ("top_p", "top_p", "a number"),
        ("top_k", "top_k", "an integer"),
        ("stop_sequences", "stop", "a list of strings"),
    ] {
        let Some(value) = body.get(from).filter(|v| !v.is_null()) else { continue };
        let fits = match expected {
            "a number" => value.is_number(),
            "an integer" => value.is_i64() || value.is_u64(),
            _ => value.as_array().is_some_and(|a| a.iter().all(Value::is_string)),
        };
        if !fits {
            return Err(format!("{from}: expected {expected}"));
        }
        native.insert(to.into(), value.clone());
    }
    match body.get("stream") {
        None | Some(Value::Null | Value::Bool(false)) => {}
        Some(Value::Bool(true)) => {
            native.insert("stream".into(), true.into());
            native.insert("stream_options".into(), json!({"include_usage": true}));
        }
        Some(_) => return Err("stream: expected true or false".into()),
    }
    if let Some(user) = body.get("metadata").and_then(|m| m["user_id"].as_str()) {
        native.insert("user".into(), user.into());
    }
    match (body.get("thinking").and_then(|t| t["type"].as_str()), effort(body)) {
        (Some("disabled"), _) => native.insert("reasoning_effort".into(), "none".into()),
        (_, Some(effort)) => native.insert("reasoning_effort".into(), effort.into()),
        _ => None,
    };
    if let Some(schema) = body.get("output_config").map(|c| &c["format"]["schema"]).filter(|s| s.is_object())
    {
        let format = json!({"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": true}});
        native.insert("response_format".into(), format);
    }
    Ok(())
}

fn effort(body: &Map<String, Value>) -> Option<&str> {
    body.get("output_config")?["effort"].as_str()
}

fn copy_tools(body: &Map<String, Value>, native: &mut Map<String, Value>) -> Result<(), String> {
    let Some(tools) = body.get("tools").filter(|t| !t.is_null()) else { return Ok(()) };
    let tools = tools.as_array().ok_or("tools: expected a list")?;
    // Tools without an input_schema run on Anthropic's servers; there is nothing to run them here.
    let functions: Vec<Value> =
        tools.iter().filter(|t| t["input_schema"].is_object()).map(function).collect();
    if functions.is_empty() {
        return Ok(());
    }
    native.insert("tools".into(), functions.into());
    let Some(choice) = body.get("tool_choice").filter(|c| !c.is_null()) else { return Ok(()) };
    let choice_native = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => return Err("tool_choice.type: expected auto, any, tool or none".into()),
    };
    native.insert("tool_choice".into(), choice_native);
    if let Some(disabled) = choice["disable_parallel_tool_use"].as_bool() {
        native.insert("parallel_tool_calls".into(), (!disabled).into());
    }
    Ok(())
}

fn function(tool: &Value) -> Value {
    let mut function = json!({"name": tool["name"], "parameters": tool["input_schema"]});
    for key in ["description", "strict"] {
        if !tool[key].is_null() {
            function[key] = tool[key].clone();
        }
    }
    json!({"type": "function", "function": function})
}

fn system_text(system: &Value, keep_billing_header: bool) -> Result<String, String> {
    let blocks = match system {
        Value::Null => return Ok(String::new()),
        Value::String(text) => return Ok(text.clone()),
        Value::Array(blocks) => blocks,
        _ => return Err("system: expected a string or a list of text blocks".into()),
    };
    let mut texts = Vec::new();
    for (at, block) in blocks.iter().enumerate() {
        let text = block["text"].as_str().ok_or_else(|| format!("system.{at}.text: a string is required"))?;
        if keep_billing_header || !text.starts_with("x-anthropic-billing-header:") {
            texts.push(text);
        }
    }
    Ok(texts.join("\n\n"))
}

fn push_message(chat: &mut Vec<Value>, message: &Value) -> Result<(), String> {
    let role = message["role"].as_str().ok_or("role: a string is required")?;
    let content = &message["content"];
    match (role, content) {
        ("user" | "assistant" | "system", Value::String(text)) => {
            chat.push(json!({"role": role, "content": text}));
            Ok(())
        }
        ("user", Value::Array(blocks)) => push_user(chat, blocks),
        ("assistant", Value::Array(blocks)) => push_assistant(chat, blocks),
        ("system", Value::Array(_)) => {
            // Kept in its place: moving it to the front would change the prefix of the whole conversation.
            let text = system_text(content, true).map_err(|e| e.replacen("system", "content", 1))?;
            chat.push(json!({"role": "system", "content": text}));
            Ok(())
        }
        ("user" | "assistant" | "system", _) => Err("content: expected a string or a list of blocks".into()),
        (other, _) => Err(format!("role: {other:?} is not one of user, assistant, system")),
    }
}

/// Tool results come first, as messages of their own: a chat template wants them right behind the calls.
fn push_user(chat: &mut Vec<Value>, blocks: &[Value]) -> Result<(), String> {
    let mut parts = Vec::new();
    for (at, block) in blocks.iter().enumerate() {
        let named = |e: String| format!("content.{at}.{e}");
        if block["type"] == "tool_result" {
            let (text, images) = tool_result(block).map_err(named)?;
            chat.push(json!({"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}));
            parts.extend(images);
        } else {
            parts.push(user_part(block).map_err(named)?);
        }
    }
    if !parts.is_empty() {
        chat.push(json!({"role": "user", "content": simplest(parts)}));
    }
    Ok(())
}

/// Text alone travels as a string, which every chat template takes.
fn simplest(parts: Vec<Value>) -> Value {
    if parts.iter().all(|p| p["type"] == "text") {
        let texts: Vec<&str> = parts.iter().filter_map(|p| p["text"].as_str()).collect();
        return texts.join("\n\n").into();
    }
    parts.into()
}

fn user_part(block: &Value) -> Result<Value, String> {
    let source = &block["source"];
    match (block["type"].as_str(), source["type"].as_str()) {
        (Some("text"), _) => {
            let text = block["text"].as_str().ok_or("text: a string is required")?;
            Ok(json!({"type": "text", "text": text}))
        }
        (Some("image"), Some("base64")) => {
            let field =
                |name: &str| source[name].as_str().ok_or(format!("source.{name}: a string is required"));
            let url = format!("data:{};base64,{}", field("media_type")?, field("data")?);
            Ok(json!({"type": "image_url", "image_url": {"url": url}}))
        }
        (Some("image"), Some("url")) => Ok(json!({"type": "image_url", "image_url": {"url": source["url"]}})),
        (Some("image"), _) => {
            Err("source.type: expected base64 or url; uploaded files are not kept here".into())
        }
        (Some("document"), Some("text")) => Ok(json!({"type": "text", "text": source["data"]})),
        (Some("document"), _) => {
            Err("source: only text documents can be read here, not PDF; send its text".into())
        }
        (Some(other), _) => Ok(json!({"type": "text", "text": format!("[{other}] {block}")})),
        (None, _) => Err("type: a string is required".into()),
    }
}

fn tool_result(block: &Value) -> Result<(String, Vec<Value>), String> {
    if !block["tool_use_id"].is_string() {
        return Err("tool_use_id: a string is required".into());
    }
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    match &block["content"] {
        Value::Null => {}
        Value::String(text) => texts.push(text.clone()),
        Value::Array(blocks) => {
            for block in blocks {
                let part = user_part(block)?;
                match part["text"].as_str() {
                    Some(text) => texts.push(text.to_owned()),
                    None => images.push(part),
                }
            }
        }
        _ => return Err("content: expected a string or a list of blocks".into()),
    }
    let text = texts.join("\n\n");
    Ok((if block["is_error"] == true { format!("Error: {text}") } else { text }, images))
}

fn push_assistant(chat: &mut Vec<Value>, blocks: &[Value]) -> Result<(), String> {
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (at, block) in blocks.iter().enumerate() {
        match block["type"].as_str() {
            Some("text") => texts.push(block["text"].as_str().unwrap_or_default()),
            Some("thinking") => thoughts.push(block["thinking"].as_str().unwrap_or_default()),
            Some("tool_use") => calls.push(json!({
                "id": block["id"], "type": "function",
                "function": {"name": block["name"], "arguments": block["input"].to_string()},
            })),
            Some(_) => {} // redacted thinking, server tools: nothing that a local model could read
            None => return Err(format!("content.{at}.type: a string is required")),
        }
    }
    let text = texts.concat();
    let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
    let mut message = json!({"role": "assistant", "content": content});
    if !thoughts.is_empty() {
        message["reasoning_content"] = thoughts.concat().into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    chat.push(message);
    Ok(())
}
