use super::*;
use proptest::prelude::*;

/// The members as read, `key=value;` each: `n` is an integer, `f` a decimal, `b` a flag.
fn parse(json: &str) -> Result<String, String> {
    let mut seen = String::new();
    read(json, &["n_items", "factor", "enabled"], &mut |at, value| {
        seen += &match at {
            0 => format!("n={};", value.integer(0..=1000, "a whole number from 0 to 1000")?),
            1 => format!("f={};", value.thousandths(1000..=10_000, "a number from 1.0 to 10.0")?),
            _ => format!("b={};", value.flag()?),
        };
        Ok(())
    })?;
    Ok(seen)
}

#[test]
fn flat_objects_are_read() {
    let check = |json: &str, want: &str| assert_eq!(parse(json).as_deref(), Ok(want), "{json}");
    check("{}", "");
    check(" { } \n", "");
    check(r#"{"n_items":12}"#, "n=12;");
    check(r#"{"n_items":12.0, "factor" : 1.25,"enabled":true}"#, "n=12;f=1250;b=true;");
    check("{\"factor\":\n10 ,\r\t\"enabled\":false\n}", "f=10000;b=false;");
    check(r#"{"factor":1.1250000}"#, "f=1125;");
}

#[test]
fn an_error_names_key_value_and_what_was_expected() {
    let check = |json: &str, part: &str| {
        let error = parse(json).expect_err(json);
        assert!(error.contains(part), "{json}: {error:?} lacks {part:?}");
    };
    check(r#"{"n_itmes":1}"#, r#"unknown setting "n_itmes"; the nearest that there is: "n_items""#);
    check(r#"{"Enable":true}"#, r#"the nearest that there is: "enabled""#);
    check(r#"{"n_items":1001}"#, "n_items is 1001, expected a whole number from 0 to 1000");
    check(r#"{"n_items":1.5}"#, "n_items is 1.5,");
    check(r#"{"n_items":-1}"#, "n_items is -1,");
    check(r#"{"n_items":1e3}"#, "n_items is 1e3,");
    check(r#"{"n_items":"7"}"#, r#"n_items is "7","#);
    check(r#"{"n_items":null}"#, "n_items is null,");
    check(r#"{"n_items":{"a":[1,"}"]}}"#, r#"n_items is {"a":[1,"}"]},"#);
    check(r#"{"n_items":99999999999999999999}"#, "n_items is 9999");
    check(r#"{"factor":0.999}"#, "factor is 0.999, expected a number from 1.0");
    check(r#"{"factor":1.2345}"#, "factor is 1.2345");
    check(r#"{"factor":1.}"#, "factor is 1.");
    check(r#"{"enabled":1}"#, "enabled is 1, expected true or false");
    check("", "not a JSON object: expected {");
    check("[]", "not a JSON object");
    check(r#"{"n_items":1"#, "expected }");
    check(r#"{"n_items":}"#, "expected a value");
    check(r#"{"n_items":1,}"#, "expected \"");
    check(r#"{"n_items":1} x"#, "expected the end");
    check(r#"{"n_items"#, "expected \"");
    check(r#"{"n_items\"#, "expected \"");
    assert!(read(r#"{"x":1}"#, &[], &mut |_, _| Ok(())).is_err_and(|e| e.contains("takes none")));
}

proptest! {
    /// Foreign text is an answer or an error, never a panic.
    #[test]
    fn any_text_is_survived(text in r#"[{}\[\]",:\\ 0-9.a-e_nfé-]{0,40}"#) {
        parse(&text).ok();
    }

    /// What a JSON library writes is read as it was meant.
    #[test]
    fn agrees_with_a_json_library(n in 0u32..=1000, thousandths in 1000u32..=10_000, flag: bool) {
        let factor = f64::from(thousandths) / 1000.0;
        let json = serde_json::json!({ "n_items": n, "factor": factor, "enabled": flag }).to_string();
        let want = format!("n={n};f={thousandths};b={flag};");
        prop_assert_eq!(parse(&json), Ok(want));
    }
}
