//! Archives that are the same bytes whenever and wherever they are made of the same files.

use super::{Package, dir, epoch, version};
use crate::sh;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tree as one archive, for whoever has no package manager.
pub(super) fn tar(package: &Package, root: &Path) -> Result<PathBuf> {
    let name = format!("{}-{}-{}-linux", package.called, version()?, std::env::consts::ARCH);
    let to = dir().join(format!("{name}.tar.gz"));
    pack(root, &name, &to)?;
    Ok(to)
}

/// The folder's contents under `prefix`: in the order of their names, with one time, one owner, one way of compressing.
pub(super) fn pack(root: &Path, prefix: &str, to: &Path) -> Result<()> {
    let epoch = epoch()?;
    sh::run(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"])
            .arg(format!("--mtime=@{epoch}"))
            .arg(format!("--transform=s,^\\.,{prefix},"))
            .args(["--use-compress-program=gzip -9 -n", "-cf"])
            .arg(to)
            .arg("-C")
            .arg(root)
            .arg("."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_are_the_same_archive() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, files: &[&str]| {
            let root = dir.path().join(name);
            std::fs::create_dir(&root).unwrap();
            for file in files {
                std::fs::write(root.join(file), file).unwrap();
            }
            let to = dir.path().join(format!("{name}.tar.gz"));
            pack(&root, "cortex-1", &to).unwrap();
            std::fs::read(to).unwrap()
        };
        let one = make("one", &["b", "a"]);
        // Made later, and in another order.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(one == make("two", &["a", "b"]));
        assert!(one != make("three", &["a", "c"]));
    }
}
