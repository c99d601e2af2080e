//! After an answer: which beginnings of its conversation the cache holds, said as `/watch` says it.
//!
//! A beginning counts for what of it is found again when it stands as history in a longer conversation.
//! Templates write history otherwise than they wrote it the first time (thoughts go, the last turn is
//! special), so each is rendered as history and compared, token by token, with what ran.

use std::sync::Arc;

use bytes::Bytes;
use neuron_protocol::prefix::PrefixChain;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{App, answer::Piece};
use crate::{device::Marked, engine::Mark, registry::Ready, template::Conversation, text::TextModel};

/// A conversation while its answer comes.
pub(super) struct Remember {
    app: Arc<App>,
    ready: Arc<Ready>,
    caller: Arc<str>,
    /// Hashes are over messages as the client spelled them.
    body: Bytes,
    conversation: Arc<Conversation>,
    /// Prompt and answer.
    tokens: Vec<u32>,
    answer: String,
    /// The answer is nothing but words.
    is_plain: bool,
}

impl Remember {
    /// `None` where nobody has ever watched this daemon, and there is nobody to tell, and where the model keeps
    /// nothing that another request could use.
    pub(super) fn new(
        app: &Arc<App>,
        ready: &Arc<Ready>,
        caller: &Arc<str>,
        body: Bytes,
        conversation: &Arc<Conversation>,
        prompt: &[u32],
    ) -> Option<Self> {
        (app.watchers.ever() && ready.batched).then(|| Self {
            app: Arc::clone(app),
            ready: Arc::clone(ready),
            caller: Arc::clone(caller),
            body,
            conversation: Arc::clone(conversation),
            tokens: prompt.to_vec(),
            answer: String::new(),
            is_plain: true,
        })
    }

    pub(super) fn token(&mut self, token: u32) {
        self.tokens.push(token);
    }

    pub(super) fn piece(&mut self, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.answer.push_str(text),
            // Clients send thoughts and calls back in a spelling of their own, if at all.
            Piece::Thought(_) | Piece::Call { .. } | Piece::Arguments(_) => self.is_plain = false,
        }
    }

    /// The answer is whole. The rest happens off the request's path, and only where a thread is free for it.
    pub(super) fn finish(self) {
        let app = Arc::clone(&self.app);
        app.tokenizing.spare(move || {
            let request: Raw<'_> = match serde_json::from_slice(&self.body) {
                Ok(request) => request,
                // It was read before, so it is well formed; a field of a strange type is no prefix to share.
                Err(_) => return,
            };
            let chain = request.chain(&self.caller, &self.ready.id);
            let text = &self.ready.text;
            let answer = self.is_plain.then_some(self.answer.as_str());
            let marks = marks(text, &self.conversation, chain, &request.messages, answer, &self.tokens);
            let Self { app, ready, caller, tokens, .. } = self;
            app.registry.device(&ready).mark(Marked { model: ready.key, caller, tokens, marks });
        });
    }
}

/// What of a request its prefixes are made of, in the client's spelling.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow, default)]
    chat_template_kwargs: Option<&'a RawValue>,
}

impl Raw<'_> {
    fn chain(&self, tenant: &str, model: &str) -> PrefixChain {
        let unwanted = self.tool_choice.is_some_and(|choice| choice.get() == r#""none""#);
        let tools = self.tools.filter(|_| !unwanted).map(RawValue::get);
        PrefixChain::of_request(tenant, model, "", tools, self.chat_template_kwargs.map(RawValue::get))
    }
}

/// The instructions in front, the whole request, and the request with its answer. What is between was
/// marked when it was the whole request.
fn marks(
    text: &TextModel,
    conversation: &Conversation,
    chain: PrefixChain,
    raw: &[&RawValue],
    answer: Option<&str>,
    tokens: &[u32],
) -> Vec<Mark> {
    let all = &conversation.messages;
    let instructions = all.iter().take_while(|m| role(m) == "system").count();
    let answer = answer.map(|answer| json!({ "role": "assistant", "content": answer }));
    let spelled = answer.as_ref().map(Value::to_string);
    let mut with_answer = all.clone();
    with_answer.extend(answer.as_ref().and_then(Value::as_object).cloned());

    let mut chains = vec![chain];
    for message in raw.iter().map(|raw| raw.get()).chain(spelled.as_deref()) {
        chains.extend(chains.last().map(|before| before.then_json(message)));
    }
    let ends = [instructions, all.len(), with_answer.len()];
    let mut marks: Vec<Mark> = Vec::new();
    for end in ends.into_iter().filter(|end| *end > 0) {
        let history = Conversation { messages: with_answer[..end].to_vec(), ..conversation.clone() };
        let Some(chain) = chains.get(end) else { continue };
        let mark = Mark { hash: chain.value(), tokens: confirmed(text, history, tokens) };
        if mark.tokens > 0 && !marks.contains(&mark) {
            marks.push(mark);
        }
    }
    marks
}

/// Tokens at the front of `tokens` with which every conversation begins that goes on from this one.
fn confirmed(text: &TextModel, history: Conversation, tokens: &[u32]) -> usize {
    let Some(so_far) = text.render_history(&history) else { return 0 };
    // Roles take turns: some templates refuse anything else.
    let next = if history.messages.last().is_some_and(|m| role(m) == "user") { "assistant" } else { "user" };
    let mut longer = history;
    longer.messages.extend(json!({ "role": next, "content": "…" }).as_object().cloned());
    let Some(longer) = text.render_history(&longer) else { return 0 };
    let same = so_far.bytes().zip(longer.bytes()).take_while(|(a, b)| a == b).count();
    let same = (0..=same).rev().find(|at| so_far.is_char_boundary(*at)).unwrap_or(0);
    let ids = text.tokenizer.encode_guarded(&so_far[..same]);
    let common = ids.iter().zip(tokens).take_while(|(a, b)| a == b).count();
    // With what follows, the last token may become another.
    common.min(ids.len().saturating_sub(1))
}

fn role(message: &Map<String, Value>) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}
