//! Models that lie in folders of the host: `file:folder/model.gguf`, `file:folder`.

use std::path::{Path, PathBuf};

use neuron_protocol::LoadError;

use super::{
    Place, cache,
    choose::{self, Choice},
};

/// The file, or the folder of a model in safetensors, that the id means: within the first root that has it.
/// Links are followed, but not out of the root.
pub(super) fn find(place: &Place<'_>, quant: Option<&str>) -> Result<PathBuf, LoadError> {
    if place.parts.revision.is_some() {
        let cause = "files have no revisions; leave out what follows the @".to_owned();
        return Err(LoadError::InvalidModelId { model_id: place.id.to_owned(), cause });
    }
    let roots = &place.source.roots;
    let Some(path) = roots.iter().find_map(|root| within(root, place.parts.repo)) else {
        let roots: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
        return Err(LoadError::RepoNotFound { model_id: place.id.to_owned(), endpoint: roots.join(", ") });
    };
    if path.is_dir() {
        let files = cache::files(&path);
        let chosen = choose::weights(place.id, &files, quant, choose::is_folder(&files))?;
        return Ok(match chosen {
            Choice::File(file) => path.join(file),
            Choice::Folder => path,
        });
    }
    // A part's siblings lie beside it.
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new("."));
    let names = super::all_parts(&name).into_iter().filter(|part| folder.join(part).is_file());
    let file = choose::file(place.id, &names.collect::<Vec<_>>(), quant)?.to_owned();
    Ok(path.with_file_name(file))
}

fn within(root: &Path, name: &str) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let path = root.join(name);
    // The name stays: a link's target may have none that says what it is.
    path.canonicalize().ok()?.starts_with(&root).then_some(path)
}
