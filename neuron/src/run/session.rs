//! The conversation, its settings, and what is typed.

use serde_json::{Map, Value, json};

/// What a line comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// To be shown.
    Words(String),
    /// The model is to answer.
    Ask,
    Bye,
}

/// A piece of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    /// What the terminal shows, thoughts and errors too.
    pub(super) shown: String,
    /// What the model said.
    pub(super) said: String,
}

const HELP: &str = "\
/set NAME VALUE   a field of every request: temperature 0.7, max_tokens 200, seed 1, reasoning_effort none …
/set              what is set
/unset NAME       as if it had never been set
/system TEXT      instructions in front of the conversation
/clear            forget the conversation
/bye              end; so does Ctrl-D
Ctrl-C ends an answer. Lines that end with \\ go on.";

/// Fields that the program itself fills.
const OWN: [&str; 5] = ["model", "messages", "stream", "stream_options", "n"];

pub(super) struct Session {
    model: String,
    system: Option<String>,
    messages: Vec<Value>,
    settings: Map<String, Value>,
    /// Lines that go on.
    begun: String,
    is_thinking: bool,
}

impl Session {
    pub(super) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            system: None,
            messages: Vec::new(),
            settings: Map::new(),
            begun: String::new(),
            is_thinking: false,
        }
    }

    pub(super) fn take(&mut self, line: &str) -> Told {
        if let Some(line) = line.strip_suffix('\\') {
            self.begun += line;
            self.begun.push('\n');
            return Told::Nothing;
        }
        let line = std::mem::take(&mut self.begun) + line;
        let line = line.trim();
        if line.is_empty() {
            return Told::Nothing;
        }
        let Some(command) = line.strip_prefix('/') else {
            self.messages.push(json!({ "role": "user", "content": line }));
            return Told::Ask;
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("bye" | "exit" | "quit", "") => return Told::Bye,
            ("help" | "?", "") => return Told::Words(HELP.to_owned()),
            ("clear", "") => self.messages.clear(),
            ("system", text) => self.system = (!text.is_empty()).then(|| text.to_owned()),
            ("set", "") => return Told::Words(Value::Object(self.settings.clone()).to_string()),
            ("set", rest) => return self.set(rest),
            ("unset", name) => drop(self.settings.remove(name)),
            _ => return Told::Words(format!("there is no /{name} like that; /help says what there is")),
        }
        Told::Nothing
    }

    fn set(&mut self, rest: &str) -> Told {
        let Some((name, value)) = rest.split_once(char::is_whitespace) else {
            return Told::Words("a name and a value are needed: /set temperature 0.7".to_owned());
        };
        if OWN.contains(&name) {
            return Told::Words(format!("{name} is not for setting"));
        }
        let value = value.trim();
        // What is no JSON is a text.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        self.settings.insert(name.to_owned(), value);
        Told::Nothing
    }

    /// The conversation so far, to be answered.
    pub(super) fn request(&self) -> Value {
        let mut body = self.settings.clone();
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        let messages: Vec<Value> = system.chain(self.messages.iter().cloned()).collect();
        body.insert("model".to_owned(), self.model.as_str().into());
        body.insert("messages".to_owned(), messages.into());
        body.insert("stream".to_owned(), true.into());
        Value::Object(body)
    }

    /// The last question was none.
    pub(super) fn take_back(&mut self) {
        self.messages.pop();
    }

    pub(super) fn answered(&mut self, said: String) {
        self.is_thinking = false;
        self.messages.push(json!({ "role": "assistant", "content": said }));
    }

    /// What an event tells.
    pub(super) fn told(&mut self, event: &[u8]) -> Text {
        let event = String::from_utf8_lossy(event);
        let chunk: Option<Value> =
            event.strip_prefix("data: ").and_then(|data| serde_json::from_str(data).ok());
        let Some(chunk) = chunk else { return Text::default() };
        if let Some(error) = chunk["error"]["message"].as_str() {
            return Text { shown: format!("\n{error}"), said: String::new() };
        }
        let delta = &chunk["choices"][0]["delta"];
        let mut text = Text::default();
        if let Some(thought) = delta["reasoning_content"].as_str() {
            if !std::mem::replace(&mut self.is_thinking, true) {
                text.shown += "(thinking)\n";
            }
            text.shown += thought;
        }
        if let Some(said) = delta["content"].as_str().filter(|said| !said.is_empty()) {
            if std::mem::take(&mut self.is_thinking) {
                text.shown += "\n(done thinking)\n";
            }
            text.shown += said;
            text.said += said;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_questions_or_commands() {
        let mut session = Session::new("m");
        assert_eq!(session.take("  "), Told::Nothing);
        assert_eq!(session.take("/set temperature 0"), Told::Nothing);
        assert_eq!(session.take("/set reasoning_effort none"), Told::Nothing);
        assert_eq!(
            session.take("/set"),
            Told::Words(r#"{"temperature":0,"reasoning_effort":"none"}"#.into())
        );
        assert_eq!(session.take("/unset reasoning_effort"), Told::Nothing);
        assert_eq!(session.take("/system Be brief."), Told::Nothing);
        assert_eq!(session.take("one \\"), Told::Nothing);
        assert_eq!(session.take("two"), Told::Ask);
        let expected = json!({ "temperature": 0, "model": "m", "stream": true, "messages": [
            { "role": "system", "content": "Be brief." }, { "role": "user", "content": "one \ntwo" }] });
        assert_eq!(session.request(), expected);
        session.answered("yes".into());
        assert_eq!(session.take("and"), Told::Ask);
        assert_eq!(session.request()["messages"].as_array().unwrap().len(), 4);
        session.take_back();
        assert_eq!(session.take("/clear"), Told::Nothing);
        assert_eq!(session.request()["messages"].as_array().unwrap().len(), 1);
        for (line, words) in [
            ("/set x", "a name and a value"),
            ("/set model y", "not for setting"),
            ("/nonsense", "no /nonsense"),
        ] {
            let Told::Words(said) = session.take(line) else { panic!("{line}") };
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(session.take("/bye"), Told::Bye);
    }

    #[test]
    fn thoughts_are_shown_and_not_said_again() {
        let mut session = Session::new("m");
        let mut told = |delta: Value| {
            session.told(format!("data: {}", json!({ "choices": [{ "delta": delta }] })).as_bytes())
        };
        let text = |shown: &str, said: &str| Text { shown: shown.into(), said: said.into() };
        assert_eq!(told(json!({ "role": "assistant", "content": "" })), text("", ""));
        assert_eq!(told(json!({ "reasoning_content": "a" })), text("(thinking)\na", ""));
        assert_eq!(told(json!({ "reasoning_content": "b" })), text("b", ""));
        assert_eq!(told(json!({ "content": "c" })), text("\n(done thinking)\nc", "c"));
        assert_eq!(session.told(b"data: [DONE]"), text("", ""));
        assert_eq!(session.told(br#"data: {"error":{"message":"broke"}}"#), text("\nbroke", ""));
    }
}
