//! `standalone`: the gateway over a folder of manifests, with no cluster.
//!
//! Invariant: the same functions that resolve, encode and serve in a cluster do so here; only where objects come from
//! differs. Nothing is served before the folder was read once.

pub mod configuration;
#[cfg(test)]
mod edits;
pub mod keys;
mod trusts;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;

pub use self::configuration::Problem;
use self::configuration::{Configuration, Folder, Reporter};
use self::keys::Keys;
use self::trusts::Trusts;
use super::serving::{self, Opened, Serving};
use crate::issuer::LocalAuthority;

/// How often upstreams are asked whose tokens they take, unless an administrator says otherwise.
pub const TRUST_EVERY: Duration = Duration::from_secs(60);

/// What a standalone gateway is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and folders of manifests.
    pub manifests: Vec<PathBuf>,
    /// The namespace whose policies are guardrails.
    pub system_namespace: String,
    /// How often upstreams that are called with OAuth tokens are asked whose they take.
    pub trust_every: Duration,
    /// How it serves.
    pub serving: serving::Options,
}

/// A gateway that serves a folder.
pub struct Standalone {
    serving: Serving,
    keys: Arc<Keys>,
    configuration: Arc<Configuration>,
}

impl Standalone {
    /// Reads the folder, then serves. Returns once the listeners are bound and the first snapshot is served.
    ///
    /// # Errors
    /// If a listener cannot be bound, the state folder or the journal cannot be used, or an option is unsafe.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        check_folders(&options)?;
        let mut registry = serving::registry();
        let mut opened = Opened::open(options.serving, &mut registry).await?;
        let keys = Arc::new(Keys::new(opened.egress.clone(), opened.state.clone(), opened.drain.clone()));
        let gateway = opened.gateway(opened.state.sealer()?, keys.clone(), None);
        keys.serve_through(&gateway);
        let (egress, state, drain) = (opened.egress.clone(), opened.state.clone(), opened.drain.clone());
        let trusts = Arc::new(Trusts::open(egress, options.trust_every, state, drain)?);
        let folder = Folder { paths: options.manifests, system_namespace: options.system_namespace };
        let reporter = Reporter::register(&opened.readiness, &mut registry);
        let (public_url, state) = (opened.public_url.clone(), opened.state.clone());
        let sources = (keys.clone(), trusts);
        let configuration = Configuration::load(folder, public_url, gateway.clone(), sources, state, reporter)?;
        let configuration = Arc::new(configuration);
        opened.show(registry).await?;
        opened.drain.spawn(configuration.clone().watch(opened.drain.draining().clone()));
        Ok(Self { serving: opened.serve(gateway)?, keys, configuration })
    }

    /// What serves.
    pub fn serving(&self) -> &Serving {
        &self.serving
    }

    /// What serves, alone: to have it finish.
    pub fn into_serving(self) -> Serving {
        self.serving
    }

    /// What could not be read or accepted, as of the last look at the folder.
    pub fn problems(&self) -> Vec<Problem> {
        self.configuration.problems()
    }

    /// The local authority of this name, if the manifests have one.
    pub fn local_authority(&self, name: &str) -> Option<Arc<LocalAuthority>> {
        self.keys.local(name)
    }
}

/// The state folder holds JSON files, which in a folder of manifests would be read as such, and secrets.
fn check_folders(options: &Options) -> anyhow::Result<()> {
    let state_dir = &options.serving.state_dir;
    let state = std::path::absolute(state_dir)?;
    // It may not be there yet: where it would be is told by the folder that is.
    let real = |there: &Path| Some(there.canonicalize().ok()?.join(state.strip_prefix(there).ok()?));
    let state = state.ancestors().find_map(real).unwrap_or_else(|| state.clone());
    for manifests in &options.manifests {
        if manifests.canonicalize().is_ok_and(|manifests| state.starts_with(manifests)) {
            bail!(
                "the state folder {} lies in the folder of manifests {}: choose another with --state-dir",
                state_dir.display(),
                manifests.display()
            );
        }
    }
    Ok(())
}
