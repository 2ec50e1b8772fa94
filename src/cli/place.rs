//! Where a gateway on this machine has its manifests and its state.
//!
//! Invariant: what the command line names counts over what only the environment names, so that a variable that was set
//! for another verb never contradicts an option that was typed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::{Deserialize, Serialize};

use crate::resolve::PublicUrl;
use crate::roles::serving::{StateDir, WHERE};

/// The gateway that is meant: `--dir` for one that `quickstart` made, else `--manifests` and `--state-dir`.
#[derive(Args, Clone, Debug)]
#[group(skip)]
struct Typed {
    /// The folder of a quickstart: its manifests and its state
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_DIR")]
    dir: Option<PathBuf>,
    /// The gateway's manifests; may be given several times
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_MANIFESTS", value_delimiter = ',')]
    manifests: Vec<PathBuf>,
    /// The gateway's own folder
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// The URL under which callers reach the gateway [default: the one that it last served under]
    #[arg(long, value_name = "URL", env = "PORTCULLIS_PUBLIC_URL")]
    public_url: Option<String>,
    /// The namespace whose policies are guardrails for all others
    #[arg(long, value_name = "NAME", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    system_namespace: String,
}

/// A gateway's manifests and its state.
#[derive(Clone, Debug)]
pub struct Place(Typed);

impl FromArgMatches for Place {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut typed = Typed::from_arg_matches(matches)?;
        match chosen(matches, &[&["dir"], &["manifests", "state_dir"]])? {
            Some(0) => (typed.manifests, typed.state_dir) = (Vec::new(), None),
            _ => typed.dir = None,
        }
        Ok(Self(typed))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Place {
    fn augment_args(command: Command) -> Command {
        Typed::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Typed::augment_args_for_update(command)
    }
}

/// Which of several ways of naming one thing was taken: one on the command line, or else one in the environment.
///
/// # Errors
/// If two were, in the same place.
pub fn chosen(matches: &ArgMatches, ways: &[&[&str]]) -> Result<Option<usize>, clap::Error> {
    for source in [ValueSource::CommandLine, ValueSource::EnvVariable] {
        let given = |id: &&&str| matches.value_source(id) == Some(source);
        let taken: Vec<(usize, String)> = (0..)
            .zip(ways)
            .filter_map(|(way, ids)| ids.iter().find(given).map(|id| (way, format!("--{}", id.replace('_', "-")))))
            .collect();
        match taken.as_slice() {
            [] => {}
            [(way, _)] => return Ok(Some(*way)),
            [(_, one), (_, other), ..] => {
                let whence = if source == ValueSource::EnvVariable { ", both set in the environment," } else { "" };
                let message = format!("{one} and {other}{whence} name the same thing: give one of them\n");
                return Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, message));
            }
        }
    }
    Ok(None)
}

/// What a gateway leaves in its state folder about itself.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Served {
    public_url: String,
}

impl Place {
    /// Whether one was named at all.
    pub fn is_named(&self) -> bool {
        self.0.dir.is_some() || !self.0.manifests.is_empty() || self.0.state_dir.is_some()
    }

    /// The state folder.
    ///
    /// # Errors
    /// If neither `--state-dir` nor `--dir` was given, or the folder does not exist.
    pub fn state(&self) -> anyhow::Result<PathBuf> {
        state(self.0.dir.as_deref(), self.0.state_dir.as_deref())
    }

    /// The folders of manifests.
    ///
    /// # Errors
    /// If neither `--manifests` nor `--dir` was given.
    pub fn manifests(&self) -> anyhow::Result<Vec<PathBuf>> {
        match &self.0.dir {
            Some(dir) => Ok(vec![dir.join("manifests")]),
            None if self.0.manifests.is_empty() => {
                bail!(
                    "say which gateway: --manifests DIR and --state-dir DIR, or --dir DIR for one that quickstart made"
                )
            }
            None => Ok(self.0.manifests.clone()),
        }
    }

    /// The namespace of the guardrails.
    pub fn system_namespace(&self) -> &str {
        &self.0.system_namespace
    }

    /// The public URL.
    ///
    /// # Errors
    /// If it was not given and the gateway never served.
    pub fn public_url(&self) -> anyhow::Result<PublicUrl> {
        if let Some(url) = &self.0.public_url {
            return PublicUrl::parse(url).with_context(|| format!("--public-url {url}"));
        }
        let state = self.state()?;
        let served: Served = StateDir::open(&state)?.load(WHERE)?;
        if served.public_url.is_empty() {
            bail!(
                "no gateway has served with the state folder {} yet: start it once, or say --public-url URL",
                state.display()
            );
        }
        PublicUrl::parse(&served.public_url).with_context(|| format!("{}", state.join(WHERE).display()))
    }
}

/// The state folder of a gateway.
///
/// # Errors
/// If neither was given, or the folder does not exist.
pub fn state(dir: Option<&Path>, state_dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match (state_dir, dir) {
        (Some(path), _) => path.to_owned(),
        (None, Some(dir)) => dir.join("state"),
        (None, None) => bail!("say which gateway: --state-dir DIR, or --dir DIR for one that quickstart made"),
    };
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => bail!("{} is no folder: no gateway has its state there", path.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{} is not there: no gateway has its state in it; --state-dir is the folder that standalone was given, --dir \
             that of a quickstart",
            path.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot read the state folder {}", path.display())),
    }
}
