//! Everything that is parsed of foreign bytes, each as a function of bytes that may do anything but panic. `fuzz/` has a
//! target for each; a test here runs their seeds and what becomes of those.

use crate::sse::{Framer, events};
use bytes::Bytes;

/// One of them.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Bytes to begin with.
    pub seeds: &'static [&'static str],
}

/// All of them, by the names of the fuzz targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "sse",
        run: sse,
        seeds: &[
            "\u{1}$\n\n\n",
            "data: {}\n\n",
            ": c\r\n\r\nevent: x\ndata: a\ndata: b\n\ndata: [DONE]\n\nrest",
        ],
    },
    Target {
        name: "node_answer",
        run: crate::upstream::fuzz::answer,
        seeds: &[
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n",
            "HTTP/1.0 503 Busy\r\nretry-after: 1\r\nconnection: keep-alive\r\n\r\n",
        ],
    },
    Target {
        name: "client_body",
        run: crate::request::fuzz::body,
        seeds: &[
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}"#,
            r#"{"messages":[1],"model" : "é\u0000","stream":true,"stream_options":{"x":1},"tools":[],"user":"u","max_tokens":3}"#,
            r#"{"model":"m","prompt":"once","max_completion_tokens":1,"chat_template_kwargs":{"a":[]}}"#,
        ],
    },
    Target {
        name: "model_answer",
        run: crate::request::fuzz::answer,
        seeds: &[r#"{"id":"c","model" : "a\"b","choices":[{"message":{"content":"\"model\":\"x\""}}]}"#],
    },
    Target {
        name: "head",
        run: crate::request::fuzz::head,
        seeds: &[
            "/v1/models/org%2Fname",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more",
        ],
    },
    Target {
        name: "watch",
        run: crate::fleet::listen::fuzz,
        seeds: &[
            "event: model\ndata: {\"id\":\"a\",\"status\":\"loaded\"}\n\n",
            "event: snapshot\ndata: {\"health\":{},\"models\":[{\"id\":\"a\",\"status\":\"loaded\"}],\"prefixes\":[{\"model\":\"a\",\"add\":[[1,2]]}]}\n\n",
            "event: device\ndata: {\"index\":0,\"vram_used_mb\":1,\"vram_free_mb\":2,\"utilization_pct\":0,\"temperature_c\":0}\n\n",
        ],
    },
    Target {
        name: "config",
        run: crate::config::fuzz,
        seeds: &[
            include_str!("../../packaging/cortex.example.toml"),
            "[[upstreams]]\nname = \"u\"\nendpoint = \"https://h/v1\"\nmodels = { a = \"b\" }\n",
            "[[keys]]\nname = \"k\"\nsha256 = [\"00\"]\ncaps = [{ window = \"5h\", usd = 1e300 }]\n",
        ],
    },
    Target {
        name: "catalogue",
        run: crate::config::fuzz_catalogue,
        seeds: &[include_str!("../../packaging/models.example.toml")],
    },
];

/// The target of that name; none is no target, and no mistake that bytes could make.
pub fn run(name: &str, data: &[u8]) {
    if let Some(target) = TARGETS.iter().find(|target| target.name == name) {
        (target.run)(data);
    }
}

/// Whatever pieces it comes in, the events are the same and nothing is lost.
fn sse(data: &[u8]) {
    let cuts = data.first().map_or(1, |&byte| usize::from(byte).max(1));
    let framed = |size: usize| {
        let (mut framer, mut all) = (Framer::default(), Vec::new());
        for piece in data.chunks(size) {
            if let Ok(Some(whole)) = framer.push(Bytes::copy_from_slice(piece)) {
                all.extend_from_slice(&whole);
            }
        }
        all
    };
    let (whole, pieces) = (framed(data.len().max(1)), framed(cuts));
    // A third line feed belongs to this event or to the next, as it comes; nobody reads it.
    assert_eq!(whole.trim_ascii_end(), pieces.trim_ascii_end());
    assert!(data.starts_with(&whole));
    let said: usize =
        events(&whole).map(|event| (event.name(), event.data()).1.map_or(0, |data| data.len())).sum();
    assert!(said <= data.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Xorshift: the same every time.
    fn next(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 8) as usize
    }

    /// Bytes that become others, go, come twice, or are of another seed.
    fn changed(seed: &[u8], other: &[u8], state: &mut u64) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=next(state) % 4 {
            let at = next(state) % (bytes.len() + 1);
            match next(state) % 5 {
                0 if at < bytes.len() => bytes[at] = next(state) as u8,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\r\n{}[]\":,-0\xff"[next(state) % 12]),
                3 => bytes.truncate(at),
                _ => {
                    let from = next(state) % (other.len() + 1);
                    let to = from + next(state) % (other.len() - from + 1).min(64);
                    drop(bytes.splice(at..at, other[from..to].iter().copied()).collect::<Vec<_>>());
                }
            }
        }
        bytes
    }

    #[test]
    fn nothing_is_too_strange() {
        let mut state = 0x2545_f491_4f6c_dd1d;
        for target in TARGETS {
            for seed in target.seeds {
                (target.run)(seed.as_bytes());
                for _ in 0..3_000 {
                    let other = target.seeds[next(&mut state) % target.seeds.len()];
                    (target.run)(&changed(seed.as_bytes(), other.as_bytes(), &mut state));
                }
            }
        }
    }

    #[test]
    fn each_has_its_fuzz_target() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        for Target { name, .. } in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
        let targets = std::fs::read_dir(dir.join("fuzz_targets")).unwrap();
        let source = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(entry.unwrap().path()).unwrap()
        };
        // The others are those of the translation policies.
        let ours = targets.map(source).filter(|source| source.contains("cortex::fuzzing::run")).count();
        assert_eq!(ours, TARGETS.len());
    }
}
