//! Thoughts of a bounded length: past it the engine itself says that they end.

use std::{collections::VecDeque, sync::Arc};

/// How a model thinks before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thoughts {
    /// The prompt has opened them.
    pub open: bool,
    /// Tokens that open and end them; neither is empty.
    pub start: Arc<[u32]>,
    pub end: Arc<[u32]>,
    /// Tokens that they may have.
    pub limit: usize,
}

/// Tokens in front of thoughts that open in the answer: space, if anything.
const FRONT: usize = 4;

/// Counts a sequence's thoughts.
#[derive(Debug)]
pub(super) struct Budget {
    thoughts: Thoughts,
    at: At,
    used: usize,
    /// The newest tokens, as many as either mark has at most.
    tail: VecDeque<u32>,
    /// Tokens that come next, whatever the model would say.
    due: VecDeque<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So many tokens have come, and none but space can have.
    Start(usize),
    Thoughts,
    /// The mark is words like any other from here on.
    Answer,
}

impl Budget {
    pub(super) fn new(thoughts: Thoughts) -> Self {
        let at = if thoughts.open { At::Thoughts } else { At::Start(0) };
        let mut budget = Self { thoughts, at, used: 0, tail: VecDeque::new(), due: VecDeque::new() };
        budget.cut();
        budget
    }

    /// The token that must come next, if one must.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.due.pop_front()
    }

    /// A token was said, drawn or due.
    pub(super) fn said(&mut self, token: u32) {
        let longest = self.thoughts.start.len().max(self.thoughts.end.len());
        if self.tail.len() == longest {
            self.tail.pop_front();
        }
        self.tail.push_back(token);
        match self.at {
            At::Start(_) if self.ends_with(&self.thoughts.start) => {
                self.at = At::Thoughts;
                self.cut();
            }
            At::Start(count) if count > self.thoughts.start.len() + FRONT => self.at = At::Answer,
            At::Start(count) => self.at = At::Start(count + 1),
            At::Thoughts => {
                self.used += 1;
                if self.ends_with(&self.thoughts.end) {
                    self.at = At::Answer;
                    self.due.clear();
                } else if self.due.is_empty() {
                    self.cut();
                }
            }
            At::Answer => {}
        }
    }

    fn cut(&mut self) {
        if self.at == At::Thoughts && self.used >= self.thoughts.limit {
            self.due.extend(self.thoughts.end.iter());
        }
    }

    fn ends_with(&self, mark: &[u32]) -> bool {
        self.tail.len() >= mark.len() && self.tail.iter().rev().zip(mark.iter().rev()).all(|(a, b)| a == b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said where the model would say `wants` over and over.
    fn run(open: bool, limit: usize, wants: &[u32], count: usize) -> Vec<u32> {
        let thoughts = Thoughts { open, start: [1].into(), end: [2, 3].into(), limit };
        let mut budget = Budget::new(thoughts);
        let mut wants = wants.iter().copied().cycle();
        (0..count)
            .map(|_| {
                let token = budget.next().or_else(|| wants.next()).unwrap();
                budget.said(token);
                token
            })
            .collect()
    }

    #[test]
    fn thoughts_end_at_their_limit() {
        assert_eq!(run(true, 2, &[7], 6), [7, 7, 2, 3, 7, 7]);
        assert_eq!(run(true, 0, &[7], 4), [2, 3, 7, 7]);
        // They may begin in the answer, but once, and not in its midst.
        assert_eq!(run(false, 2, &[7, 1, 8], 9), [7, 1, 8, 7, 2, 3, 1, 8, 7]);
        assert_eq!(run(false, 1, &[7, 7, 7, 7, 7, 7, 7, 1, 8], 12), [7, 7, 7, 7, 7, 7, 7, 1, 8, 7, 7, 7]);
        assert_eq!(run(false, 2, &[7], 3), [7, 7, 7]);
    }

    #[test]
    fn thoughts_that_end_by_themselves_are_let_be() {
        assert_eq!(run(true, 5, &[7, 2, 3, 9], 4), [7, 2, 3, 9]);
    }
}
