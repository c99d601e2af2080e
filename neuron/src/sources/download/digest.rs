//! What a hub says a file is, as a hash, against what came.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use sha1::{Digest, Sha1};

/// Bytes that are read at once.
pub(super) const CHUNK: usize = 1 << 20;

/// A hub's name for a file's content: its SHA-256, git's own name for a small file, or something that says
/// nothing about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Sha256(String),
    Git(String),
    Opaque,
}

impl Content {
    pub(crate) fn of(etag: &str) -> Self {
        let is_hex = etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match etag.len() {
            64 if is_hex => Self::Sha256(etag.to_owned()),
            40 if is_hex => Self::Git(etag.to_owned()),
            _ => Self::Opaque,
        }
    }

    /// `Ok(Some)`: what it is instead. Reads the whole file.
    pub(crate) fn differs(&self, path: &Path) -> io::Result<Option<String>> {
        let file = File::open(path)?;
        let mut hash = self.begin(file.metadata()?.len());
        if matches!(hash, Hash::Nothing) {
            return Ok(None);
        }
        feed(file, &mut hash)?;
        Ok(self.is_not(hash))
    }

    /// For the bytes of a file of `len`, from the first on.
    pub(super) fn begin(&self, len: u64) -> Hash {
        match self {
            Self::Sha256(_) => Hash::Sha256(Context::new(&SHA256)),
            Self::Git(_) => Hash::Git(Sha1::new_with_prefix(format!("blob {len}\0"))),
            Self::Opaque => Hash::Nothing,
        }
    }

    /// What the bytes were instead; `None`: what they should be, or nothing is known of it.
    pub(super) fn is_not(&self, hash: Hash) -> Option<String> {
        match self {
            Self::Sha256(wanted) | Self::Git(wanted) => Some(hash.hex()).filter(|found| found != wanted),
            Self::Opaque => None,
        }
    }
}

/// A hash of what has been seen of a file.
pub(super) enum Hash {
    /// With whatever instructions the machine has for it: files of weights are long.
    Sha256(Context),
    Git(Sha1),
    Nothing,
}

impl Hash {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
            Self::Nothing => {}
        }
    }

    fn hex(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => hex(hash.finish().as_ref()),
            Self::Git(hash) => hex(&hash.finalize()),
            Self::Nothing => String::new(),
        }
    }
}

/// A file's SHA-256 in hexadecimal.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Hash::Sha256(Context::new(&SHA256));
    feed(File::open(path)?, &mut hash)?;
    Ok(hash.hex())
}

fn feed(mut file: File, hash: &mut Hash) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        hash.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_everyone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object`, `sha256sum`
        let git = Content::of("ce013625030ba8dba906f756967f9e9ca394464a");
        let sha = Content::of("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert!(matches!((&git, &sha), (Content::Git(_), Content::Sha256(_))));
        assert_eq!((git.differs(&path).unwrap(), sha.differs(&path).unwrap()), (None, None));
        std::fs::write(&path, "hello").unwrap();
        assert!(git.differs(&path).unwrap().is_some() && sha.differs(&path).unwrap().is_some());
        assert_eq!(Content::of("\"e1\""), Content::Opaque);
        assert_eq!(Content::Opaque.differs(&path).unwrap(), None);
    }
}
