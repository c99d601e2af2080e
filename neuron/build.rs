//! The commit that is built, for `GET /version`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Moves with every commit and checkout; missing where the sources came without a repository.
    if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={head}");
    }
    let sha = git(&["rev-parse", "HEAD"]);
    // Only tracked files: a build leaves others about.
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    println!("cargo::rustc-env=NEURON_GIT_SHA={}", sha.as_deref().unwrap_or("unknown"));
    println!("cargo::rustc-env=NEURON_GIT_DIRTY={}", sha.is_some() && dirty);
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
