//! The console's files, in the binary.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// Nothing but what the gateway itself has: no other host's scripts, styles, frames or forms, and no code in markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($name:literal: $kind:ident),* $(,)?) => {
        [$(Asset { name: $name, kind: $kind, text: include_str!(concat!("../../console/", $name)) }),*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

static ASSETS: [Asset; 14] = assets![
    "index.html": HTML,
    "style.css": CSS,
    "icon.svg": SVG,
    "app.js": JS,
    "dom.js": JS,
    "feed.js": JS,
    "chart.js": JS,
    "list.js": JS,
    "fleet.js": JS,
    "models.js": JS,
    "traffic.js": JS,
    "policies.js": JS,
    "playground.js": JS,
    "config.js": JS,
];

pub(super) async fn index(headers: HeaderMap) -> Response {
    answer("index.html", &headers)
}

pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Response {
    let Some(at) = ASSETS.iter().position(|asset| asset.name == name) else {
        return (StatusCode::NOT_FOUND, protection(), "there is no such file of the console").into_response();
    };
    let (asset, tag) = (&ASSETS[at], &tags()[at]);
    // Asked every time, and sent when it is another: a new gateway's page never meets an old one's scripts.
    let said = [(header::CACHE_CONTROL, "no-cache"), (header::ETAG, tag.as_str())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|had| had.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, said).into_response();
    }
    (protection(), said, [(header::CONTENT_TYPE, asset.kind)], asset.text).into_response()
}

fn protection() -> [(HeaderName, HeaderValue); 5] {
    [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    ]
}

fn tags() -> &'static [String; ASSETS.len()] {
    static TAGS: OnceLock<[String; ASSETS.len()]> = OnceLock::new();
    TAGS.get_or_init(|| {
        ASSETS.each_ref().map(|asset| {
            let digest = Sha256::digest(asset.text);
            format!("\"{}\"", digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_styles_are_files_and_all_of_them_are_there() {
        let index = ASSETS[0].text;
        for inline in ["<style", " style=", " onclick=", "javascript:", "http://", "https://"] {
            assert!(!index.contains(inline), "index.html has {inline}, which the policy forbids");
        }
        assert_eq!(index.matches("<script").count(), 1);
        for asset in &ASSETS {
            // Only these make markup of text.
            for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!asset.text.contains(markup), "{} has {markup}", asset.name);
            }
            let imports = asset.text.lines().filter(|line| line.starts_with("import "));
            for line in imports {
                let name = line.split('"').nth(1).and_then(|from| from.strip_prefix("./")).unwrap();
                assert!(ASSETS.iter().any(|asset| asset.name == name), "{} imports {name}", asset.name);
            }
        }
    }
}
