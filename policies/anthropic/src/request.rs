//! Messages requests as chat completion requests.

use crate::body::{Block, Body, Format, Message, Tool, ToolChoice};
use crate::content;
use crate::settings::Settings;
use policy_chat::names::Names;
use policy_chat::request::{self as chat, Function, Request};
use policy_chat::text::OrList;
use policy_chat::{Text, parse};

/// What the answer's translation has to know of the request.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// By the client's name.
    pub(crate) model: String,
    pub(crate) stop_sequences: Vec<String>,
    pub(crate) names: Names<String>,
}

/// What is said of a `thread`. Ignored, its next request would come without the conversation, and nobody would notice.
/// SDKs that meet this error send all of it, and no thread.
pub(crate) const NO_THREADS: &str =
    "thread: this gateway keeps no conversations; send all messages with each request";

/// Errors name the field and what was expected there. `counting`: only what is part of the prompt.
pub(crate) fn to_chat(bytes: &[u8], counting: bool, settings: &Settings) -> Result<(Vec<u8>, Asked), String> {
    let mut body: Body<'_> = parse(bytes)?;
    if body.model.is_empty() {
        return Err("model: a non-empty string is required".into());
    }
    if body.thread.as_ref().is_some_and(|thread| thread.get() != "null") {
        return Err(NO_THREADS.into());
    }
    if body.messages.is_empty() {
        return Err("messages: at least one message is required".into());
    }
    let mut asked = Asked { model: body.model.to_string(), ..Asked::default() };
    let mut request = Request { model: settings.model(&body.model).to_owned().into(), ..Request::default() };
    let system =
        body.system.take().map(|s| system_text(s, "system", settings.keep_billing_header)).transpose()?;
    if let Some(text) = system.filter(|text| !text.is_empty()) {
        request.messages.push(chat::Message::text("system", text));
    }
    let mut calls = content::Calls::default();
    for (at, message) in std::mem::take(&mut body.messages).into_iter().enumerate() {
        let pushed = push_message(&mut request.messages, message, &mut calls, &mut asked.names);
        pushed.map_err(|e| format!("messages.{at}.{e}"))?;
    }
    copy_tools(&mut body, &mut request, &mut asked.names)?;
    if !counting {
        copy_parameters(&mut body, &mut request, settings)?;
        asked.stop_sequences = body.stop_sequences.iter().flatten().map(|text| text.to_string()).collect();
    }
    Ok((request.json(bytes.len()), asked))
}

fn copy_parameters<'a>(
    body: &mut Body<'a>,
    request: &mut Request<'a>,
    settings: &Settings,
) -> Result<(), String> {
    let max_tokens = body.max_tokens.filter(|&n| n > 0);
    request.max_tokens = Some(max_tokens.ok_or("max_tokens: a positive integer is required")?);
    request.temperature = body.temperature.take();
    request.top_p = body.top_p.take();
    request.top_k = body.top_k.map(Into::into);
    request.stop = body.stop_sequences.clone().filter(|all| !all.is_empty()).map(OrList::List);
    if body.stream == Some(true) {
        request.streamed();
    }
    request.user = body.metadata.take().and_then(|m| m.user_id);
    let (effort, format) = body.output_config.take().map_or((None, None), |c| (c.effort, c.format));
    request.reasoning_effort = match body.thinking.take() {
        Some(thinking) if &*thinking.kind == "disabled" => Some("none".into()),
        // Anthropic's highest has another name here.
        _ => effort.map(|e| if &*e == "max" { "xhigh".into() } else { e }),
    };
    if request.reasoning_effort.is_none() {
        request.reasoning_effort = settings.default_effort.clone().map(Into::into);
    }
    request.response_format = format.or(body.output_format.take()).and_then(schema);
    Ok(())
}

fn schema(format: Format<'_>) -> Option<chat::Format<'_>> {
    let schema = format.schema.filter(|schema| schema.is_object())?;
    Some(chat::Format::schema("output".into(), schema, Some(true)))
}

fn copy_tools<'a>(
    body: &mut Body<'a>,
    request: &mut Request<'a>,
    names: &mut Names<String>,
) -> Result<(), String> {
    let mut functions = Vec::new();
    for (at, tool) in body.tools.take().into_iter().flatten().enumerate() {
        functions.extend(function(tool, names).map_err(|e| format!("tools.{at}.{e}"))?);
    }
    if functions.is_empty() {
        return Ok(());
    }
    request.tools = Some(functions);
    let Some(ToolChoice { kind, name, disable_parallel_tool_use }) = body.tool_choice.take() else {
        return Ok(());
    };
    request.tool_choice = Some(match (&*kind, name) {
        ("auto", _) => chat::ToolChoice::Mode("auto".into()),
        ("any", _) => chat::ToolChoice::Mode("required".into()),
        ("none", _) => chat::ToolChoice::Mode("none".into()),
        ("tool", Some(name)) => chat::ToolChoice::function(names.fit(name, str::to_owned)),
        ("tool", None) => return Err("tool_choice.name: a string is required".into()),
        _ => return Err("tool_choice.type: expected auto, any, tool or none".into()),
    });
    request.parallel_tool_calls = disable_parallel_tool_use.map(|disabled| !disabled);
    Ok(())
}

/// `None` for those that run on Anthropic's servers: there is nothing to run them here.
fn function<'a>(tool: Tool<'a>, names: &mut Names<String>) -> Result<Option<chat::Tool<'a>>, String> {
    let Tool { kind, name, description, input_schema, strict } = tool;
    let parameters = match input_schema {
        Some(schema) if schema.is_object() => schema,
        Some(_) => return Err("input_schema: expected an object".into()),
        None if kind.is_none_or(|kind| &*kind == "custom") => {
            return Err("input_schema: an object is required".into());
        }
        None => return Ok(None),
    };
    let name = name.filter(|name| !name.is_empty()).ok_or("name: a non-empty string is required")?;
    let name = names.fit(name, str::to_owned);
    Ok(Some(chat::Tool::new(Function { name, description, parameters: Some(parameters), strict })))
}

/// What coding agents put first; it changes with every request and would defeat every prefix cache.
const BILLING_HEADER: &str = "x-anthropic-billing-header:";

fn system_text<'a>(
    system: OrList<'a, Block<'a>>,
    field: &str,
    keep_billing_header: bool,
) -> Result<Text<'a>, String> {
    let blocks = match system {
        OrList::Text(text) => return Ok(text),
        OrList::List(blocks) => blocks,
    };
    let mut texts = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.into_iter().enumerate() {
        let text = block.text.ok_or_else(|| format!("{field}.{at}.text: a string is required"))?;
        if keep_billing_header || !text.starts_with(BILLING_HEADER) {
            texts.push(text);
        }
    }
    Ok(match texts.len() {
        1 => texts.swap_remove(0),
        _ => texts.iter().map(|text| &**text).collect::<Vec<_>>().join("\n\n").into(),
    })
}

fn push_message<'a>(
    to: &mut Vec<chat::Message<'a>>,
    message: Message<'a>,
    calls: &mut content::Calls<'a>,
    names: &mut Names<String>,
) -> Result<(), String> {
    let Message { role, content } = message;
    match (&*role, content) {
        ("user" | "assistant" | "system", OrList::Text(text)) => {
            to.push(chat::Message { role, content: Some(OrList::Text(text)), ..chat::Message::default() });
        }
        ("user", OrList::List(blocks)) => content::push_user(to, blocks, calls)?,
        ("assistant", OrList::List(blocks)) => to.push(content::assistant(blocks, calls, names)?),
        // Kept in its place: moving it to the front would change the prefix of the whole conversation.
        ("system", blocks) => to.push(chat::Message::text("system", system_text(blocks, "content", true)?)),
        (other, _) => return Err(format!("role: {other:?} is not one of user, assistant, system")),
    }
    Ok(())
}
