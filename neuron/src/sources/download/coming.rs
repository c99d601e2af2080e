//! One file that is fetched.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hf_hub::HFError;
use neuron_protocol::LoadError;

use super::{
    Content, cache,
    digest::{CHUNK, Hash},
    partial::{Cut, Partial},
};
use crate::sources::hub::{Hub, RemoteFile, failed, root};

/// Times that a piece is tried on without a byte that came.
const TRIES: u32 = 4;
/// Between two tries at first; doubled from try to try.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a hub is granted between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Bytes that are hashed before it is looked again whether they are still wanted.
const HASHED_AT_ONCE: u64 = 64 << 20;
/// Bytes that are written at a time.
const WRITE: usize = 1 << 20;

pub(super) struct Coming {
    file: RemoteFile,
    /// Names of the model's that are this content.
    links: Vec<PathBuf>,
    blob: PathBuf,
    part: Arc<Partial>,
    /// Of all files.
    done: Arc<AtomicU64>,
    /// The hub gives it from its beginning alone.
    whole: AtomicBool,
    in_place: AtomicBool,
    hashed: Mutex<Hashed>,
    /// Bytes that are hashed.
    hashed_to: AtomicU64,
}

/// How far the file is hashed: what has come is, while the rest comes.
struct Hashed {
    /// Grows as bytes are forgotten.
    generation: u64,
    /// The hash, and the byte that it goes on from; `None`: somebody is at it.
    so_far: Option<(Hash, u64)>,
}

/// Why a piece did not come.
pub(super) enum Trouble {
    /// The hub sent something else than the bytes that were asked for. What there was of the file is forgotten.
    NoRanges,
    Failed(Box<LoadError>),
}

/// How a try ended.
enum Try {
    Done,
    /// It may go on: why it broke off, and when to go on where the hub says so.
    Broken(LoadError, Option<Duration>),
}

impl From<LoadError> for Trouble {
    fn from(error: LoadError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl Coming {
    pub(super) fn open(
        file: RemoteFile,
        links: Vec<PathBuf>,
        blob: PathBuf,
        cut: Cut,
        done: &Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let part = Arc::new(Partial::open(&blob, cut)?);
        done.fetch_add(part.done(), Relaxed);
        let (whole, in_place) = (AtomicBool::new(false), AtomicBool::new(false));
        let so_far = Some((Content::of(&file.etag).begin(file.size), 0));
        let hashed = Mutex::new(Hashed { generation: 0, so_far });
        let (done, hashed_to) = (Arc::clone(done), AtomicU64::new(0));
        Ok(Self { file, links, blob, part, done, whole, in_place, hashed, hashed_to })
    }

    /// More has come than is hashed.
    pub(super) fn can_be_hashed(&self) -> bool {
        !self.is_in_place() && self.part.whole_until() > self.hashed_to.load(Relaxed)
    }

    /// Hashes some of what has come and is not hashed; `false`: there was nothing. Blocks on the disk.
    pub(super) fn hash_on(&self) -> io::Result<bool> {
        let lock = || self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, so_far) = {
            let mut hashed = lock();
            (hashed.generation, hashed.so_far.take())
        };
        let Some((mut hash, from)) = so_far.filter(|_| !self.is_in_place()) else { return Ok(false) };
        let until = self.part.whole_until().min(from + HASHED_AT_ONCE);
        let (mut buffer, mut at) = (vec![0; if until > from { CHUNK } else { 0 }], from);
        let mut read = Ok(());
        while at < until && read.is_ok() {
            let len = usize::try_from(until - at).unwrap_or(CHUNK).min(CHUNK);
            read = self.part.read(at, &mut buffer[..len]);
            hash.update(&buffer[..len]);
            at += len as u64;
        }
        let mut hashed = lock();
        // What was forgotten meanwhile was perhaps hashed.
        if hashed.generation == generation {
            let so_far =
                if read.is_ok() { (hash, at) } else { (Content::of(&self.file.etag).begin(self.size()), 0) };
            self.hashed_to.store(so_far.1, Relaxed);
            hashed.so_far = Some(so_far);
        }
        read.map(|()| at > from)
    }

    fn hash_anew(&self) {
        let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        hashed.generation += 1;
        self.hashed_to.store(0, Relaxed);
        hashed.so_far = Some((Content::of(&self.file.etag).begin(self.size()), 0));
    }

    pub(super) fn name(&self) -> &str {
        &self.file.name
    }

    pub(super) fn size(&self) -> u64 {
        self.file.size
    }

    /// Where its bytes are so far.
    pub(super) fn bytes_at(&self) -> &Path {
        if self.is_in_place() { &self.blob } else { self.part.path() }
    }

    pub(super) fn is_in_place(&self) -> bool {
        self.in_place.load(Relaxed)
    }

    /// Pieces that have to be fetched. Of a file that comes as a whole, the first stands for all.
    pub(super) fn missing(&self) -> Vec<usize> {
        let pieces = self.part.pieces().iter().enumerate().filter(|(_, piece)| !piece.is_done());
        let missing = pieces.map(|(n, _)| n);
        if self.whole.load(Relaxed) { missing.take(1).map(|_| 0).collect() } else { missing.collect() }
    }

    pub(super) fn links(&self) -> &[PathBuf] {
        &self.links
    }

    /// Fetches a piece, and goes on where it broke off.
    pub(super) async fn fetch(&self, hub: &Hub<'_>, commit: &str, piece: usize) -> Result<(), Trouble> {
        let mut tries = 0;
        loop {
            // As a whole it comes by the first piece alone.
            if piece > 0 && self.whole.load(Relaxed) {
                return Err(Trouble::NoRanges);
            }
            let (before, was_whole) = (self.part.pieces()[piece].next(), self.whole.load(Relaxed));
            let tried = match self.try_on(hub, commit, piece).await {
                // Another piece came as the whole file meanwhile, and what there was of this one is forgotten.
                Err(Trouble::Failed(_)) if !was_whole && self.whole.load(Relaxed) => {
                    return Err(Trouble::NoRanges);
                }
                tried => tried?,
            };
            let (cause, after) = match tried {
                Try::Done => return Ok(()),
                Try::Broken(cause, after) => (cause, after),
            };
            tries = if self.part.pieces()[piece].next() > before { 1 } else { tries + 1 };
            let pause = after.unwrap_or(PAUSE * (1 << tries.min(8))).max(PAUSE);
            if tries >= TRIES || pause > MAX_PAUSE {
                return Err(cause.into());
            }
            tracing::info!(model = hub.id, file = self.name(), %piece, cause = cause.message(), "goes on");
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_on(&self, hub: &Hub<'_>, commit: &str, piece: usize) -> Result<Try, Trouble> {
        let whole = self.whole.load(Relaxed);
        if whole {
            self.restart(hub)?;
        }
        let own = &self.part.pieces()[piece];
        let (start, end) = if whole { (0, self.size()) } else { (own.next(), own.end) };
        let asked = hub.repo.download_file_stream().filename(self.name()).revision(commit);
        let asked = asked.maybe_range((!whole).then_some(start..end)).send();
        let stall = hub.source.stall;
        let (len, mut stream) = match tokio::time::timeout(stall, asked).await {
            Err(_) => return Ok(Try::Broken(self.stalled(hub), None)),
            Ok(Err(error)) => return self.refused(hub, &error),
            Ok(Ok(answer)) => answer,
        };
        if !whole && len == Some(self.size()) && end - start < self.size() {
            // The whole file, from its beginning. First of all others are to know why theirs is forgotten.
            self.whole.store(true, Relaxed);
            self.restart(hub)?;
            return Err(Trouble::NoRanges);
        }
        let (mut held, mut at, mut left) = (BytesMut::new(), start, end - start);
        let broken = loop {
            let Ok(next) = tokio::time::timeout(stall, stream.next()).await else {
                // All has come, and nobody says that it is over.
                break (left > 0).then(|| self.stalled(hub));
            };
            match next {
                None if left == 0 => break None,
                None => {
                    let (last, size) = (end - left, self.size());
                    break Some(failed(hub.id, &format!("{} ended at byte {last} of {size}", self.name())));
                }
                Some(Err(error)) => break Some(failed(hub.id, &root(&error))),
                Some(Ok(bytes)) if bytes.len() as u64 > left => {
                    let cause = format!("more than the {} bytes that it is said to have came", self.size());
                    self.part.discard();
                    return Err(self.corrupt(hub.id, cause).into());
                }
                Some(Ok(bytes)) => {
                    hub.source.pace.take(bytes.len()).await;
                    left -= bytes.len() as u64;
                    held.extend_from_slice(&bytes);
                    if held.len() >= WRITE {
                        at = self.write(hub, at, held.split().freeze()).await?;
                    }
                }
            }
        };
        // Whatever came is kept.
        self.write(hub, at, held.freeze()).await?;
        Ok(broken.map_or(Try::Done, |cause| Try::Broken(cause, None)))
    }

    /// What may be asked again, and what not.
    fn refused(&self, hub: &Hub<'_>, error: &HFError) -> Result<Try, Trouble> {
        let cause = hub.refusal(error);
        match error {
            HFError::RateLimited { retry_after, .. } => Ok(Try::Broken(cause, *retry_after)),
            HFError::Request { .. } | HFError::Xet { .. } => Ok(Try::Broken(cause, None)),
            HFError::Http { context } if context.status.is_server_error() => Ok(Try::Broken(cause, None)),
            HFError::Http { context } if context.status.as_u16() == 416 => {
                let cause = format!(
                    "{} has fewer bytes there than the {} it is said to have",
                    self.name(),
                    self.size()
                );
                Err(failed(hub.id, &cause).into())
            }
            _ => Err(cause.into()),
        }
    }

    fn stalled(&self, hub: &Hub<'_>) -> LoadError {
        let seconds = hub.source.stall.as_secs();
        failed(hub.id, &format!("{} sent nothing of {} for {seconds} s", hub.endpoint, self.name()))
    }

    /// Writes bytes from `at` on, and says where they end.
    async fn write(&self, hub: &Hub<'_>, at: u64, bytes: Bytes) -> Result<u64, LoadError> {
        let (part, len) = (Arc::clone(&self.part), bytes.len() as u64);
        let written = tokio::task::spawn_blocking(move || part.write(at, &bytes)).await;
        let written = written.unwrap_or_else(|e| Err(io::Error::other(e)));
        written.map_err(|e| super::on_disk(hub.id, self.part.path(), &e))?;
        self.done.fetch_add(len, Relaxed);
        Ok(at + len)
    }

    fn restart(&self, hub: &Hub<'_>) -> Result<(), LoadError> {
        let gone = self.part.done();
        self.done.fetch_update(Relaxed, Relaxed, |done| Some(done.saturating_sub(gone))).ok();
        let restarted = (0..self.part.pieces().len()).try_for_each(|piece| self.part.restart(piece));
        self.hash_anew();
        restarted.map_err(|e| super::on_disk(hub.id, self.part.path(), &e))
    }

    fn corrupt(&self, id: &str, cause: String) -> LoadError {
        LoadError::CorruptDownload { model_id: id.to_owned(), file: self.name().to_owned(), cause }
    }

    /// Checks what came and makes it a file of the model. Blocks on the disk.
    pub(super) fn put_in_place(&self, id: &str) -> Result<(), LoadError> {
        let io = |e: io::Error| super::on_disk(id, &self.blob, &e);
        while self.hash_on().map_err(io)? {}
        let hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner).so_far.take();
        let Some((hash, _)) = hashed.filter(|(_, at)| *at == self.size()) else {
            return Err(failed(id, &format!("{} could not be hashed as it came", self.name())));
        };
        if let Some(found) = Content::of(&self.file.etag).is_not(hash) {
            self.part.discard();
            return Err(self.corrupt(id, format!("its hash is {found} and not {}", self.file.etag)));
        }
        self.part.finish(&self.blob).map_err(io)?;
        self.links.iter().try_for_each(|link| cache::link(link, &self.blob)).map_err(io)?;
        self.in_place.store(true, Relaxed);
        Ok(())
    }
}
