//! generateContent requests as chat completion requests.
//! Source: Google's Gemini API reference, "Generating content".

use policy_chat::request::{
    Call, Format, Function, Message, Part as NativePart, Request, Tool, ToolChoice, simplest,
};
use policy_chat::text::{Json, OrList};
use policy_chat::{Text, parse};
use serde::Deserialize;
use serde_json::{Number, Value};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow)]
    contents: Vec<Content<'a>>,
    #[serde(borrow, default)]
    system_instruction: Option<Content<'a>>,
    #[serde(borrow, default)]
    tools: Option<Vec<Tools<'a>>>,
    #[serde(borrow, default)]
    tool_config: Option<ToolConfig<'a>>,
    #[serde(borrow, default)]
    generation_config: Option<Config<'a>>,
}

#[derive(Deserialize)]
struct Content<'a> {
    /// `user` or `model`.
    #[serde(borrow, default)]
    role: Option<Text<'a>>,
    #[serde(borrow, default)]
    parts: Vec<Part<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(default)]
    thought: Option<bool>,
    #[serde(borrow, default)]
    inline_data: Option<Blob<'a>>,
    #[serde(borrow, default)]
    function_call: Option<FunctionCall<'a>>,
    #[serde(borrow, default)]
    function_response: Option<FunctionResponse<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob<'a> {
    #[serde(borrow)]
    mime_type: Text<'a>,
    #[serde(borrow)]
    data: Text<'a>,
}

#[derive(Deserialize)]
struct FunctionCall<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default)]
    args: Option<Json<'a>>,
}

#[derive(Deserialize)]
struct FunctionResponse<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    response: Json<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tools<'a> {
    #[serde(borrow, default)]
    function_declarations: Option<Vec<Declaration<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Declaration<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default)]
    description: Option<Text<'a>>,
    /// A schema in Google's words.
    #[serde(default)]
    parameters: Option<Value>,
    /// A JSON schema.
    #[serde(borrow, default)]
    parameters_json_schema: Option<Json<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'a> {
    #[serde(borrow, default)]
    function_calling_config: Option<Calling<'a>>,
}

#[derive(Deserialize)]
struct Calling<'a> {
    #[serde(borrow, default)]
    mode: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    #[serde(default)]
    temperature: Option<Number>,
    #[serde(default)]
    top_p: Option<Number>,
    #[serde(default)]
    top_k: Option<Number>,
    #[serde(default)]
    seed: Option<Number>,
    #[serde(default)]
    max_output_tokens: Option<u64>,
    #[serde(borrow, default)]
    stop_sequences: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    response_mime_type: Option<Text<'a>>,
    #[serde(default)]
    response_schema: Option<Value>,
    #[serde(borrow, default)]
    response_json_schema: Option<Json<'a>>,
}

/// Errors name the field and what was expected there.
pub fn to_chat(model: &str, bytes: &[u8], stream: bool) -> Result<Vec<u8>, String> {
    let body: Body<'_> = parse(bytes)?;
    if body.contents.is_empty() {
        return Err("contents: at least one is required".into());
    }
    let mut request = Request { model: model.into(), ..Request::default() };
    if let Some(system) = body.system_instruction {
        let texts: Vec<Text<'_>> = system.parts.into_iter().filter_map(|part| part.text).collect();
        let joined = texts.iter().map(|text| &**text).collect::<Vec<_>>().join("\n\n");
        request.messages.push(Message::text("system", joined));
    }
    for (at, content) in body.contents.into_iter().enumerate() {
        push(&mut request.messages, content).map_err(|e| format!("contents.{at}.{e}"))?;
    }
    let declared =
        body.tools.into_iter().flatten().flat_map(|tools| tools.function_declarations.unwrap_or_default());
    request.tools = Some(declared.map(tool).collect());
    if let Some(mode) = body.tool_config.and_then(|c| c.function_calling_config?.mode) {
        let mode = match &*mode {
            "ANY" => "required",
            "NONE" => "none",
            _ => "auto",
        };
        request.tool_choice = Some(ToolChoice::Mode(mode.into()));
    }
    if let Some(config) = body.generation_config {
        configure(&mut request, config);
    }
    if stream {
        request.streamed();
    }
    Ok(request.json(bytes.len()))
}

fn configure<'a>(request: &mut Request<'a>, config: Config<'a>) {
    request.temperature = config.temperature;
    request.top_p = config.top_p;
    request.top_k = config.top_k;
    request.seed = config.seed;
    request.max_tokens = config.max_output_tokens;
    request.stop = config.stop_sequences.map(OrList::List);
    let schema =
        config.response_json_schema.or(config.response_schema.map(|schema| Json::of(&in_lower_case(schema))));
    request.response_format = match schema {
        Some(schema) => Some(Format::schema("output".into(), schema, Some(true))),
        None if config.response_mime_type.as_deref() == Some("application/json") => {
            Some(Format { kind: "json_object".into(), json_schema: None })
        }
        None => None,
    };
}

/// Google writes the types of a schema in capitals.
fn in_lower_case(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match value {
                    Value::String(kind) if name == "type" => *kind = kind.to_lowercase(),
                    other => *other = in_lower_case(other.take()),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = in_lower_case(value.take())),
        _ => {}
    }
    schema
}

fn tool<'a>(declaration: Declaration<'a>) -> Tool<'a> {
    let Declaration { name, description, parameters, parameters_json_schema } = declaration;
    let parameters = parameters_json_schema.or(parameters.map(|schema| Json::of(&in_lower_case(schema))));
    Tool::new(Function { name, description, parameters, strict: None })
}

/// Results of calls come first: a chat template wants them right behind the calls.
fn push<'a>(to: &mut Vec<Message<'a>>, content: Content<'a>) -> Result<(), String> {
    let by_model = match content.role.as_deref() {
        Some("model") => true,
        None | Some("user" | "function") => false,
        Some(other) => return Err(format!("role: {other:?} is not one of user, model")),
    };
    let (mut parts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), String::new());
    for (at, part) in content.parts.into_iter().enumerate() {
        if let Some(FunctionResponse { id, name, response }) = part.function_response {
            // The dialect may leave ids out; then names have to do.
            to.push(Message::tool(id.unwrap_or(name), response.get().to_owned()));
        } else if let Some(FunctionCall { id, name, args }) = part.function_call {
            let arguments = args.map_or_else(|| "{}".to_owned(), |args| args.get().to_owned());
            calls.push(Call::new(id.unwrap_or_else(|| name.clone()), name, arguments));
        } else if let Some(Blob { mime_type, data }) = part.inline_data {
            parts.push(NativePart::image(["data:", &mime_type, ";base64,", &data].concat()));
        } else if let Some(text) = part.text {
            if part.thought == Some(true) {
                thoughts.push_str(&text)
            } else {
                parts.push(NativePart::text(text))
            }
        } else {
            return Err(format!("parts.{at}: expected text, inlineData, functionCall or functionResponse"));
        }
    }
    if parts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    to.push(Message {
        role: if by_model { "assistant" } else { "user" }.into(),
        content: (!parts.is_empty()).then(|| simplest(parts)),
        reasoning_content: (!thoughts.is_empty()).then(|| thoughts.into()),
        tool_calls: Some(calls),
        tool_call_id: None,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request() {
        let body = json!({
            "systemInstruction": {"parts": [{"text": "be brief"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": "AA"}}]},
                {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"x": 1}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"y": 2}}}]}],
            "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT", "properties": {"type": {"type": "STRING"}}}}]}, {"googleSearch": {}}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
            "generationConfig": {"maxOutputTokens": 9, "stopSequences": ["x"], "responseMimeType": "application/json"}});
        let native: Value =
            serde_json::from_slice(&to_chat("m", body.to_string().as_bytes(), true).unwrap()).unwrap();
        assert_eq!(
            native,
            json!({
            "model": "m", "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "f", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
                {"role": "tool", "tool_call_id": "f", "content": "{\"y\":2}"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"type": {"type": "string"}}}}}],
            "tool_choice": "required", "max_tokens": 9, "stop": ["x"], "response_format": {"type": "json_object"},
            "stream": true, "stream_options": {"include_usage": true}})
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |body: Value, part: &str| {
            let said = to_chat("m", body.to_string().as_bytes(), false).unwrap_err();
            assert!(said.starts_with(part), "{said}");
        };
        check(json!({}), "contents: this field is required");
        check(json!({"contents": []}), "contents: at least one");
        check(json!({"contents": [{"parts": [{"text": 5}]}]}), "contents.0.parts.0.text: invalid type");
        check(json!({"contents": [{"parts": [{}]}]}), "contents.0.parts.0: expected text");
        check(json!({"contents": [{"role": "robot", "parts": []}]}), "contents.0.role: \"robot\"");
    }
}
