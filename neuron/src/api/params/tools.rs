//! The tools of a request, and whether they have to be called.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{
    api::{
        error::ApiError,
        fields::{Fields, missing, wrong_type},
    },
    tools::{Choice, Tool},
};

/// Tools of a request.
const MAX_TOOLS: usize = 1024;
/// Bytes of a tool's name.
const MAX_NAME: usize = 128;

/// What a request says of tools.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::api) struct Tools {
    pub(in crate::api) all: Vec<Tool>,
    pub(in crate::api) choice: Choice,
    /// More than one call in an answer.
    pub(in crate::api) parallel: bool,
}

impl Tools {
    pub(in crate::api) fn parse(fields: Fields<'_>) -> Result<Self, ApiError> {
        let given = fields.array("tools")?.unwrap_or_default();
        if given.len() > MAX_TOOLS {
            return Err(invalid(
                "tools",
                &format!("{} of them, where at most {MAX_TOOLS} are taken", given.len()),
            ));
        }
        let all = given.iter().enumerate().map(|(i, value)| tool(i, value)).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashSet::new();
        if let Some((i, twice)) = all.iter().enumerate().find(|(_, tool)| !names.insert(tool.name.as_str())) {
            let text = format!("there is a tool with the name {:?} already", twice.name);
            return Err(invalid(&format!("tools[{i}].function.name"), &text));
        }
        let choice = choice(fields, &all)?;
        let parallel = fields.get("parallel_tool_calls").is_none_or(|value| *value != Value::Bool(false));
        fields.flag("parallel_tool_calls")?;
        Ok(Self { all, choice, parallel })
    }

    /// Tools that the model is told of and may call.
    pub(in crate::api) fn offered(&self) -> &[Tool] {
        if self.choice == Choice::None { &[] } else { &self.all }
    }
}

fn invalid(name: &str, text: &str) -> ApiError {
    ApiError::invalid(name, "invalid_value", format!("{name}: {text}"))
}

fn tool(i: usize, value: &Value) -> Result<Tool, ApiError> {
    let at = |field: &str| format!("tools[{i}]{field}");
    let object = value.as_object().ok_or_else(|| wrong_type(&at(""), "an object", value))?;
    match object.get("type").map(Value::as_str) {
        None | Some(Some("function")) => {}
        Some(Some(other)) => {
            let text = format!("{other:?} is not supported: only \"function\" is");
            return Err(invalid(&at(".type"), &text));
        }
        Some(None) => return Err(wrong_type(&at(".type"), "a string", &object["type"])),
    }
    let function = object.get("function").ok_or_else(|| missing(&at(".function")))?;
    let function =
        Fields(function.as_object().ok_or_else(|| wrong_type(&at(".function"), "an object", function))?);
    let relative = |mut error: ApiError| {
        let path = at(".function.");
        error.body.message = format!("{path}{}", error.body.message);
        error.body.param = error.body.param.map(|param| format!("{path}{param}"));
        error
    };
    let name = function.text("name").map_err(relative)?.ok_or_else(|| missing(&at(".function.name")))?;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(invalid(&at(".function.name"), &format!("1 to {MAX_NAME} bytes are expected")));
    }
    let parameters = function.object("parameters").map_err(relative)?;
    Ok(Tool {
        name: name.to_owned(),
        parameters: parameters.map_or_else(|| json!({ "type": "object" }), |map| Value::Object(map.clone())),
        strict: function.flag("strict").map_err(relative)?,
    })
}

fn choice(fields: Fields<'_>, tools: &[Tool]) -> Result<Choice, ApiError> {
    let name = "tool_choice";
    let Some(value) = fields.get(name) else { return Ok(Choice::Auto) };
    let chosen = match value {
        Value::String(word) => match word.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "required" => Choice::Required,
            other => {
                let text = format!("{other:?} is none of \"auto\", \"none\" and \"required\", and no tool");
                return Err(invalid(name, &text));
            }
        },
        Value::Object(object) => {
            let named = object.get("function").and_then(|function| function["name"].as_str());
            let named = named.ok_or_else(|| missing("tool_choice.function.name"))?;
            if !tools.iter().any(|tool| tool.name == named) {
                return Err(invalid("tool_choice.function.name", &format!("there is no tool {named:?}")));
            }
            Choice::Named(named.to_owned())
        }
        other => return Err(wrong_type(name, "a string or an object", other)),
    };
    if chosen == Choice::Required && tools.is_empty() {
        return Err(invalid(name, "there are no tools that could be called"));
    }
    Ok(chosen)
}
