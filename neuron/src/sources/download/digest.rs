//! What a hub says a file is, as a hash, against what came.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha1::Sha1;
use sha2::{Digest, Sha256};

const CHUNK: usize = 1 << 20;

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
        let (wanted, found) = match self {
            Self::Opaque => return Ok(None),
            Self::Sha256(wanted) => (wanted, sha256(path)?),
            Self::Git(wanted) => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {}\0", std::fs::metadata(path)?.len()));
                (wanted, feed(path, hash)?)
            }
        };
        Ok((*wanted != found).then_some(found))
    }
}

/// A file's SHA-256 in hexadecimal.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    feed(path, Sha256::new())
}

fn feed(path: &Path, mut hash: impl Digest) -> io::Result<String> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; CHUNK]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
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
