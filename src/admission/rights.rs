//! Whether the author of a change has the rights that it needs, as the API server's own authorizer says.
//!
//! Invariant: whoever cannot be asked about is refused; and what is asked about is the author, never the webhook.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use super::grant::Need;
use super::review::User;
use crate::api::GROUP;
use crate::cluster::in_words;

/// How many are asked about at once.
const AT_ONCE: usize = 16;
/// How many are asked about for one review. More are refused: a right on a whole namespace is one.
const MOST: usize = 128;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Those of the needs that the author does not have, or that nobody could say anything about.
pub async fn refused(client: &Client, user: &User, needs: &[Need]) -> Vec<Need> {
    let (asked, left_out) = needs.split_at(needs.len().min(MOST));
    let asked = asked.iter().map(|need| without(client.clone(), user.clone(), need.clone()));
    let answers = stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE);
    let mut refused: Vec<Need> = answers.filter_map(std::future::ready).collect().await;
    refused.extend(left_out.first().map(|need| {
        unsaid(need, &format!("{} rights are needed one by one, and {MOST} are asked about", needs.len()))
    }));
    refused
}

/// The need, unless the author has it.
async fn without(client: Client, user: User, need: Need) -> Option<Need> {
    let answer = timeout(PATIENCE, has(&client, &user, &need)).await;
    match answer.unwrap_or_else(|_| Err(format!("no answer within {} ms", PATIENCE.as_millis()))) {
        Ok(true) => None,
        Ok(false) => Some(need),
        Err(why) => Some(unsaid(&need, &format!("the API server could not be asked whether you have it: {why}"))),
    }
}

fn unsaid(need: &Need, why: &str) -> Need {
    Need { why: format!("{} ({why})", need.why), ..need.clone() }
}

async fn has(client: &Client, user: &User, need: &Need) -> Result<bool, String> {
    let (verbs, resource) = need.right.attributes();
    for verb in verbs {
        if may(client, user, (verb, resource), need.place.attributes()).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn may(
    client: &Client,
    user: &User,
    (verb, resource): (&str, &str),
    (namespace, name): (&str, &str),
) -> Result<bool, String> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.username.clone()),
            uid: given(&user.uid),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some(verb.to_owned()),
                namespace: given(namespace),
                name: given(name),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.map_err(|error| in_words(&error))?;
    Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}
