//! Where answers come from: manifests in files, or the objects of a cluster.
//!
//! Invariant: what the command line names counts over what only the environment names; and as a plugin of kubectl the
//! cluster is asked unless files are named, since that is where its user looks.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::load::Loaded;
use super::{boolish, cluster, load, place};

/// The name under which kubectl finds the binary (`kubectl portcullis`).
const PLUGIN: &str = "kubectl-portcullis";

/// Where the answer comes from, as typed.
#[derive(Args, Clone, Debug)]
#[group(skip)]
struct Typed {
    /// A folder or file of manifests; may be given several times [default: the folder one is in]
    #[arg(short = 'f', long = "filename", value_name = "DIR", value_delimiter = ',', env = "PORTCULLIS_MANIFESTS")]
    filename: Vec<PathBuf>,
    /// Ask the cluster of the kubeconfig instead of files; kubectl portcullis does so by itself
    #[arg(long, env = "PORTCULLIS_CLUSTER", value_parser = boolish())]
    cluster: bool,
    /// The kubeconfig's context to ask instead of the current one
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_CONTEXT")]
    context: Option<String>,
    /// The namespace whose policies are guardrails for all others
    #[arg(long, value_name = "NAME", default_value = "portcullis-system", env = "PORTCULLIS_SYSTEM_NAMESPACE")]
    system_namespace: String,
}

/// Where the answer comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Files and folders.
    Files {
        /// Which ones.
        paths: Vec<PathBuf>,
        /// The guardrails' namespace.
        system_namespace: String,
    },
    /// A cluster.
    Cluster {
        /// Of which context of the kubeconfig; `None`: the current one.
        context: Option<String>,
        /// The guardrails' namespace.
        system_namespace: String,
    },
}

impl Source {
    /// Everything that decides about a server, for questions.
    ///
    /// # Errors
    /// If files or cluster cannot be read.
    pub fn about(&self, server: &str) -> anyhow::Result<Loaded> {
        match self {
            Source::Files { paths, system_namespace } => load::for_questions(paths, system_namespace),
            Source::Cluster { context, system_namespace } => {
                cluster::for_questions(context.as_deref(), server, system_namespace)
            }
        }
    }

    /// Everything that decides about any server, for questions.
    ///
    /// # Errors
    /// As [`Source::about`].
    pub fn everything(&self) -> anyhow::Result<Loaded> {
        match self {
            Source::Files { paths, system_namespace } => load::for_questions(paths, system_namespace),
            Source::Cluster { context, system_namespace } => cluster::everything(context.as_deref(), system_namespace),
        }
    }
}

impl FromArgMatches for Source {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Typed { filename, cluster, context, system_namespace } = Typed::from_arg_matches(matches)?;
        let of_cluster = match place::chosen(matches, &[&["filename"], &["cluster", "context"]])? {
            Some(0) => false,
            Some(_) => cluster || context.is_some(),
            None => is_plugin(),
        };
        if of_cluster {
            return Ok(Source::Cluster { context, system_namespace });
        }
        let paths = if filename.is_empty() { vec![PathBuf::from(".")] } else { filename };
        Ok(Source::Files { paths, system_namespace })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Source {
    fn augment_args(command: Command) -> Command {
        Typed::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Typed::augment_args_for_update(command)
    }
}

/// Whether kubectl runs this, by the name that it was called with.
pub fn is_plugin() -> bool {
    std::env::args_os().next().is_some_and(|name| Path::new(&name).file_stem().is_some_and(|stem| stem == PLUGIN))
}
