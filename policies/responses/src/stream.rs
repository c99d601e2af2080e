//! A native stream as that of a response: items one after the other, each with its beginning and its end.

use crate::custom::Unwrap;
use crate::echo::{Form, status};
use crate::error;
use crate::item::{self, Called};
use crate::request::Asked;
use policy_chat::answer::{Finish, Usage};
use policy_chat::error::NativeError;
use policy_chat::sse::json as write;
use policy_chat::stream::{First, Kind, NewCall, Writer};
use policy_chat::write::string;
use serde_json::{Value, json};

pub(crate) struct Response {
    seed: u64,
    id: String,
    pub(crate) asked: Asked,
    /// Of the next event.
    sequence: u64,
    created: u64,
    begun: bool,
    /// Items that are over.
    output: Vec<String>,
    open: Option<Open>,
}

/// The item that is being said.
struct Open {
    kind: Kind,
    id: String,
    call: Option<Call>,
    /// What was said of it, of a call its arguments.
    text: String,
}

struct Call {
    id: String,
    name: String,
    /// Of a custom tool.
    input: Option<Unwrap>,
}

impl Response {
    pub(crate) fn new(seed: u64) -> Self {
        let id = item::id("resp", seed, u64::MAX - 1);
        let (asked, output) = (Asked::default(), Vec::new());
        Self { seed, id, asked, sequence: 0, created: 0, begun: false, output, open: None }
    }

    /// An event of any payload without its sequence number.
    fn emit(&mut self, kind: &str, fields: &Value, out: &mut Vec<u8>) {
        head(kind, out);
        if let Some(fields) = fields.as_object() {
            for (name, value) in fields {
                out.push(b',');
                write(out, name);
                out.push(b':');
                write(out, value);
            }
        }
        self.tail(out);
    }

    fn tail(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#","sequence_number":"#);
        write(out, &self.sequence);
        out.extend_from_slice(b"}\n\n");
        self.sequence += 1;
    }

    /// An event with the response in one of its forms.
    fn form(&mut self, kind: &str, form: Form<'_>, out: &mut Vec<u8>) {
        head(kind, out);
        out.extend_from_slice(br#","response":"#);
        let form = Form { id: &self.id, created: self.created, ..form };
        self.asked.echo.response(&form, &self.output, out);
        self.tail(out);
    }

    /// An event about the open item.
    fn of_item(&mut self, kind: &str, open: &Open, fields: Value, out: &mut Vec<u8>) {
        let mut all = json!({"item_id": open.id, "output_index": self.output.len()});
        if open.kind != Kind::Call {
            all["content_index"] = 0.into();
        }
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
            all.extend(fields);
        }
        self.emit(kind, &all, out);
    }

    fn item(&self, open: &Open, status: &str) -> Value {
        let said = (status != "in_progress").then_some(open.text.as_str());
        match (&open.call, open.kind) {
            (Some(call), _) => {
                let stands = self.asked.names.behind(&call.name);
                let called = Called { id: &open.id, call_id: &call.id, name: &call.name, stands };
                called.item(&open.text, status)
            }
            (None, Kind::Thoughts) => item::reasoning(
                &open.id,
                said.unwrap_or_default(),
                said.is_some() && self.asked.keeps_thoughts,
                status,
            ),
            (None, _) => item::message(&open.id, said.map(item::output_text), status),
        }
    }

    fn close_item(&mut self, mut open: Open, status: &str, out: &mut Vec<u8>) {
        let text = open.text.clone();
        match (open.kind, open.call.as_mut()) {
            (Kind::Thoughts, _) => {
                self.of_item("response.reasoning_text.done", &open, json!({"text": text}), out);
                let part = json!({"part": {"type": "reasoning_text", "text": text}});
                self.of_item("response.content_part.done", &open, part, out);
            }
            (Kind::Call, Some(Call { input: input @ Some(_), .. })) => {
                let (whole, rest, _) = input.take().unwrap_or_default().finish();
                if !rest.is_empty() {
                    self.of_item("response.custom_tool_call_input.delta", &open, json!({"delta": rest}), out);
                }
                self.of_item("response.custom_tool_call_input.done", &open, json!({"input": whole}), out);
            }
            (Kind::Call, _) => {
                let fields = json!({"arguments": text});
                self.of_item("response.function_call_arguments.done", &open, fields, out);
            }
            (Kind::Words, _) => {
                self.of_item("response.output_text.done", &open, json!({"text": text, "logprobs": []}), out);
                let part = json!({"part": item::output_text(&text)});
                self.of_item("response.content_part.done", &open, part, out);
            }
        }
        let item = self.item(&open, status);
        self.emit(
            "response.output_item.done",
            &json!({"output_index": self.output.len(), "item": item}),
            out,
        );
        self.output.push(item.to_string());
    }
}

fn head(kind: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: {\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
}

impl Writer for Response {
    fn begin(&mut self, first: First, out: &mut Vec<u8>) {
        self.begun = true;
        self.created = first.created;
        for kind in ["response.created", "response.in_progress"] {
            self.form(kind, Form { status: "in_progress", ..Form::default() }, out);
        }
    }

    fn open(&mut self, kind: Kind, call: Option<NewCall<'_>>, out: &mut Vec<u8>) {
        let stands = call.and_then(|call| self.asked.names.behind(call.name));
        let custom = stands.is_some_and(|stands| stands.custom);
        let prefix = match kind {
            Kind::Thoughts => "rs",
            Kind::Words => "msg",
            Kind::Call if custom => "ctc",
            Kind::Call => "fc",
        };
        let id = item::id(prefix, self.seed, self.output.len() as u64);
        let call = call.map(|call| Call {
            id: call.id.to_owned(),
            name: call.name.to_owned(),
            input: custom.then(Unwrap::default),
        });
        let open = Open { kind, id, call, text: String::new() };
        let added = json!({"output_index": self.output.len(), "item": self.item(&open, "in_progress")});
        self.emit("response.output_item.added", &added, out);
        let part = match kind {
            Kind::Thoughts => Some(json!({"type": "reasoning_text", "text": ""})),
            Kind::Words => Some(item::output_text("")),
            Kind::Call => None,
        };
        if let Some(part) = part {
            self.of_item("response.content_part.added", &open, json!({"part": part}), out);
        }
        self.open = Some(open);
    }

    /// What nearly every event of a stream is, written without a detour.
    fn delta(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let input = open.call.as_mut().and_then(|call| call.input.as_mut()).map(|input| input.push(text));
        let (name, text) = match (kind, &input) {
            (Kind::Words, _) => ("response.output_text.delta", text),
            (Kind::Thoughts, _) => ("response.reasoning_text.delta", text),
            (Kind::Call, Some(input)) if input.is_empty() => return,
            (Kind::Call, Some(input)) => ("response.custom_tool_call_input.delta", input.as_str()),
            (Kind::Call, None) => ("response.function_call_arguments.delta", text),
        };
        head(name, out);
        out.extend_from_slice(br#","item_id":""#);
        out.extend_from_slice(open.id.as_bytes());
        out.extend_from_slice(br#"","output_index":"#);
        write(out, &self.output.len());
        out.extend_from_slice(if kind == Kind::Call {
            br#","delta":"#
        } else {
            br#","content_index":0,"delta":"#
        });
        string(out, text);
        if kind == Kind::Words {
            out.extend_from_slice(br#","logprobs":[]"#);
        }
        self.tail(out);
    }

    fn close(&mut self, _kind: Kind, cut: bool, out: &mut Vec<u8>) {
        if let Some(open) = self.open.take() {
            self.close_item(open, if cut { "incomplete" } else { "completed" }, out);
        }
    }

    fn end(&mut self, finish: &Finish, usage: &Usage, out: &mut Vec<u8>) {
        let (status, incomplete) = status(finish);
        let kind = if incomplete.is_some() { "response.incomplete" } else { "response.completed" };
        let form = Form { status, incomplete, usage: Some(*usage), ..Form::default() };
        self.form(kind, form, out);
    }

    /// What has begun is ended first: clients keep a list of it.
    fn fail(&mut self, native: &NativeError, out: &mut Vec<u8>) {
        if !self.begun {
            self.begin(First::default(), out);
        }
        if let Some(open) = self.open.take() {
            self.close_item(open, "incomplete", out);
        }
        let form = Form { status: "failed", error: error::of(native), ..Form::default() };
        self.form("response.failed", form, out);
    }
}
