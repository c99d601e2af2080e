//! A native stream as that of a response: items one after the other, each with its beginning and its end.

use crate::custom::Unwrap;
use crate::echo::{Form, status};
use crate::error;
use crate::item::{self, Arguments, Called, Escaped};
use crate::request::Asked;
use policy_chat::answer::{Finish, Usage};
use policy_chat::error::NativeError;
use policy_chat::sse::json as write;
use policy_chat::stream::{First, Kind, NewCall, Writer};
use policy_chat::write::{escaped, string};

pub(crate) struct Response {
    seed: u64,
    id: String,
    pub(crate) asked: Asked,
    /// Of the next event.
    sequence: u64,
    created: u64,
    begun: bool,
    /// Items that are over.
    output: Vec<Vec<u8>>,
    open: Option<Open>,
}

/// The item that is being said.
struct Open {
    kind: Kind,
    id: String,
    call: Option<Call>,
    /// What was said of it, of a function's call its arguments.
    text: Escaped,
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

    /// An event about the open item, with a field of its own.
    fn of_item(
        &mut self,
        kind: &str,
        open: &Open,
        field: &str,
        value: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        head(kind, out);
        self.place(open, out);
        out.extend_from_slice(field.as_bytes());
        value(out);
        if kind == "response.output_text.done" {
            out.extend_from_slice(br#","logprobs":[]"#);
        }
        self.tail(out);
    }

    /// Which item an event is about.
    fn place(&self, open: &Open, out: &mut Vec<u8>) {
        out.extend_from_slice(br#","item_id":""#);
        out.extend_from_slice(open.id.as_bytes());
        out.extend_from_slice(br#"","output_index":"#);
        write(out, &self.output.len());
        if open.kind != Kind::Call {
            out.extend_from_slice(br#","content_index":0"#);
        }
    }

    /// `input`: all of a custom tool's, where it is over.
    fn item(&self, open: &Open, input: &str, status: &str, out: &mut Vec<u8>) {
        let said = (status != "in_progress").then_some(&open.text);
        match (&open.call, open.kind) {
            (Some(call), _) => {
                let stands = self.asked.names.behind(&call.name);
                let called = Called { id: &open.id, call_id: &call.id, name: &call.name, stands };
                let arguments = match stands.is_some_and(|stands| stands.custom) {
                    true => Arguments::Input(input),
                    false => Arguments::Said(&open.text),
                };
                called.write(&arguments, status, out);
            }
            (None, Kind::Thoughts) => item::reasoning(&open.id, said, self.asked.keeps_thoughts, status, out),
            (None, _) => item::message(&open.id, said, status, out),
        }
    }

    fn close_item(&mut self, mut open: Open, status: &str, out: &mut Vec<u8>) {
        let mut whole = String::new();
        match (open.kind, open.call.as_mut().and_then(|call| call.input.take())) {
            (Kind::Thoughts, _) => {
                self.of_item(
                    "response.reasoning_text.done",
                    &open,
                    r#","text":"#,
                    |out| open.text.write(out),
                    out,
                );
                let part = r#","part":{"type":"reasoning_text","text":"#;
                let close = |out: &mut Vec<u8>| {
                    open.text.write(out);
                    out.push(b'}');
                };
                self.of_item("response.content_part.done", &open, part, close, out);
            }
            (Kind::Call, Some(input)) => {
                let rest;
                (whole, rest) = input.finish();
                if !rest.is_empty() {
                    let kind = "response.custom_tool_call_input.delta";
                    self.of_item(kind, &open, r#","delta":"#, |out| string(out, &rest), out);
                }
                let kind = "response.custom_tool_call_input.done";
                self.of_item(kind, &open, r#","input":"#, |out| string(out, &whole), out);
            }
            (Kind::Call, None) => {
                let kind = "response.function_call_arguments.done";
                self.of_item(kind, &open, r#","arguments":"#, |out| open.text.write(out), out);
            }
            (Kind::Words, _) => {
                self.of_item(
                    "response.output_text.done",
                    &open,
                    r#","text":"#,
                    |out| open.text.write(out),
                    out,
                );
                let part = |out: &mut Vec<u8>| item::output_text(&open.text, out);
                self.of_item("response.content_part.done", &open, r#","part":"#, part, out);
            }
        }
        let mut item = Vec::new();
        self.item(&open, &whole, status, &mut item);
        self.whole_item("response.output_item.done", &item, out);
        self.output.push(item);
    }

    fn whole_item(&mut self, kind: &str, item: &[u8], out: &mut Vec<u8>) {
        head(kind, out);
        out.extend_from_slice(br#","output_index":"#);
        write(out, &self.output.len());
        out.extend_from_slice(br#","item":"#);
        out.extend_from_slice(item);
        self.tail(out);
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
        let open = Open { kind, id, call, text: Escaped::default() };
        let mut item = Vec::new();
        self.item(&open, "", "in_progress", &mut item);
        self.whole_item("response.output_item.added", &item, out);
        let added = "response.content_part.added";
        match kind {
            Kind::Thoughts => {
                let part = br#"{"type":"reasoning_text","text":""}"#;
                self.of_item(added, &open, r#","part":"#, |out| out.extend_from_slice(part), out);
            }
            Kind::Words => {
                self.of_item(
                    added,
                    &open,
                    r#","part":"#,
                    |out| item::output_text(&Escaped::default(), out),
                    out,
                );
            }
            Kind::Call => {}
        }
        self.open = Some(open);
    }

    /// What nearly every event of a stream is, written without a detour.
    fn delta(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) {
        let Some(mut open) = self.open.take() else { return };
        let custom = open.call.as_mut().and_then(|call| call.input.as_mut());
        let (name, input) = match (kind, custom) {
            (Kind::Words, _) => ("response.output_text.delta", None),
            (Kind::Thoughts, _) => ("response.reasoning_text.delta", None),
            (Kind::Call, None) => ("response.function_call_arguments.delta", None),
            (Kind::Call, Some(unwrap)) => ("response.custom_tool_call_input.delta", Some(unwrap.push(text))),
        };
        // Of a custom tool's arguments nothing may be told yet.
        if input.as_deref() != Some("") {
            head(name, out);
            self.place(&open, out);
            out.extend_from_slice(br#","delta":""#);
            match input {
                Some(input) => escaped(out, &input),
                None => out.extend_from_slice(open.text.push(text)),
            }
            out.push(b'"');
            if kind == Kind::Words {
                out.extend_from_slice(br#","logprobs":[]"#);
            }
            self.tail(out);
        }
        self.open = Some(open);
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
