//! Text without `format!`, for less WebAssembly.

use alloc::{string::String, vec::Vec};

/// The parts, one after the other.
#[inline(never)]
pub fn text(parts: &[&str]) -> String {
    let mut whole = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| whole.push_str(part));
    whole
}

/// Names as the contract takes them.
#[inline(never)]
pub fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| text(&[name])).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn parts_are_joined() {
        assert_eq!(super::text(&["a", "", "bc"]), "abc");
        assert_eq!(super::strings(&["a", "b"]), ["a", "b"]);
        assert_eq!(super::text(&[]), "");
    }
}
