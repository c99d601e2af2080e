//! What each key has used, and whether it may have more.

mod bucket;
mod counts;
mod series;
mod store;

pub use counts::{Counts, cost};
pub use store::StoreError;

use crate::config::{Limits, Quantity};
use crate::metrics::Metrics;
use bucket::Bucket;
use serde_json::{Value, json};
use series::Usage;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use store::Store;

/// When one may try again who has as much running as may be.
const SOON: Duration = Duration::from_secs(1);

/// The accounts of all keys; that without a name is of callers without a key.
pub struct Accounts {
    by_name: RwLock<HashMap<String, Arc<Account>>>,
    store: Option<Store>,
    metrics: Arc<Metrics>,
}

/// One key's.
pub struct Account {
    name: String,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Everything, of this process and of others with the same store.
    usage: Usage,
    /// What of it is not in the store yet.
    pending: Usage,
    /// What running requests may use at most.
    reserved: Counts,
    running: u32,
    requests: Bucket,
    tokens: Bucket,
}

/// What a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub nano_usd: u64,
}

/// Why a key may not have it. `wait`: when it may; `None` where time does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Limited {
    #[error("it may have {limit} requests a minute")]
    Requests { limit: u32, wait: Duration },
    #[error("it may have {limit} tokens a minute")]
    Tokens { limit: u64, wait: Duration },
    #[error("it may have {limit} requests at once")]
    Concurrent { limit: u32 },
    #[error("it may have {most} in {window}, this request may need {needs}, and {left} is left")]
    Cap { most: String, window: String, needs: String, left: String, wait: Option<Duration> },
    #[error("its balance was {most}, this request may need {needs}, and {left} is left")]
    Balance { most: String, needs: String, left: String, wait: Option<Duration> },
}

impl Limited {
    /// For the metric.
    pub fn limit(&self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests",
            Self::Tokens { .. } => "tokens",
            Self::Concurrent { .. } => "concurrent",
            Self::Cap { .. } => "cap",
            Self::Balance { .. } => "balance",
        }
    }

    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Requests { wait, .. } | Self::Tokens { wait, .. } => Some(*wait),
            Self::Concurrent { .. } => Some(SOON),
            Self::Cap { wait, .. } | Self::Balance { wait, .. } => *wait,
        }
    }
}

/// A request that counts against its key while it runs. Dropped unsettled it has used nothing.
pub struct Admission {
    account: Arc<Account>,
    reserved: Counts,
    /// Tokens that were taken from the minute's.
    taken: u64,
}

impl Accounts {
    /// With what is in the store. Blocking. Errors name the file.
    pub fn open(path: Option<PathBuf>, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let accounts = Self { by_name: RwLock::default(), store: path.map(Store::new), metrics };
        accounts.sync()?;
        Ok(accounts)
    }

    /// The account of that name; a new one where there was none.
    pub fn of(&self, name: &str) -> Arc<Account> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        known.unwrap_or_else(|| {
            let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Account::new(name, self.metrics.clone()));
            by_name.entry(name.to_owned()).or_insert_with(new).clone()
        })
    }

    /// Adds what is new to the store, and takes over what others have added to it. Blocking. On an error
    /// nothing is lost: it is tried again the next time.
    pub fn sync(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            self.all().iter().for_each(|account| account.lock().pending = Usage::default());
            return Ok(());
        };
        let all = self.all();
        let pending: BTreeMap<String, Usage> = all
            .iter()
            .map(|account| (account.name.clone(), account.lock().pending.clone()))
            .filter(|(_, usage)| !usage.is_empty())
            .collect();
        let theirs = store.add(&pending, now_s())?;
        for (name, usage) in &pending {
            self.of(name).lock().pending.subtract(usage);
        }
        for (name, stored) in theirs {
            let account = self.of(&name);
            let mut state = account.lock();
            let mut usage = stored;
            usage.merge(&state.pending);
            state.usage = usage;
        }
        Ok(())
    }

    /// Whether something was used that is not in the store yet.
    pub fn has_news(&self) -> bool {
        self.all().iter().any(|account| !account.lock().pending.is_empty())
    }

    /// Where usage is kept.
    pub fn path(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::path)
    }

    /// `/admin/usage`: every key's, for good and of late, by model.
    pub fn report(&self, limits: impl Fn(&str) -> Option<Limits>) -> Value {
        let mut all = self.all();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let keys: Vec<Value> = all.iter().map(|account| account.report(limits(&account.name))).collect();
        json!({"store": self.path(), "keys": keys})
    }

    fn all(&self) -> Vec<Arc<Account>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Account {
    fn new(name: &str, metrics: Arc<Metrics>) -> Self {
        Self { name: name.to_owned(), metrics, state: Mutex::default() }
    }

    /// Lets a request in whose key may have it. What it may take is set aside until it is settled, so that
    /// many at once cannot pass a cap together.
    pub fn admit(self: &Arc<Self>, limits: &Limits, estimate: Estimate) -> Result<Admission, Limited> {
        let (now, second) = (Instant::now(), now_s());
        let mut state = self.lock();
        let admitted = state.admit(limits, estimate, now, second);
        drop(state);
        match admitted {
            Ok((reserved, taken)) => Ok(Admission { account: self.clone(), reserved, taken }),
            Err(limited) => {
                self.refused(limited.limit());
                Err(limited)
            }
        }
    }

    /// Counts a refusal.
    pub fn refused(&self, limit: &str) {
        self.metrics.key_refused.with_label_values(&[self.name.as_str(), limit]).inc();
    }

    fn report(&self, limits: Option<Limits>) -> Value {
        let second = now_s();
        let state = self.lock();
        let of_late = |time: Duration| state.usage.within(time, second).json();
        let models: BTreeMap<&str, Value> =
            state.usage.models.iter().map(|(model, counts)| (model.as_str(), counts.json())).collect();
        json!({
            "key": self.name, "known": limits.is_some() || self.name.is_empty(), "running": state.running,
            "total": state.usage.total().json(), "models": models,
            "last_hour": of_late(Duration::from_secs(3600)),
            "last_day": of_late(Duration::from_secs(24 * 3600)),
            "last_30_days": of_late(Duration::from_secs(30 * 24 * 3600)),
            "caps": limits.iter().flat_map(|limits| &limits.caps).map(|cap| json!({
                "window_secs": cap.window.as_secs(),
                "most": amounts(cap.most),
                "used": state.usage.within(cap.window, second).json(),
            })).collect::<Vec<_>>(),
            "balance": limits.map(|limits| amounts(limits.balance)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is set aside, and what is taken from the minute's tokens.
    fn admit(
        &mut self,
        limits: &Limits,
        estimate: Estimate,
        now: Instant,
        second: u64,
    ) -> Result<(Counts, u64), Limited> {
        let Estimate { prompt_tokens, completion_tokens, nano_usd } = estimate;
        let needs = Counts { requests: 1, prompt_tokens, completion_tokens, nano_usd, ..Counts::default() };
        if let Some(limit) = limits.max_concurrent.filter(|limit| self.running >= *limit) {
            return Err(Limited::Concurrent { limit });
        }
        if limits.balance != Quantity::default() {
            let used = self.usage.total();
            if let Some((most, needed, left)) = exceeded(limits.balance, used + self.reserved, needs) {
                // What is only set aside may be given back.
                let wait = exceeded(limits.balance, used, needs).is_none().then_some(SOON);
                return Err(Limited::Balance { most, needs: needed, left, wait });
            }
        }
        for cap in &limits.caps {
            let used = self.usage.within(cap.window, second);
            if let Some((most, needed, left)) = exceeded(cap.most, used + self.reserved, needs) {
                let fits = |freed: Counts| exceeded(cap.most, used - freed, needs).is_none();
                let wait = match fits(Counts::default()) {
                    // What is only set aside may be given back.
                    true => Some(SOON),
                    false => self.usage.until(cap.window, second, fits),
                };
                let window = words(cap.window);
                return Err(Limited::Cap { most, window, needs: needed, left, wait });
            }
        }
        if limits.tokens_per_minute.is_none() {
            self.tokens = Bucket::default();
        }
        // A request larger than the minute's tokens gets in when all of them are there.
        let taken = prompt_tokens.min(limits.tokens_per_minute.unwrap_or(0));
        if let Some(limit) = limits.tokens_per_minute {
            self.tokens.look(limit, taken, now).map_err(|wait| Limited::Tokens { limit, wait })?;
        }
        if let Some(limit) = limits.requests_per_minute {
            self.requests.look(u64::from(limit), 1, now).map_err(|wait| Limited::Requests { limit, wait })?;
            self.requests.take(1);
        }
        self.tokens.take(taken);
        self.running += 1;
        self.reserved = self.reserved + needs;
        Ok((needs, taken))
    }
}

impl Admission {
    /// Books what the request has used.
    pub fn settle(mut self, model: &str, used: Counts) {
        let mut state = self.account.lock();
        let second = now_s();
        state.usage.book(model, used, second);
        state.pending.book(model, used, second);
        state.tokens.settle(self.taken, used.tokens());
        drop(state);
        self.taken = 0;
        let metrics = &self.account.metrics;
        let name = self.account.name.as_str();
        metrics.key_requests.with_label_values(&[name]).inc();
        for (kind, tokens) in [
            ("prompt", used.prompt_tokens),
            ("cached", used.cached_tokens),
            ("completion", used.completion_tokens),
        ] {
            metrics.key_tokens.with_label_values(&[name, kind]).inc_by(tokens);
        }
        metrics.key_cost.with_label_values(&[name]).inc_by(used.nano_usd as f64 / 1e9);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.account.lock();
        state.running = state.running.saturating_sub(1);
        state.reserved = state.reserved - self.reserved;
        state.tokens.settle(self.taken, 0);
    }
}

/// What is too much, where something is: the bound, what the request may need, and what is left.
fn exceeded(most: Quantity, used: Counts, needs: Counts) -> Option<(String, String, String)> {
    let count = |unit: &'static str| move |n: u64| format!("{n} {unit}");
    let usd = |nano: u64| format!("{:.4} USD", nano as f64 / 1e9);
    let check = |most: Option<u64>, used: u64, needs: u64, words: &dyn Fn(u64) -> String| {
        let most = most.filter(|most| used.saturating_add(needs) > *most)?;
        Some((words(most), words(needs), words(most.saturating_sub(used))))
    };
    check(most.requests, used.requests, needs.requests, &count("requests"))
        .or_else(|| check(most.tokens, used.tokens(), needs.tokens(), &count("tokens")))
        .or_else(|| check(most.nano_usd, used.nano_usd, needs.nano_usd, &usd))
}

fn amounts(most: Quantity) -> Value {
    json!({"requests": most.requests, "tokens": most.tokens, "usd": most.nano_usd.map(|nano| nano as f64 / 1e9)})
}

fn words(time: Duration) -> String {
    match time.as_secs() {
        s if s.is_multiple_of(86_400) => format!("{} d", s / 86_400),
        s if s.is_multiple_of(3600) => format!("{} h", s / 3600),
        s => format!("{} min", s / 60),
    }
}

fn now_s() -> u64 {
    crate::request::now_ms() / 1000
}

#[cfg(test)]
mod tests;
