//! A server of either kind as data, and a controller that can be ended between any two of its deeds.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::generated::client::MAX_AGE_SECONDS;
use crate::generated::{Client as Document, ObjectId};
use crate::oauth::client_registration::{ApplicationType, AuthMethod, ClientMetadata, Keys};
use crate::registration::call::{Answer, Auth, Body, Call, Heard, Place, Purpose, Verb};
use crate::registration::desired::{Deletion, DeletionPolicy, OnUnavailable, Rotation};
use crate::registration::ledger::{Handle, Key};
use crate::registration::wanted::signing;
use crate::registration::{
    Action, Desired, Ledger, Method, News, Profile, Seen, Trouble, Wish, absorb, add_key, hear, next,
};
use crate::sensitive::Sensitive;

pub(super) const ISSUER: &str = "https://as.example";
pub(super) const CLUSTER: &str = "0123abcd-0000";
pub(super) const START: i64 = 1_800_000_000;

/// How a server behaves where servers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Habits {
    /// A registration access token is good once.
    pub(super) rotates_tokens: bool,
    /// An update gives another secret.
    pub(super) rotates_secrets: bool,
    /// Secrets expire after so long.
    pub(super) secret_lifetime: Option<i64>,
    /// A client is given no secret.
    pub(super) withholds_secrets: bool,
    /// Whoever stands before the server answers with a page of this status, and lets nobody through to manage clients.
    pub(super) page: Option<u16>,
    /// What it answers where a client is managed that it does not know, instead of 401.
    pub(super) unknown: Option<u16>,
    /// It deletes no client, and answers with this.
    pub(super) keeps: Option<u16>,
    /// A client that may not have a grant is answered like one that is not believed, as by Keycloak.
    pub(super) denies_as_unknown: bool,
    /// The search for clients finds none.
    pub(super) hides: bool,
    /// Clients are managed at somebody else's.
    pub(super) elsewhere: bool,
}

/// What somebody answers who knows nothing of OAuth.
const PAGE: &str = "<html>nothing here</html>";

#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) body: Value,
    pub(super) token: String,
    pub(super) secret: Option<String>,
    expires: Option<i64>,
}

/// A server.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) habits: Habits,
    pub(super) clients: BTreeMap<String, Client>,
    /// What the proxies serve.
    pub(super) served: Option<Document>,
    /// What it has fetched of that, and when. It keeps it for as long as it may, whatever happens.
    fetched: Option<(Document, i64)>,
    /// How many requests there were, by purpose.
    pub(super) asked: BTreeMap<&'static str, usize>,
    given: u64,
}

impl Server {
    fn give(&mut self, what: &str) -> String {
        self.given += 1;
        format!("{what}-{}", self.given)
    }

    pub(super) fn asked(&self, purpose: Purpose) -> usize {
        self.asked.get(purpose.as_str()).copied().unwrap_or_default()
    }

    fn answer(&mut self, call: &Call, proof: Option<(String, Proof)>, now: i64) -> (u16, Value) {
        *self.asked.entry(call.purpose.as_str()).or_default() += 1;
        let body = match &call.body {
            Body::Json(text) => serde_json::from_str(text.expose()).unwrap(),
            Body::None | Body::Grant => Value::Null,
        };
        if let Some(status) = self.habits.page.filter(|_| matches!(call.auth, Auth::Registration(_) | Auth::Admin)) {
            return (status, json!(PAGE));
        }
        match (&call.auth, call.verb) {
            (Auth::Client, _) => match proof {
                Some((id, proof)) if self.is_good(&id, &proof, now) => {
                    let is_denied = self.habits.denies_as_unknown && !self.speaks_for_itself(&id);
                    (if is_denied { 401 } else { 400 }, json!({"error": "unauthorized_client"}))
                }
                _ => (401, json!({"error": "invalid_client"})),
            },
            (Auth::Initial, _) => {
                let (id, token) = (self.give("client"), self.give("token"));
                let secret = (takes_secret(&body) && !self.habits.withholds_secrets).then(|| self.give("secret"));
                let expires = self.habits.secret_lifetime.map(|life| now + life);
                self.clients.insert(id.clone(), Client { body, token, secret, expires });
                (201, self.described(&id))
            }
            (Auth::Registration(token), verb) => self.managed(call, token.expose(), verb, body, now),
            (Auth::Admin, verb) => self.administered(call, verb, body),
        }
    }

    /// RFC 7592.
    fn managed(&mut self, call: &Call, token: &str, verb: Verb, body: Value, now: i64) -> (u16, Value) {
        let id = call.url.rsplit('/').next().unwrap().to_owned();
        if let Some(status) = self.habits.unknown.filter(|_| !self.clients.contains_key(&id)) {
            return (status, json!(PAGE));
        }
        if self.clients.get(&id).is_none_or(|client| client.token != token) {
            return (401, json!({"error": "invalid_token"}));
        }
        if let Some(status) = self.habits.keeps.filter(|_| verb == Verb::Delete) {
            return (status, json!(PAGE));
        }
        if verb == Verb::Delete {
            self.clients.remove(&id);
            return (204, Value::Null);
        }
        let (token, secret) = (self.give("token"), self.give("secret"));
        let habits = self.habits;
        let client = self.clients.get_mut(&id).unwrap();
        if habits.rotates_tokens {
            client.token = token;
        }
        if verb == Verb::Put {
            assert_eq!(body["client_id"], json!(id));
            client.body = body;
            let takes = takes_secret(&client.body);
            if !takes {
                client.secret = None;
            } else if !habits.withholds_secrets && (habits.rotates_secrets || client.secret.is_none()) {
                client.secret = Some(secret);
                client.expires = habits.secret_lifetime.map(|life| now + life);
            }
        }
        (200, self.described(&id))
    }

    fn described(&self, id: &str) -> Value {
        let client = &self.clients[id];
        let mut body = client.body.clone();
        let members = body.as_object_mut().unwrap();
        members.insert("client_id".into(), json!(id));
        members.insert("registration_access_token".into(), json!(client.token));
        members.insert("registration_client_uri".into(), json!(format!("{}/reg/{id}", self.issuer())));
        if let Some(secret) = &client.secret {
            members.insert("client_secret".into(), json!(secret));
            members.insert("client_secret_expires_at".into(), json!(client.expires.unwrap_or(0)));
        }
        body
    }

    fn issuer(&self) -> &'static str {
        if self.habits.elsewhere { "https://elsewhere.example" } else { ISSUER }
    }

    /// Whether this client proves itself by this, now.
    fn is_good(&mut self, id: &str, proof: &Proof, now: i64) -> bool {
        let has_expired = self.clients.get(id).is_some_and(|client| client.expires.is_some_and(|end| end <= now));
        let is_good = self.believes(id, proof) && !(has_expired && matches!(proof, Proof::Secret(_)));
        is_good || self.finds(id, proof, now)
    }

    fn speaks_for_itself(&self, id: &str) -> bool {
        let body = self.clients.get(id).map(|client| &client.body);
        body.is_some_and(|body| body["grant_types"].to_string().contains("client_credentials"))
    }

    /// Keycloak's administrative API.
    fn administered(&mut self, call: &Call, verb: Verb, body: Value) -> (u16, Value) {
        if verb == Verb::Post && call.purpose == Purpose::Create {
            let id = body["clientId"].as_str().unwrap().to_owned();
            if self.clients.contains_key(&id) {
                return (409, json!({"errorMessage": "Client already exists"}));
            }
            let (token, secret) = (self.give("uid"), Some(self.give("secret")));
            self.clients.insert(id, Client { body, token, secret, expires: None });
            return (201, Value::Null);
        }
        let by_id = |client: &&String| call.url.contains(client.as_str());
        if let Some((_, id)) = call.url.split_once("?clientId=") {
            let found = self.clients.get(id).filter(|_| !self.habits.hides).map(representation);
            return (200, Value::Array(found.into_iter().collect()));
        }
        let wanted = call.url.split('/').find(|part| part.starts_with("uid-")).map(str::to_owned);
        let id =
            self.clients.iter().find(|(_, client)| Some(&client.token) == wanted.as_ref()).map(|(id, _)| id.clone());
        let Some(id) = id.or_else(|| self.clients.keys().find(by_id).cloned()) else { return (404, Value::Null) };
        match verb {
            Verb::Get => (200, representation(&self.clients[&id])),
            Verb::Put => {
                let members = body.as_object().unwrap().clone();
                let client = self.clients.get_mut(&id).unwrap();
                members.into_iter().for_each(|(name, value)| client.body[name] = value);
                (204, Value::Null)
            }
            Verb::Post => {
                let secret = self.give("secret");
                self.clients.get_mut(&id).unwrap().secret = Some(secret.clone());
                (200, json!({"type": "secret", "value": secret}))
            }
            Verb::Delete => {
                if let Some(status) = self.habits.keeps {
                    return (status, json!(PAGE));
                }
                self.clients.remove(&id);
                (204, Value::Null)
            }
        }
    }

    /// It fetches what is served now, and has it for a while.
    pub(super) fn fetch(&mut self, now: i64) {
        // What is not there is not kept.
        self.fetched = self.served.clone().map(|served| (served, now));
    }

    /// Whether a client is believed by its document.
    pub(super) fn finds(&mut self, id: &str, proof: &Proof, now: i64) -> bool {
        let is_about = |found: &Document| serde_json::from_str::<Value>(&found.document).unwrap()["client_id"] == id;
        let is_fresh = |(found, at): &(Document, i64)| is_about(found) && now < at + i64::from(MAX_AGE_SECONDS);
        if !self.fetched.as_ref().is_some_and(is_fresh) {
            self.fetch(now);
        }
        let Some((found, _)) = &self.fetched else { return false };
        is_about(found)
            && match proof {
                Proof::Key(kid) => found.key_set.as_ref().is_some_and(|keys| keys.contains(kid.as_str())),
                Proof::Nothing => true,
                Proof::Secret(_) => false,
            }
    }

    /// Whether a client is believed.
    pub(super) fn believes(&self, id: &str, proof: &Proof) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        match proof {
            Proof::Secret(secret) => client.secret.as_ref() == Some(secret),
            Proof::Key(kid) => client.body.to_string().contains(kid.as_str()),
            Proof::Nothing => client.body["token_endpoint_auth_method"] == "none",
        }
    }
}

fn representation(client: &Client) -> Value {
    let mut body = client.body.clone();
    body["id"] = json!(client.token);
    body["secret"] = json!(client.secret);
    body
}

fn takes_secret(body: &Value) -> bool {
    body["token_endpoint_auth_method"].as_str().is_some_and(|method| method.starts_with("client_secret"))
}

/// What a client proves itself by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Secret(String),
    Key(String),
    Nothing,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not arrive.
    Unsent,
    /// Its answer is lost.
    Lost,
    /// The server does not want to be asked.
    Busy,
    /// The server fails before it has done anything.
    Fails,
    /// The answer is cut.
    Garbled,
    /// Whoever stands before the server has asked it, and says that it could not.
    Behind,
    /// Whoever stands before the server lets it through to nobody.
    Forbids,
    /// Whoever stands before the server has nothing there.
    Knows404,
    /// The server does not do this.
    Refuses,
}

/// Everything that outlives a controller.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) server: Server,
    pub(super) stored: Option<Vec<u8>>,
    pub(super) published: Option<(String, Proof)>,
    /// The secret that the author gives.
    pub(super) given: Option<Sensitive>,
    /// Whether some proxy does not come to serve what it is given.
    pub(super) lags: bool,
    /// Whether the server's metadata cannot be fetched.
    pub(super) is_away: bool,
    /// What all of them serve.
    everywhere: Option<Document>,
    pub(super) now: i64,
    pub(super) news: Vec<News>,
    keys: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// The controller was ended.
    Killed,
    /// Nothing is to be done before this time, unless something is in the way.
    Settled(i64, Option<Trouble>),
    /// Not every proxy serves what it is to serve.
    Unserved,
    /// Nothing is left.
    Forgotten,
}

impl World {
    pub(super) fn new(habits: Habits) -> Self {
        let server = Server { habits, ..Server::default() };
        let (published, given) = (None, None);
        let (lags, is_away, everywhere) = (false, false, None);
        let (stored, news, now) = (None, Vec::new(), START);
        Self { server, stored, published, given, lags, is_away, everywhere, now, news, keys: 0 }
    }

    pub(super) fn ledger(&self) -> Option<Ledger> {
        self.stored.as_ref().map(|bytes| Ledger::decode(bytes).unwrap())
    }

    pub(super) fn loaded(&self, desired: &Desired, method: Method) -> Seen {
        let mut seen = match self.ledger() {
            Some(ledger) => Seen::stored(ledger, self.now),
            None => Seen::new(Ledger::new(desired, "McpClient", method, CLUSTER), self.now),
        };
        seen.give(self.given.as_ref());
        seen
    }

    /// Runs a fresh controller. It is ended at the boundary `kill`, counted from nought: before and after each deed.
    pub(super) fn run(&mut self, desired: &Desired, method: Method, keeps: bool, kill: usize) -> (End, usize) {
        let mut seen = self.loaded(desired, method);
        self.go_on(&mut seen, desired, keeps, kill, &mut |_, _| None)
    }

    /// Goes on with what a controller knows.
    pub(super) fn go_on(
        &mut self,
        seen: &mut Seen,
        desired: &Desired,
        keeps: bool,
        kill: usize,
        fault: &mut dyn FnMut(usize, &Call) -> Option<Fault>,
    ) -> (End, usize) {
        let wish = if keeps { Wish::Keep(desired) } else { Wish::Remove { waits_since: None, stays: false } };
        let (mut boundary, mut sent) = (0, 0);
        for _ in 0..100 {
            let place = match self.is_away {
                true => Place { admin: place().admin, ..Place::default() },
                false => place(),
            };
            let action = next(seen, &wish, &place, self.now);
            self.news.extend(seen.take_news());
            if let Action::Settled { again } = action {
                return (End::Settled(again, seen.trouble().cloned()), boundary);
            }
            if boundary == kill {
                return (End::Killed, boundary);
            }
            boundary += 1;
            let (mut heard, mut serves) = (None, false);
            match action {
                Action::Persist => self.stored = Some(seen.ledger.encode().unwrap()),
                Action::MakeKey => {
                    self.keys += 1;
                    add_key(seen, key(&format!("kid-{}", self.keys), self.now));
                }
                Action::Send(call) => {
                    let happens = fault(sent, &call);
                    sent += 1;
                    heard = Some((call.purpose, self.send(&call, seen, &wish, happens)));
                }
                Action::Publish => self.published = Some(credentials(&seen.ledger)),
                Action::Serve(document) => {
                    // At the worst time for whoever comes later.
                    self.server.fetch(self.now);
                    self.server.served = Some(*document);
                    serves = true;
                }
                Action::Forget => {
                    self.stored = None;
                    return (End::Forgotten, boundary);
                }
                Action::Settled { .. } => unreachable!(),
            }
            if boundary == kill {
                return (End::Killed, boundary);
            }
            boundary += 1;
            if serves && self.lags && self.everywhere != self.server.served {
                return (End::Unserved, boundary);
            }
            if serves {
                self.everywhere.clone_from(&self.server.served);
                seen.is_served(self.now);
            }
            match heard {
                Some((purpose, heard)) => absorb(seen, purpose, heard, &wish, self.now),
                None if self.stored == seen.ledger.encode().ok() => seen.persisted(),
                None => {}
            }
            if self
                .published
                .as_ref()
                .is_some_and(|published| seen.ledger.current.is_some() && *published == credentials(&seen.ledger))
            {
                seen.is_published(self.now);
            }
            self.news.extend(seen.take_news());
        }
        panic!("it never settles: {seen:?}");
    }

    fn send(&mut self, call: &Call, seen: &Seen, wish: &Wish<'_>, fault: Option<Fault>) -> Heard {
        let ledger = &seen.ledger;
        let proof = proven(ledger);
        match fault {
            Some(Fault::Unsent) => return Heard::Unsent("no connection".into()),
            Some(Fault::Busy) => return understood(call, seen, wish, 429, &Value::Null),
            Some(Fault::Fails) => return understood(call, seen, wish, 500, &Value::Null),
            Some(Fault::Forbids) => return understood(call, seen, wish, 403, &json!(PAGE)),
            Some(Fault::Refuses) => return understood(call, seen, wish, 405, &json!(PAGE)),
            Some(Fault::Knows404) => return understood(call, seen, wish, 404, &json!(PAGE)),
            _ => {}
        }
        let (status, body) = self.server.answer(call, proof, self.now);
        match fault {
            Some(Fault::Lost) => Heard::Unknown("the answer was lost".into()),
            Some(Fault::Behind) => understood(call, seen, wish, 503, &Value::Null),
            Some(Fault::Garbled) => understood(call, seen, wish, status, &json!([])),
            _ => understood(call, seen, wish, status, &body),
        }
    }

    /// Clients at the server that bear our mark.
    pub(super) fn ours(&self) -> Vec<&String> {
        self.server.clients.keys().collect()
    }
}

fn understood(call: &Call, seen: &Seen, wish: &Wish<'_>, status: u16, body: &Value) -> Heard {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = Answer { status, body, retry_after: None, denies_token: false, sent: call.secrets() };
    hear(seen, call, &answer, wish)
}

/// What the owner is given.
pub(super) fn credentials(ledger: &Ledger) -> (String, Proof) {
    let nothing = || (ledger.current.as_ref().unwrap().client_id.clone(), Proof::Nothing);
    proven(ledger).unwrap_or_else(nothing)
}

fn proven(ledger: &Ledger) -> Option<(String, Proof)> {
    let current = ledger.current.as_ref()?;
    let is_told = matches!(current.handle, Handle::Document { .. } | Handle::Given { .. });
    let proof = match (&current.client_secret, signing(ledger)) {
        (_, Some(key)) => Proof::Key(key.kid.clone()),
        (Some(secret), None) => Proof::Secret(secret.expose().to_owned()),
        (None, None) if is_told => Proof::Nothing,
        (None, None) => return None,
    };
    Some((current.client_id.clone(), proof))
}

pub(in crate::registration) fn place() -> Place {
    Place {
        registration_endpoint: Some(format!("{ISSUER}/reg")),
        token_endpoint: Some(format!("{ISSUER}/token")),
        admin: Some(format!("{ISSUER}/admin/realms/r")),
        takes_documents: Some(true),
    }
}

fn key(kid: &str, made: i64) -> Key {
    let public = json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": kid, "y": kid});
    Key { kid: kid.into(), pkcs8: Sensitive::new("private"), public, made, served: None, given: None }
}

/// What an author wants: a service that authenticates by a key.
pub(in crate::registration) fn desired() -> Desired {
    let metadata = ClientMetadata {
        client_name: "Reports".into(),
        application_type: ApplicationType::Web,
        redirect_uris: Vec::new(),
        grant_types: vec!["client_credentials".into()],
        response_types: Vec::new(),
        auth_method: AuthMethod::PrivateKeyJwt,
        scopes: Vec::new(),
        keys: Keys::None,
        software_id: String::new(),
        software_version: String::new(),
        software_statement: None,
    };
    Desired {
        owner: ObjectId {
            uid: "11112222-3333".into(),
            namespace: "team".into(),
            name: "reports".into(),
            generation: 1,
        },
        authority: "corp".into(),
        issuer: ISSUER.into(),
        profile: Profile::Keycloak,
        methods: vec![Method::Admin, Method::Dcr],
        asked: None,
        gateway: None,
        client_id: None,
        client_secret: None,
        metadata,
        resources: vec!["https://mcp.example/team/notes".into()],
        secret_name: "reports-client".into(),
        rotation: Some(Rotation { period_seconds: 30 * 86_400, overlap_seconds: 600 }),
        deletion: Deletion {
            policy: DeletionPolicy::Delete,
            timeout_seconds: 600,
            on_unavailable: OnUnavailable::Orphan,
        },
    }
}

/// The same, for persons, with a secret.
pub(super) fn for_persons() -> Desired {
    let mut desired = with_secret();
    desired.metadata.redirect_uris = vec!["https://app.example/callback".into()];
    desired.metadata.grant_types = vec!["authorization_code".into()];
    desired.metadata.response_types = vec!["code".into()];
    desired.rotation = None;
    desired
}

/// The same, with a secret.
pub(super) fn with_secret() -> Desired {
    let mut desired = desired();
    desired.metadata.auth_method = AuthMethod::ClientSecretBasic;
    desired
}

/// Whether a ledger knows that this client may be left.
pub(super) fn is_told_lost(world: &World, client_id: &str) -> bool {
    let attempt = world.server.clients[client_id].body["software_version"].as_str().unwrap_or_default().to_owned();
    world.news.iter().any(|news| match news {
        News::Lost { client_id: Some(lost), .. } => lost == client_id,
        News::Lost { client_id: None, attempt: lost } => lost.to_string() == attempt,
        _ => false,
    })
}
