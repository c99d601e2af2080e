use std::sync::atomic::AtomicUsize;

use super::*;
use crate::engine::{Architecture, Batch, Finish, Limits, Logits, Model, Rows, Sampling, shape_for_tests};

mod asked;

/// Counts up from each sequence's last input, from 60 back to 40; token 13 panics, 14 fails, 15 gives no number.
struct Counter {
    steps: Arc<AtomicUsize>,
    pace: Duration,
    limits: Limits,
    logits: Vec<f32>,
    /// Each token is its own state.
    states: Vec<f32>,
    /// What each position of each block was given.
    memory: Vec<Vec<u32>>,
}

impl Counter {
    fn new(counters: &Counters) -> Self {
        let limits = counters.limits;
        Self {
            steps: Arc::clone(&counters.steps),
            pace: counters.pace,
            limits,
            logits: Vec::new(),
            states: Vec::new(),
            memory: vec![vec![0; limits.block]; limits.blocks],
        }
    }
}

impl Model for Counter {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        std::thread::sleep(self.pace);
        self.steps.fetch_add(1, Ordering::Relaxed);
        assert!(batch.parts.len() <= self.limits.sequences && batch.tokens.len() <= self.limits.tokens);
        self.logits.clear();
        self.states.clear();
        let mut first = 0;
        for part in batch.parts {
            let tokens = &batch.tokens[first..first + part.len];
            first += part.len;
            for (position, token) in (part.position..).zip(tokens) {
                let block = part.blocks[position / self.limits.block];
                self.memory[block as usize][position % self.limits.block] = *token;
            }
            // Every sequence here counts, so what stands before a token is known.
            for position in 1..part.position + part.len {
                let at = |p: usize| {
                    self.memory[part.blocks[p / self.limits.block] as usize][p % self.limits.block]
                };
                let (before, this) = (at(position - 1), at(position));
                assert!(this == before + 1 || (before == 60 && this == 40), "{before} before {this}");
            }
            match tokens[part.len - 1] {
                13 => panic!("unlucky"),
                14 => return Err(ModelError("no".into())),
                _ => {}
            }
            assert!(part.rows != Rows::All || self.limits.every_row);
            assert!(!self.limits.whole || part.position == 0);
            if part.rows == Rows::States {
                self.states.extend(tokens.iter().map(|token| *token as f32));
            }
            for token in &tokens[part.len - part.wanted()..] {
                let next = if *token == 60 { 40 } else { token + 1 };
                let logit = |other| if other == next { 1.0 } else { 0.0 };
                self.logits.extend((0..64).map(|other| if *token == 15 { f32::NAN } else { logit(other) }));
            }
        }
        assert!(self.logits.len() <= 64 * self.limits.sequences);
        Ok(Logits { data: &mut self.logits, vocab: 64, states: &self.states, width: 1, drawn: &[] })
    }

    fn weights_bytes(&self) -> u64 {
        0
    }
}

struct Counters {
    steps: Arc<AtomicUsize>,
    pace: Duration,
    load_time: Duration,
    limits: Limits,
}

/// One sequence at a time, a few tokens of a prompt a step.
const ONE: Limits = Limits {
    sequences: 1,
    tokens: 2,
    block: 64,
    blocks: 1,
    block_bytes: 0,
    every_row: false,
    whole: false,
    shares_blocks: false,
    draws: false,
};

impl Default for Counters {
    fn default() -> Self {
        Self { steps: Arc::default(), pace: Duration::ZERO, load_time: Duration::ZERO, limits: ONE }
    }
}

impl Backend for Counters {
    fn load(&mut self, _: &Weights, _: &Blueprint, _: Room) -> Result<Box<dyn Model>, ModelError> {
        if self.load_time > Duration::ZERO {
            std::thread::sleep(self.load_time);
        }
        Ok(Box::new(Counter::new(self)))
    }
}

/// Weights without a tensor, and a plan for them: the models here read none.
fn nothing() -> (Weights, Blueprint) {
    let header = crate::gguf::Header {
        version: 3,
        metadata: [].into(),
        tensors: [].into(),
        data_offset: 0,
        file_len: 0,
        parts: Vec::new(),
    };
    let weights = Weights::gguf(std::path::PathBuf::new(), Arc::new(header));
    (weights, Blueprint::Decoder(shape_for_tests(Architecture::Llama)))
}

struct Rig {
    device: DeviceHandle,
    key: ModelKey,
    stats: Arc<Stats>,
    steps: Arc<AtomicUsize>,
}

impl Rig {
    async fn new(pace: Duration) -> Self {
        let steps = Arc::default();
        let counters = Counters { steps: Arc::clone(&steps), pace, ..Counters::default() };
        let rig = Self::with(counters, steps);
        rig.load().await;
        rig
    }

    fn with(counters: Counters, steps: Arc<AtomicUsize>) -> Self {
        let counters = Mutex::new(Some(counters));
        let make = move || -> Result<Box<dyn Backend>, String> {
            let made = counters.lock().unwrap().take();
            made.map(|made| Box::new(made) as Box<dyn Backend>).ok_or_else(|| "it is gone".to_owned())
        };
        let device = DeviceHandle::start("test-0", Arc::new(make)).unwrap();
        Self { key: DeviceHandle::new_key(), device, stats: Arc::default(), steps }
    }

    async fn load(&self) {
        let (weights, plan) = nothing();
        let (room, stats) = (Room { context: 64, cached: 64 }, Arc::clone(&self.stats));
        self.device.load(self.key, weights, plan, room, stats, Role::Alone).await.unwrap();
    }

    fn ask(&self, prompt: &[u32], max_tokens: usize, patience: Duration) -> mpsc::Receiver<Event> {
        self.ask_as("", prompt, max_tokens, patience)
    }

    fn ask_as(
        &self,
        caller: &str,
        prompt: &[u32],
        max_tokens: usize,
        patience: Duration,
    ) -> mpsc::Receiver<Event> {
        let generation = generation(self.key, caller, prompt, max_tokens);
        self.device.generate(generation, self.stats.admit(8).unwrap(), patience).unwrap()
    }
}

fn generation(model: ModelKey, caller: &str, prompt: &[u32], max_tokens: usize) -> Generation {
    Generation {
        model,
        caller: caller.into(),
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        end: Arc::new([30]),
        ignore_end: false,
        min_tokens: 0,
        stops: Arc::default(),
        logprobs: None,
        prompt_logprobs: None,
        pooling: None,
        guide: None,
        thoughts: None,
    }
}

const PATIENT: Duration = Duration::from_secs(60);

/// The tokens and how it ended.
async fn all(mut events: mpsc::Receiver<Event>) -> (Vec<u32>, Result<Finish, Failure>) {
    let mut tokens = Vec::new();
    loop {
        match events.recv().await.expect("an end comes before the channel closes") {
            Event::Begun { .. } | Event::Prompt(_) | Event::Vector(_) => {}
            Event::Token(token, _) => tokens.push(token),
            Event::Done(finish, _) => return (tokens, Ok(finish)),
            Event::Failed(failure) => return (tokens, Err(failure)),
        }
    }
}

#[tokio::test]
async fn sequences_run_in_order_and_end_where_they_should() {
    let rig = Rig::new(Duration::ZERO).await;
    let (first, second) = (rig.ask(&[1, 2, 3, 4, 5], 3, PATIENT), rig.ask(&[27], 9, PATIENT));
    assert_eq!(all(first).await, (vec![6, 7, 8], Ok(Finish::Length)));
    assert_eq!(all(second).await, (vec![28, 29], Ok(Finish::Stop)));
    assert_eq!(rig.stats.load(), (0, 0));
    rig.device.stop(PATIENT).await;
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_sequence_within_a_step() {
    let rig = Rig::new(Duration::from_millis(20)).await;
    let mut events = rig.ask(&[1], 60, PATIENT);
    assert_eq!(events.recv().await, Some(Event::Begun { cached: 0 }));
    assert_eq!(events.recv().await, Some(Event::Token(2, None)));
    drop(events);
    // The next one's first token comes while a first sequence that went on would still have the turn.
    let (tokens, _) = all(rig.ask(&[40], 1, PATIENT)).await;
    assert_eq!(tokens, [41]);
    assert!(rig.steps.load(Ordering::Relaxed) <= 4, "{}", rig.steps.load(Ordering::Relaxed));
}

#[tokio::test]
async fn waiting_has_an_end() {
    let rig = Rig::new(Duration::from_millis(10)).await;
    let first = rig.ask(&[31], 20, PATIENT);
    let second = rig.ask(&[31], 20, Duration::from_millis(30));
    assert_eq!(all(second).await, (vec![], Err(Failure::QueueTimeout)));
    assert_eq!(all(first).await.0.len(), 20);
    assert_eq!(rig.stats.rejected(), (0, 1));
}

#[tokio::test]
async fn a_panic_takes_the_model_and_not_the_daemon() {
    let rig = Rig::new(Duration::ZERO).await;
    let (bad, next) = (rig.ask(&[11], 9, PATIENT), rig.ask(&[1], 2, PATIENT));
    assert_eq!(all(bad).await, (vec![12, 13], Err(Failure::Fault("unlucky".into()))));
    assert!(all(next).await.1.is_err());
    assert_eq!(rig.stats.fault(), Some("unlucky"));
    assert_eq!(all(rig.ask(&[1], 2, PATIENT)).await.1, Err(Failure::NotLoaded));
    rig.load().await;
    assert_eq!(all(rig.ask(&[1], 2, PATIENT)).await, (vec![2, 3], Ok(Finish::Length)));
}

#[tokio::test]
async fn an_error_of_the_model_ends_one_request_only() {
    let rig = Rig::new(Duration::ZERO).await;
    assert_eq!(all(rig.ask(&[14], 9, PATIENT)).await.1, Err(Failure::Model("no".into())));
    assert_eq!(all(rig.ask(&[1], 1, PATIENT)).await.1, Ok(Finish::Length));
}

/// On which nothing can be loaded, because it is lost.
struct Dead;

impl Backend for Dead {
    fn load(&mut self, _: &Weights, _: &Blueprint, _: Room) -> Result<Box<dyn Model>, ModelError> {
        Err(ModelError("no context".to_owned()))
    }

    fn lost(&mut self) -> Option<Lost> {
        Some(Lost { reason: "no context".to_owned(), may_drop: false })
    }
}

#[tokio::test]
async fn a_device_that_cannot_be_set_up_again_is_gone() {
    let made = AtomicUsize::new(0);
    let make = move || -> Result<Box<dyn Backend>, String> {
        match made.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Box::new(Dead)),
            n => Err(format!("try {n}")),
        }
    };
    let device = DeviceHandle::start("test-0", Arc::new(make)).unwrap();
    let rig = Rig { key: DeviceHandle::new_key(), device, stats: Arc::default(), steps: Arc::default() };
    let (weights, plan) = nothing();
    let room = Room { context: 1, cached: 1 };
    let loaded = rig.device.load(rig.key, weights, plan, room, Arc::default(), Role::Alone).await;
    assert!(loaded.is_err_and(|e| e.to_string().contains("no context")));
    let mut state = rig.device.watch();
    state.wait_for(|state| matches!(state, DeviceState::Poisoned(_))).await.unwrap();
    rig.device.recover(&[Duration::ZERO; 2]).await;
    assert_eq!(rig.device.state(), DeviceState::Gone("no context; then: try 2".to_owned()));
    assert_eq!(rig.device.unload(rig.key).await, Err(Unavailable::Lost));
    // Stopping it is nothing to wait for.
    rig.device.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn unloading_lets_what_runs_finish() {
    let rig = Rig::new(Duration::from_millis(5)).await;
    let events = rig.ask(&[1], 10, PATIENT);
    let (unloaded, ended) = tokio::join!(rig.device.unload(rig.key), all(events));
    assert_eq!((unloaded, ended.1), (Ok(()), Ok(Finish::Length)));
    assert_eq!(all(rig.ask(&[1], 1, PATIENT)).await.1, Err(Failure::NotLoaded));
}

#[tokio::test]
async fn a_slow_client_loses_nothing() {
    let rig = Rig::new(Duration::ZERO).await;
    let events = rig.ask(&[31], 25, PATIENT);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(all(events).await.0.len(), 25);
    rig.device.stop(PATIENT).await;
    let gone = rig.device.unload(rig.key).await;
    assert_eq!(gone, Err(Unavailable::Gone));
}

#[tokio::test]
async fn what_is_held_back_at_the_end_costs_no_further_step() {
    let rig = Rig::new(Duration::ZERO).await;
    // One more token than there is room for, so that it and the end wait for the client.
    let events = rig.ask(&[40], TOKEN_BUFFER, PATIENT);
    while rig.steps.load(Ordering::Relaxed) < TOKEN_BUFFER {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (tokens, finish) = all(events).await;
    assert_eq!((tokens.len(), finish), (TOKEN_BUFFER, Ok(Finish::Length)));
    let next = rig.ask(&[40], 1, PATIENT);
    assert_eq!(all(next).await.1, Ok(Finish::Length));
    assert_eq!(rig.steps.load(Ordering::Relaxed), TOKEN_BUFFER + 1);
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_load() {
    let load_time = Duration::from_secs(2);
    let rig = Rig::with(Counters { load_time, ..Counters::default() }, Arc::default());
    let started = Instant::now();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.device.stop(Duration::from_millis(100)).await;
    };
    tokio::select! {
        () = rig.load() => panic!("the load was waited for"),
        () = stop => {}
    }
    assert!(started.elapsed() < load_time / 2);
}

#[test]
fn a_client_that_takes_nothing_hears_why_it_ended() {
    let (out, mut events) = mpsc::channel(4);
    let stats: Arc<Stats> = Arc::default();
    let generation = generation(ModelKey(1), "", &[40], 50);
    let now = Instant::now();
    let mut sequence = Sequence::new(generation, out, stats.admit(1).unwrap(), now + PATIENT);
    sequence.begin(now, 0);
    while sequence.flush(now) {
        sequence.draw(&mut [0.0, 1.0], &mut crate::engine::Scratch::default(), true);
    }
    assert!(!sequence.flush(now + Duration::from_secs(59)) && !sequence.is_over());
    assert!(sequence.flush(now + Duration::from_secs(61)) && sequence.is_over());
    assert_eq!(stats.load(), (0, 0), "its seat is free");
    let got: Vec<Event> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    assert_eq!(got.last(), Some(&Event::Failed(Failure::Stalled)), "{got:?}");
    assert_eq!(got.len(), 4);
}

fn batching(sequences: usize, blocks: usize) -> Counters {
    let limits = Limits {
        sequences,
        tokens: 16,
        block: 4,
        blocks,
        block_bytes: 0,
        every_row: true,
        whole: false,
        shares_blocks: true,
        draws: false,
    };
    Counters { limits, ..Counters::default() }
}

async fn batching_rig(sequences: usize, blocks: usize, pace: Duration) -> Rig {
    let counters = Counters { pace, ..batching(sequences, blocks) };
    let steps = Arc::clone(&counters.steps);
    let rig = Rig::with(counters, steps);
    rig.load().await;
    rig
}

/// What follows `last`, `count` times.
fn counted(last: u32, count: usize) -> Vec<u32> {
    let next = |n: &u32| Some(if *n == 60 { 40 } else { n + 1 });
    std::iter::successors(next(&last), next).take(count).collect()
}

#[tokio::test]
async fn sequences_share_steps() {
    let rig = batching_rig(8, 64, Duration::from_millis(3)).await;
    let asked: Vec<_> = (0..8).map(|n| rig.ask(&counted(39, n + 1), 20, PATIENT)).collect();
    for (n, events) in asked.into_iter().enumerate() {
        let last = *counted(39, n + 1).last().unwrap();
        assert_eq!(all(events).await, (counted(last, 20), Ok(Finish::Length)));
    }
    let steps = rig.steps.load(Ordering::Relaxed);
    assert!(steps < 40, "eight sequences of twenty tokens took {steps} steps");
}

/// Few blocks for many sequences: some make room and run again what they had. Nobody hears of it, and the
/// model, which checks what stands before every token, finds nothing out of place.
#[tokio::test]
async fn who_makes_room_goes_on_where_it_was() {
    let rig = batching_rig(4, 9, Duration::ZERO).await;
    let asked: Vec<_> = (0..8).map(|n| rig.ask(&counted(40 + n, 3), 17, PATIENT)).collect();
    for (n, events) in (0..).zip(asked) {
        assert_eq!(all(events).await, (counted(43 + n, 17), Ok(Finish::Length)), "{n}");
    }
    assert!(rig.stats.displaced() > 0);
    // The last word is told before what it was computed with is given back.
    let back = || rig.stats.blocks()[1..] == [9, 9];
    let waited = Instant::now();
    while !back() && waited.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(back(), "every block is back: {:?}", rig.stats.blocks());
}

#[tokio::test]
async fn a_conversation_that_goes_on_finds_its_beginning_and_nobody_elses() {
    let rig = batching_rig(4, 64, Duration::ZERO).await;
    let cached = async |caller: &str, prompt: &[u32]| {
        let mut events = rig.ask_as(caller, prompt, 1, PATIENT);
        match events.recv().await {
            Some(Event::Begun { cached }) => cached,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cached("alice", &counted(39, 14)).await, 0);
    assert_eq!(cached("alice", &counted(39, 19)).await, 12);
    assert_eq!(cached("bob", &counted(39, 19)).await, 0);
}

#[tokio::test]
async fn one_with_a_single_request_does_not_wait_for_anothers_hundred() {
    let rig = batching_rig(1, 64, Duration::from_millis(1)).await;
    rig.stats.set_places(1000);
    let flood: Vec<_> = (0..100).map(|_| rig.ask_as("flood", &[40], 10, PATIENT)).collect();
    let before = rig.steps.load(Ordering::Relaxed);
    assert_eq!(all(rig.ask_as("light", &[40], 10, PATIENT)).await.1, Ok(Finish::Length));
    let steps = rig.steps.load(Ordering::Relaxed) - before;
    assert!(steps < 60, "it waited for {steps} steps");
    drop(flood);
}

#[tokio::test]
async fn output_that_is_no_number_ends_its_own_request() {
    let rig = batching_rig(4, 64, Duration::from_millis(2)).await;
    let (bad, good) = (rig.ask(&[15], 9, PATIENT), rig.ask(&[40], 9, PATIENT));
    let (_, failure) = all(bad).await;
    assert!(matches!(&failure, Err(Failure::Model(why)) if why.contains("not a number")), "{failure:?}");
    assert_eq!(all(good).await, (counted(40, 9), Ok(Finish::Length)));
}

#[tokio::test]
async fn ten_thousand_that_wait_are_served_or_leave() {
    let rig = batching_rig(64, 512, Duration::ZERO).await;
    rig.stats.set_places(20_000);
    let mut asked = Vec::new();
    for n in 0..10_000 {
        while rig.stats.load().1 > 800 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let events = rig.ask_as(&format!("caller {}", n % 7), &[40], 3, PATIENT);
        // Every third client leaves at once.
        if n % 3 != 0 {
            asked.push(events);
        }
    }
    for events in asked {
        assert_eq!(all(events).await, (counted(40, 3), Ok(Finish::Length)));
    }
    while rig.stats.load() != (0, 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(rig.stats.blocks()[1], 512);
}
