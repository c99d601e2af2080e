//! The decoder without a server: chunks, batches, formats. What comes out for a sequence is its own, to the
//! last bit.

use crate::support::{self, Gguf};

fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|i| u32::try_from((i * 7) % 256).unwrap()).collect()
}

#[test]
fn a_prompt_in_chunks_is_the_prompt_in_one_piece() {
    for architecture in ["llama", "qwen2", "qwen3", "qwen3moe", "gemma3"] {
        let hub = tempfile::tempdir().unwrap();
        Gguf::tiny(architecture).install(hub.path(), "m");
        let (_, mut model) = support::load(&hub.path().join("models--test--m/snapshots/one/m.F32.gguf"));
        for len in [1, 2, 15, 16, 17, 127, 128, 300] {
            let tokens = tokens(len);
            let expected = model.alone(&tokens, 0, 512);
            assert_eq!(expected.len(), 259);
            assert!(expected.iter().all(|logit| logit.is_finite()));
            for most in [1, 3, 16, 100] {
                assert_eq!(expected, model.alone(&tokens, 0, most), "{architecture}: {len} by {most}");
            }
        }
    }
}

#[test]
fn a_sequence_in_a_batch_is_the_sequence_alone() {
    let (checked, mut model) = support::load(&support::model_file());
    let text = "The quick brown fox jumps over the lazy dog, and then the dog sleeps. ".repeat(4);
    let all = checked.text.tokenizer.encode(&text);
    let (prompt, long) = (&all[..20], &all[..64]);
    let mut alone = vec![model.alone(prompt, 0, 512)];
    for n in 0..5 {
        alone.push(model.run(&[(0, 20 + n, &all[40 + n..=40 + n])]).remove(0));
    }
    // The same beside another's prompt, in pieces, and beside its drawing.
    let mut beside = vec![model.run(&[(1, 0, &long[..30]), (2, 0, prompt)]).remove(1)];
    for n in 0..5 {
        let other = 30 + n * 5;
        let batch =
            [(1, other, &long[other..other + 5]), (2, 20 + n, &all[40 + n..=40 + n]), (3, n, &all[n..=n])];
        beside.push(model.run(&batch).remove(1));
    }
    assert_eq!(alone, beside);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    use neuron::engine::{Backend, CpuBackend, KvFormat, Room};
    let (checked, mut two) = support::load(&support::model_file());
    let mut backend = CpuBackend { threads: 1, kv: KvFormat::F16, sequences: 4 };
    let room = Room { context: 512, cached: 512 };
    let one = backend.load(&checked.weights, &checked.plan, room).unwrap();
    let prompt = tokens(50);
    assert_eq!(two.alone(&prompt, 0, 512), support::Runner::new(one).alone(&prompt, 0, 512));
}

#[test]
fn a_model_in_parts_is_the_model_in_one_file() {
    let (hub, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = Gguf::tiny("llama");
    model.install(hub.path(), "m");
    let (_, mut whole) = support::load(&hub.path().join("models--test--m/snapshots/one/m.F32.gguf"));
    let parts = model.parts("m", 3);
    let names: Vec<_> = parts.iter().map(|(name, _)| dir.path().join(name)).collect();
    parts.iter().zip(&names).for_each(|((_, bytes), path)| std::fs::write(path, bytes).unwrap());
    let (_, mut joined) = support::load(&names[0]);
    assert_eq!(whole.alone(&tokens(50), 0, 512), joined.alone(&tokens(50), 0, 512));

    let refused = |path: &std::path::Path, words: &str| {
        let error = neuron::preflight::check("m", path, None, 0).unwrap_err().message();
        assert!(error.contains(words), "{error}");
    };
    refused(&names[1], "it is part 2 of 3; the first one is the model");
    // The third in the place of the second.
    std::fs::rename(&names[2], &names[1]).unwrap();
    refused(&names[0], "m-00002-of-00003.gguf is not part 2 of it");
    std::fs::remove_file(&names[1]).unwrap();
    refused(&names[0], "m-00002-of-00003.gguf: ");
}
