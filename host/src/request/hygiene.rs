//! Chunks as clients' accumulators take them: they put pieces together by adding, so a role, an id or a name may come
//! once, and a call must be over before the next begins. Servers are not all so tidy.

use serde_json::{Value, json};

/// Bytes of pieces that wait for their turn; past it they go as they came.
const MOST_HELD: usize = 4 << 20;

/// One stream's. Only what is untidy is written anew.
#[derive(Default)]
pub(super) struct Hygiene {
    role_seen: bool,
    calls: Vec<Call>,
    /// The call that is being said.
    open: usize,
    held: usize,
    /// There was too much to hold.
    given_up: bool,
}

#[derive(Default)]
struct Call {
    /// As the client sees it.
    index: u64,
    id: String,
    begun: bool,
    arguments: String,
    /// Arguments that wait for their turn.
    held: Vec<String>,
    name: Option<String>,
}

impl Hygiene {
    /// Whether a chunk, which has a role or not, says it once more.
    pub(super) fn role_again(&mut self, has_role: bool) -> bool {
        has_role && std::mem::replace(&mut self.role_seen, true)
    }

    pub(super) fn is_holding(&self) -> bool {
        self.held > 0 || self.calls.iter().skip(self.open + 1).any(|call| !call.begun)
    }

    /// The chunk in the words that it should have, as events; `None`: it may stay as it is. `model`: its name for the
    /// client.
    pub(super) fn tidy(&mut self, data: &[u8], role_again: bool, model: Option<&str>) -> Option<Vec<u8>> {
        let mut chunk: Value = serde_json::from_slice(data).ok()?;
        rename(&mut chunk, model);
        let delta = chunk["choices"].get_mut(0)?.get_mut("delta")?.as_object_mut()?;
        let role_again = role_again && delta.contains_key("role");
        if role_again {
            delta.remove("role");
        }
        let pieces = match delta.get("tool_calls") {
            Some(Value::Array(pieces)) if !self.given_up => pieces.clone(),
            _ => Vec::new(),
        };
        let ends = !chunk["choices"][0]["finish_reason"].is_null();
        let mut said = self.order(&pieces);
        if ends {
            said.extend(self.rest());
        }
        if !role_again && said == pieces {
            return None;
        }
        Some(events(chunk, said))
    }

    /// What waits, as events like that one: nothing more will come.
    pub(super) fn flush(&mut self, like: &[u8], model: Option<&str>) -> Vec<u8> {
        let pieces = self.rest();
        let mut chunk: Value =
            serde_json::from_slice(like).unwrap_or_else(|_| json!({"object": "chat.completion.chunk"}));
        rename(&mut chunk, model);
        if let Some(fields) = chunk.as_object_mut() {
            fields.remove("usage");
        }
        chunk["choices"] = json!([{"index": 0, "delta": {}, "finish_reason": null}]);
        if pieces.is_empty() { Vec::new() } else { events(chunk, pieces) }
    }

    /// The pieces that may be said now.
    fn order(&mut self, pieces: &[Value]) -> Vec<Value> {
        let mut said = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            let slot = self.slot(piece, at);
            let call = &mut self.calls[slot];
            let function = &piece["function"];
            if let Some(name) = function["name"].as_str().filter(|name| !name.is_empty()) {
                call.name.get_or_insert_with(|| name.to_owned());
            }
            let arguments = function["arguments"].as_str().unwrap_or_default();
            if slot > self.open && !self.given_up {
                call.held.push(arguments.to_owned());
                self.held += arguments.len() + 1;
                self.given_up = self.held > MOST_HELD;
            } else {
                said.extend(call.say(piece, arguments));
            }
            self.go_on(&mut said);
        }
        if self.given_up {
            said.extend(self.rest());
        }
        said
    }

    /// Which call a piece is of: by its index, and where it has none by its id, and without that the last one.
    fn slot(&mut self, piece: &Value, at: usize) -> usize {
        let id = piece["id"].as_str().filter(|id| !id.is_empty());
        let found = match (piece["index"].as_u64(), id) {
            (Some(index), _) => self.calls.iter().position(|call| call.index == index),
            (None, Some(id)) => self.calls.iter().position(|call| call.id == id),
            (None, None) if at == 0 => self.calls.len().checked_sub(1),
            (None, None) => Some(at).filter(|&at| at < self.calls.len()),
        };
        found.unwrap_or_else(|| {
            let slot = self.calls.len();
            let index = piece["index"].as_u64().unwrap_or(slot as u64);
            let id = id.map_or_else(|| format!("call_{:016x}", super::seed()), str::to_owned);
            self.calls.push(Call { index, id, ..Call::default() });
            slot
        })
    }

    /// To the next call, once the one before it is whole.
    fn go_on(&mut self, said: &mut Vec<Value>) {
        while self.open + 1 < self.calls.len() && self.calls[self.open].is_whole() {
            self.open += 1;
            said.extend(self.waiting(self.open));
        }
    }

    fn waiting(&mut self, slot: usize) -> Option<Value> {
        let call = &mut self.calls[slot];
        let arguments = std::mem::take(&mut call.held);
        if arguments.is_empty() {
            return None;
        }
        self.held -= arguments.iter().map(|a| a.len() + 1).sum::<usize>();
        call.say(&Value::Null, &arguments.concat())
    }

    fn rest(&mut self) -> Vec<Value> {
        let from = self.open;
        self.open = self.calls.len().saturating_sub(1);
        (from..self.calls.len()).filter_map(|slot| self.waiting(slot)).collect()
    }
}

fn rename(chunk: &mut Value, model: Option<&str>) {
    if let (Some(model), true) = (model, chunk["model"].is_string()) {
        chunk["model"] = model.into();
    }
}

impl Call {
    /// A piece of it: what begins it the first time, and arguments after that. `piece`: as it came, for what else it
    /// holds.
    fn say(&mut self, piece: &Value, arguments: &str) -> Option<Value> {
        self.arguments.push_str(arguments);
        let mut said = if piece.is_object() { piece.clone() } else { json!({}) };
        let first = !self.begun;
        self.begun = true;
        said["index"] = self.index.into();
        if !said["function"].is_object() {
            said["function"] = json!({});
        }
        let function = said["function"].as_object_mut()?;
        if first {
            if let Some(name) = &self.name {
                function.insert("name".into(), name.as_str().into());
            }
            function.entry("arguments").or_insert_with(|| "".into());
        } else {
            function.remove("name");
        }
        if !piece.is_object() {
            function.insert("arguments".into(), arguments.into());
        }
        let fields = said.as_object_mut()?;
        if first {
            fields.insert("id".into(), self.id.as_str().into());
            fields.entry("type").or_insert_with(|| "function".into());
        } else {
            fields.remove("id");
            fields.remove("type");
        }
        Some(said)
    }

    fn is_whole(&self) -> bool {
        self.arguments.trim_end().ends_with('}')
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_ok()
    }
}

/// The chunk once for each call that it has pieces of; the first has what else was said, the last how it ended.
fn events(mut chunk: Value, pieces: Vec<Value>) -> Vec<u8> {
    let mut groups: Vec<Vec<Value>> = Vec::new();
    for piece in pieces {
        match groups.last_mut().filter(|group| group[0]["index"] == piece["index"]) {
            Some(group) => group.push(piece),
            None => groups.push(vec![piece]),
        }
    }
    let finish = chunk["choices"][0]["finish_reason"].take();
    let usage = chunk.as_object_mut().and_then(|fields| fields.remove("usage"));
    if let Some(delta) = chunk["choices"][0]["delta"].as_object_mut() {
        delta.remove("tool_calls");
        let says_nothing = delta.values().all(|value| value.is_null() || value == "");
        if groups.is_empty() && says_nothing && finish.is_null() && usage.as_ref().is_none_or(Value::is_null)
        {
            return Vec::new();
        }
    }
    let mut out = Vec::new();
    let last = groups.len().saturating_sub(1);
    for at in 0..=last {
        let mut one = chunk.clone();
        if let Some(group) = groups.get(at) {
            one["choices"][0]["delta"]["tool_calls"] = group.clone().into();
        }
        if at == last {
            one["choices"][0]["finish_reason"] = finish.clone();
            if let (Some(usage), Some(fields)) = (&usage, one.as_object_mut()) {
                fields.insert("usage".into(), usage.clone());
            }
        }
        out.extend(format!("data: {one}\n\n").bytes());
        chunk["choices"][0]["delta"] = json!({});
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(delta: Value, finish: Value) -> Value {
        json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    }

    fn calls(pieces: Value) -> Value {
        chunk(json!({"tool_calls": pieces}), Value::Null)
    }

    /// What is said: each chunk's delta, or how it ended.
    fn said(chunks: &[Value]) -> Vec<Value> {
        let mut hygiene = Hygiene::default();
        let mut out = Vec::new();
        for chunk in chunks {
            let data = chunk.to_string();
            let role_again = hygiene.role_again(chunk["choices"][0]["delta"].get("role").is_some());
            let events = hygiene
                .tidy(data.as_bytes(), role_again, None)
                .unwrap_or_else(|| format!("data: {data}\n\n").into());
            for event in String::from_utf8(events).unwrap().split_terminator("\n\n") {
                let event: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
                assert_eq!(event["id"], "c");
                let choice = &event["choices"][0];
                out.push(if choice["finish_reason"].is_null() {
                    choice["delta"].clone()
                } else {
                    choice.clone()
                });
            }
        }
        assert!(!hygiene.is_holding());
        out
    }

    fn begin(index: u64, arguments: &str) -> Value {
        json!({"index": index, "id": format!("i{index}"), "type": "function", "function": {"name": "f", "arguments": arguments}})
    }

    fn more(index: u64, arguments: &str) -> Value {
        json!({"index": index, "function": {"arguments": arguments}})
    }

    #[test]
    fn what_is_tidy_stays_as_it_is() {
        let mut hygiene = Hygiene::default();
        for chunk in [
            chunk(json!({"role": "assistant", "content": ""}), Value::Null),
            calls(json!([begin(0, "")])),
            calls(json!([more(0, "{}")])),
            calls(json!([begin(1, "")])),
            calls(json!([more(1, "{}")])),
            chunk(json!({}), "tool_calls".into()),
        ] {
            assert_eq!(hygiene.tidy(chunk.to_string().as_bytes(), false, None), None, "{chunk}");
        }
    }

    #[test]
    fn mixed_calls_follow_one_another() {
        let got = said(&[
            calls(json!([begin(0, "")])),
            calls(json!([begin(1, "")])),
            calls(json!([more(0, "{\"a\":")])),
            calls(json!([more(1, "{")])),
            calls(json!([more(0, "1}"), more(1, "}")])),
            chunk(json!({}), "tool_calls".into()),
        ]);
        assert_eq!(
            got,
            [
                json!({"tool_calls": [begin(0, "")]}),
                json!({"tool_calls": [more(0, "{\"a\":")]}),
                json!({"tool_calls": [more(0, "1}")]}),
                json!({"tool_calls": [begin(1, "{"), more(1, "}")]}),
                json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
            ]
        );
    }

    /// Of a call that never ends the next one is said at the end.
    #[test]
    fn what_waits_is_said_at_the_end() {
        let got = said(&[
            calls(json!([begin(0, "")])),
            calls(json!([begin(1, "{}")])),
            chunk(json!({}), "tool_calls".into()),
        ]);
        assert_eq!(
            got[1],
            json!({"index": 0, "delta": {"tool_calls": [begin(1, "{}")]}, "finish_reason": "tool_calls"})
        );
        let mut hygiene = Hygiene::default();
        assert_eq!(hygiene.tidy(calls(json!([begin(0, "")])).to_string().as_bytes(), false, None), None);
        assert_eq!(
            hygiene.tidy(calls(json!([begin(1, "{}")])).to_string().as_bytes(), false, None),
            Some(Vec::new())
        );
        assert!(hygiene.is_holding());
        let flushed = String::from_utf8(hygiene.flush(b"[DONE]", None)).unwrap();
        assert!(flushed.contains("\"i1\"") && !hygiene.is_holding(), "{flushed}");
    }

    #[test]
    fn roles_ids_and_names_come_once() {
        let again = |arguments: &str| calls(json!([begin(0, arguments)]));
        let got = said(&[
            chunk(json!({"role": "assistant", "content": "a"}), Value::Null),
            chunk(json!({"role": "assistant", "content": "b"}), Value::Null),
            chunk(json!({"role": "assistant", "content": ""}), Value::Null),
            again("{"),
            again("}"),
            chunk(json!({"role": "assistant"}), "tool_calls".into()),
        ]);
        assert_eq!(
            got,
            [
                json!({"role": "assistant", "content": "a"}),
                json!({"content": "b"}),
                json!({"tool_calls": [begin(0, "{")]}),
                json!({"tool_calls": [more(0, "}")]}),
                json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
            ]
        );
    }

    /// zed#38412: pieces without an index or an id get one.
    #[test]
    fn a_missing_index_and_a_missing_id_are_given() {
        let bare = |name: Value, arguments: &str| {
            calls(json!([{"function": {"name": name, "arguments": arguments}}]))
        };
        let got = said(&[
            bare(json!("f"), "{"),
            bare(Value::Null, "}"),
            calls(json!([{"id": "b", "function": {"name": "g", "arguments": "{}"}}])),
        ]);
        let first = &got[0]["tool_calls"][0];
        assert_eq!(
            (&first["index"], &first["function"]),
            (&json!(0), &json!({"name": "f", "arguments": "{"}))
        );
        assert!(first["id"].as_str().unwrap().starts_with("call_"));
        assert_eq!(got[1]["tool_calls"][0], more(0, "}"));
        assert_eq!(
            (&got[2]["tool_calls"][0]["index"], &got[2]["tool_calls"][0]["id"]),
            (&json!(1), &json!("b"))
        );
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut hygiene = Hygiene::default();
        hygiene.tidy(calls(json!([begin(0, "")])).to_string().as_bytes(), false, None);
        let piece = calls(json!([begin(1, &"x".repeat(1 << 20))])).to_string();
        for _ in 0..3 {
            assert_eq!(hygiene.tidy(piece.as_bytes(), false, None), Some(Vec::new()));
        }
        assert!(hygiene.tidy(piece.as_bytes(), false, None).unwrap().len() > 4 << 20);
        assert!(!hygiene.is_holding());
    }
}
