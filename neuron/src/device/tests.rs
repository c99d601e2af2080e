use std::{path::Path, sync::atomic::AtomicUsize};

use super::*;
use crate::engine::{Architecture, Finish, Model, Sampling};

/// Counts up from its last input, from 60 back to 40; token 13 panics, 14 fails.
struct Counter {
    steps: Arc<AtomicUsize>,
    pace: Duration,
}

impl Model for Counter {
    fn forward(&mut self, tokens: &[u32], _: usize) -> Result<Vec<f32>, ModelError> {
        std::thread::sleep(self.pace);
        self.steps.fetch_add(1, Ordering::Relaxed);
        let last = *tokens.last().unwrap();
        match last {
            13 => panic!("unlucky"),
            14 => Err(ModelError("no".into())),
            _ => {
                let next = if last == 60 { 40 } else { last + 1 };
                Ok((0..64).map(|token| if token == next { 1.0 } else { 0.0 }).collect())
            }
        }
    }

    fn reset(&mut self) {}

    fn chunk(&self, left: usize) -> usize {
        left.min(2)
    }
}

#[derive(Default)]
struct Counters {
    steps: Arc<AtomicUsize>,
    pace: Duration,
    load_time: Duration,
}

impl Backend for Counters {
    fn load(&mut self, _: &Path, _: &Header, _: &Shape, _: u64) -> Result<Box<dyn Model>, ModelError> {
        if self.load_time > Duration::ZERO {
            std::thread::sleep(self.load_time);
        }
        Ok(Box::new(Counter { steps: Arc::clone(&self.steps), pace: self.pace }))
    }
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
        let device = DeviceHandle::start("test-0", counters).unwrap();
        Self { key: device.new_key(), device, stats: Arc::default(), steps }
    }

    async fn load(&self) {
        let header = Arc::new(Header {
            version: 3,
            metadata: [].into(),
            tensors: [].into(),
            data_offset: 0,
            file_len: 0,
        });
        let shape = Shape {
            architecture: Architecture::Llama,
            layers: 1,
            hidden: 1,
            feed_forward: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            vocab: 64,
            trained_context: 64,
        };
        let stats = Arc::clone(&self.stats);
        self.device.load(self.key, PathBuf::new(), header, shape, 64, stats).await.unwrap();
    }

    fn ask(&self, prompt: &[u32], max_tokens: usize, patience: Duration) -> mpsc::Receiver<Event> {
        let generation = Generation {
            model: self.key,
            prompt: prompt.to_vec(),
            max_tokens,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            end: Arc::new([30]),
        };
        self.device.generate(generation, self.stats.admit(8).unwrap(), patience).unwrap()
    }
}

const PATIENT: Duration = Duration::from_secs(60);

/// The tokens and how it ended.
async fn all(mut events: mpsc::Receiver<Event>) -> (Vec<u32>, Result<Finish, Failure>) {
    let mut tokens = Vec::new();
    loop {
        match events.recv().await.expect("an end comes before the channel closes") {
            Event::Token(token) => tokens.push(token),
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
    assert_eq!(events.recv().await, Some(Event::Token(2)));
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
    let (prompt, end) = (vec![40], Arc::new([30]));
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let generation = Generation { model: ModelKey(1), prompt, max_tokens: 50, sampling, end };
    let now = Instant::now();
    let mut sequence = Sequence::new(generation, out, stats.admit(1).unwrap(), now + PATIENT);
    sequence.begin(now);
    let mut model = Counter { steps: Arc::default(), pace: Duration::ZERO };
    while sequence.flush(now) {
        sequence.step(&mut model).unwrap();
    }
    assert!(!sequence.flush(now + Duration::from_secs(59)) && !sequence.is_over());
    assert!(sequence.flush(now + Duration::from_secs(61)) && sequence.is_over());
    assert_eq!(stats.load(), (0, 0), "its seat is free");
    let got: Vec<Event> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    assert_eq!(got.last(), Some(&Event::Failed(Failure::Stalled)), "{got:?}");
    assert_eq!(got.len(), 4);
}
