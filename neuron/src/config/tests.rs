use super::*;

fn parse(text: &str) -> Result<Config, String> {
    parse_with(text, &[])
}

fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let env = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    Config::parse(text, "neuron.toml", &env).map_err(|e| e.to_string())
}

#[test]
fn an_empty_file_is_complete() {
    let config = parse_with("", &[("HOME", "/h")]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:13131");
    assert_eq!(config.default_source, "huggingface");
    assert_eq!(config.sources["huggingface"].cache_dir, Path::new("/h/.cache/huggingface/hub"));
    assert_eq!(config.engine.max_queue_depth, 32);
}

#[test]
fn the_example_is_valid_and_says_the_defaults() {
    let text = include_str!("../../../packaging/neuron.example.toml");
    let config = parse_with(text, &[("HOME", "/h")]).unwrap();
    let defaults = parse_with("", &[("HOME", "/h")]).unwrap();
    assert_eq!(format!("{config:?}"), format!("{defaults:?}"));
    // Its commented lines are examples too: with them in force it still parses.
    let all = text.replace("\n#: ", "\n");
    let env = [
        ("HOME", "/h"),
        ("NEURON_TOKEN", "t"),
        ("MIRROR_TOKEN", "m"),
        ("ANN_TOKEN", "a"),
        ("SIBLINGS_TOKEN", "s"),
    ];
    let all = parse_with(&all, &env).unwrap();
    assert!(all.tokens[0].secret == "t" && all.tokens[0].is_gateways());
    assert_eq!((&*all.tokens[1].name, &*all.tokens[1].scopes), ("ann", &[Scope::Infer][..]));
    assert_eq!(all.sources["mirror"].token.as_deref(), Some("m"));
}

#[test]
fn a_typo_names_line_key_and_nearest_key() {
    let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap_err(), expected, "{text}");
    check("[neuron]\nlisten_ = \"x\"\n", "neuron.toml:2: unknown key \"listen_\"; did you mean \"listen\"?");
    check("\n\n[engin]\n", "neuron.toml:3: unknown key \"engin\"; did you mean \"engine\"?");
    check(
        "[engine]\nthreads = 1\nmax_contxt = 4\n",
        "neuron.toml:3: unknown key \"max_contxt\"; did you mean \"max_context\"?",
    );
    check(
        "[sources.hub]\ncache = \"/x\"\n",
        "neuron.toml:2: unknown key \"cache\"; did you mean \"cache_dir\"?",
    );
    check(
        "[engine]\nthreads = \"two\"\n",
        "neuron.toml:2: threads: invalid type: string \"two\", expected usize",
    );
    assert!(parse("[neuron]\nzzzz = 1").unwrap_err().contains("known are listen, name"));
    assert!(parse("[neuron").unwrap_err().starts_with("neuron.toml:1:"));
}

#[test]
fn what_parses_is_also_checked() {
    let check = |text: &str, expected: &str| {
        let got = parse(text).unwrap_err();
        assert!(got.starts_with("neuron.toml: ") && got.contains(expected), "{got}");
    };
    check("[neuron]\nlisten = \"here\"", "neuron.listen: \"here\" is not an address");
    check("[neuron]\nlisten = \"0.0.0.0:1\"", "insecure_open");
    check("[neuron]\nlisten = \"8.8.8.8:1\"", "insecure_open");
    check("[neuron]\npreload = [\"a//b\"]", "neuron.preload");
    check("default_source = \"nas\"", "there are huggingface");
    check("[sources.x]\nendpoint = \"ftp://x\"", "sources.x: endpoint");
    check("[sources.\"a/b\"]\n", "letters, digits");
    check("[neuron]\ntoken_env = \"T\"", "T is not set");
    check("[engine]\nmax_sequences = 0", "engine.max_sequences: 0 is not from 1 to 64");
}

#[test]
fn a_token_opens_the_way_out_of_the_private_networks() {
    let file = "[neuron]\nlisten = \"0.0.0.0:1\"\ntoken_env = \"T\"";
    assert_eq!(parse_with(file, &[("T", " secret ")]).unwrap().tokens[0].secret, "secret");
    assert!(parse_with(file, &[("T", " ")]).unwrap_err().contains("set but empty"));
    assert!(parse("[neuron]\nlisten = \"0.0.0.0:1\"\ninsecure_open = true").is_ok());
    for private in ["10.1.2.3:1", "192.168.0.1:1", "[::1]:1", "[fd00::1]:1"] {
        assert!(parse(&format!("[neuron]\nlisten = \"{private}\"")).is_ok(), "{private}");
    }
}

#[test]
fn the_hubs_variables_are_honoured() {
    let dir = |env: &[(&str, &str)]| {
        parse_with("", env).unwrap().sources["huggingface"].cache_dir.display().to_string()
    };
    assert_eq!(dir(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), "/c");
    assert_eq!(dir(&[("HF_HOME", "/h")]), "/h/hub");
    let offline = parse_with("", &[("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://m")]).unwrap();
    assert!(offline.sources["huggingface"].offline);
    assert_eq!(offline.sources["huggingface"].endpoints, ["http://m"]);
}

#[test]
fn the_hubs_own_token_goes_to_the_hub_alone() {
    let text = "[sources.mirror]\nendpoint = \"http://m\"\n[sources.bare]";
    let check = |env: &[(&str, &str)], expected: Option<&str>| {
        let sources = parse_with(text, env).unwrap().sources;
        assert_eq!(sources["huggingface"].token.as_deref(), expected, "{env:?}");
        assert_eq!((&sources["mirror"].token, &sources["bare"].token), (&None, &None));
    };
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), "from the file\n").unwrap();
    let home = ("HF_HOME", home.path().to_str().unwrap());
    check(&[home, ("HF_TOKEN", "secret")], Some("secret"));
    check(&[home], Some("from the file"));
    check(&[home, ("HF_ENDPOINT", "https://huggingface.co/")], Some("from the file"));
    check(&[home, ("HF_ENDPOINT", "http://m"), ("HF_TOKEN", "secret")], None);
    check(&[home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_TOKEN", "secret")], None);
    check(&[("HF_HOME", "/nonexistent")], None);
}

#[test]
fn a_token_that_cannot_be_meant_is_named() {
    let check = |token: &str, part: &str| {
        let text = format!("[neuron]\ntoken_env = \"T\"\n[[neuron.tokens]]\n{token}");
        let error = parse_with(&text, &[("T", "secret"), ("A", "a"), ("HOME", "/h")]).unwrap_err();
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    };
    check(
        "name = \"a\"\ntoken_env = \"NONE\"\nscopes = [\"infer\"]",
        "neuron.tokens.a: the environment variable NONE",
    );
    check("name = \"a\"\ntoken_env = \"A\"\nscopes = []", "neuron.tokens.a: it has no scopes");
    check("name = \"a\"\ntoken_env = \"A\"\nscopes = [\"all\"]", "all");
    check("name = \"a\"\ntoken_env = \"T\"\nscopes = [\"infer\"]", "the secret of gateway");
}
