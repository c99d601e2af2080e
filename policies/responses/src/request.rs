//! Requests to create a response as chat completion requests.

use crate::body::{Body, Format, Item, Reasoning, TextConfig};
use crate::echo::Echo;
use crate::input::Conversation;
use crate::settings::Settings;
use crate::tools::{Stands, Tools};
use policy_chat::names::Names;
use policy_chat::request::{Format as NativeFormat, Message, Request};
use policy_chat::text::{Json, OrList};
use policy_chat::{Text, parse, part};

/// What the answer's translation has to know of the request.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) echo: Echo,
    pub(crate) names: Names<Stands>,
    /// The client keeps its thoughts in `encrypted_content`.
    pub(crate) keeps_thoughts: bool,
}

/// Errors name the field and what was expected there. `counting`: only what is part of the prompt.
pub(crate) fn to_chat(bytes: &[u8], counting: bool, settings: &Settings) -> Result<(Vec<u8>, Asked), String> {
    let mut body: Body<'_> = parse(bytes)?;
    if body.model.is_empty() {
        return Err("model: a non-empty string is required".into());
    }
    nothing_stored(&body)?;
    let echo = Echo::of(&body);
    let mut request = Request { model: body.model.clone(), ..Request::default() };
    let mut tools = Tools::default();
    if let Some(given) = given(&body.tools) {
        tools.add(part("tools", given)?, "tools")?;
    }
    let mut conversation = Conversation::default();
    if let Some(text) = body.instructions.take().filter(|text| !text.is_empty()) {
        conversation.messages.push(Message::text("system", text));
    }
    push_input(std::mem::replace(&mut body.input, OrList::List(Vec::new())), &mut conversation, &mut tools)?;
    request.messages = conversation.finish();
    if let Some(choice) = body.tool_choice.as_ref().filter(|choice| choice.get() != "null") {
        request.tool_choice = tools.choose(choice)?;
    }
    request.tools = Some(std::mem::take(&mut tools.functions));
    if request.tools.as_ref().is_none_or(Vec::is_empty) {
        request.tool_choice = None;
    } else {
        request.parallel_tool_calls = body.parallel_tool_calls;
    }
    if !counting {
        copy_parameters(&body, &mut request, settings)?;
    }
    let include = body.include.as_deref().unwrap_or_default();
    let keeps_thoughts = include.iter().any(|what| &**what == "reasoning.encrypted_content");
    Ok((request.json(bytes.len()), Asked { echo, names: tools.names, keeps_thoughts }))
}

fn push_input<'a>(
    input: OrList<'a, Item<'a>>,
    to: &mut Conversation<'a>,
    tools: &mut Tools<'a>,
) -> Result<(), String> {
    match input {
        OrList::Text(text) => to.messages.push(Message::text("user", text)),
        OrList::List(items) if items.is_empty() => return Err("input: at least one item is required".into()),
        OrList::List(items) => {
            for (at, item) in items.into_iter().enumerate() {
                to.push(item, tools).map_err(|e| format!("input.{at}.{e}"))?;
            }
        }
    }
    Ok(())
}

/// A field that is there and not null.
fn given<'b>(field: &'b Option<Json<'_>>) -> Option<&'b str> {
    field.as_ref().map(Json::get).filter(|raw| *raw != "null")
}

fn nothing_stored(body: &Body<'_>) -> Result<(), String> {
    for (name, field, instead) in [
        ("previous_response_id", &body.previous_response_id, "send the whole conversation as input"),
        ("conversation", &body.conversation, "send the whole conversation as input"),
        ("prompt", &body.prompt, "send the prompt's text as instructions"),
    ] {
        if given(field).is_some() {
            return Err(format!("{name}: this gateway stores nothing; {instead}"));
        }
    }
    match body.background {
        Some(true) => {
            Err("background: this gateway stores nothing, so nobody could fetch the answer; stream it".into())
        }
        _ => Ok(()),
    }
}

fn copy_parameters<'a>(
    body: &'a Body<'_>,
    request: &mut Request<'a>,
    settings: &Settings,
) -> Result<(), String> {
    if body.max_output_tokens == Some(0) {
        return Err("max_output_tokens: a positive integer is expected".into());
    }
    request.max_tokens = body.max_output_tokens;
    request.temperature.clone_from(&body.temperature);
    request.top_p.clone_from(&body.top_p);
    if body.stream == Some(true) {
        request.streamed();
    }
    // Whatever stays the same over a conversation's turns best.
    let user = body.prompt_cache_key.as_ref().or(body.user.as_ref()).or(body.safety_identifier.as_ref());
    request.user = user.map(|user| Text::from(&**user));
    if let Some(raw) = given(&body.reasoning) {
        request.reasoning_effort = part::<Reasoning<'_>>("reasoning", raw)?.effort;
    }
    if request.reasoning_effort.is_none() {
        request.reasoning_effort = settings.default_effort.clone().map(Into::into);
    }
    if let Some(raw) = given(&body.text) {
        request.response_format =
            part::<TextConfig<'_>>("text", raw)?.format.map(format).transpose()?.flatten();
    }
    Ok(())
}

fn format(format: Format<'_>) -> Result<Option<NativeFormat<'_>>, String> {
    let Format { kind, name, schema, strict } = format;
    match &*kind {
        "text" => Ok(None),
        "json_object" => Ok(Some(NativeFormat { kind, json_schema: None })),
        "json_schema" => {
            let schema = schema.filter(Json::is_object).ok_or("text.format.schema: an object is required")?;
            Ok(Some(NativeFormat::schema(name.unwrap_or_else(|| "output".into()), schema, strict)))
        }
        other => Err(format!("text.format.type: {other:?} is not one of text, json_object, json_schema")),
    }
}
