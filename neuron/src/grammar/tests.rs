use std::path::Path;

use serde_json::Value;

use super::*;

fn tokenizer() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/references/llama");
    Tokenizer::from_folder(Path::new(folder)).unwrap()
}

fn schema(schema: &Value) -> Bound {
    Bound { form: Form::Schema { schema: schema.to_string(), strict: true }, after: None }
}

/// Which of several to take, over and over.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

/// A model with no idea says something that is allowed, and ends as soon as it may; `None` where it does not come to
/// an end.
fn babble(grammar: &mut dyn Grammar, tokenizer: &Tokenizer, dice: &mut Dice) -> Option<String> {
    let mut said = Vec::new();
    for _ in 0..600 {
        let Some(bits) = grammar.allowed().unwrap() else { return Some(tokenizer.decode(&said)) };
        let is_set = |id: &u32| bits[*id as usize / 32] >> (id % 32) & 1 == 1;
        let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(is_set).collect();
        assert!(!allowed.is_empty(), "after {:?}", tokenizer.decode(&said));
        if allowed.iter().any(|id| tokenizer.end_ids().contains(id)) {
            return Some(tokenizer.decode(&said));
        }
        // What closes something is taken now and then, or nothing would end; space is not worth a turn.
        let pieces = |id: &&u32| matches!(tokenizer.piece(**id), b"\"" | b"]" | b"}" | b"\"}" | b"]}");
        let closing: Vec<&u32> = allowed.iter().filter(pieces).collect();
        let worth: Vec<&u32> =
            allowed.iter().filter(|id| !tokenizer.piece(**id).iter().all(u8::is_ascii_whitespace)).collect();
        let token = match dice.below(3) {
            0 if !closing.is_empty() => *closing[dice.below(closing.len())],
            _ if !worth.is_empty() => *worth[dice.below(worth.len())],
            _ => allowed[dice.below(allowed.len())],
        };
        said.push(token);
        grammar.accept(token).unwrap();
    }
    None
}

fn corpus(part: &str) -> Vec<Value> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schemas.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[part].as_array().unwrap().clone()
}

#[test]
fn whatever_is_said_within_a_schema_satisfies_it() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let (schemas, mut dice, mut ended) = (corpus("enforced"), Dice(5), 0);
    assert!(schemas.len() >= 200);
    for wanted in &schemas {
        let validator = jsonschema::options().should_validate_formats(true).build(wanted).unwrap();
        let begun = grammars.compile(&schema(wanted)).unwrap_or_else(|e| panic!("{wanted}: {e}"));
        for _ in 0..4 {
            let Some(text) = babble(&mut *begun.fork(), &tokenizer, &mut dice) else { continue };
            let value: Value = match serde_json::from_str(&text) {
                Ok(value) => value,
                // A number like 1e999 is JSON, and more than a double holds.
                Err(error) if error.to_string().starts_with("number out of range") => continue,
                Err(error) => panic!("{wanted}: {text:?}: {error}"),
            };
            // A leap second is one, whatever the validator says.
            if text.contains(":60") {
                continue;
            }
            if let Err(error) = validator.validate(&value) {
                panic!("{wanted}: {text:?}: {error}");
            }
            ended += 1;
        }
    }
    assert!(ended * 10 > schemas.len() * 4 * 9, "only {ended} came to an end");
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    let grammars = Grammars::new(&tokenizer()).unwrap();
    for case in corpus("refused") {
        let (words, wanted) = (case[0].as_str().unwrap(), &case[1]);
        match grammars.compile(&schema(wanted)) {
            Ok(_) => panic!("{wanted} was taken"),
            Err(error) => assert!(error.0.contains(words), "{wanted}: {error}"),
        }
    }
}
