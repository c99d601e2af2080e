//! What the documents say: links lead somewhere, configurations are taken, commands exist, and the quickstart is one.

use crate::support::Client;
use crate::support::processes::{Pair, cortex, cortex_with, python};
use crate::support::tls::Certificate;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Path from the root, and text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(end) if end == "md" => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// What of a line is prose: not what stands between backticks.
fn prose(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// As the usual renderers make an anchor of a heading.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading =
        |line: &str| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim().to_owned());
    let anchor = |head: String| {
        let kept = head
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>();
        kept.replace(' ', "-")
    };
    text.lines().filter_map(heading).map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        let plain: Vec<String> = text.lines().filter(|line| !line.starts_with("    ")).map(prose).collect();
        for link in plain.join("\n").split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let leads = match (to.exists(), anchor) {
                (true, "") => true,
                (true, anchor) => {
                    std::fs::read_to_string(&to).is_ok_and(|text| anchors(&text).contains(anchor))
                }
                (false, _) => false,
            };
            if !leads {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Fenced blocks of a language.
fn fenced<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    text.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Values for the variables that a configuration names.
fn variables(text: &str) -> Vec<(String, String)> {
    let named = text.lines().filter(|line| line.contains("_env = "));
    let names = named.filter_map(|line| line.split("_env = \"").nth(1)?.split('"').next());
    names.map(|name| (name.to_owned(), format!("value of {name}"))).collect()
}

#[test]
fn configurations_in_the_documents_are_taken() {
    let mut tried = 0;
    for (path, text) in documents() {
        for block in fenced(&text, "toml") {
            let dir = tempfile::tempdir().unwrap();
            let (cortex_toml, models) = (dir.path().join("cortex.toml"), dir.path().join("models.toml"));
            std::fs::write(&models, "").unwrap();
            let file = block.lines().next().unwrap().trim_start_matches("# ");
            let config = "[gateway]\nmodels = \"models.toml\"\n";
            match file {
                "models.toml" => {
                    std::fs::write(&models, block).unwrap();
                    std::fs::write(&cortex_toml, config).unwrap();
                }
                "cortex.toml" if block.contains("[gateway]") => std::fs::write(&cortex_toml, block).unwrap(),
                "cortex.toml" => std::fs::write(&cortex_toml, [config, block].concat()).unwrap(),
                other => panic!(
                    "{}: a block of toml says first which file it is of, not {other:?}",
                    path.display()
                ),
            }
            for file in block.lines().filter_map(|line| line.strip_prefix("ca_file = \"")?.split('"').next())
            {
                std::fs::write(dir.path().join(file), Certificate::new().pem).unwrap();
            }
            let vars = variables(block);
            let env: Vec<(&str, &str)> =
                vars.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let output = cortex_with(&["check", "--config", cortex_toml.to_str().unwrap()], &env);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}\n{block}", path.display());
            tried += 1;
        }
    }
    assert!(tried >= 8, "{tried}");
}

#[test]
fn the_containers_configurations_are_taken() {
    let folder = root().join("packaging/container");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("cortex.toml"), dir.path().join("cortex.toml")).unwrap();
    std::fs::copy(root().join("packaging/models.example.toml"), dir.path().join("models.toml")).unwrap();
    let vars = [("OPS_KEY", "x"), ("NEURON_TOKEN", "y")];
    let output = cortex_with(&["check", "--config", dir.path().join("cortex.toml").to_str().unwrap()], &vars);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let neuron = Path::new(env!("CARGO_BIN_EXE_cortex")).with_file_name("neuron");
    let check = Command::new(neuron)
        .args(["check", "--config"])
        .arg(folder.join("neuron.toml"))
        .env("NEURON_TOKEN", "y")
        .output();
    let output = check.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `cortex …` and `neuron …` in blocks and between backticks: the subcommand and the flags are there.
#[test]
fn commands_in_the_documents_exist() {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        if path.ends_with("CHANGELOG.md") {
            continue;
        }
        let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
        let inline = text.split('`').skip(1).step_by(2);
        for said in blocks.chain(inline).filter(|said| !said.contains('\n')) {
            let words = words(said);
            let [program @ ("cortex" | "neuron"), command, rest @ ..] = words.as_slice() else { continue };
            let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            if !is_word(command) || command.starts_with('-') {
                continue;
            }
            // Of `cortex policy check FILE` both words are the command.
            let mut path_of = vec![*command];
            path_of.extend(rest.first().filter(|_| *command == "policy").copied());
            let flags = rest
                .iter()
                .map(|word| word.trim_matches(|c| "[]().,;".contains(c)))
                .filter(|word| word.starts_with("--"));
            let help = help(program, &path_of);
            for flag in flags.map(|flag| flag.split('=').next().unwrap()).chain([""]) {
                if !help.as_ref().is_some_and(|help| help.contains(flag)) {
                    wrong.push(format!("{}: {said}: {flag}", path.display()));
                }
            }
            seen.insert([*program, *command].join(" "));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen.len() > 12, "{seen:?}");
}

/// A command's words, without what is quoted and without what stands before the program: variables, another user.
fn words(said: &str) -> Vec<&str> {
    let unquoted = said.split(['"', '\'']).step_by(2).flat_map(str::split_whitespace);
    let words: Vec<&str> = unquoted.collect();
    let start = match words.first() {
        Some(&("sudo" | "runuser")) => words.iter().position(|word| *word == "--").map_or(1, |at| at + 1),
        _ => words.iter().take_while(|word| word.contains('=')).count(),
    };
    words[start.min(words.len())..].to_vec()
}

/// Blocks of shell are shell.
#[test]
fn scripts_in_the_documents_can_be_read() {
    let mut tried = 0;
    for (path, text) in documents() {
        for block in fenced(&text, "sh").into_iter().chain(fenced(&text, "bash")) {
            let output = Command::new("bash").args(["-n", "-c", block]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}\n{block}", path.display());
            tried += 1;
        }
    }
    assert!(tried > 2, "{tried}");
}

/// Paths of calls: of the tables, and of addresses in commands.
fn calls(text: &str, port: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for rest in text.split(&format!(":{port}/")).skip(1) {
        let path = rest.split(|c: char| !(c.is_alphanumeric() || "/_-.".contains(c))).next().unwrap();
        // What SDKs are given is no call.
        if path != "v1" {
            found.insert((String::new(), format!("/{}", path.trim_end_matches('.'))));
        }
    }
    found
}

/// Every call that the tables of docs/api.md name is there, by its method, and so is every address in a command.
#[tokio::test(flavor = "multi_thread")]
async fn calls_in_the_documents_are_there() {
    let pair = Pair::start();
    pair.until_up().await;
    let api = std::fs::read_to_string(root().join("docs/api.md")).unwrap();
    let (clients, rest) = api.split_once("## Calls for operators").unwrap();
    let (operators, rest) = rest.split_once("`gateway.metrics_listen`").unwrap();
    let rows = |section: &str| -> BTreeSet<(String, String)> {
        let rows = section.lines().filter(|line| line.starts_with("| "));
        let calls = rows.flat_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let is_method = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase());
            let methods: Vec<&str> = cells[1].split(", ").filter(is_method).collect();
            let paths = cells[2].split('`').skip(1).step_by(2);
            paths
                .flat_map(|path| {
                    methods.iter().map(|m| ((*m).to_owned(), path.to_owned())).collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        });
        calls.collect()
    };
    let mut asked = [rows(clients), rows(operators)];
    assert!(asked[0].len() > 10 && asked[1].len() > 12 && rest.contains("/metrics"), "{asked:?}");
    for (path, text) in documents() {
        if !path.ends_with("CHANGELOG.md") {
            asked[0].extend(calls(&text, "31313"));
            asked[1].extend(calls(&text, "31315"));
        }
    }
    for (client, calls) in [&pair.client, &Client::new(&pair.admin_url)].into_iter().zip(asked) {
        for (method, path) in calls {
            // What stands in braces is any name.
            let full =
                path.replace("{file}", "app.js").replace("{path}", "v1/models").replace(['{', '}'], "");
            let method = if method.is_empty() { "GET" } else { method.as_str() };
            if full == "/admin/events" {
                // It does not end.
                assert_eq!(client.send(method, &full, &[], "").await.status(), 200);
                continue;
            }
            let said = client.call(method, &full, &[], "").await;
            let code = said.text();
            let there = said.status != 404
                || code.contains("model_not_found")
                || code.contains("no request")
                || code.contains("not there");
            assert!(there, "{method} {full}: {} {code}", said.status);
            // An address in a command says no method.
            assert!(said.status != 405 || method == "GET", "{method} {full}: {} {code}", said.status);
        }
    }
}

/// What the program says of the command; `None` where there is none.
fn help(program: &str, command: &[&str]) -> Option<String> {
    let binary = Path::new(env!("CARGO_BIN_EXE_cortex")).with_file_name(program);
    let output = Command::new(binary).args(command).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// docs/quickstart.md from its first command to its last, with other ports and the demo model at hand.
#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_is_one() {
    let (root, dir) = (root(), tempfile::tempdir().unwrap());
    let text = std::fs::read_to_string(root.join("docs/quickstart.md")).unwrap();
    let mut script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned()
        + &fenced(&text, "sh").concat();
    for port in ["13131", "31313", "31315"] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        script = script.replace(port, &free.to_string());
    }
    // A neuron on loopback is up in a moment; the page's reader types more slowly than this.
    script = script.replace("cortex init", "sleep 3\ncortex init");
    // Nobody else's metrics.
    let binaries = Path::new(env!("CARGO_BIN_EXE_cortex")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(&script).current_dir(dir.path()).env("PATH", path).env("NO_PROXY", "127.0.0.1");
    shell.env("CORTEX_GATEWAY__METRICS_LISTEN", "127.0.0.1:0").env("POLICIES", root.join("target/policies"));
    shell.env("HF_HUB_CACHE", root.join("target/models")).env("HF_HUB_OFFLINE", "1");
    let output = tokio::task::block_in_place(|| shell.output().unwrap());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("\"chat.completion\"") && said.contains("\"type\":\"message\""), "{said}");
    assert!(said.contains("(loaded"), "{said}");
}

/// The README's Python, as it stands there but for the port.
#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_python_runs() {
    let pair = Pair::start();
    pair.until_up().await;
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("## Use it").nth(1).unwrap().split("\nand a coding agent").next().unwrap();
    let lines: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let script = lines.join("\n").replace("http://127.0.0.1:31313", &pair.url);
    assert_eq!(script.matches(&pair.url).count(), 2, "{script}");
    let script = script.replace("client.", "said = client.") + "\nprint(said.content[0].text)\n";
    let output = tokio::task::block_in_place(|| python(&["-c", &script], &pair.url).output().unwrap());
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.len() > 3);
}

#[test]
fn the_readme_knows_every_page() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let missing: Vec<PathBuf> = documents()
        .into_iter()
        .map(|(path, _)| path.strip_prefix(root()).unwrap().to_owned())
        .filter(|path| path.parent() == Some(Path::new("docs")))
        .filter(|path| !readme.contains(&*path.to_string_lossy()))
        .collect();
    assert!(missing.is_empty(), "README.md links to none of {missing:?}");
    assert_eq!(cortex(&["--version"]).status.code(), Some(0));
}
