//! Content blocks of the two sides as messages and their parts.

use crate::body::{Block, Inner, Source};
use policy_chat::names::Names;
use policy_chat::request::{Call, Message, Part, simplest};
use policy_chat::text::OrList;
use policy_chat::{Text, id};
use std::collections::BTreeSet;

/// Ids of the calls so far: a result must have one.
pub(crate) type Calls<'a> = BTreeSet<Text<'a>>;

/// Tool results come first, as messages of their own: a chat template wants them right behind the calls.
pub(crate) fn push_user<'a>(
    to: &mut Vec<Message<'a>>,
    blocks: Vec<Block<'a>>,
    calls: &Calls<'a>,
) -> Result<(), String> {
    let mut parts = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.into_iter().enumerate() {
        let named = |e: String| format!("content.{at}.{e}");
        if &*block.kind == "tool_result" {
            let (message, images) = tool_result(block, calls).map_err(named)?;
            to.push(message);
            parts.extend(images);
        } else {
            parts.extend(user_parts(block).map_err(named)?);
        }
    }
    if !parts.is_empty() {
        to.push(Message::new("user", simplest(parts)));
    }
    Ok(())
}

/// One part, or several of a document that holds images.
fn user_parts<'a>(block: Block<'a>) -> Result<Vec<Part<'a>>, String> {
    Ok(match &*block.kind {
        "text" => vec![Part::text(block.text.ok_or("text: a string is required")?)],
        "image" => vec![image(&block)?],
        "document" => document(&block)?,
        _ => vec![Part::text(described(block))],
    })
}

fn source<'s>(block: &'s Block<'_>) -> Result<Source<'s>, String> {
    let raw = block.source.as_ref().ok_or("source: an object is required")?;
    policy_chat::part("source", raw.get())
}

fn image<'a>(block: &Block<'a>) -> Result<Part<'a>, String> {
    let Source { kind, media_type, data, url, .. } = source(block)?;
    match &*kind {
        "base64" => {
            let media_type = media_type.ok_or("source.media_type: a string is required")?;
            if !media_type.starts_with("image/") {
                return Err(format!(
                    "source.media_type: {media_type:?} is no image",
                    media_type = &*media_type
                ));
            }
            let data = data.ok_or("source.data: a string is required")?;
            if !is_base64(&data) {
                return Err("source.data: expected base64".into());
            }
            Ok(Part::image(["data:", &media_type, ";base64,", &data].concat()))
        }
        "url" => Ok(Part::image(url.ok_or("source.url: a string is required")?.into_owned())),
        _ => Err("source.type: expected base64 or url; uploaded files are not kept here".into()),
    }
}

/// RFC 4648, with or without padding.
fn is_base64(data: &str) -> bool {
    let digits = data.trim_end_matches('=');
    let padding = data.len() - digits.len();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    !digits.is_empty() && digits.bytes().all(fits) && digits.len() % 4 != 1 && padding <= 2
}

fn document<'a>(block: &Block<'a>) -> Result<Vec<Part<'a>>, String> {
    let Source { kind, data, content, .. } = source(block)?;
    let parts = match (&*kind, content) {
        ("text", _) => vec![Part::text(data.ok_or("source.data: a string is required")?.into_owned())],
        ("content", Some(OrList::Text(text))) => vec![Part::text(text.into_owned())],
        ("content", Some(OrList::List(blocks))) => {
            let mut parts = Vec::new();
            for inner in blocks {
                parts.extend(user_parts(inner)?.into_iter().map(owned));
            }
            parts
        }
        _ => return Err("source: only text documents can be read here, not PDF; send its text".into()),
    };
    let title = block.title.clone().filter(|title| !title.is_empty()).map(Part::text);
    Ok(title.into_iter().chain(parts).collect())
}

fn owned<'b>(part: Part<'_>) -> Part<'b> {
    match (part.text, part.image_url) {
        (Some(text), _) => Part::text(text.into_owned()),
        (None, image) => Part::image(image.map(|i| i.url.into_owned()).unwrap_or_default()),
    }
}

/// A block of a kind that has no counterpart: what there is to read of it.
fn described(block: Block<'_>) -> String {
    let Block { kind, text, title, tool_name, source, content, .. } = block;
    let mut words = vec![format!("[{}]", &*kind)];
    words.extend([title, tool_name, text].into_iter().flatten().map(Text::into_owned));
    let source: Option<String> = source.and_then(|source| serde_json::from_str(source.get()).ok());
    words.extend(source);
    match content {
        Some(Inner::Text(text)) => words.push(text.into_owned()),
        Some(Inner::Blocks(blocks)) => {
            words.extend(blocks.into_iter().filter_map(|b| b.text).map(Text::into_owned))
        }
        Some(Inner::Object) | None => {}
    }
    words.join("\n")
}

/// The tool's message, and the images that it cannot hold.
fn tool_result<'a>(block: Block<'a>, calls: &Calls<'a>) -> Result<(Message<'a>, Vec<Part<'a>>), String> {
    let id = block.tool_use_id.ok_or("tool_use_id: a string is required")?;
    if !calls.contains(&id) {
        return Err(format!("tool_use_id: no tool_use before it has the id {:?}", &*id));
    }
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    match block.content {
        None | Some(Inner::Object) => {}
        Some(Inner::Text(text)) => texts.push(text),
        Some(Inner::Blocks(blocks)) => {
            for (at, inner) in blocks.into_iter().enumerate() {
                for part in user_parts(inner).map_err(|e| format!("content.{at}.{e}"))? {
                    match part {
                        Part { text: Some(text), .. } => texts.push(text),
                        image => images.push(image),
                    }
                }
            }
        }
    }
    let text = match texts.len() {
        1 => texts.swap_remove(0),
        _ => texts.iter().map(|text| &**text).collect::<Vec<_>>().join("\n\n").into(),
    };
    let text = if block.is_error == Some(true) { format!("Error: {}", &*text).into() } else { text };
    Ok((Message::tool(native_id(id), text), images))
}

/// The server's own id, where the client was given another one for it.
fn native_id(id: Text<'_>) -> Text<'_> {
    id::unescape(&id).map_or(id, Into::into)
}

/// One message of text, thoughts and calls. Redacted thoughts and what ran on Anthropic's servers are nothing that
/// another model could read.
pub(crate) fn assistant<'a>(
    blocks: Vec<Block<'a>>,
    calls: &mut Calls<'a>,
    names: &mut Names<String>,
) -> Result<Message<'a>, String> {
    let (mut texts, mut thoughts, mut called) = (Vec::new(), Vec::new(), Vec::new());
    for (at, block) in blocks.into_iter().enumerate() {
        let required = |field: &str, what: &str| format!("content.{at}.{field}: {what} is required");
        match &*block.kind {
            "text" => texts.push(block.text.ok_or_else(|| required("text", "a string"))?),
            "thinking" => thoughts.extend(block.thinking),
            "tool_use" => {
                let id = block.id.ok_or_else(|| required("id", "a string"))?;
                let name = block.name.ok_or_else(|| required("name", "a string"))?;
                let input = block.input.filter(policy_chat::text::Json::is_object);
                let input = input.ok_or_else(|| required("input", "an object"))?;
                calls.insert(id.clone());
                called.push(Call::new(native_id(id), names.fit(name, str::to_owned), input.get().to_owned()));
            }
            _ => {}
        }
    }
    let joined = |mut all: Vec<Text<'a>>| match all.len() {
        0 | 1 => all.pop(),
        _ => Some(all.iter().map(|text| &**text).collect::<String>().into()),
    };
    let text = joined(texts).or(called.is_empty().then(Text::default));
    Ok(Message {
        role: "assistant".into(),
        content: text.filter(|text| !text.is_empty() || called.is_empty()).map(OrList::Text),
        reasoning_content: joined(thoughts).filter(|thoughts| !thoughts.is_empty()),
        tool_calls: Some(called),
        tool_call_id: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        let check = |data, want| assert_eq!(is_base64(data), want, "{data:?}");
        check("AA==", true);
        check("AAA", true);
        check("a+/9", true);
        check("", false);
        check("A", false);
        check("A A=", false);
        check("data:image/png;base64,AA==", false);
        check("AA===", false);
    }
}
