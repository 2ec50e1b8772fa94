//! Asking upstreams whom they trust, again and again, beside the queue.
//!
//! Invariant: what is known of an upstream is what it said last to the question as it is, and silence changes nothing of it;
//! what came of it is done by a look at the server like all else. A controller that begins to lead goes on with what its
//! predecessor had written. Upstreams that hang hold up those of their own namespace alone, as long as few namespaces have such.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Context;
use super::queue::{Depth, Outcome, Queue, Subject};
use crate::api::Key;
use crate::egress::Egress;
use crate::generated::Server;
use crate::generated::server::Credentials;
use crate::oauth::upstream_trust::{Known, Question, Trust, pause};
use crate::upstream::trust;

/// How many upstreams are asked at once.
const AT_ONCE: usize = 8;
/// How many of those are of one namespace: whoever writes McpServers there may have them hang.
const OF_ONE: usize = 2;

/// What upstreams said whom they trust, by the UID of their server.
pub struct Trusts {
    egress: Egress,
    every: Duration,
    turns: Queue,
    known: Mutex<HashMap<String, Heard>>,
}

struct Heard {
    known: Known,
    failures: u32,
}

impl Trusts {
    /// Upstreams are asked as often as this.
    pub fn new(egress: Egress, every: Duration) -> Self {
        Self { egress, every, turns: Queue::shared(OF_ONE), known: Mutex::default() }
    }

    /// What is known of a server's upstream; before anybody was asked, what `previous`, as it was written, was made of.
    pub fn known(&self, uid: &str, previous: Option<&Server>) -> Option<Known> {
        let heard = self.all().get(uid).map(|heard| heard.known.clone());
        heard.or_else(|| previous.and_then(written))
    }

    /// A server was looked at: its upstream is asked soon if there is another question, and no more if there is none.
    pub fn follow(&self, key: &Key, uid: &str, question: Option<Question>, before: Option<Known>) {
        let Some(question) = question else { return self.forget(uid) };
        let mut all = self.all();
        if all.get(uid).is_none_or(|heard| heard.known.question != question) {
            let known = before.filter(|known| known.question == question);
            let known = known.unwrap_or_else(|| Known::nothing(question));
            all.insert(uid.to_owned(), Heard { known, failures: 0 });
            drop(all);
            self.turns.add(Subject::Source(key.clone()), Depth::Whole);
        }
    }

    /// A server is gone.
    pub fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    /// Takes in what came of asking; when to ask again, and whether it is news. `None`: nobody wants to know any more, or
    /// something else by now.
    fn record(
        &self,
        uid: &str,
        question: &Question,
        outcome: Result<Trust, (String, String)>,
    ) -> Option<(Duration, bool)> {
        let mut all = self.all();
        let heard = all.get_mut(uid).filter(|heard| heard.known.question == *question)?;
        heard.failures = if outcome.is_ok() { 0 } else { heard.failures.saturating_add(1) };
        Some((pause(heard.failures, self.every), heard.known.hear(outcome)))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a server that was written once was made of.
fn written(server: &Server) -> Option<Known> {
    let upstream = &server.upstream;
    let Credentials::Oauth(oauth) = &upstream.credentials else { return None };
    let question = Question {
        url: upstream.url.clone(),
        resource: oauth.resource.clone(),
        ca_pem: upstream.tls.ca_pem.clone(),
        server_name: upstream.tls.server_name.clone(),
        issuer: oauth.issuer.clone(),
        issuer_ca_pem: oauth.ca_pem.clone(),
    };
    let trust = Some(Trust::Holds { token_endpoint: oauth.token_endpoint.clone() });
    Some(Known { question, trust, failure: None })
}

/// Asks upstreams, until `stop`. For whoever leads.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let work = TaskTracker::new();
    for _ in 0..AT_ONCE {
        let context = context.clone();
        let asking = async move {
            let uid = |key: &Key| context.store().source(key).map(|source| source.id.uid.clone());
            let tell = |key: &Key| context.queue.add(Subject::Source(key.clone()), Depth::Whole);
            context.trusts.ask_in_turn(uid, tell).await;
        };
        work.spawn(stop.clone().run_until_cancelled_owned(asking));
    }
    work.close();
    work.wait().await;
}

impl Trusts {
    /// Asks one after the other, for ever. `uid` is that of a server that is there; who has news is told.
    async fn ask_in_turn(&self, uid: impl Fn(&Key) -> Option<String>, tell: impl Fn(&Key)) {
        loop {
            let (subject, _) = self.turns.next().await;
            let outcome = match &subject {
                Subject::Source(key) => match uid(key) {
                    Some(uid) => self.ask(key, &uid, &tell).await,
                    None => Outcome::Settled,
                },
                Subject::Stray(..) | Subject::Registered(_) | Subject::Unowned(_) | Subject::Near(_) => {
                    Outcome::Settled
                }
            };
            self.turns.done(subject, outcome);
        }
    }

    async fn ask(&self, key: &Key, uid: &str, tell: impl Fn(&Key)) -> Outcome {
        let question = self.all().get(uid).map(|heard| heard.known.question.clone());
        let Some(question) = question else { return Outcome::Settled };
        let outcome = Box::pin(trust(&question, &self.egress)).await;
        let outcome = outcome.map_err(|error| {
            tracing::debug!(server = %key, reason = error.reason(), %error, "an upstream does not say whom it trusts");
            (error.reason().to_owned(), error.to_string())
        });
        match self.record(uid, &question, outcome) {
            Some((pause, is_news)) => {
                if is_news {
                    tell(key);
                }
                Outcome::Again(pause)
            }
            // Another question waits for its turn.
            None if self.all().contains_key(uid) => Outcome::Again(Duration::ZERO),
            None => Outcome::Settled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress;
    use crate::egress::testing::{full, json, open_egress, response, serve};
    use crate::fleet::tests::server;
    use crate::generated::Labels;
    use crate::generated::server::{Grant, Oauth, Proof};
    use crate::sensitive::Sensitive;

    fn key() -> Key {
        Key { kind: crate::api::Kind::McpServer, namespace: "team".into(), name: "s".into() }
    }

    fn oauth() -> Server {
        let mut server = server("team", "s", Labels::new(), None);
        server.upstream.credentials = Credentials::Oauth(Box::new(Oauth {
            issuer: "https://as.example".into(),
            ca_pem: None,
            token_endpoint: "https://as.example/token".into(),
            client_id: "c".into(),
            proof: Proof::Basic(Sensitive::new("s")),
            grant: Grant::ClientCredentials,
            scopes: Vec::new(),
            resource: server.upstream.url.clone(),
            says_resource: true,
        }));
        server
    }

    #[tokio::test]
    async fn upstreams_that_hang_hold_up_nobody_of_another_namespace() {
        // The kernel takes what comes, and nobody answers.
        let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let answers = serve(|asked| {
            let origin = format!("http://{}", asked.headers["host"].to_str().unwrap());
            match asked.path.as_str() {
                "/.well-known/oauth-protected-resource/mcp" => {
                    json(format!(r#"{{"resource":"{origin}/mcp","authorization_servers":["{origin}/as"]}}"#))
                }
                "/.well-known/oauth-authorization-server/as" => {
                    json(format!(r#"{{"issuer":"{origin}/as","token_endpoint":"{origin}/token"}}"#))
                }
                _ => response(401, "application/json", full("{}")),
            }
        })
        .await;
        let question = |url: String, issuer: String| Question {
            resource: url.clone(),
            url,
            ca_pem: None,
            server_name: None,
            issuer,
            issuer_ca_pem: None,
        };
        let trusts = Arc::new(Trusts::new(open_egress(), Duration::from_millis(50)));
        for number in 0..3 * AT_ONCE {
            let (name, url) = (format!("hangs-{number}"), format!("http://{}/mcp", hangs.local_addr().unwrap()));
            let key = Key { namespace: "tarpit".into(), name: name.clone(), ..key() };
            trusts.follow(&key, &name, Some(question(url, answers.url("/as"))), None);
        }
        trusts.follow(&key(), "s", Some(question(answers.url("/mcp"), answers.url("/as"))), None);
        let news = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..AT_ONCE {
            let (trusts, news) = (trusts.clone(), news.clone());
            tokio::spawn(async move {
                let tell = |key: &Key| news.lock().unwrap().push(key.clone());
                trusts.ask_in_turn(|key| Some(key.name.clone()), tell).await;
            });
        }
        let pings = || answers.seen().iter().filter(|asked| asked.path == "/mcp").count();
        let asked_again = async {
            while pings() < 5 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Less than one of those that hang takes.
        tokio::time::timeout(Duration::from_secs(5), asked_again).await.unwrap();
        assert_eq!(*news.lock().unwrap(), [key()]);
        assert!(matches!(trusts.known("s", None).unwrap().trust, Some(Trust::Holds { .. })));
    }

    #[test]
    fn what_was_written_counts_until_an_upstream_says_something_else() {
        let all = Trusts::new(Egress::new(egress::Policy::default()).unwrap(), Duration::from_secs(60));
        assert_eq!(all.known("u", None), None);
        let before = all.known("u", Some(&oauth())).unwrap();
        let question = before.question.clone();
        all.follow(&key(), "u", Some(question.clone()), Some(before.clone()));
        assert_eq!((all.known("u", None), all.turns.depth()), (Some(before), 1));
        let failed = Err(("FetchTimeout".to_owned(), "late".to_owned()));
        assert_eq!(all.record("u", &question, failed), Some((Duration::from_secs(2), true)));
        assert!(matches!(all.known("u", None).unwrap().trust, Some(Trust::Holds { .. })));
        let changed = Trust::Changed { issuers: vec!["https://other.example".into()] };
        assert_eq!(all.record("u", &question, Ok(changed.clone())), Some((Duration::from_secs(60), true)));
        // What was written before is not taken for what is true again.
        all.follow(&key(), "u", Some(question.clone()), all.known("u", Some(&oauth())));
        assert_eq!(all.known("u", Some(&oauth())).unwrap().trust, Some(changed));
        let other = Question { issuer: "https://other.example".into(), ..question.clone() };
        all.follow(&key(), "u", Some(other.clone()), all.known("u", Some(&oauth())));
        assert_eq!(all.known("u", None), Some(Known::nothing(other)));
        assert_eq!(all.record("u", &question, Err((String::new(), String::new()))), None);
        all.follow(&key(), "u", None, None);
        assert_eq!(all.known("u", None), None);
    }
}
