//! Which of a repository's files to load.

use neuron_kernels::quant::Target;
use neuron_protocol::LoadError;

use crate::{
    gguf::{is_part, part_names, whole_stem},
    safetensors::{CONFIG, INDEX, WHOLE},
};

/// The order in which quants are taken where the request names none.
const PREFERRED: [&str; 4] = ["q4_k_m", "q8_0", "q4_1", "q4_0"];
/// The name that weights in safetensors go by as a quant, and further names that requests have for them.
pub(crate) const SAFETENSORS: &str = "safetensors";
const UNQUANTIZED: [&str; 5] = [SAFETENSORS, "bf16", "f16", "fp16", "f32"];

/// What weights in safetensors can be quantised to as they are loaded, where the request names it.
pub(super) fn in_situ(quant: &str) -> Option<Target> {
    let quant = quant.to_ascii_lowercase();
    Target::ALL.into_iter().find(|target| target.name() == quant)
}

/// What of a repository to load.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice<'f> {
    /// One GGUF file.
    File(&'f str),
    /// Its safetensors with all that belongs to them.
    Folder,
}

/// The repository's files are a model in safetensors.
pub(super) fn is_folder(files: &[String]) -> bool {
    let has = |name: &str| files.iter().any(|file| file == name);
    has(CONFIG) && (has(WHOLE) || has(INDEX))
}

/// What `quant` means: a GGUF file where there are any, unless the request asks for what is not quantized.
pub(super) fn weights<'f>(
    id: &str,
    files: &'f [String],
    quant: Option<&str>,
    is_folder: bool,
) -> Result<Choice<'f>, LoadError> {
    let quant = quant.filter(|quant| !quant.is_empty());
    let chosen = file(id, files, quant).map(Choice::File);
    if !is_folder {
        return chosen;
    }
    match (chosen, quant) {
        (Ok(file), _) => Ok(file),
        (Err(_), Some(quant)) if names_quant(WHOLE, quant) || in_situ(quant).is_some() => Ok(Choice::Folder),
        (Err(LoadError::EmptyRepo { .. }), Some(quant)) => {
            let in_situ = Target::ALL.iter().map(|target| target.name());
            let available: Vec<String> =
                [SAFETENSORS].into_iter().chain(in_situ).map(str::to_owned).collect();
            Err(LoadError::QuantNotFound {
                model_id: id.to_owned(),
                requested: quant.to_owned(),
                nearest: nearest(quant, &available),
                available,
            })
        }
        (Err(other), Some(_)) => Err(other),
        (Err(_), None) => Ok(Choice::Folder),
    }
}

pub(super) fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.to_ascii_lowercase().ends_with(".gguf")
}

/// The GGUF file among `files` that has `quant` in its name; without one, the only or the preferred.
pub(super) fn file<'f>(id: &str, files: &'f [String], quant: Option<&str>) -> Result<&'f str, LoadError> {
    let mut ggufs: Vec<&str> = files.iter().map(String::as_str).filter(|file| is_gguf(file)).collect();
    ggufs.sort_unstable();
    // Of a model that is cut into parts, the first stands for all of them, if they are all there.
    let parts: Vec<String> = ggufs.extract_if(.., |file| is_part(file)).map(|part| part.to_owned()).collect();
    let is_whole = |first: &&String| {
        let all = part_names(first);
        all.is_some_and(|all| all.first() == Some(first) && all.iter().all(|part| parts.contains(part)))
    };
    let whole: Vec<&str> = files.iter().filter(is_whole).map(String::as_str).collect();
    if ggufs.is_empty() && whole.is_empty() && !parts.is_empty() {
        return Err(LoadError::SplitWeights { model_id: id.to_owned(), parts });
    }
    ggufs.extend(whole);
    let first = *ggufs.first().ok_or_else(|| LoadError::EmptyRepo { model_id: id.to_owned() })?;
    let having = |quant: &str| ggufs.iter().copied().find(|file| names_quant(file, quant));
    match quant.filter(|quant| !quant.is_empty()) {
        Some(quant) => having(quant).ok_or_else(|| {
            let available: Vec<String> = ggufs.iter().map(|file| quant_of(file).to_owned()).collect();
            LoadError::QuantNotFound {
                model_id: id.to_owned(),
                requested: quant.to_owned(),
                nearest: nearest(quant, &available),
                available,
            }
        }),
        None => Ok(PREFERRED.iter().find_map(|quant| having(quant)).unwrap_or(first)),
    }
}

/// The quants among `files`, each once.
pub(super) fn quants(files: &[String]) -> Vec<String> {
    let ggufs = files.iter().filter(|file| is_gguf(file));
    let mut quants: Vec<String> = ggufs.map(|file| quant_of(file).to_owned()).collect();
    quants.sort_unstable();
    quants.dedup();
    quants
}

fn stem(file: &str) -> &str {
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

/// As a word of the name, so that Q4_K does not match Q4_K_M nor Q4_1 match IQ4_1.
pub(super) fn names_quant(file: &str, quant: &str) -> bool {
    let (file, quant) = (file.to_ascii_lowercase(), quant.to_ascii_lowercase());
    if file == WHOLE {
        return UNQUANTIZED.contains(&quant.as_str());
    }
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    file.match_indices(&quant).any(|(at, found)| {
        !is_word(file[..at].chars().next_back()) && !is_word(file[at + found.len()..].chars().next())
    })
}

/// The word of the name that a quant usually is: the last before `.gguf`.
pub(super) fn quant_of(file: &str) -> &str {
    if file == WHOLE {
        return SAFETENSORS;
    }
    let stem = whole_stem(file).unwrap_or_else(|| stem(file));
    stem.rsplit(['.', '-', '/']).next().unwrap_or(stem)
}

fn nearest(quant: &str, available: &[String]) -> Option<String> {
    let score = |name: &String| strsim::jaro_winkler(&quant.to_ascii_lowercase(), &name.to_ascii_lowercase());
    available.iter().max_by(|a, b| score(a).total_cmp(&score(b))).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[&str], quant: Option<&str>, expected: Result<&str, Option<&str>>) {
        let files: Vec<String> = files.iter().map(|f| (*f).to_owned()).collect();
        let got = file("o/m", &files, quant).map_err(|error| match error {
            LoadError::QuantNotFound { nearest, .. } => nearest,
            _ => None,
        });
        assert_eq!(got, expected.map_err(|n| n.map(str::to_owned)), "{files:?} {quant:?}");
    }

    #[test]
    fn the_quant_is_a_word_of_the_name_in_any_case() {
        let files = ["m.IQ4_1.gguf", "m.Q4_1.gguf", "m.Q4_K_M.gguf", "m-Q4_K.gguf", "README.md"];
        check(&files, Some("q4_1"), Ok("m.Q4_1.gguf"));
        check(&files, Some("Q4_K"), Ok("m-Q4_K.gguf"));
        check(&files, Some("Q4_K_M"), Ok("m.Q4_K_M.gguf"));
        check(&files, Some("Q4_K_S"), Err(Some("Q4_K_M")));
    }

    #[test]
    fn without_a_quant_the_preferred_or_the_first_is_taken() {
        check(&["b.Q8_0.gguf", "a.Q4_K_M.gguf", "a.F16.gguf"], None, Ok("a.Q4_K_M.gguf"));
        check(&["m.Q4_0.gguf", "m.Q4_1.gguf"], None, Ok("m.Q4_1.gguf"));
        check(&["z.F16.gguf", "a.BF16.gguf"], None, Ok("a.BF16.gguf"));
        check(&["only.gguf"], None, Ok("only.gguf"));
        check(&["m-00001-of-00002.gguf", "m-Q2_K.gguf"], None, Ok("m-Q2_K.gguf"));
        check(&["model.safetensors"], None, Err(None));
    }

    #[test]
    fn safetensors_are_taken_where_there_is_no_gguf_or_where_they_are_meant() {
        let check = |gguf: &[&str], quant: Option<&str>, expected: Result<Option<&str>, &str>| {
            let others = ["config.json", "model.safetensors"];
            let files: Vec<String> = gguf.iter().chain(&others).map(|f| (*f).to_owned()).collect();
            let got = weights("o/m", &files, quant, is_folder(&files)).map(|choice| match choice {
                Choice::File(file) => Some(file),
                Choice::Folder => None,
            });
            let kind = |e: LoadError| serde_json::to_value(e).unwrap()["kind"].as_str().unwrap().to_owned();
            assert_eq!(got.map_err(kind), expected.map_err(str::to_owned), "{gguf:?} {quant:?}");
        };
        check(&[], None, Ok(None));
        check(&[], Some("bf16"), Ok(None));
        check(&[], Some("Safetensors"), Ok(None));
        check(&[], Some("Q4_0"), Err("quant_not_found"));
        // Quantised as it is loaded; a file that is quantised already comes first.
        check(&[], Some("q4k"), Ok(None));
        check(&[], Some("Q6K"), Ok(None));
        check(&[], Some("Q6_K"), Err("quant_not_found"));
        check(&["m.Q8_0.gguf"], Some("q5k"), Ok(None));
        check(&["m.Q8_0.gguf"], Some("q8_0"), Ok(Some("m.Q8_0.gguf")));
        check(&["m.Q4_0.gguf"], None, Ok(Some("m.Q4_0.gguf")));
        check(&["m.Q4_0.gguf"], Some(""), Ok(Some("m.Q4_0.gguf")));
        check(&["m.Q4_0.gguf"], Some("safetensors"), Ok(None));
        check(&["m.Q4_0.gguf"], Some("BF16"), Ok(None));
        check(&["m.BF16.gguf"], Some("bf16"), Ok(Some("m.BF16.gguf")));
        check(&["m.Q4_0.gguf"], Some("Q8_0"), Ok(None));
        check(&["m.Q4_0.gguf"], Some("Q2_K"), Err("quant_not_found"));
        check(&["m-00001-of-00002.gguf"], None, Ok(None));
        check(&["m-00001-of-00002.gguf"], Some("Q2_K"), Err("split_weights"));
        for file in ["model.safetensors", "m.Q4_0.gguf"] {
            assert!(names_quant(file, quant_of(file)), "{file}");
        }
        let without = ["model.safetensors", "tokenizer.json"].map(str::to_owned);
        assert!(!is_folder(&without));
    }

    #[test]
    fn the_first_part_stands_for_all_where_all_are_there() {
        let files = ["b/m-Q4_K_M-00002-of-00002.gguf", "b/m-Q4_K_M-00001-of-00002.gguf", "m.Q2_K.gguf"];
        check(&files[..2], None, Ok(files[1]));
        check(&files[..2], Some("Q4_K_M"), Ok(files[1]));
        check(&files[..2], Some("Q8_0"), Err(Some("Q4_K_M")));
        check(&files, Some("Q4_K_M"), Ok(files[1]));
        check(&files[1..], None, Ok(files[2]));
        check(&files[1..], Some("Q4_K_M"), Err(Some("Q2_K")));
        check(&["out-of-8.gguf"], None, Ok("out-of-8.gguf"));
        let files = files.map(str::to_owned);
        let parts = vec![files[1].clone()];
        let expected = LoadError::SplitWeights { model_id: "o/m".into(), parts };
        assert_eq!(file("o/m", &files[1..2], None), Err(expected));
        assert_eq!(quants(&files), ["Q2_K", "Q4_K_M"]);
    }
}
