//! The input of custom tools: text, which the model writes as `{"input": "…"}`.

/// The text in whole arguments, also where they were cut short; what is otherwise than asked for is the text itself.
pub(crate) fn whole(arguments: &str) -> String {
    let mut unwrap = Unwrap::default();
    unwrap.push(arguments);
    unwrap.finish().0
}

/// Takes the text out of arguments that come in pieces, as far as it is there.
#[derive(Debug, Default)]
pub(crate) struct Unwrap {
    arguments: String,
    /// Where in the arguments the next character of the text begins; 0 before the text has begun.
    at: usize,
    /// The text that was given out.
    given: String,
    over: bool,
}

impl Unwrap {
    /// More of the arguments; gives what can be told of the text now.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        self.arguments.push_str(piece);
        let mut text = String::new();
        if self.at == 0 {
            self.at = begins(&self.arguments).unwrap_or(0);
        }
        while self.at > 0 && !self.over {
            let Some((character, length)) = next(&self.arguments[self.at..]) else { break };
            match character {
                Some(character) => text.push(character),
                None => self.over = true,
            }
            self.at += length;
        }
        self.given.push_str(&text);
        text
    }

    /// All of the text, and what of it was not given out yet: arguments of another form are the text.
    pub(crate) fn finish(self) -> (String, String) {
        match self.at {
            0 => (self.arguments.clone(), self.arguments),
            _ => (self.given, String::new()),
        }
    }
}

/// Where the text begins, once that can be told.
fn begins(arguments: &str) -> Option<usize> {
    let mut rest = arguments;
    for token in ["{", "\"input\"", ":", "\""] {
        rest = rest.trim_start().strip_prefix(token)?;
    }
    Some(arguments.len() - rest.len())
}

/// The next character of a JSON string and how many bytes it takes; no character at the closing quote. `None`: not all
/// of it is there, or it is none.
fn next(json: &str) -> Option<(Option<char>, usize)> {
    let first = json.chars().next()?;
    match first {
        '"' => return Some((None, 1)),
        '\\' => {}
        plain => return Some((Some(plain), plain.len_utf8())),
    }
    let character = match json.as_bytes().get(1)? {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => return unicode(json),
        &other => char::from(other),
    };
    character.is_ascii().then_some((Some(character), 2))
}

/// `\uXXXX`, or two of them that are one character.
fn unicode(json: &str) -> Option<(Option<char>, usize)> {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(0)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((Some(char::from_u32(first.into())?), 6));
    }
    let pair = char::decode_utf16([first, unit(6)?]).next()?.ok()?;
    Some((Some(pair), 12))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(arguments: &str, size: usize) -> (String, String) {
        let mut unwrap = Unwrap::default();
        let characters: Vec<char> = arguments.chars().collect();
        let mut said: String =
            characters.chunks(size).map(|piece| unwrap.push(&piece.iter().collect::<String>())).collect();
        let (whole, rest) = unwrap.finish();
        said.push_str(&rest);
        (said, whole)
    }

    proptest! {
        #[test]
        fn any_text_in_any_pieces(text in "\\PC{0,20}|[\\\\\"\n\u{1}😀é]{0,12}", size in 1usize..7, pretty in any::<bool>()) {
            let json = serde_json::json!({"input": text});
            let arguments = if pretty { format!("{json:#}") } else { json.to_string() };
            let escaped: String = arguments.encode_utf16().map(|unit| match unit {
                0..0x80 => char::from(unit as u8).to_string(),
                other => format!("\\u{other:04x}"),
            }).collect();
            for arguments in [arguments, escaped] {
                let (said, whole) = pieces(&arguments, size);
                prop_assert_eq!(&said, &text);
                prop_assert_eq!(&whole, &text);
            }
        }
    }

    #[test]
    fn other_forms_are_the_text_itself() {
        for arguments in ["*** Begin Patch", "{\"patch\":\"x\"}", "", "{\"input\":5}"] {
            assert_eq!(pieces(arguments, 3), (arguments.to_owned(), arguments.to_owned()));
        }
    }

    #[test]
    fn it_streams() {
        let mut unwrap = Unwrap::default();
        assert_eq!(unwrap.push("{\"inp"), "");
        assert_eq!(unwrap.push("ut\": \"ab\\"), "ab");
        assert_eq!(unwrap.push("n\\ud83d\\ude"), "\n");
        assert_eq!(unwrap.push("00c\"}"), "😀c");
        assert_eq!(unwrap.finish().1, "");
    }
}
