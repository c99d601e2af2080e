//! Usage on disk. The file is open only while something is added to it, and what is added are differences: so two
//! gateways, one that ends and one that takes its place, count in the same file and lose nothing.

use super::counts::Counts;
use super::series::{Grain, Usage};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests, tokens of prompts, those of them that a cache held, tokens of answers, billionths of a US dollar.
type Row = (u64, u64, u64, u64, u64);
/// By key, seconds of a slot, number of the slot.
const SLOTS: TableDefinition<'_, (&str, u64, u64), Row> = TableDefinition::new("slots");
/// By key and model.
const MODELS: TableDefinition<'_, (&str, &str), Row> = TableDefinition::new("models");
/// One row: how often something was added.
const ADDED: TableDefinition<'_, (), u64> = TableDefinition::new("added");

/// What another process gets to be done with the file.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
#[error("the usage store {}: {cause}", .path.display())]
pub struct StoreError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("another process has not let go of it for {PATIENCE:?}")]
    Busy,
    #[error("it cannot be read or written: {0} (gateway.usage_store)")]
    Store(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

pub(super) struct Store {
    path: PathBuf,
    /// How often something had been added when it was last looked at.
    seen: Mutex<Option<u64>>,
}

impl Store {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds what is new. Returns everything where others have added something meanwhile, else nothing.
    pub(super) fn add(
        &self,
        new: &BTreeMap<String, Usage>,
        second: u64,
    ) -> Result<BTreeMap<String, Usage>, StoreError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.exchange(new, &mut seen, second).map_err(|cause| StoreError { path: self.path.clone(), cause })
    }

    fn exchange(
        &self,
        new: &BTreeMap<String, Usage>,
        seen: &mut Option<u64>,
        second: u64,
    ) -> Result<BTreeMap<String, Usage>, Cause> {
        let file = self.file()?;
        let mut added = added(&file)?;
        let is_alone = seen.is_some_and(|seen| seen == added);
        if !new.is_empty() || seen.is_none() {
            added += 1;
            write(&file, new, added, second)?;
        }
        let all = if is_alone { BTreeMap::new() } else { read(&file)? };
        *seen = Some(added);
        Ok(all)
    }

    /// Waits for whoever has it open.
    fn file(&self) -> Result<Database, Cause> {
        let started = Instant::now();
        loop {
            match Database::create(&self.path) {
                Err(DatabaseError::DatabaseAlreadyOpen) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(PAUSE);
                }
                Err(DatabaseError::DatabaseAlreadyOpen) => return Err(Cause::Busy),
                other => return Ok(other?),
            }
        }
    }
}

fn added(file: &Database) -> Result<u64, Cause> {
    match file.begin_read()?.open_table(ADDED) {
        Ok(table) => Ok(table.get(())?.map_or(0, |n| n.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn write(file: &Database, new: &BTreeMap<String, Usage>, added: u64, second: u64) -> Result<(), Cause> {
    let transaction = file.begin_write()?;
    {
        let (mut slots, mut models) = (transaction.open_table(SLOTS)?, transaction.open_table(MODELS)?);
        for (key, usage) in new {
            for ((grain, slot), counts) in &usage.slots {
                let at = (key.as_str(), grain.seconds(), *slot);
                let sum = slots.get(at)?.map_or(Counts::default(), |row| counts_of(row.value())) + *counts;
                slots.insert(at, row(sum))?;
            }
            for (model, counts) in &usage.models {
                let at = (key.as_str(), model.as_str());
                let sum = models.get(at)?.map_or(Counts::default(), |row| counts_of(row.value())) + *counts;
                models.insert(at, row(sum))?;
            }
            for grain in Grain::ALL {
                let old = grain.first(grain.kept(), second);
                slots.retain_in(
                    (key.as_str(), grain.seconds(), 0)..(key.as_str(), grain.seconds(), old),
                    |_, _| false,
                )?;
            }
        }
        transaction.open_table(ADDED)?.insert((), added)?;
    }
    transaction.commit()?;
    Ok(())
}

fn read(file: &Database) -> Result<BTreeMap<String, Usage>, Cause> {
    let transaction = file.begin_read()?;
    let mut all: BTreeMap<String, Usage> = BTreeMap::new();
    for row in transaction.open_table(SLOTS)?.iter()? {
        let (at, counts) = row?;
        let (key, seconds, slot) = at.value();
        let Some(grain) = Grain::ALL.into_iter().find(|grain| grain.seconds() == seconds) else { continue };
        all.entry(key.to_owned()).or_default().slots.insert((grain, slot), counts_of(counts.value()));
    }
    for row in transaction.open_table(MODELS)?.iter()? {
        let (at, counts) = row?;
        let (key, model) = at.value();
        all.entry(key.to_owned()).or_default().models.insert(model.to_owned(), counts_of(counts.value()));
    }
    Ok(all)
}

fn row(counts: Counts) -> Row {
    let Counts { requests, prompt_tokens, cached_tokens, completion_tokens, nano_usd } = counts;
    (requests, prompt_tokens, cached_tokens, completion_tokens, nano_usd)
}

fn counts_of(row: Row) -> Counts {
    let (requests, prompt_tokens, cached_tokens, completion_tokens, nano_usd) = row;
    Counts { requests, prompt_tokens, cached_tokens, completion_tokens, nano_usd }
}
