//! What is asked: who wants to do what, with which facts.

use super::index::PrincipalKeys;
use crate::identity::principal::Principal;
use crate::tools::risk::KnownRisk;

/// One question: may this principal do this to this target?
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// The principal's keys, [`PrincipalKeys::of`] the same principal: computed once per verified token.
    pub keys: &'a PrincipalKeys,
    /// What the call is about.
    pub target: Target<'a>,
    /// The raw JSON text of the arguments object, already proven free of duplicate members; `None`: the call has none,
    /// and conditions see an empty object. Decoded only if a reached rule has a condition about arguments.
    pub arguments: Option<&'a str>,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A tool call.
    Tool {
        /// The tool's exact name.
        name: &'a str,
        /// What is known of its risk.
        risk: KnownRisk,
    },
    /// A resource, by its exact URI.
    Resource {
        /// The URI as sent.
        uri: &'a str,
    },
    /// A prompt.
    Prompt {
        /// The prompt's exact name.
        name: &'a str,
    },
}

/// Facts that the evaluator must not find out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Unix seconds.
    pub now: i64,
}
