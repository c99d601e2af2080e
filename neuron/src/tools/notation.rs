//! The notations of model families, told apart by their chat templates.

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and what models are asked for
    /// whose templates know no tools. Qwen3-Coder has `<function=…>` inside instead.
    Hermes,
    /// `{"name": …, "parameters": {…}}` in place of an answer, maybe after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`: Mistral.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`: Mistral's later ones.
    MistralNamed,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name`, then JSON in a fence: DeepSeek V3 and R1.
    DeepSeek,
    /// `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}`: DeepSeek V3.1.
    DeepSeekPlain,
    /// `<start_function_call>call:name{key:<escape>text<escape>}<end_function_call>`: FunctionGemma.
    Gemma,
}

/// What is within a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An object with name and arguments, or Qwen3-Coder's tags.
    Tagged,
    /// An object with name and arguments.
    Object,
    /// An array of such objects, one, or a name before its arguments.
    Listed,
    /// A name before its arguments.
    Named,
    Gemma,
    /// What follows is one of the others' marks.
    Group,
}

pub(super) const DEEPSEEK_SEPARATOR: &str = "<｜tool▁sep｜>";
pub(super) const DEEPSEEK_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const DEEPSEEK_END: &str = "<｜tool▁call▁end｜>";

impl Notation {
    /// By what the template writes of calls made before.
    pub(crate) fn of_template(source: &str) -> Self {
        let has = |mark: &str| source.contains(mark);
        if has("<｜tool▁call") {
            if has("```json") { Self::DeepSeek } else { Self::DeepSeekPlain }
        } else if has("[TOOL_CALLS]") {
            if has("[ARGS]") { Self::MistralNamed } else { Self::Mistral }
        } else if has("<start_function_call>") {
            Self::Gemma
        } else if !has("<tool_call>") && (has("<|python_tag|>") || has(r#""parameters": "#)) {
            Self::Llama
        } else {
            Self::Hermes
        }
    }

    /// What opens a call anywhere in a text.
    pub(super) fn opens(self) -> &'static [(&'static str, Kind)] {
        match self {
            Self::Hermes => &[("<tool_call>", Kind::Tagged)],
            Self::Llama => &[("<|python_tag|>", Kind::Object)],
            Self::Mistral | Self::MistralNamed => &[("[TOOL_CALLS]", Kind::Listed)],
            Self::DeepSeek | Self::DeepSeekPlain => {
                &[("<｜tool▁calls▁begin｜>", Kind::Group), (DEEPSEEK_BEGIN, Kind::Named)]
            }
            Self::Gemma => &[("<start_function_call>", Kind::Gemma)],
        }
    }

    /// What opens one at the start of the answer.
    pub(super) fn opens_at_start(self) -> Option<(&'static str, Kind)> {
        (self == Self::Llama).then_some(("{", Kind::Object))
    }

    /// What opens the next one right after another.
    pub(super) fn opens_after(self) -> Option<(&'static str, Kind)> {
        matches!(self, Self::Llama | Self::Mistral | Self::MistralNamed).then_some(("{", Kind::Object))
    }

    /// What may stand after a call and between calls, and says nothing.
    pub(super) fn closes(self) -> &'static [&'static str] {
        match self {
            // One brace too many is no word.
            Self::Hermes => &["</tool_call>", "}"],
            Self::Llama => &[";", ",", "}", "<|eom_id|>"],
            Self::Mistral | Self::MistralNamed => &[",", "]", "}"],
            Self::DeepSeek | Self::DeepSeekPlain => &["```", DEEPSEEK_END, "<｜tool▁calls▁end｜>"],
            Self::Gemma => &[],
        }
    }

    /// Control tokens that are part of the notation, so that their spelling counts as text.
    pub(crate) fn marks(self) -> impl Iterator<Item = &'static str> {
        let more: &[&str] = match self {
            Self::Mistral | Self::MistralNamed => &["[ARGS]", "[CALL_ID]"],
            Self::DeepSeek | Self::DeepSeekPlain => &[DEEPSEEK_SEPARATOR],
            Self::Gemma => &["<end_function_call>", "<escape>"],
            Self::Hermes | Self::Llama => &[],
        };
        let closes = self.closes().iter().copied().filter(|mark| mark.len() > 3);
        self.opens().iter().map(|(mark, _)| *mark).chain(closes).chain(more.iter().copied())
    }
}
