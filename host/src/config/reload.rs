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
        let text = settled(path).map_err(|e| ConfigError::file(path, &e))?;
        let table: toml::Table = explain::parse(path, &text)?;
        if !table.contains_key("gateway") && !table.contains_key("neurons") {
            let said = "has neither [gateway] nor [[neurons]], as if cut short; to mean that, restart";
            return Err(ConfigError::says(path, said));
        }
        let read = |file: &Path| if file == path { Ok(text.clone()) } else { settled(file) };
        let new = Self::load_with(path, read, |name| std::env::var(name).ok(), std::env::vars())?;
        if !old.keys.is_empty() && new.keys.is_empty() {
            let said = "would remove all [[keys]] and so open the gateway; to mean that, restart";
            return Err(ConfigError::says(path, said));
        }
        Ok(new)
    }
}

fn settled(path: &Path) -> std::io::Result<String> {
    let mut last = std::fs::read_to_string(path);
    for _ in 0..READS {
        std::thread::sleep(MOMENT);
        let next = std::fs::read_to_string(path);
        let same = match (&last, &next) {
            (Ok(last), Ok(next)) => last == next,
            (Err(last), Err(next)) => last.kind() == next.kind(),
            _ => false,
        };
        if same {
            return next;
        }
        last = next;
    }
    Err(std::io::Error::other("it keeps changing"))
}
