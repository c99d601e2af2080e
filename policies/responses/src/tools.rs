//! Tools of all kinds as functions, and the names under which the model knows them.

use crate::body::{Grammar, Tool};
use policy_chat::names::{Names, shortened};
use policy_chat::request::{self as chat, Function};
use policy_chat::text::Json;
use policy_chat::{Text, part};
use serde_json::json;
use std::collections::BTreeSet;

/// What stands behind a function's name that the model does not see as the client gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stands {
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// Its input is text, not an object.
    pub(crate) custom: bool,
}

/// The client's tools as functions.
#[derive(Debug, Default)]
pub(crate) struct Tools<'a> {
    pub(crate) functions: Vec<chat::Tool<'a>>,
    pub(crate) names: Names<Stands>,
    taken: BTreeSet<String>,
}

impl<'a> Tools<'a> {
    /// `field`: where they are in the body. Tools that run on OpenAI's servers are left out: there is nothing to run
    /// them here.
    pub(crate) fn add(&mut self, tools: Vec<Tool<'a>>, field: &str) -> Result<(), String> {
        for (at, tool) in tools.into_iter().enumerate() {
            let field = format!("{field}.{at}");
            match &*tool.kind {
                "namespace" => {
                    let name = tool.name.ok_or_else(|| required(&field))?;
                    for (at, inner) in tool.tools.into_iter().flatten().enumerate() {
                        self.one(inner, Some(&name), &format!("{field}.tools.{at}"))?;
                    }
                }
                _ => self.one(tool, None, &field)?,
            }
        }
        Ok(())
    }

    fn one(&mut self, tool: Tool<'a>, namespace: Option<&str>, field: &str) -> Result<(), String> {
        let custom = match &*tool.kind {
            "function" => false,
            "custom" => true,
            _ => return Ok(()),
        };
        let name = tool.name.filter(|name| !name.is_empty()).ok_or_else(|| required(field))?;
        if tool.parameters.as_ref().is_some_and(|p| !p.is_object() && p.get() != "null") {
            return Err(format!("{field}.parameters: expected an object"));
        }
        let native = native_name(namespace, &name);
        if !self.taken.insert(native.clone()) {
            return Err(format!("{field}.name: two tools are called {:?}", &*name));
        }
        if custom || native != *name {
            let stands = Stands { namespace: namespace.map(str::to_owned), name: name.to_string(), custom };
            self.names.stands_for(native.clone(), stands);
        }
        let parameters = match custom {
            true => Some(text_input(tool.format.as_ref())),
            false => tool.parameters.filter(Json::is_object),
        };
        let Tool { description, strict, .. } = tool;
        let strict = strict.filter(|_| !custom);
        self.functions.push(chat::Tool::new(Function {
            name: native.into(),
            description,
            parameters,
            strict,
        }));
        Ok(())
    }

    /// `tool_choice`; it may leave only some of the tools.
    pub(crate) fn choose(&mut self, choice: &Json<'a>) -> Result<Option<chat::ToolChoice<'a>>, String> {
        if let Ok(mode) = serde_json::from_str::<String>(choice.get()) {
            return match mode.as_str() {
                "auto" | "none" | "required" => Ok(Some(chat::ToolChoice::Mode(mode.into()))),
                _ => Err("tool_choice: expected auto, none, required or an object".into()),
            };
        }
        let choice: Tool<'_> = part("tool_choice", choice.get())?;
        match &*choice.kind {
            "function" | "custom" => {
                let name = choice.name.ok_or_else(|| required("tool_choice"))?;
                Ok(Some(chat::ToolChoice::function(self.called(None, &name).into())))
            }
            "allowed_tools" => {
                let allowed: BTreeSet<String> = choice
                    .tools
                    .into_iter()
                    .flatten()
                    .filter_map(|tool| Some(self.called(None, &tool.name?)))
                    .collect();
                self.functions.retain(|tool| allowed.contains(&*tool.function.name));
                Ok(choice.mode.map(|mode| chat::ToolChoice::Mode(mode.into_owned().into())))
            }
            // One of OpenAI's own, which is not here.
            _ => Ok(None),
        }
    }

    /// The name that the model knows a tool by.
    pub(crate) fn called(&self, namespace: Option<&str>, name: &str) -> String {
        native_name(namespace, name)
    }
}

fn required(field: &str) -> String {
    format!("{field}.name: a non-empty string is required")
}

/// Namespaces are a part of the name.
fn native_name(namespace: Option<&str>, name: &str) -> String {
    let whole = match namespace.filter(|namespace| !namespace.is_empty()) {
        None => name.to_owned(),
        Some(namespace) if namespace.ends_with('_') => [namespace, name].concat(),
        Some(namespace) => [namespace, "__", name].concat(),
    };
    shortened(&whole)
}

/// Text as the one property of an object. A grammar cannot be enforced here; the model is told of it.
fn text_input<'a>(grammar: Option<&Grammar<'_>>) -> Json<'a> {
    let mut input = json!({"type": "string"});
    if let Some(definition) = grammar.and_then(|g| g.definition.as_ref()) {
        let syntax = grammar.and_then(|g| g.syntax.as_deref()).unwrap_or("lark");
        input["description"] = format!("Text in this {syntax} grammar:\n{}", &**definition).into();
    }
    Json::of(&json!({"type": "object", "properties": {"input": input}, "required": ["input"],
        "additionalProperties": false}))
}

/// The arguments of a call whose input is text.
pub(crate) fn text_arguments(input: &Text<'_>) -> String {
    json!({"input": &**input}).to_string()
}
