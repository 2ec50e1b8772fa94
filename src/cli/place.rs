//! Where a gateway on this machine has its manifests and its state.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::resolve::PublicUrl;
use crate::roles::standalone::{StateDir, WHERE};

/// The gateway that is meant: `--dir` for one that `quickstart` made, else `--manifests` and `--state-dir`.
#[derive(clap::Args, Clone, Debug)]
pub struct Place {
    /// The folder of a quickstart: its manifests and its state
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_DIR", conflicts_with_all = ["manifests", "state_dir"])]
    pub dir: Option<PathBuf>,
    /// The gateway's manifests
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_MANIFESTS", value_delimiter = ',')]
    pub manifests: Vec<PathBuf>,
    /// The gateway's own folder
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// The gateway's public URL [default: the one that it last served under]
    #[arg(long, value_name = "URL", env = "PORTCULLIS_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// The namespace whose policies are guardrails of the whole fleet
    #[arg(long, value_name = "NAMESPACE", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    pub system_namespace: String,
}

/// What a gateway leaves in its state folder about itself.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Served {
    public_url: String,
}

impl Place {
    /// The state folder.
    ///
    /// # Errors
    /// If neither `--state-dir` nor `--dir` was given, or the folder does not exist.
    pub fn state(&self) -> anyhow::Result<PathBuf> {
        let path = match (&self.state_dir, &self.dir) {
            (Some(path), _) => path.clone(),
            (None, Some(dir)) => dir.join("state"),
            (None, None) => bail!("say which gateway: --state-dir DIR, or --dir DIR for one that quickstart made"),
        };
        if !path.is_dir() {
            bail!("{} is no folder: no gateway has its state there", path.display());
        }
        Ok(path)
    }

    /// The folders of manifests.
    ///
    /// # Errors
    /// If neither `--manifests` nor `--dir` was given.
    pub fn manifests(&self) -> anyhow::Result<Vec<PathBuf>> {
        match &self.dir {
            _ if !self.manifests.is_empty() => Ok(self.manifests.clone()),
            Some(dir) => Ok(vec![dir.join("manifests")]),
            None => bail!("say which gateway: --manifests DIR, or --dir DIR for one that quickstart made"),
        }
    }

    /// The public URL.
    ///
    /// # Errors
    /// If it was not given and the gateway never served.
    pub fn public_url(&self) -> anyhow::Result<PublicUrl> {
        if let Some(url) = &self.public_url {
            return PublicUrl::parse(url).with_context(|| format!("--public-url {url}"));
        }
        let served: Served = StateDir::open(&self.state()?)?.load(WHERE)?;
        PublicUrl::parse(&served.public_url)
            .context("the gateway has not served yet: start it once, or say --public-url URL")
    }
}
