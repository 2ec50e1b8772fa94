use std::sync::atomic::AtomicUsize;

use super::*;

const AUDIENCE: &str = "portcullis:team/notes";
const HOUR: Duration = Duration::from_secs(3600);
const REFUSED: Outcome = Err(Unbelieved::Refused(ReviewError::Refused));
const UNAVAILABLE: Outcome = Err(Unbelieved::Unavailable);

/// An API server that answers about ann as it is told, once it is let.
pub(in crate::proxy) struct Fake {
    questions: Mutex<Vec<Question>>,
    says: Mutex<Result<bool, NoAnswer>>,
    pub(in crate::proxy) gate: Semaphore,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Fake {
    /// Answers `lets` times that the token is genuine.
    pub(in crate::proxy) fn new(lets: usize) -> Arc<Self> {
        Arc::new(Self {
            questions: Mutex::default(),
            says: Mutex::new(Ok(true)),
            gate: Semaphore::new(lets),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        })
    }

    pub(in crate::proxy) fn says(&self, what: Result<bool, NoAnswer>) {
        *self.says.lock().unwrap() = what;
    }

    pub(in crate::proxy) fn questions(&self) -> usize {
        self.questions.lock().unwrap().len()
    }
}

/// Ends with the question, however that does.
struct UnderWay(Arc<Fake>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// [`Fake`] as it is asked.
pub(in crate::proxy) struct Server(pub(in crate::proxy) Arc<Fake>);

impl TokenReviewer for Server {
    fn review(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<Answer, NoAnswer>> + Send>> {
        let fake = self.0.clone();
        let audiences = question.audiences.clone();
        fake.questions.lock().unwrap().push(question);
        let now = fake.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        fake.most_under_way.fetch_max(now, Ordering::SeqCst);
        let under_way = UnderWay(fake.clone());
        Box::pin(async move {
            let _under_way = under_way;
            fake.gate.acquire().await.unwrap().forget();
            let said = fake.says.lock().unwrap().clone();
            said.map(|authenticated| Answer { authenticated, audiences, username: Some("ann".to_owned()) })
        })
    }
}

fn reviews(fake: &Arc<Fake>, window: Duration, patience: Duration) -> Arc<Reviews> {
    let reviewer: Arc<dyn TokenReviewer> = Arc::new(Server(fake.clone()));
    Arc::new(Reviews::with(Some(reviewer), window, patience, TokenReviews::default()))
}

fn standing(reviews: &Reviews, token: &str) -> Arc<Standing> {
    reviews.standing(TokenDigest::of(token), token)
}

fn ask(reviews: &Arc<Reviews>, standing: &Arc<Standing>) -> Pin<Box<dyn Future<Output = Outcome> + Send + Sync>> {
    let judge = |_: &[String], answer: &Answer| if answer.authenticated { Ok(()) } else { Err(ReviewError::Refused) };
    Box::pin(reviews.clone().ask(standing.clone(), vec![AUDIENCE.to_owned()], judge))
}

/// Whether it waits after it was begun.
async fn waits(asking: &mut Pin<Box<dyn Future<Output = Outcome> + Send + Sync>>) -> bool {
    timeout(Duration::ZERO, asking.as_mut()).await.is_err()
}

fn counted(reviews: &Reviews) -> [u64; 3] {
    let counts = &reviews.counts;
    [counts.believed.get(), counts.refused.get(), counts.unavailable.get()]
}

#[tokio::test]
async fn within_the_window_nobody_is_asked_again_and_beyond_it_somebody_is() {
    let fake = Fake::new(9);
    let lasting = reviews(&fake, HOUR, HOUR);
    let token = standing(&lasting, "token");
    assert_eq!(lasting.believed_for(&token), None, "nobody was asked yet");
    for _ in 0..3 {
        assert_eq!(ask(&lasting, &token).await, Ok(()));
        let left = lasting.believed_for(&standing(&lasting, "token")).unwrap();
        assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
    }
    assert_eq!((fake.questions(), counted(&lasting)), (1, [1, 0, 0]));
    assert_eq!(lasting.believed_for(&standing(&lasting, "another")), None);

    let fleeting = reviews(&fake, Duration::ZERO, HOUR);
    let token = standing(&fleeting, "token");
    for asked in 2..5 {
        assert_eq!(ask(&fleeting, &token).await, Ok(()));
        assert_eq!((fleeting.believed_for(&token), fake.questions()), (None, asked));
    }
    fake.says(Ok(false));
    assert_eq!(ask(&fleeting, &token).await, REFUSED, "that it was believed before counts for nothing");
    assert_eq!(counted(&fleeting), [3, 1, 0]);
}

#[tokio::test]
async fn what_is_refused_is_refused_for_the_window_and_asked_about_once() {
    let fake = Fake::new(9);
    fake.says(Ok(false));
    let reviews = reviews(&fake, HOUR, HOUR);
    let token = standing(&reviews, "token");
    for _ in 0..3 {
        assert_eq!(ask(&reviews, &token).await, REFUSED);
        assert_eq!(reviews.believed_for(&token), None);
    }
    assert_eq!(fake.questions(), 1);
}

#[tokio::test]
async fn whoever_calls_with_one_token_waits_for_one_question() {
    let fake = Fake::new(0);
    let reviews = reviews(&fake, Duration::ZERO, HOUR);
    let token = standing(&reviews, "token");
    let mut callers: Vec<_> = (0..50).map(|_| ask(&reviews, &token)).collect();
    for caller in &mut callers {
        assert!(waits(caller).await);
    }
    // Who began it goes away: the others have what it asked for all the same.
    drop(callers.remove(0));
    fake.gate.add_permits(1);
    for caller in callers {
        assert_eq!(caller.await, Ok(()));
    }
    assert_eq!((fake.questions(), counted(&reviews)), (1, [1, 0, 0]));
    let asked = fake.questions.lock().unwrap().pop().unwrap();
    assert_eq!((asked.token.expose(), &*asked.audiences), ("token", &[AUDIENCE.to_owned()][..]));
}

#[tokio::test]
async fn for_want_of_an_answer_nobody_is_believed_and_who_asks_waits_no_longer_than_he_must() {
    let fake = Fake::new(1);
    let reviews = reviews(&fake, Duration::ZERO, Duration::from_millis(20));
    let token = standing(&reviews, "token");
    assert_eq!(ask(&reviews, &token).await, Ok(()));
    for (what, questions) in [("it is silent", 2), ("it was silent a moment ago", 2)] {
        assert_eq!(ask(&reviews, &token).await, UNAVAILABLE, "{what}");
        assert_eq!((reviews.believed_for(&token), fake.questions()), (None, questions), "{what}");
    }
    fake.gate.add_permits(9);
    for silence in [NoAnswer::Forbidden, NoAnswer::Failed("connection refused".into())] {
        fake.says(Err(silence.clone()));
        assert_eq!(ask(&reviews, &standing(&reviews, silence.reason())).await, UNAVAILABLE);
    }
    assert_eq!(counted(&reviews), [1, 0, 3]);
    assert_eq!(fake.under_way.load(Ordering::SeqCst), 0, "what nobody waits for is taken back");

    let nobody = Reviews::new(None, HOUR, TokenReviews::default());
    let token = standing(&nobody, "token");
    assert_eq!((ask(&nobody, &token).await, nobody.believed_for(&token)), (UNAVAILABLE, None));
}

#[tokio::test]
async fn strangers_with_many_tokens_ask_so_many_questions_at_once_and_wait_for_their_turn() {
    let fake = Fake::new(0);
    let reviews = reviews(&fake, HOUR, HOUR);
    let tokens: Vec<_> = (0..4 * AT_ONCE).map(|number| standing(&reviews, &number.to_string())).collect();
    let mut callers: Vec<_> = tokens.iter().map(|token| ask(&reviews, token)).collect();
    for caller in &mut callers {
        assert!(waits(caller).await);
    }
    assert_eq!(fake.questions(), AT_ONCE);
    fake.gate.add_permits(tokens.len());
    for caller in callers {
        assert_eq!(caller.await, Ok(()));
    }
    assert_eq!((fake.questions(), fake.most_under_way.load(Ordering::SeqCst)), (tokens.len(), AT_ONCE));

    let silent = Fake::new(0);
    let hurried = self::reviews(&silent, HOUR, Duration::from_millis(20));
    let tokens: Vec<_> = (0..4 * AT_ONCE).map(|number| standing(&hurried, &number.to_string())).collect();
    let mut callers: Vec<_> = tokens.iter().map(|token| ask(&hurried, token)).collect();
    for caller in &mut callers {
        assert!(waits(caller).await);
    }
    for caller in callers {
        assert_eq!(caller.await, UNAVAILABLE, "over the bound is no reason to believe anybody");
    }
}

#[tokio::test]
async fn without_an_audience_nothing_is_asked() {
    let fake = Fake::new(9);
    let reviews = reviews(&fake, HOUR, HOUR);
    let token = standing(&reviews, "token");
    let outcome = reviews.clone().ask(token.clone(), Vec::new(), |_, _| Ok(())).await;
    assert_eq!((outcome, fake.questions()), (Err(Unbelieved::Refused(ReviewError::Audience)), 0));
    assert_eq!(ask(&reviews, &token).await, Ok(()), "which says nothing about the token");
}

#[test]
fn tokens_that_no_caller_holds_are_forgotten_and_none_is_printed() {
    let reviews = reviews(&Fake::new(0), HOUR, HOUR);
    let held = standing(&reviews, "hunter2");
    for number in 0..10_000 {
        standing(&reviews, &number.to_string());
    }
    assert!(reviews.known.lock().unwrap().len() < 1000);
    assert!(Arc::ptr_eq(&held, &standing(&reviews, "hunter2")));
    let question = Question { token: held.token.clone(), audiences: Vec::new() };
    assert!(!format!("{held:?} {question:?}").contains("hunter2"));
}
