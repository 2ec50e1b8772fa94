//! An issuer that is away, or slow, and many callers each of whom needs a token of it.

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::Semaphore;

use super::super::turns::{AT_ONCE, Turns};
use super::*;

fn busy(retry_after: &str) -> Response<Body> {
    let mut answer = refusing(503, "temporarily_unavailable");
    answer.headers_mut().insert("retry-after", retry_after.parse().unwrap());
    answer
}

fn callers(range: std::ops::Range<usize>) -> Vec<Subject> {
    range.map(|n| caller(&format!("caller-{n}"), "corp")).collect()
}

/// More callers than are kept: what is known of the issuer is not known by them.
#[tokio::test]
async fn an_issuer_that_is_away_is_left_alone_by_all_callers_for_as_long_as_it_asks() {
    let house = House::of(exchange(), Box::new(|_, _| busy("30")), Box::new(open)).await;
    let begun = Instant::now();
    for range in [0..200, 0..200, 200..200 + MOST_CALLERS + 100] {
        for failed in join_all(callers(range).iter().map(|caller| house.call(Some(caller)))).await {
            assert_eq!(failed.unwrap_err().reason(), "UpstreamTokenUnavailable");
        }
    }
    let asked = house.asked().len();
    assert!((1..=AT_ONCE).contains(&asked), "{asked}");
    let turns = &house.tokens().turns;
    assert!(turns.left() + begun.elapsed() >= Duration::from_secs(30), "{:?}", turns.left());

    // Nobody has to believe that it wants to be left alone for a day.
    let house = House::new(Box::new(|_, _| busy("86400")), Box::new(open)).await;
    house.call(None).await.unwrap_err();
    let left = house.tokens().turns.left();
    assert!((Duration::from_secs(200)..Duration::from_secs(400)).contains(&left), "{left:?}");
}

#[tokio::test]
async fn many_callers_are_served_by_a_few_requests_at_a_time() {
    const CALLERS: usize = 3 * AT_ONCE;
    let (gate, under_way) = (Arc::new(Semaphore::new(0)), Arc::new((AtomicUsize::new(0), AtomicUsize::new(0))));
    let (opened, counted) = (gate.clone(), under_way.clone());
    let issuer = move |n: usize, _: &BTreeMap<String, String>| {
        let (opened, counted) = (opened.clone(), counted.clone());
        counted.1.fetch_max(counted.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let text = format!(r#"{{"access_token":"token-{n}","token_type":"Bearer","expires_in":3600}}"#);
        let body = stream::once(async move {
            opened.acquire().await.unwrap().forget();
            counted.0.fetch_sub(1, Ordering::SeqCst);
            Ok(Frame::data(Bytes::from(text)))
        });
        response(200, "application/json", Body::new(StreamBody::new(body)))
    };
    let house = House::of(exchange(), Box::new(issuer), Box::new(open)).await;
    let callers = callers(0..CALLERS);
    let calls = join_all(callers.iter().map(|caller| house.call(Some(caller))));
    let opening = async {
        until("as many requests as there may be", || under_way.0.load(Ordering::SeqCst) == AT_ONCE).await;
        gate.add_permits(CALLERS);
    };
    let (calls, ()) = tokio::join!(calls, opening);
    assert!(calls.iter().all(|call| matches!(call, Ok(200))), "{calls:?}");
    assert_eq!((house.asked().len(), under_way.1.load(Ordering::SeqCst)), (CALLERS, AT_ONCE));
}

/// Where it fails by one caller's token, that one does not take each turn before the others can.
#[tokio::test]
async fn a_caller_for_whom_the_issuer_fails_does_not_keep_others_from_it_for_long() {
    let issuer = |n: usize, asked: &BTreeMap<String, String>| match asked["subject_token"].as_str() {
        "ana" => refusing(500, "server_error"),
        _ => token(n, 3600),
    };
    let house = House::of(exchange(), Box::new(issuer), Box::new(open)).await;
    let (ana, patience) = (caller("ana", "corp"), Instant::now() + Duration::from_secs(30));
    for bob in ["bob", "carl"] {
        let bob = caller(bob, "corp");
        loop {
            assert!(house.call(Some(&ana)).await.is_err());
            if matches!(house.call(Some(&bob)).await, Ok(200)) {
                break;
            }
            assert!(Instant::now() < patience, "in vain");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_one_caller_hears_does_not_count_once_the_issuer_answers_another_unless_it_asks_for_that() {
    for (retry_after, is_left_alone) in [(None, false), (Some(Duration::from_secs(30)), true)] {
        let turns = Turns::default();
        let (ana, ben) = (turns.take().await.unwrap(), turns.take().await.unwrap());
        ana.failed(&TokenFailure::Unavailable { detail: "500".into(), retry_after });
        assert!(!turns.left().is_zero());
        ben.answered();
        assert_eq!(!turns.left().is_zero(), is_left_alone, "{retry_after:?}");
    }
}
