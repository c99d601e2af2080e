//! Chat templates: a model's own Jinja, run as the Python library runs it.

mod folder;
mod json;
mod methods;
mod python;
mod source;
mod time;

use minijinja::{Environment, UndefinedBehavior, Value, context, syntax::SyntaxConfig, value::Serde};
use serde_json::{Map, Value as Json};

use python::Arguments;

use crate::{
    gguf::{GgufError, Header},
    reasoning::Marks,
    tokenizer::{Guard, Marked, Tokenizer},
    tools::{self, Notation},
};

/// Steps of one rendering; past it the template is taken for one that loops.
const FUEL: u64 = 50_000_000;

/// Bytes of the engine's filters, tests and functions.
const BESIDE: usize = 64 << 10;

/// A model's chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    bos: String,
    eos: String,
    guard: Guard,
    /// How calls of tools are written.
    pub(crate) notation: Notation,
    /// Where thoughts begin and end.
    pub(crate) thoughts: Option<Marks>,
    /// It has a place for tools of its own.
    pub(crate) takes_tools: bool,
}

/// The names of the two templates that a model may have.
const CHAT: &str = "chat";
const TOOL_USE: &str = "tool_use";

/// Why there is no prompt: the template's own words where it raised, else what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

/// What a prompt is made of.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// OpenAI's messages, each an object.
    pub messages: Vec<Map<String, Json>>,
    /// OpenAI's tools; empty: none.
    pub tools: Vec<Json>,
    /// Further variables of the template.
    pub arguments: Map<String, Json>,
}

impl Conversation {
    /// Whether there are tools, calls or results in it.
    fn has_tools(&self) -> bool {
        let is_about = |m: &Map<String, Json>| {
            m.contains_key("tool_calls") || m.get("role").is_some_and(|r| r == "tool")
        };
        !self.tools.is_empty() || self.messages.iter().any(is_about)
    }
}

impl ChatTemplate {
    /// The header's templates: its default, and the one for conversations with tools where it has one.
    /// `None`: it has no template.
    pub fn from_header(header: &Header, tokenizer: &Tokenizer) -> Result<Option<Self>, GgufError> {
        let Some(source) = header.optional_text("tokenizer.chat_template")? else { return Ok(None) };
        let tool_use = header.optional_text("tokenizer.chat_template.tool_use")?;
        let (bos, eos) = (tokenizer.bos_text(), tokenizer.eos_text());
        let template = Self::new(source, tool_use, bos, eos, tokenizer.guard());
        template
            .map(Some)
            .map_err(|e| GgufError::Inconsistent(format!("its chat template does not parse: {e}")))
    }

    /// `bos` and `eos`: the spellings of the start and end tokens, which templates ask for.
    pub fn new(
        source: &str,
        tool_use: Option<&str>,
        bos: &str,
        eos: &str,
        guard: Guard,
    ) -> Result<Self, TemplateError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| TemplateError(e.to_string()))?);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(methods::unknown);
        env.add_function("raise_exception", python::raise_exception);
        env.add_function("strftime_now", time::strftime_now);
        env.add_filter("tojson", json::tojson);
        env.add_filter("length", python::length);
        env.add_filter("count", python::length);
        env.add_test("iterable", python::is_iterable);
        env.add_test("sequence", python::is_sequence);
        for (name, source) in [(CHAT, Some(source)), (TOOL_USE, tool_use)] {
            let Some(source) = source else { continue };
            env.add_template_owned(name, source::adapt(source)).map_err(|e| TemplateError(explain(&e)))?;
        }
        let takes_tools =
            tool_use.is_some() || ["tools", "tool_calls"].iter().any(|word| source.contains(word));
        let notation = match tool_use.unwrap_or(source) {
            known if takes_tools => Notation::of_template(known),
            _ => Notation::Hermes,
        };
        let thoughts = Marks::of_template(source);
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        Ok(Self { env, bos, eos, guard, notation, thoughts, takes_tools })
    }

    /// Bytes of memory, about.
    pub(crate) fn held_bytes(&self) -> usize {
        let sources = self.env.templates().map(|(_, template)| template.source().len());
        // The engine keeps an instruction of some bytes for each word.
        BESIDE + sources.map(|bytes| bytes * 10).sum::<usize>()
    }

    /// The prompt, ready for the assistant to go on; marked, so it is for [`Tokenizer::encode_guarded`].
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        self.run(conversation, true)
    }

    /// The conversation so far, with nothing for the assistant to go on from; marked like a prompt.
    pub fn render_history(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        self.run(conversation, false)
    }

    fn run(&self, conversation: &Conversation, go_on: bool) -> Result<String, TemplateError> {
        let rewritten = (!self.takes_tools && conversation.has_tools()).then(|| tools::rewrite(conversation));
        let conversation = rewritten.as_ref().unwrap_or(conversation);
        let messages = |arguments_are| -> Result<Vec<Value>, Marked> {
            let messages = conversation.messages.iter();
            messages.map(|message| python::message(message, &self.guard, arguments_are)).collect()
        };
        let rendered = self.fill_in(conversation, messages(Arguments::Maps)?, go_on);
        if rendered.is_err() && conversation.messages.iter().any(|m| m.contains_key("tool_calls")) {
            // What it says of the maps is what it was written to say.
            return self.fill_in(conversation, messages(Arguments::Texts)?, go_on).or(rendered);
        }
        rendered
    }

    fn fill_in(
        &self,
        conversation: &Conversation,
        messages: Vec<Value>,
        go_on: bool,
    ) -> Result<String, TemplateError> {
        let (mut tools, mut arguments) = (conversation.tools.clone(), conversation.arguments.clone());
        tools.iter_mut().try_for_each(|tool| self.guard.mark(tool))?;
        self.guard.mark_map(&mut arguments)?;
        // Templates ask `if tools`, some `if tools is not none`: none is what both take for no.
        let none = || Value::from(());
        let tools = if tools.is_empty() { none() } else { Value::from(Serde(tools)) };
        let tool_use = self.env.get_template(TOOL_USE).ok().filter(|_| !conversation.tools.is_empty());
        let template = tool_use.map_or_else(|| self.env.get_template(CHAT), Ok);
        let template = template.map_err(|e| TemplateError(explain(&e)))?;
        let base = context! {
            messages, tools, add_generation_prompt => go_on,
            bos_token => &self.bos, eos_token => &self.eos,
        };
        // A client's arguments fill in what is missing; they do not replace the conversation.
        let context =
            context! { ..base, ..Value::from(Serde(&arguments)), ..context! { documents => none() } };
        template.render(context).map_err(|e| TemplateError(explain(&e)))
    }
}

impl From<Marked> for TemplateError {
    fn from(marked: Marked) -> Self {
        Self(marked.to_string())
    }
}

/// The innermost cause, which is what `raise_exception` was given, with the line for everything else.
fn explain(error: &minijinja::Error) -> String {
    if let Some(raised) = python::raised(error) {
        return raised;
    }
    match error.line() {
        Some(line) => format!("{error} (line {line} of the template)"),
        None => error.to_string(),
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
