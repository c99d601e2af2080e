//! A body in chunks (RFC 9112, 7.1), however the bytes are cut.

/// Bytes of a chunk's extensions, or of the fields after the last chunk; a body with more is refused.
const ASIDE: usize = 16 << 10;

/// Where in the body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size {
        value: u64,
        digits: u8,
    },
    Extension,
    SizeLf,
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a line behind the last chunk.
    Trailer,
    TrailerLine,
    TrailerLf,
    EndLf,
    Done,
}

/// Takes the chunks off a body.
#[derive(Debug)]
pub(super) struct Chunked {
    at: At,
    size: u64,
    aside: usize,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of the body is malformed")]
pub(super) struct Malformed;

impl Default for Chunked {
    fn default() -> Self {
        Self { at: At::Size { value: 0, digits: 0 }, size: 0, aside: 0 }
    }
}

impl Chunked {
    pub(super) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Appends to `out` what `input` has of the body; says how many bytes of `input` it took. Fewer than all
    /// only once it is done.
    pub(super) fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Malformed> {
        let mut taken = 0;
        while self.at != At::Done && taken < input.len() {
            if let At::Data(left) = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - taken);
                out.extend_from_slice(&input[taken..taken + here]);
                taken += here;
                let left = left - here as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data(left) };
                continue;
            }
            self.at = self.byte(input[taken])?;
            taken += 1;
        }
        Ok(taken)
    }

    /// The place after one byte that is none of the data's.
    fn byte(&mut self, byte: u8) -> Result<At, Malformed> {
        Ok(match (self.at, byte) {
            // Fifteen digits are a petabyte, and cannot overflow.
            (At::Size { value, digits: digits @ ..15 }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = u64::from(char::from(byte).to_digit(16).unwrap_or_default());
                self.size = value << 4 | digit;
                At::Size { value: self.size, digits: digits + 1 }
            }
            (At::Size { digits: 1.., .. }, b'\r') => At::SizeLf,
            (At::Size { digits: 1.., .. }, b';' | b' ' | b'\t') => At::Extension,
            (At::Extension, b'\r') => At::SizeLf,
            (At::Extension, 0x20..=0x7e | b'\t' | 0x80..) => self.beside(At::Extension)?,
            (At::SizeLf, b'\n') if self.size == 0 => At::Trailer,
            (At::SizeLf, b'\n') => At::Data(self.size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { value: 0, digits: 0 },
            (At::Trailer, b'\r') => At::EndLf,
            (At::Trailer | At::TrailerLine, 0x20..=0x7e | b'\t' | 0x80..) => self.beside(At::TrailerLine)?,
            (At::TrailerLine, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::Trailer,
            (At::EndLf, b'\n') => At::Done,
            _ => return Err(Malformed),
        })
    }

    /// One byte more of what is passed over.
    fn beside(&mut self, at: At) -> Result<At, Malformed> {
        self.aside += 1;
        if self.aside > ASIDE { Err(Malformed) } else { Ok(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let mut cuts: Vec<usize> =
            cuts.iter().map(|at| at % (input.len() + 1)).chain([0, input.len()]).collect();
        cuts.sort_unstable();
        let (mut chunked, mut out, mut taken) = (Chunked::default(), Vec::new(), 0);
        for pair in cuts.windows(2) {
            let here = chunked.decode(&input[pair[0]..pair[1]], &mut out)?;
            taken += here;
        }
        Ok((out, chunked.is_done(), taken))
    }

    #[test]
    fn well_formed_bodies() {
        let check = |input: &str, out: &str, done: bool, left: usize| {
            let got = decode(input.as_bytes(), &[]).unwrap();
            assert_eq!(got, (out.as_bytes().to_vec(), done, input.len() - left), "{input:?}");
        };
        check("3\r\nabc\r\n0\r\n\r\n", "abc", true, 0);
        check("3;x=\"y\"\r\nabc\r\n00a\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\nHTTP", "abc0123456789", true, 4);
        check("A\r\n01234", "01234", false, 0);
        check("", "", false, 0);
    }

    #[test]
    fn malformed_bodies() {
        for input in [
            "\r\n",
            "g\r\n",
            "3\nabc",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "-1\r\n",
            "0x3\r\n",
            " 3\r\n",
            "0\r\n\n",
            "1000000000000000\r\n",
            "0\r\nx: \0\r\n\r\n",
            "3;\n",
        ] {
            assert_eq!(decode(input.as_bytes(), &[]), Err(Malformed), "{input:?}");
        }
        let endless = format!("1;{}", "x".repeat(ASIDE + 1));
        assert_eq!(decode(endless.as_bytes(), &[]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend(format!("{:x}\r\n", part.len()).bytes());
                wire.extend(part);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            prop_assert_eq!(decode(&wire, &cuts).unwrap(), (parts.concat(), true, wire.len()));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(input in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(any::<usize>(), 0..6)) {
            let whole = decode(&input, &[]);
            prop_assert_eq!(whole.is_ok(), decode(&input, &cuts).is_ok());
        }
    }
}
