//! `[scheme:]org/name[@revision]`, the name of a model and where it comes from.

/// A model id in its parts. All borrow from the text that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelId<'a> {
    /// Name of the source; `None`: the daemon's default source.
    pub scheme: Option<&'a str>,
    /// `org/name`, or whatever the source understands.
    pub repo: &'a str,
    pub revision: Option<&'a str>,
}

impl<'a> ModelId<'a> {
    /// Errors are a sentence for a person.
    pub fn parse(id: &'a str) -> Result<Self, String> {
        if id.is_empty() {
            return Err("it is empty".into());
        }
        if let Some(bad) = id.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("it contains {bad:?}"));
        }
        let (scheme, rest) = match id.split_once(':') {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, id),
        };
        let (repo, revision) = match rest.rsplit_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (rest, None),
        };
        if scheme == Some("") || repo.is_empty() || revision == Some("") {
            return Err("expected [scheme:]org/name[@revision]".into());
        }
        if repo.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(format!("{repo:?} has an empty or relative path segment"));
        }
        Ok(Self { scheme, repo, revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_every_part() {
        let check = |id, scheme, repo, revision| {
            assert_eq!(ModelId::parse(id), Ok(ModelId { scheme, repo, revision }), "{id}");
        };
        check("org/name", None, "org/name", None);
        check("huggingface:org/name", Some("huggingface"), "org/name", None);
        check("hf:org/name@main", Some("hf"), "org/name", Some("main"));
        check("org/name@refs", None, "org/name", Some("refs"));
        check("single", None, "single", None);
    }

    #[test]
    fn refuses_what_could_leave_a_cache_directory() {
        for id in ["", ":a/b", "a/b@", "s:", "../etc/passwd", "a//b", "a/./b", "a b/c", "a/b\n"] {
            assert!(ModelId::parse(id).is_err(), "{id:?}");
        }
    }
}
