//! From a model id to its file or folder on disk: the cache first, with no network at all where it has them.

mod cache;
mod choose;
mod download;
mod folder;
mod hub;
mod local;
mod pace;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use neuron_kernels::quant::Target;
use neuron_protocol::{LoadError, model_id::ModelId};

use crate::{
    config::{Config, Source},
    gguf,
    progress::Progress,
    safetensors,
};
pub(crate) use cache::{files as cached_files, is_name, snapshot as cached_snapshot};
use choose::Choice;
pub(crate) use choose::SAFETENSORS;
use download::Download;
#[cfg(any(test, fuzzing))]
pub(crate) use download::fuzz_journal;
pub(crate) use download::{Content, sha256};
use hub::Hub;
pub(crate) use hub::failed;
pub use pace::Pace;

/// How long a look at a model waits for who fetches it.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// Looks at a model before its weights are fetched: a folder, or a file, of which only the beginnings have come
/// and the rest reads as zeros.
pub(crate) type Look<'a> = &'a (dyn Fn(PathBuf) -> LookedAt + Sync);
/// What it found; blocks on the disk elsewhere.
pub(crate) type LookedAt = std::pin::Pin<Box<dyn Future<Output = Result<(), LoadError>> + Send>>;

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// A GGUF file, or the folder of a model in safetensors.
    pub path: PathBuf,
    /// `org/name`, without source and revision.
    pub repo: String,
}

impl Resolved {
    /// The file's own name; of a folder, that of its weights.
    pub fn file(&self) -> String {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if choose::is_gguf(&name) { name } else { safetensors::WHOLE.to_owned() }
    }
}

/// An id taken apart and its source found.
struct Place<'a> {
    id: &'a str,
    parts: ModelId<'a>,
    source: &'a Source,
}

/// The model's files, out of the cache or, failing that, over the network.
pub async fn resolve(config: &Config, id: &str, quant: Option<&str>) -> Result<Resolved, LoadError> {
    resolve_watched(config, id, quant, &Progress::default(), &|_| Box::pin(async { Ok(()) })).await
}

/// As [`resolve`], telling what is downloaded; `look` may refuse it before its weights are.
pub(crate) async fn resolve_watched(
    config: &Config,
    id: &str,
    quant: Option<&str>,
    progress: &Progress,
    look: Look<'_>,
) -> Result<Resolved, LoadError> {
    let place = place(config, id)?;
    match cached_at(&place, quant) {
        Ok(Some(path)) => return Ok(place.resolved(path)),
        Ok(None) => {}
        // The cache has the model in other quants; its source may have this one.
        Err(missing @ (LoadError::QuantNotFound { .. } | LoadError::SplitWeights { .. }))
            if place.source.offline || !place.source.roots.is_empty() =>
        {
            return Err(missing);
        }
        Err(LoadError::QuantNotFound { .. } | LoadError::SplitWeights { .. }) => {}
        Err(other) => return Err(other),
    }
    if place.source.offline {
        return Err(place.offline());
    }
    let (hub, files) = ask(&place, quant).await?;
    let path = match choose::weights(id, &files, quant, choose::is_folder(&files))? {
        Choice::File(file) => {
            let download = Download::plan(&hub, &all_parts(file), hub.revision(), progress).await?;
            look_at_beginnings(&download, Some(file), look).await.or_else(no_verdict)?;
            download.finish_model().await?.join(file)
        }
        Choice::Folder => {
            let weights = beside_weights(&hub, &files, progress).await?;
            look_at_beginnings(&weights, None, look).await.or_else(no_verdict)?;
            weights.finish_model().await?
        }
    };
    Ok(place.resolved(path))
}

/// Has a model looked at, of which no more is fetched for that than its beginnings.
pub(crate) async fn look_at(
    config: &Config,
    id: &str,
    quant: Option<&str>,
    look: Look<'_>,
) -> Result<(), LoadError> {
    let place = place(config, id)?;
    match cached_at(&place, quant) {
        Ok(Some(path)) => return look(path).await,
        Ok(None) | Err(LoadError::QuantNotFound { .. } | LoadError::SplitWeights { .. })
            if !place.source.offline && place.source.roots.is_empty() => {}
        Ok(None) => return Err(place.offline()),
        Err(other) => return Err(other),
    }
    let (mut hub, files) = ask(&place, quant).await?;
    // A look must not take as long as the download that it is in the way of.
    hub.patience = LOOK_PATIENCE;
    let progress = Progress::default();
    match choose::weights(id, &files, quant, choose::is_folder(&files))? {
        Choice::File(file) => {
            let download = Download::plan(&hub, &all_parts(file), hub.revision(), &progress).await?;
            look_at_beginnings(&download, Some(file), look).await
        }
        Choice::Folder => {
            let weights = beside_weights(&hub, &files, &progress).await?;
            look_at_beginnings(&weights, None, look).await
        }
    }
}

/// Fetches all of a model in safetensors but its weights, and plans those.
async fn beside_weights<'a>(
    hub: &'a Hub<'a>,
    files: &[String],
    progress: &Progress,
) -> Result<Download<'a>, LoadError> {
    let beside = folder::before_weights(hub.id, files)?;
    let beside = Download::plan(hub, &beside, hub.revision(), progress).await?;
    // Of the same commit, even if the branch moves on.
    let commit = beside.commit().to_owned();
    let folder = beside.finish().await?;
    Download::plan(hub, &folder::weights(hub.id, &folder, files)?, &commit, progress).await
}

/// Has weights looked at as soon as their beginnings have come. A header may be longer than the first piece.
async fn look_at_beginnings(
    download: &Download<'_>,
    file: Option<&str>,
    look: Look<'_>,
) -> Result<(), LoadError> {
    let mut verdict = Ok(());
    for pieces in [1, 2] {
        let beginnings = download.beginnings(pieces).await?;
        let at = file.map_or_else(|| beginnings.path().to_owned(), |file| beginnings.path().join(file));
        verdict = look(at).await;
        if !matches!(verdict, Err(LoadError::InvalidFile { .. })) {
            break;
        }
    }
    verdict
}

/// What is wrong with a file of which not all has come is only sure when it has.
fn no_verdict(error: LoadError) -> Result<(), LoadError> {
    if matches!(error, LoadError::InvalidFile { .. }) { Ok(()) } else { Err(error) }
}

/// A model's folder in the cache of its source, with blobs and all.
pub(crate) fn cached_repo(config: &Config, id: &str) -> Result<PathBuf, LoadError> {
    let place = place(config, id)?;
    if !place.source.roots.is_empty() {
        let cause = "its files are your own and lie in no cache".to_owned();
        return Err(LoadError::InvalidModelId { model_id: id.to_owned(), cause });
    }
    Ok(cache::repo(&place.source.cache_dir, place.parts.repo))
}

/// The quants that a model comes in, out of the cache or, failing that, as its source lists them.
pub async fn quants(config: &Config, id: &str) -> Result<Vec<String>, LoadError> {
    let place = place(config, id)?;
    if !place.source.roots.is_empty() {
        let path = local::find(&place, None)?;
        return Ok(choose::quants(&[Resolved { path, repo: String::new() }.file()]));
    }
    let cached = cache::snapshot(&place.source.cache_dir, &place.parts).map(|dir| cache::files(&dir));
    let cached = choose::quants(&cached.unwrap_or_default());
    if !cached.is_empty() {
        return Ok(cached);
    }
    if place.source.offline {
        return Err(place.offline());
    }
    Ok(choose::quants(&ask(&place, None).await?.1))
}

/// Bytes of the weights at `path`, a GGUF file or a folder; 0 where they cannot be told.
pub(crate) fn size_of(path: &Path) -> u64 {
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let Ok(entries) = std::fs::read_dir(path) else {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return all_parts(&name).iter().map(|part| len(&path.with_file_name(part))).sum();
    };
    let files = entries.flatten().map(|entry| entry.path());
    files
        .filter(|file| file.extension().is_some_and(|kind| kind == "safetensors"))
        .map(|file| len(&file))
        .sum()
}

/// The file's name is one of GGUF's.
pub(crate) fn is_gguf(file: &str) -> bool {
    choose::is_gguf(file)
}

/// The file is what a request for `quant` means.
pub fn is_quant(file: &str, quant: &str) -> bool {
    choose::names_quant(file, quant)
}

/// What a request for `quant` has weights in safetensors quantised to.
pub fn in_situ(quant: Option<&str>) -> Option<Target> {
    choose::in_situ(quant?)
}

/// The quant that the file's name ends with.
pub fn quant_of(file: &str) -> &str {
    choose::quant_of(file)
}

/// The model's files where the cache has them; never touches the network.
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
    if parts.repo.contains('\\') || parts.revision.is_some_and(|revision| !cache::is_inside(revision)) {
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

/// The files of a model in GGUF.
fn all_parts(file: &str) -> Vec<String> {
    gguf::part_names(file).unwrap_or_else(|| vec![file.to_owned()])
}

/// A source of several endpoints is asked one after the other, until one has what is wanted of the model. If
/// none has, what says most is told.
async fn ask<'a>(place: &Place<'a>, quant: Option<&str>) -> Result<(Hub<'a>, Vec<String>), LoadError> {
    let endpoints = &place.source.endpoints;
    let says = |error: &LoadError| match error {
        LoadError::OfflineAndNotCached { .. } => 0,
        LoadError::RepoNotFound { .. } => 1,
        _ => 2,
    };
    let mut refusal: Option<LoadError> = None;
    for n in 0..endpoints.len().max(1) {
        let hub = Hub::new(place.id, place.parts, place.source, endpoints.get(n).map(String::as_str))?;
        let listed = hub.list().await.and_then(|files| {
            choose::weights(place.id, &files, quant, choose::is_folder(&files)).map(|_| ())?;
            Ok(files)
        });
        match listed {
            Ok(files) => return Ok((hub, files)),
            Err(error) => {
                tracing::info!(
                    model = place.id,
                    endpoint = hub.endpoint,
                    cause = error.message(),
                    "not there"
                );
                if refusal.as_ref().is_none_or(|known| says(known) < says(&error)) {
                    refusal = Some(error);
                }
            }
        }
    }
    Err(refusal.unwrap_or_else(|| place.offline()))
}

fn cached_at(place: &Place<'_>, quant: Option<&str>) -> Result<Option<PathBuf>, LoadError> {
    if !place.source.roots.is_empty() {
        return local::find(place, quant).map(Some);
    }
    let Some(snapshot) = cache::snapshot(&place.source.cache_dir, &place.parts) else { return Ok(None) };
    let files = cache::files(&snapshot);
    // One whose download was broken off is fetched on.
    let is_folder = safetensors::missing_files(&snapshot).is_empty();
    if !is_folder && !files.iter().any(|file| choose::is_gguf(file)) {
        return Ok(None);
    }
    Ok(Some(match choose::weights(place.id, &files, quant, is_folder)? {
        Choice::File(file) => snapshot.join(file),
        Choice::Folder => snapshot,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(dir: &Path) -> Config {
        let text = format!("[sources.huggingface]\ncache_dir = {dir:?}\noffline = true\n");
        Config::parse(&text, "test", &|_| None).unwrap()
    }

    fn hub(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = match path.file_name().unwrap().to_str().unwrap() {
                "main" => "abc\n",
                safetensors::INDEX => {
                    r#"{ "weight_map": { "a": "m-1.safetensors", "b": "m-2.safetensors" } }"#
                }
                _ => "",
            };
            fs::write(path, text).unwrap();
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
        check(&[main, file], "o/m@/dev/zero", None, Err("invalid_model_id")).await;
        check(&[main, "models--o--m/snapshots/abc/README.md"], "o/m", None, Err("offline_and_not_cached"))
            .await;
    }

    #[tokio::test]
    async fn a_folder_is_there_once_all_of_it_is() {
        let folder = "models--o--m/snapshots/abc";
        let of = |names: &[&str]| names.iter().map(|name| format!("{folder}/{name}")).collect::<Vec<_>>();
        let check = async |names: &[&str], quant, expected| {
            let files = of(names);
            let files: Vec<&str> = files.iter().map(String::as_str).collect();
            check(&files, "o/m", quant, expected).await;
        };
        let whole = ["config.json", "tokenizer.json", "model.safetensors"];
        check(&whole, None, Ok(folder)).await;
        check(&whole, Some("bf16"), Ok(folder)).await;
        check(&whole, Some("Q8_0"), Ok(folder)).await;
        check(&whole, Some("Q2_K"), Err("quant_not_found")).await;
        check(&whole[..2], None, Err("offline_and_not_cached")).await;
        check(&whole[1..], None, Err("offline_and_not_cached")).await;
        let parts =
            ["config.json", "tokenizer.json", safetensors::INDEX, "m-1.safetensors", "m-2.safetensors"];
        check(&parts, None, Ok(folder)).await;
        check(&parts[..4], None, Err("offline_and_not_cached")).await;
        let both = [&parts[..4], &["m.Q8_0.gguf"]].concat();
        check(&both, Some("Q8_0"), Ok("models--o--m/snapshots/abc/m.Q8_0.gguf")).await;
        check(&both, Some("safetensors"), Err("quant_not_found")).await;
    }

    #[tokio::test]
    async fn files_of_the_host_are_found_inside_their_roots() {
        let (one, two) =
            (hub(&["a/m.Q4_0.gguf"]), hub(&["b/x.Q4_0.gguf", "b/x.Q8_0.gguf", "c/model.safetensors"]));
        std::os::unix::fs::symlink(two.path(), one.path().join("out")).unwrap();
        let (first, second) = (one.path(), two.path());
        let text = format!("[sources.file]\nroots = [{first:?}, {second:?}]\n");
        let config = Config::parse(&text, "test", &|_| None).unwrap();
        let check = async |id: &str, quant, expected: Result<PathBuf, &str>| {
            let got = resolve(&config, id, quant).await.map(|resolved| resolved.path);
            let kind = |e: LoadError| serde_json::to_value(e).unwrap()["kind"].as_str().unwrap().to_owned();
            assert_eq!(got.map_err(kind), expected.map_err(str::to_owned), "{id} {quant:?}");
        };
        check("file:a/m.Q4_0.gguf", None, Ok(first.join("a/m.Q4_0.gguf"))).await;
        check("file:a", None, Ok(first.join("a/m.Q4_0.gguf"))).await;
        check("file:b", Some("Q8_0"), Ok(second.join("b/x.Q8_0.gguf"))).await;
        check("file:b", Some("Q2_K"), Err("quant_not_found")).await;
        check("file:b/x.Q4_0.gguf", Some("Q8_0"), Err("quant_not_found")).await;
        check("file:c", None, Err("empty_repo")).await;
        check("file:none", None, Err("repo_not_found")).await;
        // A link that leads out of its root.
        check("file:out/b/x.Q4_0.gguf", None, Err("repo_not_found")).await;
        check("file:../etc/passwd", None, Err("invalid_model_id")).await;
        check("file:a@main", None, Err("invalid_model_id")).await;
    }

    #[test]
    fn a_folder_goes_by_the_name_of_its_weights() {
        let resolved = |path: &str| Resolved { path: path.into(), repo: String::new() };
        assert_eq!(resolved("/hub/snapshots/abc").file(), "model.safetensors");
        assert_eq!(resolved("/hub/snapshots/abc/m.Q8_0.gguf").file(), "m.Q8_0.gguf");
    }
}
