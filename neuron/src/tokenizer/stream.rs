//! Bytes to text while they come, never splitting a character.

/// Collects bytes and gives out the text that is complete.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    /// The start of a character whose rest has not come; at most 3 bytes.
    held: Vec<u8>,
}

impl TextStream {
    /// Takes in bytes and returns the text that they complete. Bytes that no character can
    /// start or continue with become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.held = rest.to_vec();
        text
    }

    /// What is left at the end: a character that was never completed, as one U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_character_comes_whole_or_not_yet() {
        let mut stream = TextStream::default();
        assert_eq!(stream.push(&[0xf0, 0x9f]), "");
        assert_eq!(stream.push(&[0xa6]), "");
        assert_eq!(stream.push(&[0x80, b'!', 0xe2]), "🦀!");
        assert_eq!(stream.finish(), "\u{fffd}");
    }

    #[test]
    fn bytes_of_no_character_are_replaced_and_hold_nothing_up() {
        let mut stream = TextStream::default();
        assert_eq!(stream.push(&[b'a', 0xff, b'b']), "a\u{fffd}b");
        assert_eq!(stream.finish(), "");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_text_is_the_same(bytes: Vec<u8>, cuts: Vec<u8>) {
            let mut stream = TextStream::default();
            let (mut got, mut rest) = (String::new(), bytes.as_slice());
            for cut in cuts {
                let (head, tail) = rest.split_at(usize::from(cut % 7).min(rest.len()));
                got += &stream.push(head);
                rest = tail;
            }
            got += &stream.push(rest);
            got += &stream.finish();
            prop_assert_eq!(got, String::from_utf8_lossy(&bytes));
        }
    }
}
