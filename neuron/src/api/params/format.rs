//! The form that an answer has to have: OpenAI's `response_format`, and `structured_outputs` as vLLM has it.

use serde_json::{Map, Value};

use crate::{
    api::{
        error::ApiError,
        fields::{Fields, missing, wrong_type},
    },
    grammar::Form,
};

const FORMAT: &str = "response_format";
const STRUCTURED: &str = "structured_outputs";
const FORMATS: &str = "\"text\", \"json_object\" or \"json_schema\"";
const FORMS: &str = "one of json, json_object, regex, choice and grammar";
/// Texts of a choice.
const MAX_CHOICES: usize = 1000;

/// The form, and the field that says it.
pub(super) fn form(fields: Fields<'_>) -> Result<Option<(&'static str, Form)>, ApiError> {
    let format = match fields.object(FORMAT)? {
        Some(format) => response_format(format)?,
        None => None,
    };
    let structured = match fields.object(STRUCTURED)? {
        Some(outputs) => Some(structured_outputs(outputs)?),
        None => None,
    };
    match (format, structured) {
        (Some(_), Some(_)) => {
            Err(invalid(STRUCTURED, "response_format says already what the answer has to be"))
        }
        (Some(form), None) => Ok(Some((FORMAT, form))),
        (None, form) => Ok(form.map(|form| (STRUCTURED, form))),
    }
}

fn invalid(name: &str, text: &str) -> ApiError {
    ApiError::invalid(name, "invalid_value", format!("{name}: {text}"))
}

fn response_format(format: &Map<String, Value>) -> Result<Option<Form>, ApiError> {
    let within = |name: &str| format!("{FORMAT}.{name}");
    let kind = format.get("type").ok_or_else(|| missing(&within("type")))?;
    match kind.as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Form::object())),
        Some("json_schema") => {
            let about = format.get("json_schema").filter(|v| !v.is_null());
            let about = about.ok_or_else(|| missing(&within("json_schema")))?;
            let about =
                about.as_object().ok_or_else(|| wrong_type(&within("json_schema"), "an object", about))?;
            match about.get("schema").filter(|v| !v.is_null()) {
                Some(schema) => schema_form(&within("json_schema.schema"), schema).map(Some),
                // Without one, all that is asked for is JSON.
                None => Ok(Some(Form::object())),
            }
        }
        Some(other) => Err(invalid(&within("type"), &format!("{other:?} is none of {FORMATS}"))),
        None => Err(wrong_type(&within("type"), FORMATS, kind)),
    }
}

/// Whatever a client says of strictness: what is asked for is enforced, or refused.
fn schema_form(name: &str, schema: &Value) -> Result<Form, ApiError> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(wrong_type(name, "an object", schema));
    }
    Ok(Form::Schema { schema: schema.to_string(), strict: true })
}

fn structured_outputs(outputs: &Map<String, Value>) -> Result<Form, ApiError> {
    let mut given = outputs.iter().filter(|(_, value)| !value.is_null());
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        return Err(invalid(STRUCTURED, &format!("{FORMS} is expected")));
    };
    let within = format!("{STRUCTURED}.{name}");
    let text = || value.as_str().ok_or_else(|| wrong_type(&within, "a string", value));
    match name.as_str() {
        "json" => match value {
            // A schema may be sent as its text.
            Value::String(schema) => Ok(Form::Schema { schema: schema.clone(), strict: true }),
            schema => schema_form(&within, schema),
        },
        "json_object" if *value == Value::Bool(true) => Ok(Form::object()),
        "json_object" => Err(wrong_type(&within, "true", value)),
        "regex" => Ok(Form::Regex(text()?.to_owned())),
        "grammar" => Ok(Form::Lark(text()?.to_owned())),
        "choice" => {
            let choices =
                value.as_array().ok_or_else(|| wrong_type(&within, "an array of strings", value))?;
            if choices.is_empty() || choices.len() > MAX_CHOICES {
                return Err(invalid(&within, &format!("1 to {MAX_CHOICES} strings are expected")));
            }
            let texts = choices.iter().map(|choice| match choice {
                Value::String(text) if !text.is_empty() => Ok(choice.to_string()),
                Value::String(_) => Err(invalid(&within, "an empty string is no answer")),
                other => Err(wrong_type(&within, "an array of strings", other)),
            });
            let texts = texts.collect::<Result<Vec<_>, _>>()?;
            Ok(Form::Lark(format!("start: {}", texts.join(" | "))))
        }
        _ => Err(invalid(&within, &format!("there is no such form; {FORMS} is expected"))),
    }
}
