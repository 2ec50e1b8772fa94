//! `portcullis crd`: the CustomResourceDefinitions.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;

use super::output;
use crate::api::crd;

/// Print the CustomResourceDefinitions, or write one file for each
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write <plural>.yaml files into this folder instead of printing
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_CRD_DIR")]
    pub dir: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut printed = String::new();
    for definition in crd::all() {
        let yaml = crd::to_yaml(&definition).context("a CustomResourceDefinition cannot be written as YAML")?;
        match &args.dir {
            None => printed += &format!("---\n{yaml}"),
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
                let path = dir.join(crd::file_name(&definition));
                std::fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    if args.dir.is_none() {
        output::say(&printed)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_one_file_for_each_kind() {
        let dir = tempfile::tempdir().unwrap();
        run(Args { dir: Some(dir.path().join("new")) }).unwrap();
        for definition in crd::all() {
            let path = dir.path().join("new").join(crd::file_name(&definition));
            assert_eq!(std::fs::read_to_string(path).unwrap(), crd::to_yaml(&definition).unwrap());
        }
    }
}
