//! Many short strings in one allocation: a vocabulary has a quarter of a million.

/// Strings, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    text: String,
    ends: Vec<u32>,
}

/// Runs of bytes, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

fn range(ends: &[u32], at: usize) -> Option<std::ops::Range<usize>> {
    let end = *ends.get(at)? as usize;
    Some(at.checked_sub(1).map_or(0, |before| ends[before] as usize)..end)
}

/// Where the one that was put last ends. What is packed here comes out of files that are far shorter.
fn end(len: usize) -> u32 {
    u32::try_from(len).unwrap_or_else(|_| panic!("{len} bytes of strings"))
}

/// Bytes that a string of a vocabulary has, about.
const USUAL: usize = 8;

impl Texts {
    /// For so many.
    pub fn with_capacity(count: usize) -> Self {
        Self { text: String::with_capacity(count * USUAL), ends: Vec::with_capacity(count) }
    }

    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(end(self.text.len()));
    }

    /// `None` past the last.
    pub fn get(&self, at: usize) -> Option<&str> {
        range(&self.ends, at).map(|range| &self.text[range])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|at| self.get(at).unwrap_or_default())
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    /// Gives back what it has room for beyond what is in it.
    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

impl Pieces {
    /// For so many.
    pub fn with_capacity(count: usize) -> Self {
        Self { bytes: Vec::with_capacity(count * USUAL), ends: Vec::with_capacity(count) }
    }

    pub fn push(&mut self, bytes: impl IntoIterator<Item = u8>) {
        self.bytes.extend(bytes);
        self.ends.push(end(self.bytes.len()));
    }

    /// Bytes of memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    /// `None` past the last.
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        range(&self.ends, at).map(|range| &self.bytes[range])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.ends.len()).map(|at| self.get(at).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Texts {
    fn from_iter<I: IntoIterator<Item = S>>(all: I) -> Self {
        let mut texts = Self::default();
        all.into_iter().for_each(|text| texts.push(text.as_ref()));
        texts
    }
}

impl<B: AsRef<[u8]>> FromIterator<B> for Pieces {
    fn from_iter<I: IntoIterator<Item = B>>(all: I) -> Self {
        let mut pieces = Self::default();
        all.into_iter().for_each(|piece| pieces.push(piece.as_ref().iter().copied()));
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_out_as_it_went_in() {
        let all = ["", "a", "日本", "", "b"];
        let (texts, pieces) = (Texts::from_iter(all), Pieces::from_iter(all.map(str::as_bytes)));
        assert!(texts.iter().eq(all) && pieces.iter().eq(all.map(str::as_bytes)));
        assert_eq!((texts.len(), texts.get(2), texts.get(5), pieces.get(5)), (5, Some("日本"), None, None));
        assert_eq!(Texts::default().get(0), None);
    }
}
