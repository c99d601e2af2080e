//! Names of functions that are longer than servers take.

use crate::Text;
use crate::id::hash;
use std::collections::BTreeMap;

/// Characters of a function's name, as OpenAI has it and servers after it.
const LONGEST: usize = 64;
/// Of the hash that stands for the rest.
const DIGITS: usize = 16;

/// What names were before they were shortened, or put together of several parts.
#[derive(Debug, Clone)]
pub struct Names<T> {
    given: BTreeMap<String, T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { given: BTreeMap::new() }
    }
}

impl<T> Names<T> {
    /// A name that servers take, always the same for the same one. `was` is remembered where the name is another.
    pub fn fit<'a>(&mut self, name: Text<'a>, was: impl FnOnce(&str) -> T) -> Text<'a> {
        if name.len() <= LONGEST {
            return name;
        }
        let short = shortened(&name);
        self.given.entry(short.clone()).or_insert_with(|| was(&name));
        short.into()
    }

    /// Remembers what stands behind a name that fits.
    pub fn stands_for(&mut self, name: String, what: T) {
        self.given.insert(name, what);
    }

    pub fn behind(&self, name: &str) -> Option<&T> {
        self.given.get(name)
    }
}

impl Names<String> {
    /// The client's own name for what the model called.
    pub fn back<'a>(&'a self, name: &'a str) -> &'a str {
        self.behind(name).map_or(name, String::as_str)
    }
}

/// The beginning and a hash of all of it.
pub fn shortened(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let mut end = LONGEST - DIGITS - 1;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{:0DIGITS$x}", &name[..end], hash(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_come_back() {
        let mut names = Names::default();
        let (one, two) = ("a".repeat(65), "a".repeat(66));
        let short = names.fit(one.as_str().into(), str::to_owned);
        let other = names.fit(two.as_str().into(), str::to_owned);
        assert!(short.len() == LONGEST && other.len() == LONGEST && short != other);
        assert_eq!((names.back(&short), names.back(&other)), (one.as_str(), two.as_str()));
        let fits = "b".repeat(64);
        assert_eq!(&*names.fit(fits.as_str().into(), str::to_owned), fits);
        assert_eq!(names.back("never seen"), "never seen");
        assert!(names.fit("é".repeat(40).into(), str::to_owned).len() <= LONGEST);
    }
}
