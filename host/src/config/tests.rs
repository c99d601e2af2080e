use super::*;

fn load(cortex: &str, models: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cortex.toml"), cortex).unwrap();
    std::fs::write(dir.path().join("models.toml"), models).unwrap();
    let vars: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let get = |name: &str| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    Config::load_with(
        &dir.path().join("cortex.toml"),
        |p| std::fs::read_to_string(p),
        get,
        vars.clone().into_iter(),
    )
}

const SMALL: &str = "[gateway]\nlisten = \"127.0.0.1:1\"\n[eviction]\nstrategy = \"lru\"\n\
                     [[neurons]]\nname = \"a\"\nendpoint = \"http://127.0.0.1:2/\"\n";

#[test]
fn a_small_file_is_complete() {
    let config = load(SMALL, "", &[]).unwrap();
    assert_eq!(config.nodes[0].access.endpoint, "http://127.0.0.1:2");
    assert_eq!(config.routing_policy, "affinity");
    assert_eq!(config.admin_listen.port(), Some(31315));
}

#[test]
fn errors_name_line_key_and_what_was_meant() {
    let check = |cortex: &str, models: &str, parts: &[&str]| {
        let error = load(cortex, models, &[]).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    };
    check("[gateway]\nlistne = \"x\"", "", &["cortex.toml:2", "listne", "did you mean `listen`"]);
    check("[gatway]\n", "", &["cortex.toml:1", "did you mean `gateway`"]);
    check("[gateway]\nlisten = \"nowhere\"", "", &["cortex.toml:2", "expected IP:PORT or unix:"]);
    check("[gateway]\nbody_limit_mb = \"a\"", "", &["cortex.toml:2: gateway.body_limit_mb: invalid type"]);
    check("[gateway", "", &["cortex.toml:1"]);
    check(SMALL, "[[models]]\nid = \"a/b\"\nvram = 3", &["models.toml:3", "did you mean `vram_mb`"]);
    check(
        SMALL,
        "[[models]]\nid = \"a/b\"\nvram_mb = \"x\"",
        &["models.toml:3: models[0].vram_mb: invalid type"],
    );
    check(SMALL, "[[models]]\nid = \"a/b\"\n[[models]]\nid = \"a/b\"", &["a/b is there twice"]);
    check(
        SMALL,
        "[[models]]\nid = \"org/llama\"\n[aliases]\nl = \"org/lama\"",
        &["did you mean `org/llama`"],
    );
    check(SMALL, "[[models]]\nid = \"a/b\"\npinned_on = [\"z\"]", &["pinned on \"z\"", "nodes are a"]);
    check(&format!("{SMALL}token_env = \"NO_SUCH\""), "", &["NO_SUCH", "not set"]);
    check(&SMALL.replace("http://", "ftp://"), "", &["expected http://HOST:PORT"]);
    check(&format!("{SMALL}\n{}", &SMALL[SMALL.find("[[").unwrap()..]), "", &["given twice"]);
    check(&format!("{SMALL}\n[[keys]]\nname = \"k\""), "", &["key_env and sha256"]);
}

#[test]
fn a_key_that_cannot_be_meant_is_named() {
    let key = |name: &str, digit: &str, more: &str| {
        format!("[[keys]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", digit.repeat(64))
    };
    let check = |keys: &str, parts: &[&str]| {
        let error = load(&format!("{SMALL}{keys}"), "", &[]).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    };
    check(&key("a", "é", ""), &["keys.a.sha256", "64 hexadecimal"]);
    check(&key("a", "+", ""), &["keys.a.sha256", "64 hexadecimal"]);
    check(&key("", "0", ""), &["no name"]);
    check(&(key("a", "0", "") + &key("a", "1", "")), &["\"a\" is given twice", "a list"]);
    check(&(key("a", "0", "") + &key("b", "0", "")), &["a and b are the same secret"]);
    check(&key("a", "0", "max_concurrent = 0"), &["keys.a.max_concurrent", "remove the key"]);
    check(&key("a", "0", "caps = [{ window = \"24h\" }]"), &["keys.a.caps", "requests, tokens and usd"]);
    check(&key("a", "0", "caps = [{ window = \"1y\", tokens = 1 }]"), &["1m to 31d", "1y"]);
    check(&key("a", "0", "balance = { usd = -1.0 }"), &["keys.a.balance", "-1 is not an amount"]);
    check(&key("a", "0", "balance = { token = 1 }"), &["did you mean `tokens`"]);
    check(&key("a", "0", "tokens_per_minut = 1"), &["did you mean `tokens_per_minute`"]);
    let error = load(SMALL, "", &[("CORTEX_GATEWAY__KEYS_FILE", "no-keys.toml")]).unwrap_err().to_string();
    assert!(error.contains("no-keys.toml") && error.contains("cannot be read"), "{error}");
    let two =
        format!("{SMALL}[[keys]]\nname = \"a\"\nsha256 = [\"{}\", \"{}\"]\n", "0".repeat(64), "1".repeat(64));
    let doubtful = two + "models = [\"o/none\"]\nbalance = { usd = 1.0 }\n";
    let doubts = load(&doubtful, "[[models]]\nid = \"o/free\"\n", &[]).unwrap().doubts().join("; ");
    assert!(doubts.contains("o/none is not in the catalogue") && doubts.contains("usage_store"), "{doubts}");
}

#[test]
fn the_environment_overrides_the_file() {
    let config = load(
        SMALL,
        "",
        &[
            ("CORTEX_GATEWAY__LISTEN", "127.0.0.1:9"),
            ("CORTEX_POLICIES__DIRS", "[\"/p\"]"),
            ("CORTEX_CACHE", "x"),
        ],
    );
    let config = config.unwrap();
    assert_eq!(config.listen.port(), Some(9));
    assert_eq!(config.policies.dirs, [PathBuf::from("/p")]);

    let error = load(SMALL, "", &[("CORTEX_GATEWAY__LISTNE", "1")]).unwrap_err().to_string();
    assert!(error.contains("CORTEX_GATEWAY__LISTNE") && error.contains("listne"), "{error}");
}

#[test]
fn catalogue_words() {
    let models = "[[models]]\nid = \"o/a\"\nsource = \"\"\n[[models]]\nid = \"o/b\"\nsource = \"hf\"\n\
                  pinned_on = [\"a\"]\ncost = {input = 0.0}\n[aliases]\nbee = \"o/b\"";
    let catalogue = load(SMALL, models, &[]).unwrap().catalogue;
    let (a, b) = (catalogue.get("o/a").unwrap(), catalogue.get("o/b").unwrap());
    assert_eq!((a.node_id().as_str(), b.node_id().as_str()), ("o/a", "hf:o/b"));
    assert_eq!((a.class(), b.class()), (100, 1000));
    assert!(a.allowed_on("z") && b.allowed_on("a") && !b.allowed_on("z"));
    let cost = b.cost.as_ref().unwrap();
    assert_eq!((cost.input, cost.output), (Some(0.0), None));
    assert_eq!(catalogue.resolve("bee"), Resolved::Catalogued("o/b".into()));
    assert_eq!(catalogue.resolve("other"), Resolved::Other("other".into()));
}

/// A key that `changes` forgot would be in force without a word in the log.
#[test]
fn a_reload_names_every_key_of_the_gateways() {
    let old = load(SMALL, "", &[]).unwrap();
    let old = Config { files: Vec::new(), ..old };
    let check = |name: &str, value: &str, want: &str| {
        let new = load(SMALL, "", &[(name, value)]).unwrap();
        let new = Config { files: Vec::new(), ..new };
        assert_eq!(old.changes(&new), [want], "{name}={value}");
    };
    for key in ["body_limit_mb", "body_timeout_secs", "keepalive_after_secs", "max_wait_secs"] {
        check(&format!("CORTEX_GATEWAY__{}", key.to_uppercase()), "7", &format!("gateway.{key}"));
    }
    for key in ["stall_timeout_secs", "drain_secs", "poll_interval_secs"] {
        check(&format!("CORTEX_GATEWAY__{}", key.to_uppercase()), "7", &format!("gateway.{key}"));
    }
    check("CORTEX_GATEWAY__ALLOW_ANONYMOUS", "true", "gateway.allow_anonymous");
    check("CORTEX_EVICTION__DEFRAG_AFTER_CYCLES", "7", "eviction.defrag_after_cycles");
    check("CORTEX_GATEWAY__LISTEN", "127.0.0.1:9", "listen addresses (these need a restart)");
    assert!(old.changes(&old.clone()).is_empty());
}

#[test]
fn the_admin_address_needs_neither_secrets_nor_a_file_without_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cortex.toml");
    let check = |text: &str, env: &[(&str, &str)], want: Result<&str, &str>| {
        std::fs::write(&path, text).unwrap();
        let vars = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        match (overrides::admin_listen(&path, vars), want) {
            (Ok((got, tls)), Ok(want)) => {
                let got = if tls { format!("{got} over TLS") } else { got.to_string() };
                assert_eq!(got, want, "{text}");
            }
            (Err(got), Err(part)) => assert!(got.to_string().contains(part), "{got}"),
            (got, want) => panic!("{text}: {got:?}, expected {want:?}"),
        }
    };
    check("[[keys]]\nname = \"k\"\nkey_env = \"NO_SUCH\"\n[routng]\n", &[], Ok("127.0.0.1:31315"));
    check("[gateway]\nadmin_listen = \"127.0.0.1:9\"", &[], Ok("127.0.0.1:9"));
    check("", &[("CORTEX_GATEWAY__ADMIN_LISTEN", "127.0.0.1:8")], Ok("127.0.0.1:8"));
    check("[gateway]\nadmin_listen = 9", &[], Err("gateway.admin_listen"));
    check(
        "[gateway]\ntls = { certificate = \"none\", key = \"none\", admin = true }",
        &[],
        Ok("127.0.0.1:31315 over TLS"),
    );
    check("[gateway", &[], Err("cortex.toml:1"));
}

#[test]
fn what_may_not_be_meant_is_said() {
    let catalogue = |models: &str| load(SMALL, models, &[]).map(|config| config.catalogue.doubts());
    let low = "[[models]]\nid = \"o/low\"\nresidency_priority = 1\n[[models]]\nid = \"o/high\"\n";
    let doubts = catalogue(low).unwrap();
    assert!(doubts.len() == 1 && doubts[0].contains("o/low") && doubts[0].contains("o/high"), "{doubts:?}");
    assert!(catalogue(&format!("{low}idle_ttl = 5\n")).unwrap().is_empty());
    let error = catalogue("[[models]]\nid = \"o/a\"\nreplicas = { min = 2, max = 1 }\n").unwrap_err();
    assert!(error.to_string().contains("from 2 to 1"), "{error}");
}

/// The files that packages install and the documentation shows.
#[test]
fn the_example_files_are_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/cortex.example.toml");
    let config = Config::load_with(
        &path,
        |p| std::fs::read_to_string(p),
        |_| Some("secret".into()),
        std::iter::empty(),
    )
    .unwrap();
    assert!(!config.nodes.is_empty() && config.catalogue.models().count() > 0);

    // What stands there as a comment is as valid.
    let text = std::fs::read_to_string(&path).unwrap();
    let commented = |from: &str| {
        let (_, rest) = text.split_once(from).unwrap();
        let lines: Vec<&str> = rest.lines().skip(1).map_while(|line| line.strip_prefix("# ")).collect();
        // A file that is not there.
        let lines: Vec<&str> = lines.into_iter().filter(|line| !line.starts_with("ca_file")).collect();
        format!("{}\n{}\n", from.trim_start_matches("# "), lines.join("\n"))
    };
    let all = ["# [[upstreams]]", "# [[admin_keys]]", "# [[keys]]"].map(commented).concat();
    let env = [("ALICE_KEY", "secret"), ("VLLM_KEY", "secret"), ("VLLM_SECRET", "x"), ("OPS_KEY", "secret")];
    let config = load(&format!("{SMALL}{all}"), "", &env).unwrap();
    let alice = config.keys.named("alice").cloned().unwrap();
    assert_eq!((alice.limits.caps.len(), alice.limits.balance.nano_usd), (2, Some(200_000_000_000)));
    assert_eq!(config.nodes[1].access.endpoint, "http://10.0.0.7:8000/v1");
    assert!(config.admin_keys.of_digest(&digest(b"secret")).unwrap().may(Role::Viewer));
}

#[test]
fn a_node_or_a_certificate_that_cannot_be_meant_is_named() {
    let upstream =
        |more: &str| format!("{SMALL}[[upstreams]]\nname = \"u\"\nendpoint = \"http://h\"\n{more}\n");
    let check = |cortex: &str, parts: &[&str]| {
        let error = load(cortex, "[[models]]\nid = \"o/a\"\n[aliases]\nx = \"o/a\"\n", &[("E", "a\nb")]);
        let error = error.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    };
    check(&upstream("").replace("\"u\"", "\"a\""), &["\"a\" is given twice"]);
    check(&upstream("key_env = \"NONE\""), &["upstreams.u.key_env", "NONE is not set"]);
    check(&upstream("key_env = \"E\""), &["upstreams.u.key_env", "cannot be sent"]);
    check(&upstream("headers = { \"a b\" = \"x\" }"), &["upstreams.u.headers", "\"a b\""]);
    check(&upstream("headers_env = { x = \"NONE\" }"), &["upstreams.u.headers_env", "NONE is not set"]);
    check(&upstream("models = { \"o/a\" = \"y\", x = \"z\" }"), &["upstreams.u.models", "\"o/a\""]);
    check(&upstream("max_concurrent = 0"), &["upstreams.u.max_concurrent"]);
    check(&upstream("ca_file = \"none.pem\""), &["upstreams.u.ca_file", "none.pem", "cannot be read"]);
    check(&upstream("token_env = \"E\""), &["token_env", "key_env"]);
    check(&format!("{SMALL}ca_file = \"none.pem\""), &["neurons.a.ca_file", "none.pem"]);
    check(
        "[gateway]\ntls = { certificate = \"none.pem\", key = \"k\" }",
        &["gateway.tls.certificate", "none.pem"],
    );
    check(
        "[gateway]\ntls = { certificate = \"models.toml\", key = \"models.toml\" }",
        &["no certificate in it"],
    );
    let admin = |more: &str| format!("{SMALL}[[admin_keys]]\nname = \"k\"\n{more}\n");
    check(&admin("key_env = \"E\"\nroles = []"), &["admin_keys.k.roles"]);
    check(&admin("roles = [\"viewer\"]"), &["admin_keys.k: exactly one of key_env and sha256"]);
    check(&admin("key_env = \"E\"\nroles = [\"god\"]"), &["unknown variant `god`", "viewer"]);
    let config = load(&upstream(""), "", &[]).unwrap();
    assert_eq!(config.nodes[1].access.endpoint, "http://h/v1");
}
