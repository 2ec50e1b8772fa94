use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::egress::TlsOptions;
use crate::egress::testing::{Seen, Server, endless, full, json, open_egress, response, serve, stuck};

/// RFC 7515 appendix A.3.
const P256: &str = r#"{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

const LONG: Duration = Duration::from_secs(20);

/// A clock that stands until it is moved.
#[derive(Default)]
struct Stopped(Mutex<Duration>);

impl Stopped {
    fn forward(&self, seconds: u64) {
        *self.0.lock().unwrap() += Duration::from_secs(seconds);
    }
}

impl Clock for Stopped {
    fn unix(&self) -> i64 {
        1_800_000_000 + i64::try_from(self.0.lock().unwrap().as_secs()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// An issuer whose key set is what `keys` says at each turn.
async fn issuer(
    keys: impl Fn(usize) -> http::Response<crate::egress::testing::Body> + Send + Sync + 'static,
) -> Server {
    let turn = AtomicUsize::new(0);
    serve(move |asked: &Seen| match asked.path.as_str() {
        "/.well-known/oauth-authorization-server/t" => {
            let origin = format!("http://{}", asked.headers["host"].to_str().unwrap());
            json(format!(r#"{{"issuer":"{origin}/t","jwks_uri":"{origin}/jwks"}}"#))
        }
        "/jwks" => keys(turn.fetch_add(1, Ordering::SeqCst)),
        _ => response(404, "text/plain", full("")),
    })
    .await
}

fn set(kids: &[&str]) -> String {
    let keys: Vec<_> = kids.iter().map(|kid| format!(r#"{{"kty":"EC","kid":"{kid}"}}"#)).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn fetches(server: &Server) -> usize {
    server.seen().iter().filter(|seen| seen.path == "/jwks").count()
}

struct Running {
    source: JwksSource,
    clock: Arc<Stopped>,
    state: watch::Receiver<KeyState>,
    _stop: tokio_util::sync::DropGuard,
}

impl Running {
    async fn start(issuer: String, timing: Timing) -> Self {
        let clock = Arc::new(Stopped::default());
        let fetcher = open_egress().fetcher(&TlsOptions::default()).unwrap();
        let source = JwksSource::new(issuer, fetcher, timing, clock.clone());
        let stop = CancellationToken::new();
        let state = source.subscribe();
        tokio::spawn(source.clone().run(stop.clone()));
        let mut running = Self { source, clock, state, _stop: stop.drop_guard() };
        running.attempts(1).await;
        running
    }

    /// Waits until so many attempts have ended.
    async fn attempts(&mut self, count: u64) -> KeyState {
        let wait = self.state.wait_for(|state| state.attempts >= count);
        tokio::time::timeout(LONG, wait).await.unwrap().unwrap().clone()
    }

    fn now(&self) -> KeyState {
        self.state.borrow().clone()
    }

    fn failure(&self) -> &'static str {
        self.now().failure.as_ref().map_or("none", JwksError::reason)
    }
}

#[tokio::test]
async fn a_set_is_fetched_and_holds_for_its_freshness_and_a_bounded_time_more() {
    let server = issuer(|_| {
        let mut response = json(set(&["a"]));
        response.headers_mut().insert("cache-control", "max-age=600".parse().unwrap());
        response
    })
    .await;
    let running = Running::start(server.url("/t"), Timing::default()).await;
    let key_set = running.now().key_set.unwrap();
    assert_eq!(key_set.jwks, set(&["a"]));
    assert_eq!(key_set.valid_until, 1_800_000_000 + 600 + 6 * 3600);
    assert!(running.source.unknown_kid("a").await);
}

#[tokio::test]
async fn a_rotated_key_is_found_at_once_when_the_window_is_open() {
    let server = issuer(|turn| json(if turn == 0 { set(&["old"]) } else { set(&["old", "new"]) })).await;
    let mut running = Running::start(server.url("/t"), Timing::default()).await;
    // The window of the first fetch is still closed.
    assert!(!running.source.unknown_kid("new").await);
    running.clock.forward(40);
    assert!(running.source.unknown_kid("new").await);
    assert_eq!(running.attempts(2).await.key_set.unwrap().jwks, set(&["old", "new"]));
    assert_eq!(fetches(&server), 2);
}

#[tokio::test]
async fn a_flood_of_invented_key_ids_causes_one_fetch_per_window() {
    let server = issuer(|_| json(set(&["a"]))).await;
    let mut running = Running::start(server.url("/t"), Timing::default()).await;
    for window in 2..=3 {
        running.clock.forward(40);
        let flood: Vec<_> = (0..500)
            .map(|i| {
                let source = running.source.clone();
                tokio::spawn(async move { source.unknown_kid(&format!("w{window}-{i}")).await })
            })
            .collect();
        for call in flood {
            assert!(!call.await.unwrap());
        }
        running.attempts(window).await;
        assert_eq!(fetches(&server), usize::try_from(window).unwrap());
    }
    assert!(running.source.lock().unknown.len() <= MAX_UNKNOWN);
    assert!(!running.source.unknown_kid(&"k".repeat(10_000)).await);
}

#[test]
fn a_window_has_one_attempt_however_often_the_fetcher_is_woken() {
    let clock = Arc::new(Stopped::default());
    let fetcher = open_egress().fetcher(&TlsOptions::default()).unwrap();
    let source = JwksSource::new("https://as.example", fetcher, Timing::default(), clock.clone());
    for _ in 0..2 {
        assert!(source.begin());
        assert!(!source.begin());
        source.end(Err(JwksError::Issuer));
        assert!(!source.begin());
        clock.forward(29);
        assert!(!source.begin());
        clock.forward(8);
    }
}

#[tokio::test]
async fn an_id_once_found_unknown_opens_no_further_window() {
    let server = issuer(|_| json(set(&["a"]))).await;
    let running = Running::start(server.url("/t"), Timing::default()).await;
    running.clock.forward(40);
    assert!(!running.source.unknown_kid("bogus").await);
    running.clock.forward(40);
    assert!(!running.source.unknown_kid("bogus").await);
    assert_eq!(fetches(&server), 2);
}

#[tokio::test]
async fn a_failing_issuer_leaves_the_last_set_until_its_time() {
    let server = issuer(|turn| match turn {
        0 => json(set(&["a"])),
        1 => response(500, "application/json", full("{}")),
        2 => http::Response::builder().status(307).header("location", "/elsewhere").body(full("")).unwrap(),
        3 => response(200, "application/json", endless("{\"keys\":[")),
        4 => json(format!(r#"{{"keys":[{}]}}"#, vec!["{}"; crate::identity::keys::MAX_KEYS + 1].join(","))),
        5 => json("[]"),
        6 => response(200, "text/html", full("<html>")),
        7 => json(format!(r#"{{"keys":[{P256},{P256}]}}"#)),
        8 => json(r#"{"keys":[{"kid":"a","kid":"b"}]}"#),
        9 => json(format!(r#"{{"keys":[],"x":{}{}}}"#, "[".repeat(50), "]".repeat(50))),
        _ => json(set(&["a", "b"])),
    })
    .await;
    let mut running = Running::start(server.url("/t"), Timing::default()).await;
    let first = running.now().key_set.unwrap();
    for (attempt, reason) in (2..).zip([
        "KeySetUnavailable",
        "KeySetUnavailable",
        "KeySetUnavailable",
        "KeySetTooManyKeys",
        "JsonNotAnObject",
        "KeySetUnavailable",
        "KeySetDuplicateKey",
        "JsonDuplicateMember",
        "JsonTooDeep",
    ]) {
        running.clock.forward(400);
        assert!(!running.source.unknown_kid(&format!("b{attempt}")).await);
        running.attempts(attempt).await;
        assert_eq!(running.failure(), reason, "attempt {attempt}");
        assert_eq!(running.now().key_set.as_ref(), Some(&first));
    }
    running.clock.forward(400);
    assert!(running.source.unknown_kid("b").await);
    assert_eq!(running.failure(), "none");
    assert!(running.now().key_set.unwrap().valid_until > first.valid_until);
}

#[tokio::test]
async fn an_issuer_that_publishes_its_private_key_is_not_believed_any_more() {
    let server = issuer(|turn| match turn {
        1 => json(r#"{"keys":[{"kty":"EC","kid":"a","d":"AAAA"}]}"#),
        _ => json(set(&["a"])),
    })
    .await;
    let mut running = Running::start(server.url("/t"), Timing::default()).await;
    assert!(running.now().key_set.is_some());
    running.clock.forward(400);
    assert!(!running.source.unknown_kid("b").await);
    running.attempts(2).await;
    assert_eq!(running.failure(), "KeySetHasSecrets");
    assert!(running.now().key_set.is_none(), "whoever fetched that can sign with the key that was good before");
    running.clock.forward(400);
    assert!(running.source.unknown_kid("a").await);
    assert!(running.now().key_set.is_some());
}

#[tokio::test]
async fn a_slow_issuer_is_given_up_and_there_is_no_set() {
    let server = issuer(|_| response(200, "application/json", stuck("{\"keys\":["))).await;
    let timing = Timing { fetch_timeout: Duration::from_millis(200), ..Timing::default() };
    let running = Running::start(server.url("/t"), timing).await;
    assert_eq!(running.failure(), "KeySetUnavailable");
    assert!(running.now().key_set.is_none());
}

#[tokio::test]
async fn metadata_of_another_issuer_is_not_believed_and_its_keys_are_not_fetched() {
    let server = issuer(|_| json(set(&["a"]))).await;
    // The document is found, but it speaks for ".../t" and not for ".../t/".
    let running = Running::start(format!("{}/", server.url("/t")), Timing::default()).await;
    assert_eq!(running.failure(), "IssuerMismatch");
    assert!(running.now().key_set.is_none());
    let running = Running::start(server.url("/u"), Timing::default()).await;
    assert_eq!(running.failure(), "IssuerMetadataUnavailable");
    for bad in ["as.example", "file:///etc", "https://as.example/?a", "https://as.example/#a", "http://as.example", ""]
    {
        let running = Running::start(bad.to_owned(), Timing::default()).await;
        assert_eq!(running.failure(), "IssuerInvalid", "{bad}");
    }
    let running = Running::start("not a url".to_owned(), Timing::default()).await;
    assert_eq!(running.failure(), "IssuerInvalid");
    assert_eq!(fetches(&server), 0);
}

#[tokio::test]
async fn a_key_set_inside_the_network_is_not_fetched_for_a_public_looking_issuer() {
    let canary = serve(|_| json(set(&["a"]))).await;
    for (scheme, reason, remedy) in [
        ("https", "KeySetUnavailable", "--allow-private-upstreams"),
        ("http", "IssuerMetadataMalformed", "not https"),
        ("ftp", "IssuerMetadataMalformed", "not https"),
    ] {
        let target = format!("{scheme}://169.254.169.254:{}/jwks", canary.address.port());
        let server = serve(move |asked: &Seen| {
            let origin = format!("http://{}", asked.headers["host"].to_str().unwrap());
            json(format!(r#"{{"issuer":"{origin}","jwks_uri":"{target}"}}"#))
        })
        .await;
        let running = Running::start(server.url(""), Timing::default()).await;
        let failure = running.now().failure.unwrap();
        assert_eq!(failure.reason(), reason);
        assert!(failure.to_string().contains(remedy), "{failure}");
    }
    assert_eq!(canary.connections(), 0);
}
