//! Keys that are pressed while a view stays.

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::collections::VecDeque;
use std::io::{IsTerminal, stdin};
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    /// So many lines down.
    Move(isize),
    Page(isize),
    Top,
    End,
}

/// The terminal gives each key at once and does not show it; as it was, once this is dropped.
pub(super) struct Keys {
    /// One read after the other, wherever the last one is waited for.
    reading: Option<JoinHandle<Vec<Key>>>,
    /// Pressed, and not told yet.
    pressed: VecDeque<Key>,
    before: Termios,
}

impl Keys {
    /// `None` where nobody is at a keyboard.
    pub(super) fn open() -> Option<Self> {
        if !stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(stdin()).ok()?;
        let mut now = before.clone();
        // Ctrl-C stays a signal; Ctrl-Z and Ctrl-\\ would leave the terminal as it is made here.
        now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        for other in [SpecialCodeIndex::VQUIT, SpecialCodeIndex::VSUSP] {
            now.special_codes[other] = 0;
        }
        tcsetattr(stdin(), OptionalActions::Now, &now).ok()?;
        Some(Self { reading: None, pressed: VecDeque::new(), before })
    }

    /// Dropping the future loses no key.
    pub(super) async fn next(&mut self) -> Key {
        loop {
            if let Some(key) = self.pressed.pop_front() {
                return key;
            }
            let reading = self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(read));
            let keys = reading.await;
            self.reading = None;
            self.pressed.extend(keys.unwrap_or_default());
        }
    }
}

fn read() -> Vec<Key> {
    let mut bytes = [0; 64];
    match rustix::io::read(stdin(), &mut bytes) {
        // The terminal is gone.
        Ok(0) | Err(_) => vec![Key::Quit],
        Ok(length) => keys(&bytes[..length]),
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _gone = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// What terminals send for them, in both of their modes, and pagers' letters.
const KNOWN: [(&[u8], Key); 22] = [
    (b"q", Key::Quit),
    (b"Q", Key::Quit),
    (b"\x04", Key::Quit),
    (b"j", Key::Move(1)),
    (b"\n", Key::Move(1)),
    (b"\r", Key::Move(1)),
    (b"\x1b[B", Key::Move(1)),
    (b"\x1bOB", Key::Move(1)),
    (b"k", Key::Move(-1)),
    (b"\x1b[A", Key::Move(-1)),
    (b"\x1bOA", Key::Move(-1)),
    (b" ", Key::Page(1)),
    (b"\x1b[6~", Key::Page(1)),
    (b"b", Key::Page(-1)),
    (b"\x1b[5~", Key::Page(-1)),
    (b"g", Key::Top),
    (b"\x1b[H", Key::Top),
    (b"\x1bOH", Key::Top),
    (b"\x1b[1~", Key::Top),
    (b"G", Key::End),
    (b"\x1b[F", Key::End),
    (b"\x1bOF", Key::End),
];

/// Several may come at once.
fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        match KNOWN.iter().find(|(sent, _)| bytes.starts_with(sent)) {
            Some((sent, key)) => {
                keys.push(*key);
                bytes = &bytes[sent.len()..];
            }
            // Another sequence: to its last letter, or a tilde.
            None if *first == 0x1b => {
                let last = rest.iter().position(|&b| b.is_ascii_alphabetic() && b != b'O' || b == b'~');
                bytes = last.map_or(&[], |last| &rest[last + 1..]);
            }
            None => bytes = rest,
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_both_modes_several_at_once() {
        assert_eq!(keys(b"\x1b[A\x1bOB"), [Key::Move(-1), Key::Move(1)]);
        assert_eq!(keys(b"x\x1b[1;5Cjj\x1b[6~q"), [Key::Move(1), Key::Move(1), Key::Page(1), Key::Quit]);
        assert!(keys(b"\x1b").is_empty());
    }
}
