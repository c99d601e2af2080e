//! Compiles the kernels: by nvcc for devices (feature `kernels`), by the host's C++ compiler for the emulated one (`emulated`).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command},
};

/// Compute capabilities that a build is for unless `NEURON_CUDA_ARCHITECTURES` says others.
const ARCHITECTURES: &str = "80,86,89,90,100,120";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    let mut sources: Vec<PathBuf> = fs::read_dir("kernels")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "cu"))
        .collect();
    sources.sort();
    if env::var_os("CARGO_FEATURE_EMULATED").is_some() {
        emulated(&sources);
    }
    if env::var_os("CARGO_FEATURE_KERNELS").is_some() {
        kernels(&sources)?;
    }
    Ok(())
}

fn emulated(sources: &[PathBuf]) {
    let mut build = cc::Build::new();
    // The kernels register themselves: nothing calls them by name, and none may be left out.
    build.cpp(true).std("c++17").define("EMULATED", None).opt_level(3).link_lib_modifier("+whole-archive");
    build.flag("-xc++").flag("-fno-strict-aliasing").flag("-U_FORTIFY_SOURCE").warnings(false);
    build.files(sources).file("kernels/emulated/run.cpp").compile("neuron_emulated");
}

/// One fat binary a source, all of them in a table.
fn kernels(sources: &[PathBuf]) -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    println!("cargo::rerun-if-env-changed=NEURON_CUDA_ARCHITECTURES");
    let home = env::var("CUDA_HOME").map_err(|_| {
        io::Error::other("the feature `kernels` needs nvcc: set CUDA_HOME, or use `cargo xtask cuda build`")
    })?;
    let architectures = env::var("NEURON_CUDA_ARCHITECTURES").unwrap_or_else(|_| ARCHITECTURES.to_owned());
    let architectures: Vec<&str> = architectures.split(',').map(str::trim).collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).max(1);
    let mut table = String::from("&[\n");
    for some in sources.chunks(jobs) {
        let running: Vec<(Child, PathBuf)> = some
            .iter()
            .map(|source| {
                let image = out.join(source.with_extension("fatbin").file_name().unwrap_or_default());
                Ok((compile(&home, source, &image, &architectures)?, image))
            })
            .collect::<io::Result<_>>()?;
        for (mut child, image) in running {
            if !child.wait()?.success() {
                return Err(io::Error::other(format!("nvcc could not make {}", image.display())));
            }
            table += &format!("    include_bytes!({image:?}),\n");
        }
    }
    table += "]\n";
    fs::write(out.join("images.rs"), table)?;
    println!("cargo::rustc-env=NEURON_CUDA_COMPILED_FOR={}", architectures.join(","));
    Ok(())
}

fn compile(home: &str, source: &Path, image: &Path, architectures: &[&str]) -> io::Result<Child> {
    let mut nvcc = Command::new(Path::new(home).join("bin/nvcc"));
    nvcc.args(["-O3", "-std=c++17", "-fatbin"]);
    for (n, sm) in architectures.iter().enumerate() {
        // Of the newest its intermediate code too, which drivers make code for later devices of.
        let code =
            if n + 1 == architectures.len() { format!("[sm_{sm},compute_{sm}]") } else { format!("sm_{sm}") };
        nvcc.arg("-gencode").arg(format!("arch=compute_{sm},code={code}"));
    }
    nvcc.arg(source)
        .arg("-o")
        .arg(image)
        .spawn()
        .map_err(|e| io::Error::other(format!("{home}/bin/nvcc: {e}")))
}
