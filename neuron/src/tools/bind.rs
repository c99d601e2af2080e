//! Grammars that have a model call tools: that it calls one at all, which, and with what arguments.

use serde_json::Value;

use super::{
    Notation, Tool,
    notation::{DEEPSEEK_BEGIN, DEEPSEEK_END, DEEPSEEK_SEPARATOR},
};
use crate::grammar::{GrammarError, schema_of};

/// Whether a request wants calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// Writes one grammar.
struct Writer<'a, L> {
    notation: Notation,
    /// A mark as a terminal: its token where it is one that no text spells.
    literal: &'a L,
    rules: String,
}

/// The grammar, in Lark's notation, of an answer that calls some of `tools`: where it is `free`, an answer that may
/// call them, each as it has to be called. `many`: more than once.
pub(crate) fn bind<L: Fn(&str) -> String>(
    notation: Notation,
    tools: &[&Tool],
    many: bool,
    free: bool,
    literal: &L,
) -> Result<String, GrammarError> {
    let mut writer = Writer { notation, literal, rules: String::new() };
    let names: Vec<String> = (0..tools.len()).map(|n| format!("call_{n}")).collect();
    for (tool, name) in tools.iter().zip(&names) {
        let rule = writer.call(tool)?;
        writer.rules += &format!("{name}: {rule}\n");
    }
    writer.rules += &format!("call: {}\n", names.join(" | "));
    let start = if free { writer.free(many) } else { writer.forced(many) };
    Ok(format!("start: {start}\n{}", writer.rules))
}

impl<L: Fn(&str) -> String> Writer<'_, L> {
    fn literal(&self, mark: &str) -> String {
        (self.literal)(mark)
    }

    /// What stands before the first call, where it opens a call of the notation.
    fn mark(&self) -> Option<&'static str> {
        match self.notation {
            Notation::Hermes => Some("<tool_call>"),
            Notation::Llama => None,
            Notation::Mistral | Notation::MistralNamed => Some("[TOOL_CALLS]"),
            Notation::DeepSeek | Notation::DeepSeekPlain => Some("<｜tool▁calls▁begin｜>"),
            Notation::Gemma => Some("<start_function_call>"),
        }
    }

    /// One call, without the mark that opens the first.
    fn call(&self, tool: &Tool) -> Result<String, GrammarError> {
        // Each schema stays the root of its own grammar: what it refers to is counted from there.
        let arguments = || json_rule(&schema(tool)?, tool.strict);
        let object = |key: &str| {
            let front = format!("{{\"name\": {}, \"{key}\": ", text(&tool.name));
            Ok::<_, GrammarError>(format!("{} {} \"}}\"", text(&front), arguments()?))
        };
        let name = text(&tool.name);
        Ok(match self.notation {
            Notation::Hermes => {
                format!("\"\\n\" {} \"\\n\" {}", object("arguments")?, self.literal("</tool_call>"))
            }
            Notation::Llama => object("parameters")?,
            Notation::Mistral => object("arguments")?,
            Notation::MistralNamed => format!("{name} {} {}", self.literal("[ARGS]"), arguments()?),
            Notation::DeepSeek => format!(
                "{} \"function\" {} {name} \"\\n```json\\n\" {} \"\\n```\" {}",
                self.literal(DEEPSEEK_BEGIN),
                self.literal(DEEPSEEK_SEPARATOR),
                arguments()?,
                self.literal(DEEPSEEK_END),
            ),
            Notation::DeepSeekPlain => format!(
                "{} {name} {} {} {}",
                self.literal(DEEPSEEK_BEGIN),
                self.literal(DEEPSEEK_SEPARATOR),
                arguments()?,
                self.literal(DEEPSEEK_END),
            ),
            // Its arguments are no JSON: that they end is what can be asked for.
            Notation::Gemma => {
                let quoted = format!("{0} /[^<]*/ {0}", self.literal("<escape>"));
                let end = self.literal("<end_function_call>");
                format!("\"call:\" {name} \"{{\" (/[^<{{}}]+/ | {quoted})* \"}}\" {end}")
            }
        })
    }

    /// All calls of an answer, the mark of the first included.
    fn calls(&self, many: bool) -> String {
        let (more, mark) = (if many { "*" } else { "?" }, self.mark().map(|mark| self.literal(mark)));
        let mark = mark.unwrap_or_default();
        let again = |between: &str| if many { format!("({between} call){more}") } else { String::new() };
        match self.notation {
            Notation::Hermes => format!("call {}", again(&format!("\"\\n\" {mark}"))),
            Notation::Llama => "call".to_owned(),
            Notation::Mistral => format!("\"[\" call {} \"]\"", again("\",\" \" \"?")),
            Notation::MistralNamed | Notation::Gemma => format!("call {}", again(&mark)),
            Notation::DeepSeek | Notation::DeepSeekPlain => {
                format!("call {} {}", again("\"\\n\"?"), self.literal("<｜tool▁calls▁end｜>"))
            }
        }
    }

    fn forced(&mut self, many: bool) -> String {
        let mark = self.mark().map(|mark| self.literal(mark)).unwrap_or_default();
        format!("{mark} {}", self.calls(many))
    }

    /// Any text, with calls in it that are as they have to be.
    fn free(&mut self, many: bool) -> String {
        let calls = self.calls(many);
        let Some(mark) = self.mark() else {
            self.rules += "TEXT: /[^{\\s](?s:.*)/\n";
            return format!("{calls} | TEXT");
        };
        let literal = self.literal(mark);
        if literal.starts_with('<') {
            self.rules += "TEXT: /(?s:.*)/\n";
            return format!("TEXT ({literal} {calls})?");
        }
        let escaped = escape(mark);
        self.rules += &format!("before[lazy]: /(?s:.*){escaped}/\n");
        self.rules += &format!("TEXT: /(?s:.*)/ & ~/(?s:.*){escaped}(?s:.*)/\n");
        format!("TEXT | before {calls}")
    }
}

/// What is between the slashes of a regular expression.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        // Of punctuation, some has another meaning with a stroke before it.
        match c {
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => out += &format!("\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

/// A text as a terminal.
pub(crate) fn text(text: &str) -> String {
    Value::from(text).to_string()
}

fn schema(tool: &Tool) -> Result<Value, GrammarError> {
    let named = |e: GrammarError| GrammarError(format!("{}: {e}", tool.name));
    let mut schema = schema_of(&tool.parameters.to_string(), tool.strict).map_err(named)?;
    if let Value::Object(map) = &mut schema {
        map.remove("x-guidance");
        // Arguments are an object, whether the schema says so or not; and no others are meant than are named.
        map.entry("type").or_insert_with(|| "object".into());
        let names_more = ["patternProperties", "allOf", "anyOf", "oneOf", "$ref"];
        if !names_more.iter().any(|key| map.contains_key(*key)) {
            map.entry("additionalProperties").or_insert(Value::Bool(false));
        }
    }
    Ok(schema)
}

fn json_rule(schema: &Value, strict: bool) -> Result<String, GrammarError> {
    Ok(format!("%json {}", schema_of(&schema.to_string(), strict)?))
}
