//! Scopes that an upstream asks for: who has them, who does not, and what is told of it.

use super::*;

/// Of what calls want of a token, now.
type Wants = Arc<Plain<&'static str>>;

/// An upstream that is content with a token by whose text it has the scope that is wanted.
fn wanting(wants: &Wants) -> Judge {
    let wants = wants.clone();
    Box::new(move |sent| {
        let wanted = *wants.lock().unwrap();
        if wanted.is_empty() || sent.split(['+', ' ']).any(|scope| scope == wanted) {
            return open(sent);
        }
        challenged(403, &format!(r#"Bearer error="insufficient_scope", scope="{wanted}""#))
    })
}

/// A token that has these scopes by its text, and by what the issuer says.
fn with(n: usize, scopes: &str) -> Response<Body> {
    let text = scopes.replace(' ', "+");
    json(format!(r#"{{"access_token":"n{n}+{text}","token_type":"Bearer","expires_in":3600,"scope":"{scopes}"}}"#))
}

fn has(asked: &BTreeMap<String, String>, scope: &str) -> bool {
    asked["scope"].split(' ').any(|one| one == scope)
}

fn scopes_asked(house: &House) -> Vec<String> {
    house.asked().iter().map(|asked| asked["scope"].clone()).collect()
}

async fn lacks(house: &House) -> String {
    let error = house.call(None).await.unwrap_err();
    assert_eq!(error.reason(), "UpstreamScopesLacking");
    error.to_string()
}

#[tokio::test]
async fn scopes_that_are_not_to_be_had_for_one_call_keep_no_other_call_from_others() {
    let issuer = |n: usize, asked: &BTreeMap<String, String>| match has(asked, "x") {
        true => refusing(400, "invalid_scope"),
        false => with(n, &asked["scope"]),
    };
    let wants = Wants::default();
    let house = House::new(Box::new(issuer), wanting(&wants)).await;
    *wants.lock().unwrap() = "x";
    for _ in 0..3 {
        lacks(&house).await;
    }
    *wants.lock().unwrap() = "y";
    assert_eq!(house.call(None).await.unwrap(), 200);
    *wants.lock().unwrap() = "x";
    lacks(&house).await;
    assert_eq!(scopes_asked(&house), ["read", "read x", "read y"]);
}

#[tokio::test]
async fn a_token_with_fewer_scopes_than_were_asked_for_is_none_with_all_of_them() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = is_mended.clone();
    let issuer = move |n: usize, asked: &BTreeMap<String, String>| match mended.load(Ordering::SeqCst) {
        true => with(n, &asked["scope"]),
        false => with(n, "read"),
    };
    let wants = Wants::new(Plain::new("write"));
    let oauth = Oauth { scopes: vec!["read".into(), "write".into()], ..oauth(Grant::ClientCredentials, true) };
    let house = House::of(oauth, Box::new(issuer), wanting(&wants)).await;
    let told = lacks(&house).await;
    assert!(told.contains("without them") && told.contains("write"), "{told}");
    for _ in 0..3 {
        lacks(&house).await;
    }
    *wants.lock().unwrap() = "";
    assert_eq!(house.call(None).await.unwrap(), 200);
    assert_eq!(house.asked().len(), 2, "it is asked once more, and then left alone");
    assert!(house.sent().iter().all(|sent| sent == "Bearer n0+read"), "what there is is kept");

    is_mended.store(true, Ordering::SeqCst);
    *wants.lock().unwrap() = "write";
    lacks(&house).await;
    house.tokens().own.asking.lock().await.lacked = Lacked::default();
    assert_eq!(house.call(None).await.unwrap(), 200, "what was mended is found after the pause");
    assert_eq!(scopes_asked(&house), ["read write", "read write", "read write"]);
    assert_eq!(house.upstream.trouble(), None);
}

#[tokio::test]
async fn scopes_that_lack_are_told_until_a_token_with_them_is_taken() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = is_mended.clone();
    let issuer = move |n: usize, asked: &BTreeMap<String, String>| match has(asked, "write") {
        true if !mended.load(Ordering::SeqCst) => refusing(400, "invalid_scope"),
        _ => with(n, &asked["scope"]),
    };
    let wants = Wants::new(Plain::new("write"));
    let house = House::new(Box::new(issuer), wanting(&wants)).await;
    lacks(&house).await;
    *wants.lock().unwrap() = "";
    assert_eq!(house.call(None).await.unwrap(), 200);
    assert_eq!(house.upstream.trouble().unwrap().scopes(), Some("write"), "that call wanted nothing of the kind");
    is_mended.store(true, Ordering::SeqCst);
    house.tokens().own.asking.lock().await.lacked = Lacked::default();
    *wants.lock().unwrap() = "write";
    assert_eq!(house.call(None).await.unwrap(), 200);
    assert_eq!(house.upstream.trouble(), None);

    // One that asks for what it is given, and is not content with it: a call that wants less does not show that it is.
    let house = House::new(Box::new(lasting), wanting(&wants)).await;
    lacks(&house).await;
    *wants.lock().unwrap() = "";
    assert_eq!(house.call(None).await.unwrap(), 200);
    assert_eq!(house.upstream.trouble().unwrap().scopes(), Some("write"));
}

/// Who calls for a caller hears of that caller's rights, and others have theirs.
#[tokio::test]
async fn what_an_upstream_refuses_to_one_caller_is_not_told_as_what_is_wrong_with_it() {
    let issuer = |_: usize, asked: &BTreeMap<String, String>| {
        let who = asked.get("subject_token").map_or("ana", String::as_str);
        json(format!(r#"{{"access_token":"of-{who}","token_type":"Bearer","expires_in":60}}"#))
    };
    for (status, challenge, reason) in [
        (401, "Bearer", "UpstreamCredentialsRefused"),
        (403, r#"Bearer error="insufficient_scope", scope="write""#, "UpstreamScopesLacking"),
    ] {
        let judge = || -> Judge {
            Box::new(move |sent| if sent == "Bearer of-ana" { challenged(status, challenge) } else { open(sent) })
        };
        let house = House::of(exchange(), Box::new(issuer), judge()).await;
        let refused = house.call(Some(&caller("ana", "corp"))).await.map_err(|error| error.reason());
        assert!(refused == Ok(401) || refused == Err("UpstreamScopesLacking"), "{refused:?}");
        assert_eq!(house.call(Some(&caller("bob", "corp"))).await.unwrap(), 200);
        assert_eq!(house.upstream.trouble(), None);

        // With one token for all of them, it is all of them whom it keeps from calling.
        let house = House::new(Box::new(issuer), judge()).await;
        house.call(None).await.ok();
        assert_eq!(house.upstream.trouble().unwrap().reason(), reason);
    }
}
