//! A view that stays: drawn again and again over what was there, moved by keys.

use super::keys::{Key, Keys};
use anyhow::Result;
use futures_util::future::select_all;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// Another screen than the one with the shell's history; no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the top left.
const HOME: &str = "\x1b[H";
const TO_LINE_END: &str = "\x1b[K";
const TO_SCREEN_END: &str = "\x1b[J";

/// One drawing.
pub(in crate::cli) enum Drawn {
    Text(String),
    /// Nothing that comes will be better.
    Over(anyhow::Error),
}

/// Draws again every so often, until Ctrl-C, or q at a terminal; where there is no terminal, one drawing after the other.
pub(in crate::cli) fn stay(every: Duration, draw: impl FnMut() -> Drawn) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = stay_in(&runtime, every, draw);
    // Its last read of a key is not waited for.
    runtime.shutdown_background();
    outcome
}

fn stay_in(
    runtime: &tokio::runtime::Runtime,
    every: Duration,
    mut draw: impl FnMut() -> Drawn,
) -> Result<()> {
    let screen = stdout().is_terminal().then(Screen::enter);
    // Before the first drawing: what comes during one is heard after it.
    let mut ends = {
        let _inside = runtime.enter();
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        [interrupt?, terminate?, hangup?]
    };
    let mut keys = screen.as_ref().and_then(|_| Keys::open());
    let mut first = 0;
    loop {
        let text = match draw() {
            Drawn::Text(text) => text,
            Drawn::Over(error) => return Err(error),
        };
        let due = Instant::now() + every;
        loop {
            let shown = if screen.is_some() { framed(&text, size(), &mut first) } else { text.clone() };
            let mut out = stdout().lock();
            // Whoever reads has left.
            if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
            drop(out);
            match runtime.block_on(next(&mut ends, &mut keys, due)) {
                None => break,
                Some(Key::Quit) => return Ok(()),
                Some(Key::Move(lines)) => first = first.saturating_add_signed(lines),
                Some(Key::Page(pages)) => {
                    first = first.saturating_add_signed(pages * (size().1 as isize - 2));
                }
                Some(Key::Top) => first = 0,
                Some(Key::End) => first = usize::MAX,
            }
        }
    }
}

/// `None`: it is time to draw again.
async fn next(ends: &mut [Signal; 3], keys: &mut Option<Keys>, due: Instant) -> Option<Key> {
    let pressed = async {
        match keys {
            Some(keys) => keys.next().await,
            None => std::future::pending().await,
        }
    };
    let ended = ends.iter_mut().map(|end| Box::pin(end.recv()));
    tokio::select! {
        _ = select_all(ended) => Some(Key::Quit),
        key = pressed => Some(key),
        () = tokio::time::sleep_until(due) => None,
    }
}

/// Left however the view ends.
struct Screen;

impl Screen {
    fn enter() -> Self {
        print!("{ENTER}");
        Self
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print!("{LEAVE}");
        // A terminal that is gone needs nothing.
        let _gone = stdout().flush();
    }
}

/// Columns and rows.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(stdout());
    size.map_or((80, 24), |size| (size.ws_col.max(20).into(), size.ws_row.max(5).into()))
}

/// Over what was there, a line at a time: nothing flickers. What does not fit is cut, not wrapped. `first`: the line at the
/// top, which is put right where there are not so many.
fn framed(text: &str, (width, height): (usize, usize), first: &mut usize) -> String {
    let mut out = HOME.to_owned();
    let lines: Vec<&str> = text.lines().collect();
    let room = if lines.len() >= height { height - 1 } else { height };
    *first = (*first).min(lines.len().saturating_sub(room));
    for (place, line) in lines.iter().skip(*first).take(room).enumerate() {
        out.push_str(if place == 0 { "" } else { "\r\n" });
        out.push_str(&cut(line, width));
        out.push_str(TO_LINE_END);
    }
    if lines.len() >= height {
        let last = (*first + room).min(lines.len());
        let about = format!("lines {} to {last} of {}; arrows move, q ends", *first + 1, lines.len());
        out.push_str(&format!("\r\n{}{TO_LINE_END}", cut(&about, width)));
    }
    out + TO_SCREEN_END
}

/// The first `width` characters; what paints them takes no place.
fn cut(line: &str, width: usize) -> String {
    let (mut out, mut left, mut in_code) = (String::new(), width, false);
    for c in line.chars() {
        in_code |= c == '\x1b';
        if in_code || left > 0 {
            out.push(c);
        }
        match in_code {
            true => in_code = !c.is_ascii_alphabetic(),
            false => left = left.saturating_sub(1),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Colour, paint};
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        let painted = format!("{} and more", paint(Colour::Good, "up"));
        assert_eq!(cut(&painted, 4), "\x1b[32mup\x1b[0m a");
        let text = |first: &mut usize| framed("one\ntwo\nthree\nfour\n", (10, 3), first);
        let (mut top, mut far) = (0, usize::MAX);
        assert_eq!(text(&mut top), "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\nlines 1 to\x1b[K\x1b[J");
        assert_eq!(text(&mut far), "\x1b[Hthree\x1b[K\r\nfour\x1b[K\r\nlines 3 to\x1b[K\x1b[J");
        assert_eq!((top, far), (0, 2));
        assert_eq!(framed("one\ntwo", (2, 9), &mut far), "\x1b[Hon\x1b[K\r\ntw\x1b[K\x1b[J");
        assert_eq!(far, 0);
    }
}
