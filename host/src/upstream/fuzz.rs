//! What nodes answer, as bytes.

use super::chunked::Chunked;
use super::head;

/// A head, and a body in chunks behind it, however they are cut.
pub(crate) fn answer(data: &[u8]) {
    let Ok(Some((head, size))) = head::parse(data) else { return };
    assert!(size <= data.len() && head.status.as_u16() >= 100);
    let body = &data[size..];
    let whole = decode(&[body]);
    let cut = body.len() / 2;
    assert_eq!(whole, decode(&[&body[..cut], &body[cut..]]), "however it comes");
}

/// What it says, and whether it has ended; `None` where it is malformed.
fn decode(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
    let (mut chunked, mut out) = (Chunked::default(), Vec::new());
    for piece in pieces {
        chunked.decode(piece, &mut out).ok()?;
    }
    Some((out, chunked.is_done()))
}
