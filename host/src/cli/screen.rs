//! A terminal: colours where there is one, and a view that stays.

use anyhow::Result;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Another screen than the one with the shell's history; no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the top left.
const HOME: &str = "\x1b[H";
const TO_LINE_END: &str = "\x1b[K";
const TO_SCREEN_END: &str = "\x1b[J";

/// What a state is painted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Warn,
    Bad,
    Soft,
}

/// Colours are for people at a terminal who have not refused them.
pub(super) fn has_colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

pub(super) fn paint(colour: Colour, text: &str) -> String {
    let code = match colour {
        Colour::Good => 32,
        Colour::Warn => 33,
        Colour::Bad => 31,
        Colour::Soft => 2,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Draws again every so often, until Ctrl-C; where there is no terminal, one drawing after the other.
pub(super) fn stay(every: Duration, mut draw: impl FnMut() -> String) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_screen = stdout().is_terminal();
    // Before the first drawing: what comes during one is heard after it.
    let mut ends = {
        let _inside = runtime.enter();
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]
    };
    print!("{}", if is_screen { ENTER } else { "" });
    loop {
        let text = draw();
        let shown = if is_screen { framed(&text, size()) } else { text };
        let mut out = stdout().lock();
        // Whoever reads has left.
        if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        drop(out);
        let [interrupt, terminate] = &mut ends;
        let interrupted = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                () = tokio::time::sleep(every) => false,
            }
        });
        if interrupted {
            print!("{}", if is_screen { LEAVE } else { "" });
            return Ok(());
        }
    }
}

/// Columns and rows.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(stdout());
    size.map_or((80, 24), |size| (size.ws_col.max(20).into(), size.ws_row.max(5).into()))
}

/// Over what was there, a line at a time: nothing flickers. What does not fit is cut, not wrapped.
fn framed(text: &str, (width, height): (usize, usize)) -> String {
    let mut out = HOME.to_owned();
    let lines: Vec<&str> = text.lines().collect();
    for (place, line) in lines.iter().take(height - 1).enumerate() {
        out.push_str(if place == 0 { "" } else { "\r\n" });
        out.push_str(&cut(line, width));
        out.push_str(TO_LINE_END);
    }
    if lines.len() >= height {
        out.push_str(&format!("\r\n{} more lines{TO_LINE_END}", lines.len() - height + 1));
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

/// The last values as bars, the highest full.
pub(super) fn sparkline(values: impl Iterator<Item = f64> + Clone) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.clone().fold(0.0, f64::max);
    let bar = |value: f64| match most > 0.0 {
        true => BARS[((value / most * 7.0).round() as usize).min(7)],
        false => BARS[0],
    };
    values.map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        let painted = format!("{} and more", paint(Colour::Good, "up"));
        assert_eq!(cut(&painted, 4), "\x1b[32mup\x1b[0m a");
        let text = framed("one\ntwo\nthree\nfour\n", (10, 3));
        assert_eq!(text, "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n2 more lines\x1b[K\x1b[J");
        assert_eq!(framed("one\ntwo", (2, 9)), "\x1b[Hon\x1b[K\r\ntw\x1b[K\x1b[J");
    }

    #[test]
    fn the_highest_is_full() {
        assert_eq!(sparkline([0.0, 5.0, 10.0].into_iter()), "▁▅█");
        assert_eq!(sparkline([0.0, 0.0].into_iter()), "▁▁");
    }
}
