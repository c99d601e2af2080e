//! Whole native answers as responses.

use crate::echo::{Form, status};
use crate::item::{self, Called, Escaped};
use crate::request::Asked;
use policy_chat::answer::Whole;

/// A chat completion as a response. The error is for the log.
pub(crate) fn response(native: &[u8], seed: u64, asked: &Asked) -> Result<Vec<u8>, String> {
    let whole = Whole::read(native, seed)?;
    let (status, incomplete) = status(&whole.finish);
    let mut items = Vec::new();
    if let Some(thoughts) = &whole.thoughts {
        let id = item::id("rs", seed, items.len() as u64);
        let thoughts = Escaped::of(thoughts);
        items.push(made(|out| item::reasoning(&id, Some(&thoughts), asked.keeps_thoughts, "completed", out)));
    }
    if let Some(words) = &whole.words {
        let id = item::id("msg", seed, items.len() as u64);
        let words = Escaped::of(words);
        items.push(made(|out| item::message(&id, Some(&words), status, out)));
    }
    for (at, call) in whole.calls.iter().enumerate() {
        // The answer came to its length inside the last one.
        let status = if at + 1 == whole.calls.len() { status } else { "completed" };
        let stands = asked.names.behind(&call.name);
        let prefix = if stands.is_some_and(|stands| stands.custom) { "ctc" } else { "fc" };
        let id = item::id(prefix, seed, items.len() as u64);
        let called = Called { id: &id, call_id: &call.id, name: &call.name, stands };
        items.push(made(|out| called.write_whole(&call.arguments, status, out)));
    }
    let id = item::id("resp", seed, u64::MAX - 1);
    let (created, usage) = (whole.created, Some(whole.usage));
    let form = Form { id: &id, created, status, incomplete, usage, ..Form::default() };
    let mut out = Vec::new();
    asked.echo.response(&form, &items, &mut out);
    Ok(out)
}

fn made(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut item = Vec::new();
    write(&mut item);
    item
}
