//! How much of a prompt one step takes: as much as its time allows, for nobody is heard during a step.

use std::time::Duration;

/// A step takes about so long while others wait for their next token.
const BESIDE_DRAWING: Duration = Duration::from_millis(150);
/// And so long where nobody does.
const ALONE: Duration = Duration::from_millis(400);
/// Tokens of the first step, before anything was measured.
const FIRST: usize = 64;
/// Tokens of a step at least, and what it is a multiple of.
const LEAST: usize = 16;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.4;
/// Fewer tokens than this say little about the rate of many.
const FEWEST: usize = 8;

/// What was measured so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds a token of a prompt.
    seconds: Option<f64>,
}

impl Pace {
    /// Prompt tokens for the next step.
    pub(super) fn prompt_tokens(&self, beside_drawing: bool) -> usize {
        let Some(seconds) = self.seconds else { return FIRST };
        let time = if beside_drawing { BESIDE_DRAWING } else { ALONE };
        let tokens = (time.as_secs_f64() / seconds) as usize;
        tokens.max(LEAST) / LEAST * LEAST
    }

    pub(super) fn record(&mut self, drawing: usize, prompt: usize, took: Duration) {
        if prompt < FEWEST || prompt < 4 * drawing {
            return;
        }
        let seconds = took.as_secs_f64() / (prompt + drawing) as f64;
        self.seconds = Some(self.seconds.map_or(seconds, |before| before + NEWEST * (seconds - before)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_as_long_as_its_time() {
        let mut pace = Pace::default();
        assert_eq!(pace.prompt_tokens(true), FIRST);
        pace.record(0, 100, Duration::from_millis(100));
        assert_eq!((pace.prompt_tokens(true), pace.prompt_tokens(false)), (144, 400));
        // One token, or mostly drawing, says nothing.
        pace.record(0, 1, Duration::from_secs(1));
        pace.record(8, 16, Duration::from_secs(1));
        assert_eq!(pace.prompt_tokens(true), 144);
        for _ in 0..50 {
            pace.record(0, 10, Duration::from_secs(10));
        }
        assert_eq!(pace.prompt_tokens(false), LEAST);
    }
}
