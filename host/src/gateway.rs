//! What all requests share.

use crate::accounts::Accounts;
use crate::admin::Attempts;
use crate::config::{Config, ConfigError};
use crate::console::Feed;
use crate::decide::Decider;
use crate::fleet::{FleetState, Hosts, Keeper, Loads, Pollers, pinned_too_large};
use crate::metrics::Metrics;
use crate::policy::{PolicyEngine, Registry};
use crate::request::{Recent, RetryBudget, now_ms};
use crate::telemetry::Exporter;
use crate::traffic::Traffic;
use crate::upstream::Upstream;
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A process that is killed takes this much of its usage with it.
pub(crate) const USAGE_EVERY: Duration = Duration::from_secs(1);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Times that, after which what other processes used is looked for though this one used nothing.
const LOOK_AFTER: u32 = 10;

/// The gateway's state; one for the process.
pub struct Gateway {
    pub config: Arc<ArcSwap<Config>>,
    pub fleet: Arc<FleetState>,
    pub policies: Arc<Registry>,
    pub decider: Arc<Decider>,
    pub metrics: Arc<Metrics>,
    pub upstream: Upstream,
    pub loads: Arc<Loads>,
    pub recent: Recent,
    pub traffic: Arc<Traffic>,
    /// Admin keys that were none.
    pub wrong_keys: Attempts,
    pub(crate) feed: Feed,
    pub retries: RetryBudget,
    pub accounts: Arc<Accounts>,
    /// Spans go there.
    pub telemetry: Option<Exporter>,
    /// Sessions of translation policies that may be open at once.
    pub sessions: Arc<Semaphore>,
    pub started: Instant,
    /// Unix seconds; `created` of models that say nothing better.
    pub started_unix: u64,
    /// Soon there are no new requests: `/health` says so to whoever sends them.
    leaving: AtomicBool,
    /// No new requests; those that run are drained.
    pub shutdown: CancellationToken,
    /// The drain is over: those that still run are ended.
    pub cut: CancellationToken,
    pub tasks: TaskTracker,
    pollers: Pollers,
    config_path: PathBuf,
    /// Reloads take turns: the watcher and SIGHUP may ask at once.
    reloading: Mutex<()>,
    last_reload: Mutex<Option<Result<Reloaded, ConfigError>>>,
}

impl Gateway {
    /// Loads the policies and starts watching the nodes. Needs a tokio runtime.
    pub fn new(config: Config, config_path: PathBuf) -> anyhow::Result<Arc<Self>> {
        let metrics = Arc::new(Metrics::new()?);
        metrics.begin();
        let accounts = Arc::new(Accounts::open(config.usage_store.clone(), metrics.clone())?);
        let wanted = &config.telemetry;
        let telemetry = wanted.is_on().then(|| Exporter::start(wanted)).transpose()?;
        let engine = PolicyEngine::new(config.policy_cache.as_deref(), config.body_limit)?;
        let sessions = Arc::new(Semaphore::new(engine.sessions));
        let policies = Arc::new(Registry::new(Arc::new(engine), metrics.clone()));
        policies.configure(config.policies.clone());
        let decider = Arc::new(Decider::new(policies.clone(), metrics.clone())?);
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (fleet, upstream) = (Arc::new(FleetState::default()), Upstream);
        let hosts: Arc<dyn Hosts> = Arc::new(upstream.clone());
        let config = Arc::new(ArcSwap::from_pointee(config));
        let pollers = Pollers::new(
            fleet.clone(),
            hosts.clone(),
            metrics.clone(),
            config.clone(),
            tasks.clone(),
            shutdown.clone(),
        );
        pollers.apply(&config.load());
        say_doubts(&config.load());
        let loads = Arc::new(Loads::new(
            fleet.clone(),
            hosts,
            decider.clone(),
            metrics.clone(),
            config.clone(),
            tasks.clone(),
        ));
        tasks.spawn(keep_usage(accounts.clone(), shutdown.clone()));
        let traffic = Arc::new(Traffic::default());
        tasks.spawn(sample(traffic.clone(), loads.clone(), shutdown.clone()));
        tasks.spawn(Keeper::new(loads.clone(), tasks.clone()).run(shutdown.clone()));
        Ok(Arc::new(Self {
            config,
            fleet,
            policies,
            decider,
            metrics,
            upstream,
            loads,
            recent: Recent::default(),
            traffic,
            wrong_keys: Attempts::default(),
            feed: Feed::default(),
            retries: RetryBudget::default(),
            accounts,
            telemetry,
            sessions,
            started: Instant::now(),
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            leaving: AtomicBool::new(false),
            shutdown,
            cut: CancellationToken::new(),
            tasks,
            pollers,
            config_path,
            reloading: Mutex::default(),
            last_reload: Mutex::new(None),
        }))
    }

    /// Reads the configuration again. On any error everything stays as it was. Blocking.
    pub fn reload(&self) {
        let _turn = self.reloading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let old = self.config.load_full();
        let outcome = Config::reload(&self.config_path, &old).map(|new| {
            if *old == new {
                return None;
            }
            if old.policies != new.policies {
                self.policies.configure(new.policies.clone());
            }
            let (changes, mut lines) = (old.changes(&new), old.differences(&new, &serde_json::Value::Null));
            lines.truncate(DIFFERENCES);
            // First in force, then followed: a poller that is woken reads it.
            let new = Arc::new(new);
            self.config.store(new.clone());
            if !new.keep_prompts {
                self.recent.forget_transcripts();
            }
            self.pollers.apply(&new);
            say_doubts(&new);
            for doubt in pinned_too_large(&self.fleet.now(), &new) {
                tracing::warn!("{doubt}");
            }
            Some(Reloaded { changed: changes.join(", "), lines })
        });
        let mut last = self.last_reload.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let label = match &outcome {
            Ok(None) => {
                // The file is as it is in force: an error of an earlier attempt is mended.
                if matches!(*last, Some(Err(_))) {
                    *last = None;
                }
                return;
            }
            Ok(Some(reloaded)) => {
                tracing::info!(changed = reloaded.changed, "configuration reloaded");
                "ok"
            }
            Err(error) if matches!(&*last, Some(Err(old)) if old == error) => return,
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded; the old one stays in force");
                "refused"
            }
        };
        self.metrics.config_reloads.with_label_values(&[label]).inc();
        *last = outcome.transpose();
    }

    /// From now on `/health` fails.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.shutdown.is_cancelled()
    }

    /// What was used since goes to its store. Blocking.
    pub(crate) fn sync_usage(&self) {
        sync(&self.accounts);
    }

    /// By the catalogue or by an operator. `name`: a node's for the model.
    pub fn is_pinned(&self, name: &str) -> bool {
        let config = self.config.load();
        let pinned = config.catalogue.on_node(name).is_some_and(|model| model.pinned);
        pinned || self.fleet.is_pinned(config.catalogue.id_of(name))
    }

    /// What the last reload changed or why it failed; `None` before the first.
    pub fn last_reload(&self) -> Option<Result<Reloaded, ConfigError>> {
        self.last_reload.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Lines of the last reload that are kept.
const DIFFERENCES: usize = 500;

/// What a reload changed.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// In a few words.
    pub changed: String,
    /// Line by line, as `cortex plan` says it beforehand.
    pub lines: Vec<String>,
}

/// What is allowed and may not be meant.
fn say_doubts(config: &Config) {
    for doubt in config.doubts() {
        tracing::warn!("{doubt}");
    }
}

/// What the last minutes were like, whoever looks.
async fn sample(traffic: Arc<Traffic>, loads: Arc<Loads>, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(SAMPLE_EVERY)).await.is_some() {
        let waiting = loads.crowded().iter().map(|desk| desk.waiting()).sum();
        traffic.samples.take(now_ms(), traffic.count(), waiting);
    }
}

/// Usage goes to its store every so often, until the drain does that.
async fn keep_usage(accounts: Arc<Accounts>, shutdown: CancellationToken) {
    let mut idle = 0;
    while shutdown.run_until_cancelled(tokio::time::sleep(USAGE_EVERY)).await.is_some() {
        idle += 1;
        // Every look at the file costs a write to the disk.
        if accounts.has_news() || idle >= LOOK_AFTER {
            idle = 0;
            tokio::task::block_in_place(|| sync(&accounts));
        }
    }
}

fn sync(accounts: &Accounts) {
    if let Err(error) = accounts.sync() {
        tracing::error!(%error, "what was used is not in its store; while this process runs it is tried again");
    }
}
