//! Tokens that are found in text by their spelling, before it is split into words.

/// A token that is found by its spelling.
pub(super) struct Special {
    pub(super) text: String,
    pub(super) id: u32,
    /// No user's text should hold it; user-defined tokens are found everywhere.
    pub(super) is_control: bool,
}

pub(super) enum Fragment<'t> {
    Text(&'t str),
    Special(u32),
}

/// Each special token splits every fragment of text that longer ones have left, as llama.cpp does it.
/// `specials`: the longest first.
pub(super) fn fragments<'t>(specials: &[Special], text: &'t str, with_control: bool) -> Vec<Fragment<'t>> {
    let mut fragments = vec![Fragment::Text(text)];
    let wanted = specials.iter().filter(|special| with_control || !special.is_control);
    for special in wanted.filter(|special| text.contains(special.text.as_str())) {
        let mut split = Vec::with_capacity(fragments.len() + 2);
        for fragment in fragments {
            let Fragment::Text(rest) = fragment else {
                split.push(fragment);
                continue;
            };
            for (i, part) in rest.split(special.text.as_str()).enumerate() {
                if i > 0 {
                    split.push(Fragment::Special(special.id));
                }
                if !part.is_empty() {
                    split.push(Fragment::Text(part));
                }
            }
        }
        fragments = split;
    }
    fragments
}
