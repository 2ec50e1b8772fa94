//! What is said of a server, made of what was applied.

use super::build::Verdict;
use crate::controller::apply::Applied;
use crate::controller::conditions::{
    self, DISABLED, PROGRAMMED, READY, Said, Statement, TOOLS_DRIFTED, TOOLS_LISTED, TOOLS_REVIEWED, Truth,
};
use crate::controller::proxies::Programming;
use crate::controller::tools::Told;

/// What is said of a server. `programming` is what proxies make of what was written, if they were told of it.
pub fn status(applied: &Applied<Verdict>, programming: Option<Programming>) -> Statement {
    let Verdict { errors, warnings, resource, disabled } = &applied.verdict;
    let meanwhile = match applied.generated {
        Some(_) => "it takes no calls.",
        None => "it is not served.",
    };
    let accepted = conditions::accepted(errors, warnings, meanwhile);
    let resolved = conditions::resolved_refs(accepted.truth == Truth::True, warnings);
    let programmed = match applied.generated {
        Some(_) => conditions::programming(PROGRAMMED, programming),
        None => Said::new(PROGRAMMED, Truth::False, accepted.reason.clone(), "nothing is served of it."),
    };
    let mut statement = Statement::new(applied.id.generation, vec![accepted, resolved, programmed]);
    if *disabled {
        let ready = statement.conditions.iter_mut().find(|said| said.type_ == READY && said.truth == Truth::True);
        if let Some(said) = ready {
            DISABLED.clone_into(&mut said.reason);
            "spec.state is Disabled: every call is refused.".clone_into(&mut said.message);
        }
    }
    match resource {
        Some(resource) => statement.member("resource", resource.as_str()),
        None => statement,
    }
}

/// The same with what the upstream lists. None of it makes a server less ready: calls are decided as before.
pub fn with_tools(statement: Statement, told: &Told) -> Statement {
    let mut statement = statement;
    if let Some(reason) = told.failure {
        let message = "the upstream could not be asked for its tools; calls are not held up by this.";
        statement.conditions.push(Said::new(TOOLS_LISTED, Truth::False, reason, message));
    } else if told.tools.is_some() {
        statement.conditions.push(Said::new(TOOLS_LISTED, Truth::True, TOOLS_LISTED, ""));
    }
    match &told.drift {
        Some(Some(drift)) => {
            statement.conditions.push(Said::new(TOOLS_REVIEWED, Truth::False, TOOLS_DRIFTED, drift.as_str()));
        }
        Some(None) => statement.conditions.push(Said::new(TOOLS_REVIEWED, Truth::True, TOOLS_REVIEWED, "")),
        None => {}
    }
    match told.tools.as_ref().and_then(|tools| serde_json::to_value(tools).ok()) {
        Some(tools) => statement.member("tools", tools),
        None => statement,
    }
}
