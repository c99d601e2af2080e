//! Whether a JSON object that comes in pieces is whole: then nothing more can come of it.

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Object {
    depth: u32,
    in_string: bool,
    escaped: bool,
    whole: bool,
}

impl Object {
    pub(super) fn push(&mut self, piece: &str) {
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
                    self.whole |= self.depth == 0;
                }
                _ => {}
            }
        }
    }

    pub(super) fn is_whole(self) -> bool {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_at_the_last_brace() {
        let check = |json: &str| {
            let mut object = Object::default();
            for (at, piece) in json.char_indices() {
                assert!(!object.is_whole(), "{json} at {at}");
                object.push(piece.encode_utf8(&mut [0; 4]));
            }
            assert!(object.is_whole(), "{json}");
        };
        check("{}");
        check(r#"{"a":{"b":[1,{}]},"c":"}"}"#);
        check(r#"{"a\"}":"\\"}"#);
        check(r#" {"é":"\u007d"}"#);
    }
}
