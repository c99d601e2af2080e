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

/// One fat binary a source, all of them in a table; see `src/gpu.rs`, which includes it.
fn kernels(sources: &[PathBuf]) -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    println!("cargo::rerun-if-env-changed=NEURON_CUDA_ARCHITECTURES");
    let home = env::var("CUDA_HOME").map_err(|_| {
        io::Error::other("the feature `kernels` needs nvcc: set CUDA_HOME, or use `cargo xtask cuda build`")
    })?;
    let architectures = env::var("NEURON_CUDA_ARCHITECTURES").unwrap_or_else(|_| ARCHITECTURES.to_owned());
    let numbers = architectures.split(',').map(|sm| {
        let number = sm.trim().parse::<u32>();
        number.map_err(|_| {
            io::Error::other(format!("NEURON_CUDA_ARCHITECTURES: {sm:?} is no number such as 90"))
        })
    });
    let mut architectures = numbers.collect::<io::Result<Vec<u32>>>()?;
    architectures.sort_unstable();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).max(1);
    let (mut images, mut table) = (String::new(), String::from("pub(super) const IMAGES: &[&[u8]] = &[\n"));
    let mut count = 0;
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
            let len = fs::metadata(&image)?.len();
            images += &format!(
                "static IMAGE_{count}: Aligned<[u8; {len}]> = Aligned(*include_bytes!({image:?}));\n"
            );
            table += &format!("    &IMAGE_{count}.0,\n");
            count += 1;
        }
    }
    table += "];\n";
    fs::write(out.join("images.rs"), images + &table)?;
    let names: Vec<String> = architectures.iter().map(u32::to_string).collect();
    println!("cargo::rustc-env=NEURON_CUDA_COMPILED_FOR={}", names.join(","));
    Ok(())
}

fn compile(home: &str, source: &Path, image: &Path, architectures: &[u32]) -> io::Result<Child> {
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
