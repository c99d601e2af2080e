//! Models that are cut into several files, `model-00001-of-00003.gguf` and so on, as llama.cpp's gguf-split makes
//! them: the first has the metadata, each has tensors of its own.

use std::path::Path;

use super::{GgufError, Header, Part};

/// Parts of a model; the largest in use have some dozens.
const MAX_PARTS: u64 = 1000;
const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

impl Header {
    /// Adds the tensors of the parts that lie beside the file at `path`, if it is the first of several.
    pub(super) fn join(&mut self, path: &Path) -> Result<(), GgufError> {
        let count = self.optional_number(COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(());
        }
        if count > MAX_PARTS {
            return Err(GgufError::TooLarge { what: COUNT, value: count, max: MAX_PARTS });
        }
        let own = self.optional_number(NUMBER)?.unwrap_or(0);
        if own != 0 {
            let text = format!("it is part {} of {count}; the first one is the model", own + 1);
            return Err(GgufError::Inconsistent(text));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let names = part_names(&name).filter(|names| names.len() as u64 == count).ok_or_else(|| {
            GgufError::Inconsistent(format!("it is the first of {count} parts, and not named so"))
        })?;
        for (n, name) in names.iter().enumerate().skip(1) {
            let path = path.with_file_name(name);
            let of_part = |e: GgufError| GgufError::Inconsistent(format!("{name}: {e}"));
            let header = Self::open_one(&path).map_err(of_part)?;
            if header.optional_number(NUMBER).map_err(of_part)? != Some(n as u64) {
                return Err(GgufError::Inconsistent(format!("{name} is not part {} of it", n + 1)));
            }
            for (tensor, mut info) in header.tensors {
                info.part = n;
                if self.tensors.insert(tensor.clone(), info).is_some() {
                    return Err(GgufError::Duplicate(format!("{name}: tensor {tensor}")));
                }
            }
            let (data_offset, file_len) = (header.data_offset, header.file_len);
            self.parts.push(Part { path, data_offset, file_len });
        }
        match self.optional_number(TENSORS)? {
            Some(said) if said != self.tensors.len() as u64 => Err(GgufError::Inconsistent(format!(
                "its parts have {} tensors together, where {TENSORS} says {said}",
                self.tensors.len()
            ))),
            _ => Ok(()),
        }
    }
}

/// The file is one of several parts.
pub(crate) fn is_part(file: &str) -> bool {
    numbers(file).is_some()
}

/// `model`, of `model-00001-of-00003.gguf`.
pub(crate) fn whole_stem(file: &str) -> Option<&str> {
    numbers(file).map(|(stem, ..)| stem)
}

/// All parts of the model that `file` is one of, in their order. `None`: it is whole, or of too many.
pub(crate) fn part_names(file: &str) -> Option<Vec<String>> {
    let (stem, _, count) = numbers(file)?;
    let (all, width) = (count.parse::<u64>().ok().filter(|all| (1..=MAX_PARTS).contains(all))?, count.len());
    Some((1..=all).map(|n| format!("{stem}-{n:0width$}-of-{count}.gguf")).collect())
}

fn numbers(file: &str) -> Option<(&str, &str, &str)> {
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let (stem, count) = file.rsplit_once('.').map_or(file, |(stem, _)| stem).rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    (digits(number) && digits(count)).then_some((stem, number, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        let names = part_names("a/m-Q4_K_M-00002-of-00003.gguf").unwrap();
        assert_eq!(names, [1, 2, 3].map(|n| format!("a/m-Q4_K_M-0000{n}-of-00003.gguf")));
        assert_eq!(whole_stem("m-1-of-2.gguf"), Some("m"));
        for whole in ["m.gguf", "out-of-8.gguf", "m-1-of-x.gguf", "m-00001-of-99999.gguf", "m-1-of-0.gguf"] {
            assert_eq!(part_names(whole), None, "{whole}");
        }
    }
}
