//! Bytes that are nearly right, for tests and fuzz targets of what reads them.

use serde_json::Value;

/// Runs seeds and what becomes of them: bytes that become others, go, come twice, or are of another seed. The same every
/// time.
pub fn mutations(seeds: &[Vec<u8>], of_each: usize, run: impl Fn(&[u8])) {
    let mut state = 0x2545_f491_4f6c_dd1d;
    for seed in seeds {
        run(seed);
        for _ in 0..of_each {
            let other = &seeds[next(&mut state) % seeds.len()];
            run(&changed(seed, other, &mut state));
        }
    }
}

/// Xorshift.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 8) as usize
}

fn changed(seed: &[u8], other: &[u8], state: &mut u64) -> Vec<u8> {
    const LIKELY: &[&[u8]] =
        &[b"null", b"{}", b"[]", b"-1", b"1e99", b"\"\"", b"\xff", b"\"", b",", b"}", b"\\ud800", b"\n\n"];
    let mut bytes = seed.to_vec();
    for _ in 0..=next(state) % 3 {
        let at = next(state) % (bytes.len() + 1);
        let to = (at + next(state) % 24).min(bytes.len());
        match next(state) % 5 {
            0 if at < bytes.len() => bytes[at] = next(state) as u8,
            1 => drop(bytes.drain(at..to)),
            2 => drop(bytes.splice(at..to, LIKELY[next(state) % LIKELY.len()].iter().copied())),
            3 => bytes.truncate(at),
            _ => {
                let from = next(state) % (other.len() + 1);
                let end = (from + next(state) % 64).min(other.len());
                drop(bytes.splice(at..at, other[from..end].iter().copied()));
            }
        }
    }
    bytes
}

/// The data of every event of a stream that a policy wrote: each has to be whole, and a [`body`].
pub fn events(written: &[u8]) -> Option<Vec<Value>> {
    let text = std::str::from_utf8(written).expect("a stream is UTF-8");
    assert!(text.is_empty() || text.ends_with("\n\n"), "the last event is not whole: {text}");
    let data = text
        .split_terminator("\n\n")
        .filter_map(|event| event.lines().find_map(|l| l.strip_prefix("data: ")));
    data.filter(|data| *data != "[DONE]").map(|data| body(data.as_bytes())).collect()
}

/// A body that a policy wrote. Schemas pass as they came, and half a surrogate pair in one, `\\ud800`, is JSON to some
/// and not to others: `None` then.
pub fn body(written: &[u8]) -> Option<Value> {
    assert!(serde_json::from_slice::<serde::de::IgnoredAny>(written).is_ok(), "a body is JSON");
    let read = serde_json::from_slice(written);
    assert!(read.is_ok() || memchr::memmem::find(written, b"\\u").is_some(), "{read:?}");
    read.ok()
}

/// Cuts a fuzzer's bytes into what is asked and what is answered.
pub fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memmem::find(data, b"\0") {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, data),
    }
}
