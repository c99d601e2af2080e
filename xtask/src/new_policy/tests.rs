use super::*;

#[test]
fn names_are_kebab_case() {
    let check = |name: &str, want: bool| assert_eq!(is_kebab_case(name), want, "{name:?}");
    check("a", true);
    check("cost-aware-2", true);
    check("", false);
    check("Cost", false);
    check("cost_aware", false);
    check("-cost", false);
    check("cost-", false);
    check("cost--aware", false);
    check("2cost", false);
    check("../lru", false);
    check("a b", false);
    check(&"a".repeat(41), false);
}

#[test]
fn every_kind_is_written_whole_and_once() {
    let dir = tempfile::tempdir().unwrap();
    for kind in [Kind::Routing, Kind::Eviction, Kind::Translation] {
        let name = format!("my-{kind:?}").to_lowercase();
        let made = create(dir.path(), &name, kind).unwrap();
        let manifest: toml::Table = fs::read_to_string(made.join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some(format!("policy-{name}").as_str()));
        for file in ["src/lib.rs", "src/choose.rs", "src/component.rs"] {
            let text = fs::read_to_string(made.join(file)).unwrap();
            for left in ["NAME", "KIND", "DEPENDENCIES"] {
                assert!(!text.contains(left), "{left} is left in {file} of {kind:?}");
            }
        }
        let before = fs::read(made.join("src/choose.rs")).unwrap();
        let error = create(dir.path(), &name, Kind::Routing).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(fs::read(made.join("src/choose.rs")).unwrap(), before);
    }
    let error = create(dir.path(), "My_Policy", Kind::Routing).unwrap_err().to_string();
    assert!(error.contains("lower-case"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}
