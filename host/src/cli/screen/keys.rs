//! Keys that are pressed while a view stays.

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
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
    Other,
}

/// The terminal gives each key at once and does not show it; as it was, once this is dropped.
pub(super) struct Keys {
    /// One read after the other, wherever the last one is waited for.
    reading: Option<JoinHandle<Key>>,
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
        // Ctrl-C stays a signal.
        now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(stdin(), OptionalActions::Now, &now).ok()?;
        Some(Self { reading: None, before })
    }

    /// Dropping the future loses no key.
    pub(super) async fn next(&mut self) -> Key {
        let reading = self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(read));
        let key = reading.await;
        self.reading = None;
        key.unwrap_or(Key::Other)
    }
}

fn read() -> Key {
    let mut bytes = [0; 16];
    match rustix::io::read(stdin(), &mut bytes) {
        // The terminal is gone.
        Ok(0) | Err(_) => Key::Quit,
        Ok(length) => key(&bytes[..length]),
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _gone = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// What terminals send for it, in both of their modes, and pagers' letters.
fn key(bytes: &[u8]) -> Key {
    match bytes {
        b"q" | b"Q" | b"\x04" => Key::Quit,
        b"j" | b"\n" | b"\r" | b"\x1b[B" | b"\x1bOB" => Key::Move(1),
        b"k" | b"\x1b[A" | b"\x1bOA" => Key::Move(-1),
        b" " | b"\x1b[6~" => Key::Page(1),
        b"b" | b"\x1b[5~" => Key::Page(-1),
        b"g" | b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" => Key::Top,
        b"G" | b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" => Key::End,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_both_modes() {
        assert_eq!((key(b"\x1b[A"), key(b"\x1bOB")), (Key::Move(-1), Key::Move(1)));
        assert_eq!((key(b"\x1b[6~"), key(b"q"), key(b"x")), (Key::Page(1), Key::Quit, Key::Other));
    }
}
