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
