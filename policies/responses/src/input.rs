//! Items of the input as messages.

use crate::body::{Item, Part};
use crate::item::PLAIN;
use crate::tools::{Tools, text_arguments};
use policy_chat::request::{self as chat, Call, Message, simplest};
use policy_chat::text::{Json, OrList};
use policy_chat::{Text, part};
use std::collections::BTreeSet;

/// The conversation as far as it is told.
#[derive(Default)]
pub(crate) struct Conversation<'a> {
    pub(crate) messages: Vec<Message<'a>>,
    /// Of the assistant's next message.
    thoughts: Vec<Text<'a>>,
    /// Of tools' outputs, which hold only text: they follow as the user's.
    images: Vec<chat::Part<'a>>,
    calls: BTreeSet<Text<'a>>,
}

impl<'a> Conversation<'a> {
    /// Errors name the field within the item. Kinds of items that are another server's affair are left out.
    pub(crate) fn push(&mut self, item: Item<'a>, tools: &mut Tools<'a>) -> Result<(), String> {
        let kind = item.kind.clone().unwrap_or_else(|| "message".into());
        if !kind.ends_with("_output") {
            self.show_images();
        }
        match &*kind {
            "message" => self.message(item),
            "reasoning" => {
                self.thoughts.extend(thoughts(item));
                Ok(())
            }
            "function_call" => {
                let arguments = item.arguments.clone().ok_or("arguments: a string is required")?;
                self.call(item, arguments, tools)
            }
            "custom_tool_call" => {
                let input = item.input.clone().ok_or("input: a string is required")?;
                self.call(item, text_arguments(&input).into(), tools)
            }
            "function_call_output" | "custom_tool_call_output" => self.output(item),
            "additional_tools" => match item.tools.as_ref().and_then(Json::borrowed) {
                Some(given) => tools.add(part("tools", given)?, "tools"),
                None => Ok(()),
            },
            "item_reference" => {
                Err("type: nothing is stored here that an item_reference could name; send the item".into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn finish(mut self) -> Vec<Message<'a>> {
        self.show_images();
        self.messages
    }

    fn show_images(&mut self) {
        if !self.images.is_empty() {
            let images = OrList::List(std::mem::take(&mut self.images));
            self.messages.push(Message::new("user", images));
        }
    }

    fn message(&mut self, item: Item<'a>) -> Result<(), String> {
        let role = item.role.ok_or("role: a string is required")?;
        let content = item.content.ok_or("content: a string or a list of parts is required")?;
        match &*role {
            "assistant" => {
                let text = joined(content)?;
                let thoughts = self.take_thoughts();
                match self.messages.last_mut() {
                    // Its calls came first, and their results have to stand right behind them.
                    Some(last) if &*last.role == "assistant" && last.tool_calls.is_some() => {
                        last.content = Some(OrList::Text(match last.content.take() {
                            Some(OrList::Text(before)) => [&*before, "\n\n", &*text].concat().into(),
                            _ => text,
                        }));
                        last.reasoning_content = last.reasoning_content.take().or(thoughts);
                    }
                    _ => {
                        let message = Message::new("assistant", OrList::Text(text));
                        self.messages.push(Message { reasoning_content: thoughts, ..message });
                    }
                }
            }
            "user" => self.messages.push(Message::new("user", parts(content)?)),
            // What a developer says is the system's to templates, and keeps its place.
            "system" | "developer" => self.messages.push(Message::text("system", joined(content)?)),
            other => return Err(format!("role: {other:?} is not one of user, assistant, system, developer")),
        }
        Ok(())
    }

    /// In the assistant's message that stands before it, where there is one.
    fn call(&mut self, item: Item<'a>, arguments: Text<'a>, tools: &Tools<'a>) -> Result<(), String> {
        let id = item.call_id.filter(|id| !id.is_empty()).ok_or("call_id: a non-empty string is required")?;
        let name = item.name.filter(|name| !name.is_empty()).ok_or("name: a non-empty string is required")?;
        let name = tools.called(item.namespace.as_deref(), &name);
        self.calls.insert(id.clone());
        let call = Call::new(id, name.into(), arguments);
        let thoughts = self.take_thoughts();
        match self.messages.last_mut() {
            Some(last) if &*last.role == "assistant" && thoughts.is_none() => {
                last.tool_calls.get_or_insert_default().push(call);
            }
            _ => self.messages.push(Message {
                role: "assistant".into(),
                reasoning_content: thoughts,
                tool_calls: Some(vec![call]),
                ..Message::default()
            }),
        }
        Ok(())
    }

    fn output(&mut self, item: Item<'a>) -> Result<(), String> {
        let id = item.call_id.ok_or("call_id: a string is required")?;
        if !self.calls.contains(&id) {
            return Err(format!("call_id: no call before it has the id {:?}", &*id));
        }
        let output = item.output.as_ref().and_then(Json::borrowed);
        let output = output.ok_or("output: a string or a list of parts is required")?;
        let text = match part::<OrList<'_, Part<'_>>>("output", output)? {
            OrList::Text(text) => text,
            OrList::List(list) => {
                let all =
                    list.into_iter().enumerate().map(|(at, part)| native(part, &format!("output.{at}")));
                let (texts, images): (Vec<_>, Vec<_>) =
                    all.collect::<Result<Vec<_>, _>>()?.into_iter().partition(|part| part.text.is_some());
                self.images.extend(images);
                match simplest(texts) {
                    OrList::Text(text) => text,
                    OrList::List(_) => Text::default(),
                }
            }
        };
        self.messages.push(Message::tool(id, text));
        Ok(())
    }

    fn take_thoughts(&mut self) -> Option<Text<'a>> {
        let mut all = std::mem::take(&mut self.thoughts);
        match all.len() {
            0 | 1 => all.pop(),
            _ => Some(all.iter().map(|text| &**text).collect::<Vec<_>>().join("\n").into()),
        }
    }
}

/// What the model thought, as it was: from the content, or from what this gateway put in the field that clients keep.
/// A summary is what is left of others' thoughts.
fn thoughts<'a>(item: Item<'a>) -> Option<Text<'a>> {
    let all = |parts: Vec<Part<'a>>| {
        let texts: Vec<Text<'a>> = parts.into_iter().filter_map(|part| part.text).collect();
        let joined = texts.iter().map(|text| &**text).collect::<Vec<_>>().join("\n");
        Some(Text::from(joined)).filter(|text| !text.is_empty())
    };
    let content = match item.content {
        Some(OrList::Text(text)) => Some(text),
        Some(OrList::List(parts)) => all(parts),
        None => None,
    };
    let kept = || Some(item.encrypted_content.as_ref()?.strip_prefix(PLAIN)?.to_owned().into());
    content.or_else(kept).or_else(|| all(item.summary.unwrap_or_default()))
}

fn parts<'a>(content: OrList<'a, Part<'a>>) -> Result<OrList<'a, chat::Part<'a>>, String> {
    match content {
        OrList::Text(text) => Ok(OrList::Text(text)),
        OrList::List(list) => {
            let parts = list.into_iter().enumerate().map(|(at, part)| native(part, &format!("content.{at}")));
            Ok(simplest(parts.collect::<Result<_, _>>()?))
        }
    }
}

/// The text of a message that can hold nothing else.
fn joined<'a>(content: OrList<'a, Part<'a>>) -> Result<Text<'a>, String> {
    match parts(content)? {
        OrList::Text(text) => Ok(text),
        OrList::List(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.text.as_deref()).collect();
            Ok(texts.join("\n\n").into())
        }
    }
}

fn native<'a>(part: Part<'a>, field: &str) -> Result<chat::Part<'a>, String> {
    match &*part.kind {
        "input_text" | "output_text" | "text" => {
            let text = part.text.ok_or_else(|| format!("{field}.text: a string is required"))?;
            Ok(chat::Part::text(text))
        }
        "refusal" => Ok(chat::Part::text(part.refusal.unwrap_or_default())),
        "input_image" => match part.image_url {
            Some(url) => Ok(chat::Part::image(url)),
            None => Err(format!("{field}.image_url: a URL is required; uploaded files are not kept here")),
        },
        "input_file" => Err(format!("{field}: files cannot be read here; send their text")),
        other => Err(format!(
            "{field}.type: {other:?} is not one of input_text, input_image, output_text, refusal"
        )),
    }
}
