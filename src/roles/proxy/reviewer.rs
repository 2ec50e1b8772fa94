//! Asks the API server about tokens, as the proxies' ServiceAccount.
//!
//! Invariant: what is asked runs on the process's own runtime, as everything that the client of Kubernetes does, whichever
//! thread serves the caller; and it ends when nobody waits for it any more.

use std::future::Future;
use std::pin::Pin;

use kube::Client;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::cluster::tokens::{self, Unanswered};
use crate::identity::token::review::Answer;
use crate::proxy::review::{NoAnswer, Question, TokenReviewer};

/// The API server of the proxy's own cluster.
pub struct ApiServer {
    client: Client,
    runtime: Handle,
}

impl ApiServer {
    /// Asks with `client`, on `runtime`.
    pub fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime }
    }
}

impl TokenReviewer for ApiServer {
    fn review(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<Answer, NoAnswer>> + Send>> {
        let client = self.client.clone();
        let mut asking = JoinSet::new();
        asking.spawn_on(async move { ask(&client, &question).await }, &self.runtime);
        Box::pin(async move {
            match asking.join_next().await {
                Some(Ok(answer)) => answer,
                _ => Err(NoAnswer::Failed("the proxy ends".to_owned())),
            }
        })
    }
}

async fn ask(client: &Client, question: &Question) -> Result<Answer, NoAnswer> {
    let status =
        tokens::review(client, question.token.expose(), &question.audiences).await.map_err(|error| match error {
            Unanswered::Forbidden => NoAnswer::Forbidden,
            Unanswered::Failed(why) => NoAnswer::Failed(why),
        })?;
    Ok(Answer {
        authenticated: status.authenticated.unwrap_or_default(),
        audiences: status.audiences.unwrap_or_default(),
        username: status.user.and_then(|user| user.username),
    })
}
