//! What a request may ask of a sequence beside its length: grammars, ends of its own, thoughts, how likely tokens were.

use super::*;
use crate::engine::{Grammar, Guide, GuideThreads, Thoughts};

/// Lets tokens of a list come, one after the other, and takes its time to say so.
#[derive(Clone)]
struct Listed {
    tokens: Vec<u32>,
    at: usize,
    pace: Duration,
}

impl Grammar for Listed {
    fn accept(&mut self, token: u32) -> Result<(), String> {
        assert_eq!(token, self.tokens[self.at]);
        self.at += 1;
        Ok(())
    }

    fn allowed(&mut self) -> Result<Option<Vec<u32>>, String> {
        std::thread::sleep(self.pace);
        let Some(token) = self.tokens.get(self.at) else { return Ok(None) };
        match token {
            62 => Err("too complex".into()),
            63 => panic!("broken"),
            token => {
                let mut bits = vec![0; 2];
                bits[*token as usize / 32] |= 1 << (token % 32);
                Ok(Some(bits))
            }
        }
    }

    fn fork(&self) -> Box<dyn Grammar> {
        Box::new(self.clone())
    }
}

const MANY: Limits = Limits {
    draws: false,
    sequences: 4,
    tokens: 16,
    block: 4,
    blocks: 64,
    block_bytes: 0,
    every_row: true,
    whole: false,
    shares_blocks: true,
};

async fn rig(limits: Limits) -> Rig {
    let steps = Arc::default();
    let rig = Rig::with(Counters { steps: Arc::clone(&steps), limits, ..Counters::default() }, steps);
    rig.load().await;
    rig
}

impl Rig {
    fn ask_for(&self, generation: Generation) -> mpsc::Receiver<Event> {
        self.device.generate(generation, self.stats.admit(8).unwrap(), PATIENT).unwrap()
    }

    fn guided(&self, threads: &GuideThreads, tokens: &[u32], pace: Duration) -> mpsc::Receiver<Event> {
        let grammar = Listed { tokens: tokens.to_vec(), at: 0, pace };
        let guide = Some(Guide::new(Box::new(grammar), threads));
        self.ask_for(Generation { guide, ..generation(self.key, "", &[1], 20) })
    }
}

#[tokio::test]
async fn a_grammar_decides_what_comes_and_when_it_is_over() {
    // Also where a token cannot be run again.
    for limits in [MANY, ONE] {
        let (rig, threads) = (rig(limits).await, GuideThreads::start(2).unwrap());
        let guided = |tokens: &[u32], pace: u64| rig.guided(&threads, tokens, Duration::from_millis(pace));
        // The model would count: what the grammar wants comes instead, which is no sequence that it remembers.
        assert_eq!(all(guided(&[2, 3, 4], 0)).await, (vec![2, 3, 4], Ok(Finish::Stop)));
        assert_eq!(all(guided(&[2, 3, 4], 20)).await, (vec![2, 3, 4], Ok(Finish::Stop)));
        let ended = all(guided(&[2, 3, 30, 4], 0)).await;
        assert_eq!(ended, (vec![2, 3], Ok(Finish::Stop)), "the grammar asks for the token that ends");
        let failed = all(guided(&[2, 62], 3)).await;
        assert_eq!(failed, (vec![2], Err(Failure::Grammar("too complex".into()))));
        let failed = all(guided(&[2, 63], 0)).await;
        assert_eq!(failed, (vec![2], Err(Failure::Grammar("the grammar broke down".into()))));
        rig.device.stop(PATIENT).await;
    }
}

#[tokio::test]
async fn whoever_waits_for_its_grammar_holds_nobody_up() {
    let (rig, threads) = (rig(MANY).await, GuideThreads::start(1).unwrap());
    let mut slow = rig.guided(&threads, &[2, 3], Duration::from_millis(1500));
    let quick = rig.ask_for(generation(rig.key, "", &[31], 25));
    assert_eq!(all(quick).await.0.len(), 25);
    assert!(slow.try_recv().is_err(), "the quick one waited for the other's grammar");
    assert_eq!(all(slow).await, (vec![2, 3], Ok(Finish::Stop)));
}

#[tokio::test]
async fn an_answer_may_have_ends_of_its_own_and_a_least_length() {
    let rig = rig(MANY).await;
    let plain = |prompt: &[u32]| generation(rig.key, "", prompt, 9);
    let stops = Generation { stops: [7, 9].into(), ..plain(&[5]) };
    assert_eq!(all(rig.ask_for(stops)).await, (vec![6], Ok(Finish::Token(7))));
    // Past an end that comes too early the likeliest is the first token.
    let least = Generation { min_tokens: 1, max_tokens: 1, stops: [7].into(), ..plain(&[6]) };
    assert_eq!(all(rig.ask_for(least)).await, (vec![0], Ok(Finish::Length)));
    let none = Generation { max_tokens: 0, ..plain(&[5, 6]) };
    assert_eq!(all(rig.ask_for(none)).await, (vec![], Ok(Finish::Length)));
}

#[tokio::test]
async fn thoughts_end_where_their_budget_does() {
    let rig = rig(MANY).await;
    let thoughts = Some(Thoughts { open: true, start: [50].into(), end: [8].into(), limit: 2 });
    let got = all(rig.ask_for(Generation { thoughts, ..generation(rig.key, "", &[5], 5) })).await;
    assert_eq!(got, (vec![6, 7, 8, 9, 10], Ok(Finish::Length)));
}

#[tokio::test]
async fn every_token_of_the_prompt_is_told_of_whatever_the_cache_has() {
    let rig = rig(MANY).await;
    let prompt: Vec<u32> = (16..40).collect();
    // Others run beside it, so that few rows are left, and the prompt is in the cache.
    all(rig.ask_for(generation(rig.key, "", &prompt, 1))).await.1.unwrap();
    let beside = [1, 2, 3].map(|n| rig.ask_for(generation(rig.key, "", &[30 + n], 25)));
    let asked =
        Generation { prompt_logprobs: Some(1), logprobs: Some(2), ..generation(rig.key, "", &prompt, 2) };
    let mut events = rig.ask_for(asked);
    let (mut told, mut drawn) = (Vec::new(), Vec::new());
    loop {
        match events.recv().await.unwrap() {
            Event::Begun { cached } => assert_eq!(cached, 0),
            Event::Prompt(more) => told.extend(more),
            Event::Token(token, logprobs) => drawn.push((token, logprobs.unwrap())),
            Event::Done(..) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told.len(), prompt.len() - 1);
    // The likeliest of 64, one of which is e times as likely as each of the others.
    let best = 1.0 - (1f32.exp() + 63.0).ln();
    for (logprobs, token) in told.iter().zip(&prompt[1..]) {
        assert!((logprobs.chosen - best).abs() < 1e-5);
        assert_eq!(logprobs.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [*token]);
    }
    assert_eq!(drawn.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [40, 41]);
    assert!(
        drawn.iter().all(|(_, logprobs)| (logprobs.chosen - best).abs() < 1e-5 && logprobs.top.len() == 2)
    );
    for events in beside {
        assert_eq!(all(events).await.0.len(), 25);
    }
}

#[tokio::test]
async fn a_prompts_vector_is_made_of_all_its_states() {
    use crate::engine::Pooling;

    // A prompt in pieces, or whole even where it is longer than a step allows beside others.
    let whole = Limits { whole: true, every_row: false, shares_blocks: false, block: 16, ..MANY };
    for limits in [MANY, whole] {
        let rig = rig(limits).await;
        let vector = |pooling, prompt: std::ops::Range<u32>| {
            let prompt: Vec<u32> = prompt.collect();
            let asked = Generation { pooling: Some(pooling), ..generation(rig.key, "", &prompt, 1) };
            let mut events = rig.ask_for(asked);
            async move {
                loop {
                    match events.recv().await.unwrap() {
                        Event::Begun { .. } => {}
                        Event::Vector(vector) => {
                            assert!(matches!(events.recv().await, Some(Event::Done(Finish::Stop, _))));
                            return vector;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        let all = futures_util::future::join_all([
            vector(Pooling::Mean, 1..12),
            vector(Pooling::First, 2..13),
            vector(Pooling::Last, 16..25),
            // In the cache by now, or not: the same.
            vector(Pooling::Mean, 1..12),
            vector(Pooling::Last, 40..41),
        ]);
        assert_eq!(all.await, [[6.0], [2.0], [24.0], [6.0], [40.0]]);
    }
}
