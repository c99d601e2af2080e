//! Tokens a second of one sequence, without a server: `neuron bench` beside llama-bench.

use super::{Bench, figures::Figures, machine, weights::Weights};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::process::Command;

/// Of each engine in a round, after one that warms it up and does not count.
const SAMPLES: u32 = 3;

struct Rate {
    name: &'static str,
    threads: u32,
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    /// Reads so many tokens.
    Prefill(u32),
    /// Writes so many tokens, from a context that is as good as empty.
    Decode(u32),
}

const RATES: [Rate; 5] = [
    Rate { name: "decode_1t", threads: 1, work: Work::Decode(128) },
    Rate { name: "decode_2t", threads: 2, work: Work::Decode(128) },
    Rate { name: "prefill256_1t", threads: 1, work: Work::Prefill(256) },
    Rate { name: "prefill256_2t", threads: 2, work: Work::Prefill(256) },
    Rate { name: "prefill2048_2t", threads: 2, work: Work::Prefill(2048) },
];

/// One round of all rates of a file.
pub(super) fn measure(bench: &Bench, weights: &Weights, figures: &mut Figures) {
    for rate in &RATES {
        let figure = weights.figure(rate.name);
        if !bench.wants(&figure) {
            continue;
        }
        figures.attempt(&format!("{figure} of neuron"), |figures| {
            figures.ours(&figure, &ours(bench, weights, rate)?);
            Ok(())
        });
        figures.attempt(&format!("{figure} of llama.cpp"), |figures| {
            for (variant, samples) in theirs(bench, weights, rate)? {
                figures.theirs(&figure, variant, &samples);
            }
            Ok(())
        });
    }
}

/// `neuron bench` answers with one line of JSON, whose `prefill_tok_s` and `decode_tok_s` have a value a round.
fn ours(bench: &Bench, weights: &Weights, rate: &Rate) -> Result<Vec<f64>> {
    let (prompt, written, key) = match rate.work {
        Work::Prefill(tokens) => (tokens, 1, "prefill_tok_s"),
        Work::Decode(tokens) => (1, tokens, "decode_tok_s"),
    };
    let mut command = machine::pinned(&bench.neuron, rate.threads);
    command.arg("bench").arg("--model").arg(&weights.file).args(["--threads", &rate.threads.to_string()]);
    command.args(["--prefill", &prompt.to_string(), "--decode", &written.to_string()]);
    command.args(["--rounds", &(SAMPLES + 1).to_string()]).env("RUST_LOG", "warn");
    let output = output(&mut command)?;
    let line = output.lines().rfind(|line| line.starts_with('{')).context("neuron bench wrote no JSON")?;
    let samples = numbers(&serde_json::from_str::<Value>(line)?[key]);
    if samples.len() != SAMPLES as usize + 1 {
        bail!("neuron bench wrote {} values of {key}: {line}", samples.len());
    }
    Ok(samples[1..].to_vec())
}

type Variant = (&'static str, Vec<f64>);

/// With flash attention and without: which is faster depends on the CPU and the length. llama-bench warms up by itself.
fn theirs(bench: &Bench, weights: &Weights, rate: &Rate) -> Result<Vec<Variant>> {
    let (prompt, written) = match rate.work {
        Work::Prefill(tokens) => (tokens, 0),
        Work::Decode(tokens) => (0, tokens),
    };
    let mut command = machine::pinned(&bench.llama.bench, rate.threads);
    command.arg("-m").arg(&weights.file).args(["-o", "json", "-fa", "on,off"]);
    for (option, value) in [("-t", rate.threads), ("-p", prompt), ("-n", written), ("-r", SAMPLES)] {
        command.arg(option).arg(value.to_string());
    }
    variants(&output(&mut command)?)
}

fn variants(json: &str) -> Result<Vec<Variant>> {
    let runs: Vec<Value> = serde_json::from_str(json).context("llama-bench wrote no JSON")?;
    let variants = runs.iter().map(|run| {
        let name = match run["flash_attn"].as_i64() {
            Some(1) => "flash attention",
            Some(0) => "no flash attention",
            _ => bail!("llama-bench does not say which attention it used"),
        };
        Ok((name, numbers(&run["samples_ts"])))
    });
    variants.collect()
}

fn numbers(array: &Value) -> Vec<f64> {
    array.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// Standard output; what else the program said only where it failed.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_args().nth(2).unwrap_or_default().to_owned();
    let out = command.output().context("cannot start taskset (Debian: util-linux)")?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        bail!("{} failed ({}): {last}", program.display(), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_attentions_are_told_apart() {
        let json = r#"[{"flash_attn": 1, "samples_ts": [10.5, 11]}, {"flash_attn": 0, "samples_ts": [9]}]"#;
        let expected = vec![("flash attention", vec![10.5, 11.0]), ("no flash attention", vec![9.0])];
        assert_eq!(variants(json).unwrap(), expected);
        assert!(variants(r#"[{"flash_attn": -1, "samples_ts": [1]}]"#).is_err());
        assert!(variants("").is_err());
    }
}
