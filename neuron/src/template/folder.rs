//! A chat template out of a model's folder.

use std::path::Path;

use serde_json::Value;

use super::ChatTemplate;
use crate::{
    folder::{self, FolderError, Problem},
    tokenizer::Tokenizer,
};

/// The template as a file of its own, which counts before the other.
const FILE: &str = "chat_template.jinja";
/// Where it is one key of several.
const SETTINGS: &str = "tokenizer_config.json";
/// Bytes of a template in a file of its own; the longest in use have 30 KB.
const MAX_TEMPLATE_BYTES: u64 = 8 << 20;

impl ChatTemplate {
    /// The folder's templates: its default, and the one for conversations with tools where it has one.
    /// `None`: it has no template.
    pub fn from_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, FolderError> {
        let (file, source, tool_use) = match folder::bytes(folder, FILE, MAX_TEMPLATE_BYTES)? {
            Some(bytes) => {
                (FILE, Some(String::from_utf8(bytes).map_err(|_| Problem::NotUtf8.of(FILE))?), None)
            }
            None => {
                let (source, tool_use) = settings(folder)?;
                (SETTINGS, source, tool_use)
            }
        };
        let Some(source) = source else { return Ok(None) };
        let (bos, eos) = (tokenizer.bos_text(), tokenizer.eos_text());
        let template = Self::new(&source, tool_use.as_deref(), bos, eos, tokenizer.guard());
        let problem = |e| Problem::Inconsistent(format!("its chat template does not parse: {e}"));
        template.map(Some).map_err(|e| problem(e).of(file))
    }
}

/// The default, and the one for tools: the key is a text, or a list of texts with names.
fn settings(folder: &Path) -> Result<(Option<String>, Option<String>), FolderError> {
    let key = "chat_template";
    let Some(json) = folder::optional_json(folder, SETTINGS)? else { return Ok((None, None)) };
    let root = json.root();
    let Some(Value::Array(_)) = root.get(key) else {
        return Ok((root.optional_text(key)?.map(str::to_owned), None));
    };
    let all = root.optional_array(key)?.unwrap_or_default();
    let named = |name: &str| {
        let found = all.iter().find(|template| template["name"] == name)?;
        found["template"].as_str().map(str::to_owned)
    };
    match named("default") {
        Some(default) => Ok((Some(default), named("tool_use"))),
        None => Err(root.missing("chat_template with the name \"default\"")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::template::Conversation;

    /// What a folder with these files makes of an empty conversation, with and without tools.
    fn rendered(files: &[(&str, String)]) -> Result<Option<(String, String)>, String> {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/references/llama");
        let tokenizer = Tokenizer::from_folder(Path::new(data)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        let template =
            ChatTemplate::from_folder(dir.path(), &tokenizer).map_err(|e| format!("{}: {e}", e.file))?;
        let plain = Conversation::default();
        let tools = Conversation { tools: vec![json!({})], ..Conversation::default() };
        Ok(template.map(|template| (template.render(&plain).unwrap(), template.render(&tools).unwrap())))
    }

    #[test]
    fn the_file_counts_before_the_key_and_the_key_may_be_a_list() {
        let check = |files: &[(&str, String)], expected: Result<Option<(&str, &str)>, &str>| {
            let expected = expected.map(|both| both.map(|(a, b)| (a.to_owned(), b.to_owned())));
            match (rendered(files), expected) {
                (Err(got), Err(words)) => assert!(got.contains(words), "{got}"),
                (got, expected) => assert_eq!(got, expected.map_err(str::to_owned), "{files:?}"),
            }
        };
        let key = |value: Value| (SETTINGS, json!({ "chat_template": value }).to_string());
        check(&[], Ok(None));
        check(&[(SETTINGS, "{}".into())], Ok(None));
        check(&[key(Value::Null)], Ok(None));
        check(&[key(json!("a{{ eos_token }}"))], Ok(Some(("a<|im_end|>", "a<|im_end|>"))));
        check(&[key(json!("a")), (FILE, "b".into())], Ok(Some(("b", "b"))));
        let named = |name: &str, template: &str| json!({ "name": name, "template": template });
        check(&[key(json!([named("tool_use", "t"), named("default", "d")]))], Ok(Some(("d", "t"))));
        check(&[key(json!([named("default", "d")]))], Ok(Some(("d", "d"))));
        check(&[key(json!([named("rag", "r")]))], Err("with the name \"default\" is missing"));
        check(&[key(json!(1))], Err("chat_template is not a text"));
        check(&[key(json!("{% if %}"))], Err("tokenizer_config.json: its chat template does not parse"));
        check(&[(FILE, "{% if %}".into())], Err("chat_template.jinja: its chat template does not parse"));
    }
}
