//! Which files of a folder hold a model's weights.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::MAX_FILES;
use crate::folder::{self, FolderError, Problem};

/// What the model is.
pub(crate) const CONFIG: &str = "config.json";
/// All weights, where they are in one file.
pub(crate) const WHOLE: &str = "model.safetensors";
/// Which file each tensor is in, where there are several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The files with weights, and for each tensor that an index lists its file. With both, the whole file
/// counts, as for the library that writes them.
pub(super) fn list(folder: &Path) -> Result<(Vec<String>, BTreeMap<String, String>), FolderError> {
    if folder.join(WHOLE).exists() {
        return Ok((vec![WHOLE.to_owned()], BTreeMap::new()));
    }
    let Some(listed) = index(folder)? else { return Err(Problem::Absent.of(WHOLE)) };
    let files: BTreeSet<String> = listed.values().cloned().collect();
    Ok((files.into_iter().collect(), listed))
}

/// The files that the index names; `None`: there is no index.
pub(crate) fn shards(folder: &Path) -> Result<Option<Vec<String>>, FolderError> {
    let files = |listed: BTreeMap<String, String>| {
        listed.into_values().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    Ok(index(folder)?.map(files))
}

/// Files without which a model's folder is not whole, as far as is known; a damaged index names none, since
/// reading it says more.
pub(crate) fn missing_files(folder: &Path) -> Vec<String> {
    let mut needed = vec![CONFIG.to_owned(), crate::tokenizer::FILE.to_owned()];
    if !folder.join(WHOLE).exists() {
        match shards(folder) {
            Ok(Some(shards)) => needed.extend(shards),
            Ok(None) => needed.push(WHOLE.to_owned()),
            Err(_) => {}
        }
    }
    needed.retain(|file| !folder.join(file).is_file());
    needed
}

fn index(folder: &Path) -> Result<Option<BTreeMap<String, String>>, FolderError> {
    let Some(index) = folder::optional_json(folder, INDEX)? else { return Ok(None) };
    let root = index.root();
    let map = root.optional_object("weight_map")?.ok_or_else(|| root.missing("weight_map"))?;
    let mut listed = BTreeMap::new();
    for (tensor, file) in map.entries() {
        let file = file.as_str().filter(|file| is_plain(file));
        let named = || map.get(tensor).map(ToString::to_string).unwrap_or_default();
        let file = file.ok_or_else(|| Problem::FileName(named()).of(INDEX))?;
        listed.insert(tensor.to_owned(), file.to_owned());
    }
    let count = listed.values().collect::<BTreeSet<_>>().len();
    match count {
        0 => Err(root.inconsistent("it lists no tensors".to_owned())),
        1..=MAX_FILES => Ok(Some(listed)),
        _ => {
            let what = "the number of its files";
            Err(Problem::TooLarge { what, value: count as u64, max: MAX_FILES as u64 }.of(INDEX))
        }
    }
}

/// A name in the folder itself.
fn is_plain(file: &str) -> bool {
    file.ends_with(".safetensors") && !file.starts_with('.') && !file.contains(['/', '\\', '\0'])
}
