use super::*;
use crate::config::Cap;
use proptest::prelude::*;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

fn used(tokens: u64) -> Counts {
    Counts { requests: 1, prompt_tokens: tokens, nano_usd: tokens * 10, ..Counts::default() }
}

fn estimate(tokens: u64) -> Estimate {
    Estimate { prompt_tokens: tokens, completion_tokens: 0, nano_usd: tokens * 10 }
}

#[test]
fn what_many_take_at_once_stays_within_a_cap() {
    let most = Quantity { tokens: Some(1000), ..Quantity::default() };
    let limits = Limits { caps: vec![Cap { window: Duration::from_secs(3600), most }], ..Limits::default() };
    let account = Accounts::open(None, metrics()).unwrap().of("a");
    let running: Vec<_> = (0..10).map(|_| account.admit(&limits, estimate(100)).unwrap()).collect();
    let Err(Limited::Cap { left, wait, .. }) = account.admit(&limits, estimate(1)) else { panic!("let in") };
    assert_eq!((left.as_str(), wait), ("0 tokens", Some(SOON)), "what runs may give something back");
    for admission in running {
        admission.settle("m", used(50));
    }
    drop(account.admit(&limits, estimate(500)).unwrap());
    account.admit(&limits, estimate(500)).unwrap().settle("m", used(500));
    let Err(Limited::Cap { wait: Some(wait), .. }) = account.admit(&limits, estimate(1)) else {
        panic!("let in")
    };
    assert!(
        (3600..3660).contains(&wait.as_secs()),
        "when the minute of all that use is an hour old: {wait:?}"
    );
    let Err(Limited::Cap { wait, .. }) = account.admit(&limits, estimate(1001)) else { panic!("let in") };
    assert_eq!(wait, None, "never");
    let raised = Limits { caps: Vec::new(), ..limits };
    assert!(account.admit(&raised, estimate(1001)).is_ok());
}

#[test]
fn each_limit_says_its_name() {
    let accounts = Accounts::open(None, metrics()).unwrap();
    let check = |limits: Limits, want: &str| {
        let account = accounts.of(want);
        let first = account.admit(&limits, estimate(100)).unwrap_or_else(|e| panic!("{want}: {e}"));
        let Err(second) = account.admit(&limits, estimate(100)) else { panic!("{want} let in") };
        assert_eq!(second.limit(), want, "{second}");
        first.settle("m", used(100));
        account.refused("model");
    };
    check(Limits { requests_per_minute: Some(1), ..Limits::default() }, "requests");
    check(Limits { tokens_per_minute: Some(150), ..Limits::default() }, "tokens");
    check(Limits { max_concurrent: Some(1), ..Limits::default() }, "concurrent");
    let balance = Quantity { nano_usd: Some(1500), ..Quantity::default() };
    check(Limits { balance, ..Limits::default() }, "balance");
    let most = Quantity { requests: Some(1), ..Quantity::default() };
    check(
        Limits { caps: vec![Cap { window: Duration::from_secs(86_400), most }], ..Limits::default() },
        "cap",
    );
}

#[test]
fn a_dropped_admission_gives_everything_back() {
    let limits = Limits { tokens_per_minute: Some(100), max_concurrent: Some(1), ..Limits::default() };
    let account = Accounts::open(None, metrics()).unwrap().of("a");
    for _ in 0..50 {
        drop(account.admit(&limits, estimate(100)).unwrap());
    }
    let report = account.report(Some(limits));
    assert_eq!((report["running"].as_u64(), report["total"]["requests"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn a_store_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("usage.redb");
    std::fs::write(&path, "this is no database, whatever its name says".repeat(500)).unwrap();
    let Err(error) = Accounts::open(Some(path), metrics()) else { panic!("opened") };
    assert!(error.to_string().contains("usage.redb"), "{error}");
    let Err(error) = Accounts::open(Some(dir.path().join("no/such/usage.redb")), metrics()) else {
        panic!("opened")
    };
    assert!(error.to_string().contains("gateway.usage_store"), "{error}");
}

#[test]
fn prices() {
    let price = neuron_protocol::Cost {
        input: Some(2.5),
        output: Some(10.0),
        cache_read: Some(0.25),
        ..Default::default()
    };
    assert_eq!(cost(Some(&price), 1_000_000, 0, 0), 2_500_000_000);
    assert_eq!(cost(Some(&price), 1000, 400, 10), 600 * 2500 + 400 * 250 + 10 * 10_000);
    assert_eq!(cost(Some(&price), 1, 5, 0), 250, "no more is cached than there is");
    assert_eq!(cost(None, 1000, 0, 1000), 0);
}

#[derive(Debug, Clone)]
enum Step {
    /// Of which process, by which key, how much.
    Book(usize, u8, u64),
    Sync(usize),
    /// It ends well, and another one begins.
    Replace(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..2, 0u8..3, 0u64..1000).prop_map(|(who, key, n)| Step::Book(who, key, n)),
        2 => (0usize..2).prop_map(Step::Sync),
        1 => (0usize..2).prop_map(Step::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Two processes with one store, in whatever order: nothing is lost or counted twice, and both see it.
    #[test]
    fn two_processes_count_as_one(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let open = || Accounts::open(Some(dir.path().join("usage.redb")), metrics()).unwrap();
        let mut processes = [open(), open()];
        let mut all: BTreeMap<String, Counts> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Book(who, key, tokens) => {
                    let (key, used) = (format!("k{key}"), used(tokens));
                    processes[who].of(&key).admit(&Limits::default(), estimate(tokens)).unwrap().settle("m", used);
                    let sum = all.entry(key).or_default();
                    *sum = *sum + used;
                }
                Step::Sync(who) => processes[who].sync().unwrap(),
                Step::Replace(who) => {
                    processes[who].sync().unwrap();
                    processes[who] = open();
                }
            }
        }
        for who in [0, 1, 0] {
            processes[who].sync().unwrap();
        }
        for process in &processes {
            for (key, counts) in &all {
                let account = process.of(key);
                prop_assert_eq!(account.lock().usage.total(), *counts);
                prop_assert_eq!(account.lock().usage.within(Duration::from_secs(3600), now_s()), *counts);
            }
        }
    }
}
