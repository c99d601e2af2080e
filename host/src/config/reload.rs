//! Reading the files again while somebody may be writing them.

use super::{Config, ConfigError, explain};
use std::path::Path;
use std::time::Duration;

/// Two reads this far apart that are equal are of a file that is whole.
const MOMENT: Duration = Duration::from_millis(50);
/// Reads after which a file that keeps changing is left for the next look.
const READS: u32 = 20;

impl Config {
    /// As [`Config::load`], for taking the place of `old`. Blocking, for at least a moment a file.
    ///
    /// Errors also where the file looks cut short: the doors must not open because an editor was not done.
    pub fn reload(path: &Path, old: &Self) -> Result<Self, ConfigError> {
        let beside = old.files.iter().skip(1).map(|file| file.as_path());
        let files: Vec<&Path> = [path].into_iter().chain(beside).collect();
        let texts = settled(&files);
        let text = texts[0].as_ref().map_err(|e| ConfigError::file(path, e))?.clone();
        let table: toml::Table = explain::parse(path, &text)?;
        if !table.contains_key("gateway") && !table.contains_key("neurons") {
            let said = "has neither [gateway] nor [[neurons]], as if cut short; to mean that, restart";
            return Err(ConfigError::says(path, said));
        }
        let read = |file: &Path| match files.iter().position(|known| *known == file) {
            Some(at) => copy(&texts[at]),
            // A file that the new one names and the old one did not.
            None => copy(&settled(&[file])[0]),
        };
        let new = Self::load_with(path, read, |name| std::env::var(name).ok(), std::env::vars())?;
        if !old.keys.is_empty() && new.keys.is_empty() {
            let said = "would remove all [[keys]] and so open the gateway; to mean that, restart";
            return Err(ConfigError::says(path, said));
        }
        if !old.admin_keys.is_empty() && new.admin_keys.is_empty() {
            let said = "would remove all [[admin_keys]] and so open /admin; to mean that, restart";
            return Err(ConfigError::says(path, said));
        }
        Ok(new)
    }
}

/// The files as they are once none of them changes any more, all of them at once.
fn settled(files: &[&Path]) -> Vec<std::io::Result<String>> {
    let read = || files.iter().map(std::fs::read_to_string).collect::<Vec<_>>();
    let mut last = read();
    for _ in 0..READS {
        std::thread::sleep(MOMENT);
        let next = read();
        let same = last.iter().zip(&next).all(|pair| match pair {
            (Ok(last), Ok(next)) => last == next,
            (Err(last), Err(next)) => last.kind() == next.kind(),
            _ => false,
        });
        if same {
            return next;
        }
        last = next;
    }
    files.iter().map(|_| Err(std::io::Error::other("it keeps changing"))).collect()
}

fn copy(read: &std::io::Result<String>) -> std::io::Result<String> {
    match read {
        Ok(text) => Ok(text.clone()),
        Err(error) => Err(std::io::Error::new(error.kind(), error.to_string())),
    }
}
