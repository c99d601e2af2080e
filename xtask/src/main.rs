//! The project's own commands. `cargo xtask --help` lists them.

mod bench;
mod cuda;
mod demo;
mod dist;
mod embedder;
mod model;
mod new_policy;
mod node;
mod paths;
mod policies;
mod python;
mod release;
mod samples;
mod setup;
mod sh;
mod sse;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, demonstrate and test cortex")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch everything that the other tasks need, pinned: wasm target, Python and TypeScript SDKs, demo model
    Setup(setup::Args),
    /// Build each policy to a component in target/policies
    BuildPolicies,
    /// Build the samples in Rust and C to target/samples; the C compiler comes with `setup --all`
    BuildSamples,
    /// Start a policy of your own in policies/NAME
    NewPolicy(new_policy::Args),
    /// Run a neuron and a cortex on this machine and ask the demo model two questions
    Demo(demo::Args),
    /// Check and test everything
    Test(test::Args),
    /// Measure, print a table, write target/bench/NAME.json
    Bench(bench::Args),
    /// neuron for GPUs: its compiler, its checks without a GPU, and its tests on one
    Cuda(cuda::Args),
    /// Make what operators install: .deb, .rpm, archives, bills of materials, in target/packages
    Dist(dist::Args),
    /// Check what the architecture promises: dependencies, file sizes, layout
    Tidy,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::BuildPolicies => setup::wasm_target().and_then(|()| policies::build()),
        Task::BuildSamples => setup::wasm_target().and_then(|()| samples::build()),
        Task::NewPolicy(args) => new_policy::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Cuda(args) => cuda::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Tidy => tidy::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn documents(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                documents(&path, found);
            } else if path.extension().is_some_and(|end| end == "md") {
                found.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    /// Each `cargo xtask …` in the documents, workflows and recipes is one that there is, with flags that there are.
    #[test]
    fn tasks_that_are_named_exist() {
        let root = paths::root();
        let mut texts: Vec<String> = ["README.md", "CHANGELOG.md"]
            .map(|name| std::fs::read_to_string(root.join(name)).unwrap())
            .into();
        documents(&root.join("docs"), &mut texts);
        for file in [
            ".github/workflows/release.yml",
            ".github/workflows/ci.yml",
            "packaging/container/Containerfile.cortex",
            "packaging/container/Containerfile.neuron",
            "packaging/rpm/cortex.spec",
        ] {
            texts.push(std::fs::read_to_string(root.join(file)).unwrap());
        }
        let mut tried = 0;
        for said in texts.iter().flat_map(|text| text.split("cargo xtask ").skip(1)) {
            // What a workflow says for each of several.
            let said = said.replace("\"$kinds\"", "90");
            let said = said.split(['\n', '`', ';', '(', ')']).next().unwrap();
            let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-,.".contains(c));
            // A comma ends it, or a full stop.
            let mut is_over = false;
            let words = said.split_whitespace().take_while(is_word).take_while(|word| {
                let is_next = !is_over;
                is_over = word.ends_with([',', '.']);
                is_next
            });
            let words = words.map(|word| word.trim_end_matches([',', '.']));
            let error = Cli::try_parse_from(["xtask"].into_iter().chain(words)).err();
            let kind = error.as_ref().map(clap::Error::kind);
            // A task is named without what it has to be told.
            let is_named = matches!(
                kind,
                None | Some(
                    ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                )
            );
            assert!(is_named, "cargo xtask {said}: {}", error.unwrap());
            tried += 1;
        }
        assert!(tried > 25, "{tried}");
    }
}
