//! A file that is coming: its bytes where they belong, and a journal of how far each piece is.
//!
//! Bytes are written before the journal says so. Whatever kills the process, what the journal says is
//! there; after a loss of power it may say too much, which the file's hash shows.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// What the journal begins with; then the file's length, that of the first piece and of the others, then how many
/// bytes of each piece are there, each in eight bytes, little end first.
const MAGIC: [u8; 8] = *b"cxpart01";
const HEAD: usize = 32;

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) size: u64,
    /// What is looked at before the rest is fetched.
    pub(super) first: u64,
    /// Of the pieces after it.
    pub(super) piece: u64,
}

impl Cut {
    /// What a journal of such a file begins with.
    fn head(self) -> Vec<u8> {
        [u64::from_le_bytes(MAGIC), self.size, self.first, self.piece].map(u64::to_le_bytes).concat()
    }

    fn bounds(self) -> Vec<(u64, u64)> {
        let Self { size, first, piece } = self;
        let mut bounds = Vec::new();
        let mut start = 0;
        while start < size {
            let len = if start == 0 { first } else { piece };
            let end = start.saturating_add(len.max(1)).min(size);
            bounds.push((start, end));
            start = end;
        }
        bounds
    }
}

pub(super) struct Partial {
    data: File,
    journal: File,
    paths: [PathBuf; 2],
    pieces: Vec<Piece>,
}

/// Bytes from `start` to `end`, of which the first `done` are there.
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    done: AtomicU64,
}

/// What a journal says of the pieces; `None`: it is no journal of a file that is cut so.
fn read(journal: &[u8], cut: Cut) -> Option<Vec<Piece>> {
    let done = journal.strip_prefix(&cut.head()[..])?;
    let (done, rest) = done.as_chunks::<8>();
    let bounds = cut.bounds();
    if !rest.is_empty() || done.len() != bounds.len() {
        return None;
    }
    let piece = |(bounds, done): ((u64, u64), &[u8; 8])| Piece::new(bounds, u64::from_le_bytes(*done));
    Some(bounds.into_iter().zip(done).map(piece).collect())
}

/// Any bytes as the journal of a small file; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let cut = Cut { size: 100, first: 30, piece: 40 };
    // The head has to be right, or hardly anything is ever read.
    for journal in [bytes.to_vec(), [&cut.head(), bytes].concat()] {
        let Some(pieces) = read(&journal, cut) else { continue };
        let all: Vec<(u64, u64)> = pieces.iter().map(|piece| (piece.start, piece.end)).collect();
        assert_eq!(all, [(0, 30), (30, 70), (70, 100)]);
        assert!(pieces.iter().all(|piece| (piece.start..=piece.end).contains(&piece.next())));
    }
}

impl Piece {
    /// Of which no more is there than it has.
    fn new((start, end): (u64, u64), done: u64) -> Self {
        Self { start, end, done: AtomicU64::new(done.min(end - start)) }
    }

    /// The first byte that is missing.
    pub(super) fn next(&self) -> u64 {
        self.start + self.done.load(Acquire)
    }

    pub(super) fn is_done(&self) -> bool {
        self.next() >= self.end
    }
}

/// Where the bytes are of the file that will be `blob`.
pub(super) fn path(blob: &Path) -> PathBuf {
    beside(blob, ".coming")
}

fn beside(blob: &Path, end: &str) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(end);
    name.into()
}

impl Partial {
    /// Goes on with what there is of the file that will be `blob`, where that was cut into the same pieces.
    pub(super) fn open(blob: &Path, cut: Cut) -> io::Result<Self> {
        let paths = [path(blob), beside(blob, ".coming-journal")];
        let open = |path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let (data, mut journal) = (open(&paths[0])?, open(&paths[1])?);
        let mut said = Vec::new();
        // One that is longer was never written here.
        let count = cut.bounds().len();
        (&mut journal).take((HEAD + 8 * count) as u64 + 1).read_to_end(&mut said)?;
        let known = read(&said, cut).filter(|_| data.metadata().is_ok_and(|data| data.len() == cut.size));
        let pieces = match known {
            Some(pieces) => pieces,
            None => {
                journal.set_len(0)?;
                data.set_len(0)?;
                data.set_len(cut.size)?;
                journal.write_all_at(&cut.head(), 0)?;
                journal.write_all_at(&vec![0; 8 * count], HEAD as u64)?;
                cut.bounds().into_iter().map(|bounds| Piece::new(bounds, 0)).collect()
            }
        };
        Ok(Self { data, journal, paths, pieces })
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes that are there.
    pub(super) fn done(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.done.load(Relaxed)).sum()
    }

    /// Bytes from `at` on, each of the pieces that they are of going on with them. Blocks on the disk.
    pub(super) fn write(&self, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let number = self.pieces.partition_point(|piece| piece.end <= at);
            let piece = self.pieces.get(number).filter(|piece| piece.next() == at);
            // One that was begun anew meanwhile.
            let piece = piece.ok_or_else(|| io::Error::other(format!("nothing goes on at byte {at}")))?;
            let room = usize::try_from(piece.end - at).unwrap_or(usize::MAX);
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            self.data.write_all_at(here, at)?;
            at += here.len() as u64;
            // Whoever sees it reads what was written before.
            piece.done.store(at - piece.start, Release);
            self.journal.write_all_at(&(at - piece.start).to_le_bytes(), (HEAD + 8 * number) as u64)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Bytes that are there from the file's beginning on, without a gap.
    pub(super) fn whole_until(&self) -> u64 {
        let first_gap = self.pieces.iter().find(|piece| !piece.is_done());
        first_gap.map_or_else(|| self.pieces.last().map_or(0, |last| last.end), Piece::next)
    }

    /// Fills `into` with what lies at `at`. Blocks on the disk.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(into, at)
    }

    /// Forgets what there is of a piece.
    pub(super) fn restart(&self, piece: usize) -> io::Result<()> {
        self.pieces[piece].done.store(0, Relaxed);
        self.journal.write_all_at(&[0; 8], (HEAD + 8 * piece) as u64)
    }

    /// Where the bytes are until they are the file.
    pub(super) fn path(&self) -> &Path {
        &self.paths[0]
    }

    /// Makes it the file.
    pub(super) fn finish(&self, blob: &Path) -> io::Result<()> {
        self.data.sync_data()?;
        fs::rename(&self.paths[0], blob)?;
        fs::remove_file(&self.paths[1])
    }

    /// Nothing of it is worth keeping.
    pub(super) fn discard(&self) {
        self.paths.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(blob: &Path, size: u64, piece: u64) -> io::Result<Partial> {
        Partial::open(blob, Cut { size, first: piece, piece })
    }

    #[test]
    fn the_first_piece_is_what_is_wanted_first() {
        assert_eq!(Cut { size: 10, first: 2, piece: 5 }.bounds(), [(0, 2), (2, 7), (7, 10)]);
        assert_eq!(Cut { size: 1, first: 2, piece: 5 }.bounds(), [(0, 1)]);
        assert_eq!(Cut { size: 0, first: 2, piece: 5 }.bounds(), []);
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("blob");
        let bytes: Vec<u8> = (0..100).collect();
        let first = open(&blob, 100, 40).unwrap();
        assert_eq!(
            first.pieces().iter().map(|p| (p.start, p.end)).collect::<Vec<_>>(),
            [(0, 40), (40, 80), (80, 100)]
        );
        first.write(40, &bytes[40..50]).unwrap();
        first.write(80, &bytes[80..100]).unwrap();
        assert!(first.write(100, &[0]).is_err() && first.write(40, &[0]).is_err());
        drop(first);
        let again = open(&blob, 100, 40).unwrap();
        assert_eq!((again.done(), again.pieces()[1].next(), again.pieces()[2].is_done()), (30, 50, true));
        again.write(50, &bytes[50..80]).unwrap();
        assert_eq!(again.whole_until(), 0);
        again.write(0, &bytes[..10]).unwrap();
        assert_eq!(again.whole_until(), 10);
        again.write(10, &bytes[10..40]).unwrap();
        assert_eq!((again.done(), again.whole_until()), (100, 100));
        again.finish(&blob).unwrap();
        assert_eq!(fs::read(&blob).unwrap(), bytes);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_of_another_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("blob");
        let begin = || {
            let part = open(&blob, 100, 40).unwrap();
            part.write(0, &[1; 10]).unwrap();
        };
        let journal = dir.path().join("blob.coming-journal");
        for (size, piece) in [(90, 40), (100, 50)] {
            begin();
            assert_eq!(open(&blob, size, piece).unwrap().done(), 0);
        }
        begin();
        fs::write(&journal, b"cxpart01 and nothing that makes sense").unwrap();
        assert_eq!(open(&blob, 100, 40).unwrap().done(), 0);
        begin();
        fs::remove_file(dir.path().join("blob.coming")).unwrap();
        assert_eq!(open(&blob, 100, 40).unwrap().done(), 0);
        // A journal that promises more than a piece has.
        begin();
        let mut said = fs::read(&journal).unwrap();
        said[HEAD..HEAD + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(&journal, said).unwrap();
        assert_eq!(open(&blob, 100, 40).unwrap().done(), 40);
        assert_eq!(open(&blob, 0, 40).unwrap().pieces().len(), 0);
    }
}
