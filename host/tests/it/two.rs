//! Two real gateways on two real neurons, and what operators type.

use crate::support::processes::{ALIAS, MODEL, Process, cortex, start_cortex_with, start_neuron};
use crate::support::{Client, until};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Side {
    _process: Process,
    client: Client,
    admin: String,
    _dir: TempDir,
}

fn gateway(neurons: &str) -> Side {
    let dir = tempfile::tempdir().unwrap();
    let (process, url, admin) = start_cortex_with(dir.path(), neurons, &[]);
    Side { _process: process, client: Client::new(&url), admin, _dir: dir }
}

/// Standard output where the command ended well, else standard error.
fn typed(side: &Side, args: &[&str]) -> Result<String, String> {
    let output = tokio::task::block_in_place(|| cortex(&[args, &["--url", &side.admin]].concat()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn ask(max_tokens: u32, stream: bool) -> Value {
    json!({"model": ALIAS, "stream": stream, "max_tokens": max_tokens, "temperature": 0,
        "messages": [{"role": "user", "content": "Tell a long story about the sea."}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_two_neurons_without_harm() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let neurons = dirs.each_ref().map(|dir| start_neuron(dir.path(), "127.0.0.1:0"));
    let lines: Vec<String> = ["one", "two"]
        .iter()
        .zip(&neurons)
        .map(|(name, (_, at))| format!("[[neurons]]\nname = \"{name}\"\nendpoint = \"http://{at}\"\n"))
        .collect();
    let (left, right) = (gateway(&lines.concat()), gateway(&lines.concat()));
    for side in [&left, &right] {
        until("both neurons are up", async || side.client.get("/health").await.json()["nodes_up"] == 2).await;
    }
    let clients = neurons.each_ref().map(|(_, at)| Client::new(&format!("http://{at}")));
    let loaded = async || {
        let mut on = Vec::new();
        for client in &clients {
            let models = client.get("/models").await.json();
            on.push(models.as_array().unwrap().iter().any(|m| m["status"] == "loaded"));
        }
        on
    };

    // What one has had loaded serves the other, too.
    assert_eq!(left.client.post("/v1/chat/completions", &ask(4, false)).await.status, 200);
    let sees = async || right.client.get(&format!("/v1/models/{ALIAS}")).await.json()["loaded"] == true;
    until("the other gateway has heard of it", sees).await;
    assert_eq!(right.client.post("/v1/chat/completions", &ask(4, false)).await.status, 200);
    assert_eq!(loaded().await.iter().filter(|there| **there).count(), 1);

    // What one of them uses the other does not take.
    let mut stream = left.client.stream("/v1/chat/completions", &ask(400, true)).await;
    assert!(stream.next().await.is_some());
    let refused = typed(&right, &["unload", ALIAS]).unwrap_err();
    assert!(refused.contains("with it"), "{refused}");
    assert!(stream.next().await.is_some_and(|event| !event.contains("error")));
    drop(stream);

    // Whose it is may take it back, once the node has noticed that nobody is there any more.
    let mut said = String::new();
    until("it is unloaded", async || {
        let unloaded = typed(&left, &["unload", ALIAS]);
        said = unloaded.clone().unwrap_or_else(|error| error);
        unloaded.is_ok()
    })
    .await;
    assert!(said.contains(&format!("{MODEL} is unloaded from")), "{said}");
    assert_eq!(loaded().await, [false, false]);

    // By hand, where it is wanted.
    let said = typed(&right, &["load", ALIAS, "--node", "two"]).unwrap();
    assert!(said.contains(&format!("{MODEL} is loaded on two")), "{said}");
    assert_eq!(loaded().await, [false, true]);
    assert!(typed(&right, &["drain", "two"]).unwrap().contains("gets nothing new"));
    assert!(typed(&right, &["load", ALIAS, "--node", "two"]).unwrap_err().contains("drain"));
    assert!(typed(&right, &["drain", "two", "--undo"]).unwrap().contains("again"));
    assert!(typed(&right, &["pin", ALIAS]).unwrap().contains("is pinned"));
    assert!(typed(&right, &["status"]).unwrap().contains("pinned"));
    assert!(typed(&right, &["pin", "smollm3"]).unwrap_err().contains("did you mean"));
}
