//! Vectors of texts, held against sentence-transformers' own.

use serde_json::{Value, json};

use crate::support::{Client, Daemon, MODEL, data, hub, shared};

const MINI: &str = "sentence-transformers/all-MiniLM-L6-v2";

async fn daemon() -> (Daemon, Client) {
    let daemon = Daemon::start(&hub(), "").await;
    let client = daemon.load(MINI).await;
    (daemon, client)
}

fn body(input: &Value, more: Value) -> Value {
    let mut body = json!({ "model": MINI, "input": input, "truncate_prompt_tokens": -1 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[tokio::test]
async fn vectors_are_those_of_sentence_transformers() {
    let (_daemon, client) = daemon().await;
    let cases = data("embeddings.json");
    let texts: Vec<&Value> = cases.as_array().unwrap().iter().map(|case| &case["text"]).collect();
    let together = client.post("/v1/embeddings", body(&json!(texts), json!({}))).await.json();
    assert_eq!(together["data"].as_array().unwrap().len(), texts.len());
    for (n, case) in cases.as_array().unwrap().iter().enumerate() {
        let item = &together["data"][n];
        assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(n)));
        let (ours, expected) = (floats(&item["embedding"]), floats(&case["vector"]));
        assert_eq!(ours.len(), 384);
        let cosine = cosine(&ours, &expected);
        assert!(cosine >= 0.9999, "{cosine} for {}", case["text"]);
        assert!((ours.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
        // Alone it is what it is among others, as bytes what it is as numbers.
        let alone = client
            .post("/v1/embeddings", body(&case["text"], json!({ "encoding_format": "base64" })))
            .await
            .json();
        use base64::{Engine, engine::general_purpose::STANDARD};
        let bytes = STANDARD.decode(alone["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let alone = bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        assert!(alone.zip(&ours).all(|(a, b)| (a - b).abs() < 1e-5), "{}", case["text"]);
    }
    let models = client.json("/models").await;
    assert_eq!(
        (&models[0]["capabilities"], &models[0]["limit"]["context"]),
        (&json!(["embeddings"]), &json!(256))
    );
}

#[tokio::test]
async fn many_texts_and_many_requests() {
    let (_daemon, client) = daemon().await;
    let texts: Vec<String> = (0..300).map(|n| "word ".repeat(n % 40 + 1) + &n.to_string()).collect();
    let whole = client.post("/v1/embeddings", body(&json!(texts), json!({}))).await.json();
    assert_eq!(whole["data"].as_array().unwrap().len(), 300);
    assert!(whole["usage"]["prompt_tokens"].as_u64() > Some(300 * 20));
    let some = texts.chunks(50).map(|texts| client.post("/v1/embeddings", body(&json!(texts), json!({}))));
    for (k, reply) in futures_util::future::join_all(some).await.into_iter().enumerate() {
        for n in 0..50 {
            let (a, b) = (
                floats(&reply.json()["data"][n]["embedding"]),
                floats(&whole["data"][k * 50 + n]["embedding"]),
            );
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{n} of {k}");
        }
    }
    // Token ids, alone and in a list.
    let ids =
        client.post("/tokenize", json!({ "model": MINI, "prompt": "hello" })).await.json()["tokens"].clone();
    let one = client.post("/v1/embeddings", body(&ids, json!({}))).await.json();
    let listed = client.post("/v1/embeddings", body(&json!([ids]), json!({}))).await.json();
    assert_eq!(one["data"], listed["data"]);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let (_daemon, client) = daemon().await;
    let check = async |input: Value, more: Value, status: u16, param: &str| {
        let reply = client.post("/v1/embeddings", body(&input, more)).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["param"]),
            (status, &json!(param)),
            "{:?}",
            reply.body
        );
    };
    check(Value::Null, json!({}), 400, "input").await;
    check(json!([]), json!({}), 400, "input").await;
    check(json!(""), json!({}), 400, "input[0]").await;
    check(json!(["a", ""]), json!({}), 400, "input[1]").await;
    check(json!(["a", 1]), json!({}), 400, "input[1]").await;
    check(json!([[]]), json!({}), 400, "input[0]").await;
    check(json!([99_999_999]), json!({}), 400, "input").await;
    check(json!(vec!["a"; 100_000]), json!({}), 413, "input").await;
    check(json!("a"), json!({ "encoding_format": "hex" }), 400, "encoding_format").await;
    check(json!("a"), json!({ "dimensions": 0 }), 400, "dimensions").await;
    check(json!("a"), json!({ "dimensions": 64 }), 400, "dimensions").await;
    check(json!("word ".repeat(500)), json!({ "truncate_prompt_tokens": null }), 400, "input").await;
    for (path, body) in [
        ("/v1/chat/completions", json!({ "model": MINI, "messages": [{ "role": "user", "content": "x" }] })),
        ("/v1/completions", json!({ "model": MINI, "prompt": "x" })),
    ] {
        let reply = client.post(path, body).await;
        assert_eq!(reply.error(), (400, "generation_unsupported".into()), "{path}");
    }
    let reply = shared().post("/v1/embeddings", json!({ "model": MODEL, "input": "x" })).await;
    assert_eq!(reply.error(), (400, "embeddings_unsupported".into()));
}

/// A decoder whose file says how it pools: whatever is in the batch and in the cache, the same to the last bit.
#[tokio::test]
async fn decoders_make_vectors_too() {
    use crate::support::Gguf;

    let hub = tempfile::tempdir().unwrap();
    for (name, pooling) in [("mean", 1), ("last", 3)] {
        Gguf::tiny("qwen3").with_number("qwen3.pooling_type", pooling).install(hub.path(), name);
    }
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let mut seen = Vec::new();
    for name in ["mean", "last"] {
        let model = format!("test/{name}");
        daemon.load(&model).await;
        let texts = ["one text", "another text that is longer than a block of sixteen", "one text"];
        let ask = |input: Value| client.post("/v1/embeddings", json!({ "model": model, "input": input }));
        let several = ask(json!(texts)).await.json();
        let vectors: Vec<Vec<f64>> = (0..3).map(|n| floats(&several["data"][n]["embedding"])).collect();
        assert_eq!((vectors[0].len(), &vectors[0]), (64, &vectors[2]));
        assert_ne!(vectors[0], vectors[1]);
        for (text, vector) in texts.iter().zip(&vectors) {
            assert_eq!(&floats(&ask(json!(text)).await.json()["data"][0]["embedding"]), vector);
        }
        // It still writes.
        let reply =
            client.post("/v1/completions", json!({ "model": model, "prompt": "a", "max_tokens": 2 })).await;
        assert_eq!(reply.status, 200);
        seen.push(vectors);
    }
    assert_ne!(seen[0], seen[1]);
}
