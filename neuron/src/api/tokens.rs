//! Turning text into tokens: off the threads that serve, a few texts at once, and not those that are
//! far too long.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::{template::Conversation, text::TextModel};

/// Texts that may wait for a thread; one more is refused with 503.
const MAX_WAITING: usize = 64;

/// Where texts are tokenized: as many at once as there are cores.
pub(super) struct Tokenizing {
    places: Semaphore,
    threads: Arc<Semaphore>,
}

/// Why there are no tokens; `param` is the field that the text came from.
pub(super) enum Refused {
    TooLong { tokens: usize, param: &'static str },
    Template(String),
}

impl Tokenizing {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let places = Semaphore::new(cores + MAX_WAITING);
        Self { places, threads: Arc::new(Semaphore::new(cores)) }
    }

    /// Runs `work` on a thread of its own. A long text takes seconds.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let full = |_| ApiError::overloaded("too many texts wait to be tokenized");
        let _place = self.places.try_acquire().map_err(full)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| ApiError::stopping())?;
        // The permit goes with the work: a client that leaves does not end it.
        let work = move || (work(), drop(thread)).0;
        tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::stopping())
    }
}

impl Tokenizing {
    /// Runs `work`, of which nobody waits for the end, where a thread is free for it this moment.
    pub(super) fn spare(&self, work: impl FnOnce() + Send + 'static) {
        if let Ok(thread) = Arc::clone(&self.threads).try_acquire_owned() {
            tokio::task::spawn_blocking(move || (work(), drop(thread)).0);
        }
    }
}

/// Text and ids of a conversation that may be at most `window` tokens long.
pub(super) fn of_chat(
    text: &TextModel,
    conversation: &Conversation,
    window: usize,
) -> Result<(String, Vec<u32>), Refused> {
    let rendered = text.render(conversation).map_err(|e| Refused::Template(e.to_string()))?;
    refuse_length(text, &rendered, window, "messages")?;
    let ids = text.tokenizer.encode_guarded(&rendered);
    Ok((rendered, ids))
}

/// Ids of a plain prompt, in which control tokens are the client's to write, that may be at most `window`
/// tokens long.
pub(super) fn of_text(text: &TextModel, prompt: &str, window: usize) -> Result<Vec<u32>, Refused> {
    refuse_length(text, prompt, window, "prompt")?;
    Ok(text.tokenizer.encode_prompt(prompt))
}

/// Said from the length alone: megabytes need not be tokenized to be refused.
fn refuse_length(text: &TextModel, prompt: &str, window: usize, param: &'static str) -> Result<(), Refused> {
    let tokens = text.tokenizer.fewest(prompt.len());
    if tokens > window { Err(Refused::TooLong { tokens, param }) } else { Ok(()) }
}

impl Refused {
    /// `window`: tokens that fit.
    pub(super) fn into_error(self, window: u64) -> ApiError {
        match self {
            Self::TooLong { tokens, param } => {
                ApiError::context_length(param, "has at least", tokens as u64, window)
            }
            Self::Template(words) => ApiError::invalid("messages", "template_error", words),
        }
    }
}
