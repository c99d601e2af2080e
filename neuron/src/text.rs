//! The text side of a model: its tokenizer and chat template. No weights are needed for it.

use std::{path::Path, sync::OnceLock};

use crate::{
    defaults::Defaults,
    embeds::Embeds,
    folder::FolderError,
    gguf::{GgufError, Header},
    grammar::{GrammarError, Grammars},
    template::{ChatTemplate, Conversation, TemplateError},
    tokenizer::{Tokenizer, TokenizerError},
};

/// Bytes of compiled patterns, about: their tables of letters, and the states that they get as text comes.
const PATTERNS: usize = 2 << 20;

/// Tokenizer and template of one model.
#[derive(Debug)]
pub struct TextModel {
    pub tokenizer: Tokenizer,
    /// `None`: a model that was not made for conversations.
    pub template: Option<ChatTemplate>,
    /// What stands in for settings that a request leaves out.
    pub(crate) defaults: Defaults,
    /// How it makes vectors of texts; `None`: it makes none.
    pub(crate) embeds: Option<Embeds>,
    /// Made when the first request asks for one: most never do.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

/// Why a model's files yield no text side.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl TextModel {
    /// Builds both; a template that does not parse is an error now and not at the first request.
    pub fn from_header(header: &Header) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_header(header)?;
        let template = ChatTemplate::from_header(header, &tokenizer)?;
        let defaults = Defaults::from_header(header);
        let embeds = Embeds::from_header(header)?;
        Ok(Self { tokenizer, template, defaults, embeds, grammars: OnceLock::new() })
    }

    /// As [`Self::from_header`], for a model that comes as a folder.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_folder(folder)?;
        let template = ChatTemplate::from_folder(folder, &tokenizer)?;
        let defaults = Defaults::from_folder(folder)?;
        let embeds = Embeds::from_folder(folder)?;
        Ok(Self { tokenizer, template, defaults, embeds, grammars: OnceLock::new() })
    }

    /// Text of a conversation, ready for the assistant to go on: for [`Tokenizer::encode_guarded`].
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let template = self.template.as_ref().ok_or_else(|| {
            TemplateError("this model has no chat template; use /v1/completions".to_owned())
        })?;
        template.render(conversation)
    }

    /// Text of a conversation so far, as it stands in front of what follows; `None`: the model's template
    /// does not take such a conversation.
    pub fn render_history(&self, conversation: &Conversation) -> Option<String> {
        self.template.as_ref()?.render_history(conversation).ok()
    }

    /// Bytes of memory, about: tokenizer, template, and what their patterns take as they are used.
    pub(crate) fn held_bytes(&self) -> u64 {
        let template = self.template.as_ref().map_or(0, ChatTemplate::held_bytes);
        (self.tokenizer.held_bytes() + template + PATTERNS) as u64
    }

    /// What compiles grammars for this model's answers.
    pub(crate) fn grammars(&self) -> Result<&Grammars, GrammarError> {
        let made = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer));
        made.as_ref().map_err(GrammarError::clone)
    }
}

/// Bytes of the longest end of `text` that `mark` starts with, without being all of it.
pub(crate) fn overlap(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len().saturating_sub(1));
    let ends = (1..=longest).rev().filter(|len| text.is_char_boundary(text.len() - len));
    ends.into_iter()
        .find(|len| mark.as_bytes().starts_with(&text.as_bytes()[text.len() - len..]))
        .unwrap_or(0)
}
