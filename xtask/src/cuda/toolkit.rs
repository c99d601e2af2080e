//! NVIDIA's compiler, out of Python wheels, in the user's cache: no GPU and no rights are needed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{paths, python, sh};

/// Of CUDA 13.0, which drivers from 580 on know. A newer compiler makes code that they refuse.
const PACKAGES: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// What goes into CUDA_HOME: the one that is set, or one that is fetched.
pub(crate) fn ensure() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CUDA_HOME") {
        let home = PathBuf::from(home);
        if !home.join("bin/nvcc").exists() {
            bail!(
                "CUDA_HOME is {}, where there is no bin/nvcc; correct it, or unset it to have one fetched",
                home.display()
            );
        }
        return Ok(home);
    }
    let folder = paths::cache().join("cuda-13.0");
    let (home, stamp) = (folder.join("nvidia/cu13"), folder.join("packages.txt"));
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
        return Ok(home);
    }
    println!("fetching NVIDIA's compiler (104 MB) into {}", folder.display());
    let python = python::environment()?;
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
    sh::run(Command::new(&python).args(pip).arg(&folder).args(PACKAGES)).context(
        "NVIDIA's compiler cannot be installed; check that pip reaches its index (pip config list)",
    )?;
    for bin in ["bin", "nvvm/bin"] {
        executable(&home.join(bin))?;
    }
    let version = sh::output(Command::new(home.join("bin/nvcc")).arg("--version"))?;
    println!("{}", version.lines().last().unwrap_or_default());
    // The last: what is named by it is there once all of it is.
    fs::write(stamp, wanted)?;
    Ok(home)
}

/// Wheels do not always say which of their files are programs.
fn executable(folder: &Path) -> Result<()> {
    for file in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = file?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}
