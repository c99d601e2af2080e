//! Chunks as clients' accumulators take them: they put pieces together by adding, so a role, an id or a name may come
//! once, and a call must be over before the next begins. Servers are not all so tidy.

use serde_json::{Value, json};

/// Bytes of pieces that wait for their turn, and calls of one answer; past either they go as they came.
const MOST_HELD: usize = 4 << 20;
const MOST_CALLS: usize = 1024;

/// One answer's. Only what is untidy is written anew.
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
    /// As the server counts, and as the client sees it.
    native_index: u64,
    index: u64,
    id: String,
    begun: bool,
    arguments: Object,
    /// Pieces that wait for their turn.
    held: Vec<Value>,
    name: Option<String>,
}

/// How far the JSON of an object has come.
#[derive(Default)]
struct Object {
    depth: u32,
    in_string: bool,
    escaped: bool,
    is_whole: bool,
}

impl Object {
    fn push(&mut self, piece: &str) {
        for byte in piece.bytes() {
            if self.in_string {
                self.in_string = self.escaped || byte != b'"';
                self.escaped = byte == b'\\' && !self.escaped;
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_whole |= self.depth == 0;
                }
                _ => {}
            }
        }
    }
}

impl Hygiene {
    /// Whether a chunk, which has a role or not, says it once more.
    pub(super) fn role_again(&mut self, has_role: bool) -> bool {
        has_role && std::mem::replace(&mut self.role_seen, true)
    }

    pub(super) fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// The chunk in the words that it should have, as events; `None`: it may stay as it is. `model`: its name for the
    /// client.
    pub(super) fn tidy(&mut self, data: &[u8], role_again: bool, model: Option<&str>) -> Option<Vec<u8>> {
        let mut chunk: Value = serde_json::from_slice(data).ok()?;
        rename(&mut chunk, model);
        let choice = chunk.get_mut("choices")?.get_mut(0)?;
        let ends = choice.get("finish_reason").is_some_and(|reason| !reason.is_null() && reason != "");
        let delta = choice.get_mut("delta")?.as_object_mut()?;
        let role_again = role_again && delta.remove("role").is_some();
        let pieces = match delta.get("tool_calls") {
            Some(Value::Array(pieces)) => pieces.clone(),
            _ => Vec::new(),
        };
        let mut said = if self.given_up { pieces.clone() } else { self.order(&pieces) };
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
        let read = serde_json::from_slice(like).ok().filter(Value::is_object);
        let mut chunk = read.unwrap_or_else(|| json!({"object": "chat.completion.chunk"}));
        rename(&mut chunk, model);
        if let Some(fields) = chunk.as_object_mut() {
            fields.remove("usage");
            fields.insert("choices".into(), json!([{"index": 0, "delta": {}, "finish_reason": null}]));
        }
        if pieces.is_empty() { Vec::new() } else { events(chunk, pieces) }
    }

    /// The pieces that may be said now.
    fn order(&mut self, pieces: &[Value]) -> Vec<Value> {
        let mut said = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            if self.calls.len() >= MOST_CALLS {
                self.given_up = true;
                said.extend(self.rest());
                said.push(piece.clone());
                continue;
            }
            let slot = self.slot(piece, at);
            let call = &mut self.calls[slot];
            if let Some(name) = piece["function"]["name"].as_str().filter(|name| !name.is_empty()) {
                call.name.get_or_insert_with(|| name.to_owned());
            }
            if slot > self.open {
                self.held += 64 + arguments(piece).len();
                call.held.push(piece.clone());
            } else {
                said.extend(call.say(piece));
            }
            self.go_on(&mut said);
            if self.held > MOST_HELD {
                self.given_up = true;
                said.extend(self.rest());
            }
        }
        said
    }

    /// Which call a piece is of: by its index, and where it has none by its id, and without that the last one. A new id
    /// and a name under an index that was had are a new call.
    fn slot(&mut self, piece: &Value, at: usize) -> usize {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let (id, named) = (text(&piece["id"]), text(&piece["function"]["name"]).is_some());
        let another = |call: &Call| named && id.as_ref().is_some_and(|id| *id != call.id);
        let found = match (piece["index"].as_u64(), &id) {
            (Some(index), _) => {
                let last = self.calls.iter().rposition(|call| call.native_index == index);
                last.filter(|&slot| !another(&self.calls[slot]))
            }
            (None, Some(id)) => self.calls.iter().position(|call| call.id == *id),
            (None, None) if at == 0 => self.calls.len().checked_sub(1),
            (None, None) => Some(at).filter(|&at| at < self.calls.len()),
        };
        found.unwrap_or_else(|| {
            let slot = self.calls.len();
            let native_index = piece["index"].as_u64().unwrap_or(slot as u64);
            let is_taken = self.calls.iter().any(|call| call.index == native_index);
            let index = if is_taken { slot as u64 } else { native_index };
            let id = id.unwrap_or_else(|| format!("call_{:016x}", super::seed()));
            self.calls.push(Call { native_index, index, id, ..Call::default() });
            slot
        })
    }

    /// To the next call, once the one before it is whole.
    fn go_on(&mut self, said: &mut Vec<Value>) {
        while self.open + 1 < self.calls.len() && self.calls[self.open].arguments.is_whole {
            self.open += 1;
            said.extend(self.waiting(self.open));
        }
    }

    fn waiting(&mut self, slot: usize) -> Vec<Value> {
        let call = &mut self.calls[slot];
        let held = std::mem::take(&mut call.held);
        self.held -= held.iter().map(|piece| 64 + arguments(piece).len()).sum::<usize>();
        held.iter().filter_map(|piece| call.say(piece)).collect()
    }

    fn rest(&mut self) -> Vec<Value> {
        let from = self.open;
        self.open = self.calls.len().saturating_sub(1);
        (from..self.calls.len()).flat_map(|slot| self.waiting(slot)).collect()
    }
}

/// JSON in a string; some servers leave the string out.
fn arguments(piece: &Value) -> std::borrow::Cow<'_, str> {
    match &piece["function"]["arguments"] {
        Value::Null => "".into(),
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

impl Call {
    /// A piece of it: what begins it the first time, and arguments after that.
    fn say(&mut self, piece: &Value) -> Option<Value> {
        let mut said = piece.clone();
        let first = !std::mem::replace(&mut self.begun, true);
        let fields = said.as_object_mut()?;
        fields.insert("index".into(), self.index.into());
        if first {
            fields.insert("id".into(), self.id.as_str().into());
            fields.entry("type").or_insert_with(|| "function".into());
        } else {
            fields.remove("id");
            fields.remove("type");
        }
        let text = arguments(piece);
        self.arguments.push(&text);
        let function = fields.entry("function").or_insert_with(|| json!({})).as_object_mut()?;
        if first {
            if let Some(name) = &self.name {
                function.insert("name".into(), name.as_str().into());
            }
            function.entry("arguments").or_insert_with(|| "".into());
        } else {
            function.remove("name");
        }
        if function.get("arguments").is_some_and(|a| !a.is_string() && !a.is_null()) {
            function.insert("arguments".into(), text.into_owned().into());
        }
        Some(said)
    }
}

fn rename(chunk: &mut Value, model: Option<&str>) {
    if let (Some(model), Some(named)) = (model, chunk.get_mut("model").filter(|named| named.is_string())) {
        *named = model.into();
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
                json!({"tool_calls": [begin(1, ""), more(1, "{"), more(1, "}")]}),
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

    /// Servers that give every call the same index, and arguments that are no text.
    #[test]
    fn two_calls_under_one_index() {
        let one = |id: &str, arguments: Value| {
            calls(
                json!([{"index": 0, "id": id, "function": {"name": id, "arguments": arguments}, "extra": 1}]),
            )
        };
        let got = said(&[one("a", json!({"x": 1})), one("b", json!({"y": 2}))]);
        let of = |at: usize, field: &str| got[at]["tool_calls"][0][field].clone();
        assert_eq!(
            (of(0, "index"), of(0, "id"), of(0, "function")),
            (json!(0), json!("a"), json!({"name": "a", "arguments": "{\"x\":1}"}))
        );
        assert_eq!(
            (of(1, "index"), of(1, "id"), of(1, "function")),
            (json!(1), json!("b"), json!({"name": "b", "arguments": "{\"y\":2}"}))
        );
        assert_eq!(of(1, "extra"), 1);
    }

    /// Derived types take lists for objects; what is written anew must not.
    #[test]
    fn what_is_no_chunk_stays_as_it_is() {
        let mut hygiene = Hygiene::default();
        for odd in [
            "[]",
            r#"["m",[{"delta":{"tool_calls":[]}}]]"#,
            "5",
            r#"{"choices":{"0":1}}"#,
            r#"{"choices":[[]]}"#,
        ] {
            assert_eq!(hygiene.tidy(odd.as_bytes(), true, Some("x")), None, "{odd}");
            assert!(hygiene.flush(odd.as_bytes(), Some("x")).is_empty());
        }
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
