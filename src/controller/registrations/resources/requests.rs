//! What is asked of Keycloak about clients that stand for resources.
//!
//! Invariant: whether one is ours is read before it is changed or deleted, in the same breath; and what keeps one resource from
//! being stood for is told apart from what keeps all of them.

use super::super::now;
use super::super::servers::Server;
use super::Goes;
use crate::controller::Context;
use crate::controller::error::Failure;
use crate::registration::call::{Answer, Call, Heard, Place, Purpose};
use crate::registration::profile::resource::{self, Standing};

/// No more are listed than so many times [`resource::LISTED`].
const MOST_LISTS: usize = 50;

/// What says that one is ours.
pub(super) struct Marks {
    /// And goes once nobody needs it.
    ours: String,
    /// And stays.
    kept: String,
    /// Whether it is asked for by a client that stays there.
    pub(super) stays: bool,
}

impl Marks {
    /// Those of this installation.
    pub(super) fn of(cluster: &str, stays: bool) -> Self {
        Self { ours: resource::mark(cluster), kept: resource::kept_mark(cluster), stays }
    }
}

/// Why there is none.
pub(super) enum No {
    /// Of this one.
    Here(String),
    /// Of any there: the server does not answer, or not for us.
    There(String),
}

impl No {
    pub(super) fn words(self) -> String {
        match self {
            No::Here(why) | No::There(why) => why,
        }
    }
}

/// Finds the client that stands for a resource, or makes it; and has it stay, if it is to.
pub(super) async fn stand(
    context: &Context,
    server: &Server,
    wanted: &str,
    marks: &Marks,
) -> Result<Result<Goes, No>, Failure> {
    let place = match server.place(now()).await {
        Ok((place, _)) => place,
        Err(not) => return Ok(Err(No::There(not.detail))),
    };
    let standing = match find(context, server, wanted, marks, &place).await? {
        Ok(standing) => standing,
        Err(no) => return Ok(Err(no)),
    };
    let (purpose, call, goes) = match standing {
        Standing::Ours { id } if marks.stays => {
            (Purpose::Update, resource::keep(&id, wanted, &marks.kept, &place), Goes::Not)
        }
        Standing::Ours { .. } => return Ok(Ok(Goes::Ours)),
        Standing::Theirs => return Ok(Ok(Goes::Not)),
        Standing::Unfit => {
            let why = "there is a client of that id without the attribute resource_url of the same value";
            return Ok(Err(No::Here(why.to_owned())));
        }
        Standing::Absent => {
            let (mark, goes) = if marks.stays { (&marks.kept, Goes::Not) } else { (&marks.ours, Goes::Ours) };
            (Purpose::Create, resource::create(wanted, mark, &place), goes)
        }
    };
    let done = ask(context, server, call).await?;
    let is_done = resource::done(purpose, done.as_ref());
    if is_done.is_ok() {
        tracing::info!(resource = wanted, "a client stands for it at its authorization server");
    }
    Ok(is_done.map(|()| goes).map_err(|why| no(&done, why)))
}

/// Deletes the client that stands for a resource, if it is ours.
pub(super) async fn fall(
    context: &Context,
    server: &Server,
    unneeded: &str,
    marks: &Marks,
) -> Result<Result<(), No>, Failure> {
    let place = match server.place(now()).await {
        Ok((place, _)) => place,
        Err(not) => return Ok(Err(No::There(not.detail))),
    };
    match find(context, server, unneeded, marks, &place).await? {
        Ok(Standing::Ours { id }) => {
            let deleted = ask(context, server, resource::delete(&id, &place)).await?;
            let is_deleted = resource::done(Purpose::Delete, deleted.as_ref());
            if is_deleted.is_ok() {
                tracing::info!(resource = unneeded, "no client stands for it any more: nobody needs it");
            }
            Ok(is_deleted.map_err(|why| no(&deleted, why)))
        }
        Ok(Standing::Theirs | Standing::Absent | Standing::Unfit) => Ok(Ok(())),
        Err(no) => Ok(Err(no)),
    }
}

/// The resources that clients of ours stand for which go once nobody needs them; and whether that is all.
pub(super) async fn listed(
    context: &Context,
    server: &Server,
    marks: &Marks,
) -> Result<Result<(Vec<String>, bool), No>, Failure> {
    let place = match server.place(now()).await {
        Ok((place, _)) => place,
        Err(not) => return Ok(Err(No::There(not.detail))),
    };
    let mut all = Vec::new();
    for round in 0..MOST_LISTS {
        let heard = ask(context, server, resource::list(round * resource::LISTED, &place)).await?;
        let some = match &heard {
            Ok(answer) => resource::listed(answer, &marks.ours),
            Err(_) => Err(resource::done(Purpose::Find, heard.as_ref()).err().unwrap_or_default()),
        };
        match some {
            Ok((some, listed)) => {
                all.extend(some);
                if listed < resource::LISTED {
                    return Ok(Ok((all, true)));
                }
            }
            Err(why) => return Ok(Err(no(&heard, why))),
        }
    }
    Ok(Ok((all, false)))
}

async fn find(
    context: &Context,
    server: &Server,
    wanted: &str,
    marks: &Marks,
    place: &Place,
) -> Result<Result<Standing, No>, Failure> {
    let heard = ask(context, server, resource::find(wanted, place)).await?;
    Ok(match &heard {
        Ok(answer) => resource::hear(answer, wanted, &marks.ours).map_err(|why| no(&heard, why)),
        Err(_) => Err(no(&heard, resource::done(Purpose::Find, heard.as_ref()).err().unwrap_or_default())),
    })
}

/// Whom an answer that is none concerns.
fn no(heard: &Result<Answer, Heard>, why: String) -> No {
    match heard {
        // It says what it does not like.
        Ok(Answer { status: 400 | 404 | 409 | 422, .. }) => No::Here(why),
        _ => No::There(why),
    }
}

async fn ask(context: &Context, server: &Server, call: Option<Call>) -> Result<Result<Answer, Heard>, Failure> {
    let Some(call) = call else {
        return Ok(Err(Heard::Unsent("there are no credentials for its administrative API".to_owned())));
    };
    let heard = server.send(context, &call, None, now()).await?;
    context.metrics.registration_request(call.purpose, &heard.as_ref().map_or_else(Clone::clone, |_| Heard::Alive));
    Ok(heard)
}
