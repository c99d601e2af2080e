//! From the states of a text's tokens to one vector.

/// Which states count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// All alike.
    Mean,
    /// The first token's, which was trained to stand for the whole.
    First,
    /// The last one's, which alone has seen everything where tokens see only what is before them.
    Last,
}

/// The vector of a text as its states come.
#[derive(Debug)]
pub(super) struct Pool {
    pooling: Pooling,
    /// [hidden]
    sum: Vec<f32>,
    count: usize,
}

impl Pool {
    pub(super) fn new(pooling: Pooling) -> Self {
        Self { pooling, sum: Vec::new(), count: 0 }
    }

    /// Whether every state has to come, and not only the last.
    pub(super) fn needs_all(&self) -> bool {
        self.pooling != Pooling::Last
    }

    /// The next tokens' states: `[tokens, width]`.
    pub(super) fn add(&mut self, states: &[f32], width: usize) {
        for state in states.chunks_exact(width) {
            match self.pooling {
                Pooling::Mean if self.count > 0 => {
                    self.sum.iter_mut().zip(state).for_each(|(sum, state)| *sum += state);
                }
                Pooling::First if self.count > 0 => {}
                Pooling::Mean | Pooling::First | Pooling::Last => self.sum = state.to_vec(),
            }
            self.count += 1;
        }
    }

    /// What has been added is run anew.
    pub(super) fn restart(&mut self) {
        self.sum.clear();
        self.count = 0;
    }

    #[expect(clippy::cast_precision_loss, reason = "texts have far fewer than 2^24 tokens")]
    pub(super) fn finish(&mut self) -> Vec<f32> {
        let mut vector = std::mem::take(&mut self.sum);
        if self.pooling == Pooling::Mean {
            let by = 1.0 / self.count.max(1) as f32;
            vector.iter_mut().for_each(|x| *x *= by);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_become_one_vector_however_they_come() {
        let check = |pooling, expected: [f32; 2]| {
            let mut pool = Pool::new(pooling);
            pool.add(&[9.0, 9.0], 2);
            pool.restart();
            pool.add(&[1.0, 2.0, 3.0, 4.0], 2);
            pool.add(&[5.0, 0.0], 2);
            assert_eq!(pool.finish(), expected, "{pooling:?}");
        };
        check(Pooling::Mean, [3.0, 2.0]);
        check(Pooling::First, [1.0, 2.0]);
        check(Pooling::Last, [5.0, 0.0]);
    }
}
