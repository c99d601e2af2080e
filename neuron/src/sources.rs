//! From a model id to a file on disk: the cache first, with no network at all where it has the file.

mod cache;
mod choose;
mod hub;

use std::path::PathBuf;

use neuron_protocol::{LoadError, model_id::ModelId};

use crate::config::{Config, Source};

/// The file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub path: PathBuf,
    /// `org/name`, without source and revision.
    pub repo: String,
}

impl Resolved {
    /// The file's own name.
    pub fn file(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// An id taken apart and its source found.
struct Place<'a> {
    id: &'a str,
    parts: ModelId<'a>,
    source: &'a Source,
}

/// The model's file, out of the cache or, failing that, over the network.
pub async fn resolve(config: &Config, id: &str, quant: Option<&str>) -> Result<Resolved, LoadError> {
    let place = place(config, id)?;
    match cached_at(&place, quant) {
        Ok(Some(path)) => return Ok(place.resolved(path)),
        Ok(None) => {}
        // The cache has the model in other quants; its source may have this one.
        Err(missing @ LoadError::QuantNotFound { .. }) if place.source.offline => return Err(missing),
        Err(LoadError::QuantNotFound { .. }) => {}
        Err(other) => return Err(other),
    }
    if place.source.offline {
        return Err(place.offline());
    }
    let files = hub::list(id, &place.parts, place.source).await?;
    let file = choose::file(id, &files, quant)?;
    tracing::info!(model = id, %file, "downloading");
    let path = hub::fetch(id, &place.parts, place.source, file).await?;
    Ok(place.resolved(path))
}

/// The quants that a model comes in, out of the cache or, failing that, as its source lists them.
pub async fn quants(config: &Config, id: &str) -> Result<Vec<String>, LoadError> {
    let place = place(config, id)?;
    let cached = cache::snapshot(&place.source.cache_dir, &place.parts).map(|dir| cache::files(&dir));
    let cached = choose::quants(&cached.unwrap_or_default());
    if !cached.is_empty() {
        return Ok(cached);
    }
    if place.source.offline {
        return Err(place.offline());
    }
    Ok(choose::quants(&hub::list(id, &place.parts, place.source).await?))
}

/// The file is what a request for `quant` means.
pub fn is_quant(file: &str, quant: &str) -> bool {
    choose::names_quant(file, quant)
}

/// The quant that the file's name ends with.
pub fn quant_of(file: &str) -> &str {
    choose::quant_of(file)
}

/// The model's file where the cache has it; never touches the network.
pub fn resolve_cached(config: &Config, id: &str) -> Result<Option<Resolved>, LoadError> {
    let place = place(config, id)?;
    Ok(cached_at(&place, None)?.map(|path| place.resolved(path)))
}

impl Place<'_> {
    fn offline(&self) -> LoadError {
        let cause = format!("the source is offline; looked in {}", self.source.cache_dir.display());
        LoadError::OfflineAndNotCached { model_id: self.id.to_owned(), cause }
    }

    fn resolved(&self, path: PathBuf) -> Resolved {
        Resolved { path, repo: self.parts.repo.to_owned() }
    }
}

fn place<'a>(config: &'a Config, id: &'a str) -> Result<Place<'a>, LoadError> {
    let parts =
        ModelId::parse(id).map_err(|cause| LoadError::InvalidModelId { model_id: id.to_owned(), cause })?;
    if parts.repo.contains('\\') || parts.revision.is_some_and(|r| r.contains("..")) {
        let cause = "it could leave the cache directory".to_owned();
        return Err(LoadError::InvalidModelId { model_id: id.to_owned(), cause });
    }
    let name = parts.scheme.unwrap_or(&config.default_source);
    let source = config.sources.get(name).ok_or_else(|| LoadError::UnknownSource {
        model_id: id.to_owned(),
        source: name.to_owned(),
        known: config.sources.keys().cloned().collect(),
    })?;
    Ok(Place { id, parts, source })
}

fn cached_at(place: &Place<'_>, quant: Option<&str>) -> Result<Option<PathBuf>, LoadError> {
    let Some(snapshot) = cache::snapshot(&place.source.cache_dir, &place.parts) else { return Ok(None) };
    let files = cache::files(&snapshot);
    if !files.iter().any(|file| choose::is_gguf(file)) {
        return Ok(None);
    }
    let file = choose::file(place.id, &files, quant)?;
    Ok(Some(snapshot.join(file)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(dir: &std::path::Path) -> Config {
        let text = format!("[sources.huggingface]\ncache_dir = {dir:?}\noffline = true\n");
        Config::parse(&text, "test", &|_| None).unwrap()
    }

    fn hub(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if file.contains("/refs/") { "abc\n" } else { "" }).unwrap();
        }
        dir
    }

    async fn check(files: &[&str], id: &str, quant: Option<&str>, expected: Result<&str, &str>) {
        let dir = hub(files);
        let got = resolve(&config(dir.path()), id, quant).await;
        let got = got.map(|r| r.path.strip_prefix(dir.path()).unwrap().display().to_string());
        let kind = |e: LoadError| serde_json::to_value(e).unwrap()["kind"].as_str().unwrap().to_owned();
        assert_eq!(got.map_err(kind), expected.map(str::to_owned).map_err(str::to_owned), "{id} {quant:?}");
    }

    #[tokio::test]
    async fn the_cache_answers_without_a_network() {
        let main = "models--o--m/refs/main";
        let file = "models--o--m/snapshots/abc/m.Q4_0.gguf";
        check(&[main, file], "o/m", None, Ok(file)).await;
        check(&[main, file], "huggingface:o/m@main", None, Ok(file)).await;
        check(&[main, file], "o/m@abc", Some("q4_0"), Ok(file)).await;
        check(&[file], "o/m", None, Ok(file)).await;
        check(&[main, file], "o/m@other", None, Err("offline_and_not_cached")).await;
        check(&[main, file], "o/other", None, Err("offline_and_not_cached")).await;
        check(&[main, file], "o/m", Some("Q8_0"), Err("quant_not_found")).await;
        let part = "models--o--m/snapshots/abc/m-00001-of-00002.gguf";
        check(&[main, part], "o/m", None, Err("split_weights")).await;
        check(&[main, file], "nas:o/m", None, Err("unknown_source")).await;
        check(&[main, file], "../m", None, Err("invalid_model_id")).await;
        check(&[main, file], "o/m@../../x", None, Err("invalid_model_id")).await;
        check(&[main, "models--o--m/snapshots/abc/README.md"], "o/m", None, Err("offline_and_not_cached"))
            .await;
    }
}
