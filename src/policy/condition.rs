//! Conditions (`when`), in CEL, over `args` and `principal`.
//!
//! Invariant: what is compiled ends soon, whatever it is asked: bounds are checked before a condition runs, and those
//! on its input while it is decoded. Whatever goes wrong is *unknown*, never false: an Allow then does not match, a
//! Deny does.

mod check;
mod input;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::common::types::{self, CelBool, CelDouble, CelInt, CelString, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Value};

use self::check::Uses;
use self::input::Caller;
use super::tri::Tri;
use crate::identity::principal::{Groups, Principal};
use crate::tools::lock::JsonType;

/// Why a condition is refused at admission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConditionError {
    reason: &'static str,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl ConditionError {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// Whether a condition is one that this build evaluates, within its bounds.
pub fn check(text: &str) -> Result<(), ConditionError> {
    Condition::compile(text).map(|_| ())
}

/// A condition, checked and ready to run.
#[derive(Debug)]
pub struct Condition {
    expression: IdedExpr,
    regexes: Box<[CompiledRegex]>,
    uses: Uses,
}

impl Condition {
    /// Compiles a condition.
    pub fn compile(text: &str) -> Result<Self, ConditionError> {
        let mut expression = check::parse(&ENVIRONMENT, text)?;
        let (uses, regexes) = check::inspect(&mut expression)?;
        Ok(Self { expression, regexes: regexes.into(), uses })
    }

    /// Whether the answer can depend on the arguments of a call.
    pub fn depends_on_arguments(&self) -> bool {
        self.uses.arguments
    }

    /// The members of `args` that the condition takes for given: it asks for them, and nowhere whether they are there.
    pub fn unguarded_arguments(&self) -> impl Iterator<Item = &str> {
        let guarded = |name: &&String| self.uses.guarded.contains(name);
        self.uses.taken.iter().filter(move |name| !guarded(name)).map(String::as_str)
    }

    /// What the condition takes members of `args` for: one of another type than these is never equal, or makes it fail.
    pub fn expected_types(&self) -> impl Iterator<Item = (&str, &BTreeSet<JsonType>)> {
        self.uses.expected.iter().map(|(name, types)| (name.as_str(), types))
    }

    /// Runs the condition. `arguments` is the JSON text of an object, proven free of duplicate members; `None`: empty.
    pub fn answer(&self, principal: &Principal, arguments: Option<&str>) -> Result<bool, Unanswered> {
        if self.lacks_groups(principal) {
            return Err(Unanswered::GroupsUnknown);
        }
        let decoded = match arguments.filter(|_| self.uses.arguments) {
            Some(text) => input::decode(text, &self.uses).map_err(Unanswered::Arguments)?,
            None => input::empty(),
        };
        let scope = Scope { caller: Caller(principal), arguments: &decoded, regexes: &self.regexes };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&scope);
        let value = Value::resolve_val(&self.expression, &context).map_err(Unanswered::Failed)?;
        value.downcast_ref::<CelBool>().map(|answer| *answer.inner()).ok_or(Unanswered::NotBoolean)
    }

    /// Without this, `!has(principal.groups)` would hold for those whose groups are only not known.
    fn lacks_groups(&self, principal: &Principal) -> bool {
        self.uses.groups && principal.groups == Groups::Unknown
    }

    fn run(&self, principal: &Principal, arguments: Option<&str>) -> Tri {
        self.answer(principal, arguments).map_or(Tri::Unknown, Tri::from)
    }
}

/// Why a condition has no answer for a call. May quote arguments: for the person who asks, not for records.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// It asks about groups that are not known.
    #[error("the caller's groups are not known")]
    GroupsUnknown,
    /// The arguments cannot be read unambiguously, or are beyond the bounds.
    #[error("the arguments cannot be used: {0}")]
    Arguments(serde_json::Error),
    /// An operation failed, for example on a member that is missing or of another type.
    #[error("{0}")]
    Failed(ExecutionError),
    /// The condition's value is neither true nor false.
    #[error("its value is neither true nor false")]
    NotBoolean,
}

/// What a condition is asked about: a caller, and arguments that are known or still open. Remembers answers, since one
/// rule may be met several times.
pub(super) struct Asked<'a> {
    principal: &'a Principal,
    arguments: Arguments<'a>,
    answers: RefCell<Vec<(*const Condition, Outcome)>>,
}

#[derive(Clone, Copy)]
enum Arguments<'a> {
    /// Whatever is asked for is open, the caller included.
    AllOpen,
    Open,
    Given(Option<&'a str>),
}

/// The answer of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The same under every arguments.
    Closed(Tri),
    /// For the arguments given.
    ForArguments(Tri),
    /// Depends on arguments that are not known.
    Open,
}

impl<'a> Asked<'a> {
    /// About a call.
    pub(super) fn call(principal: &'a Principal, arguments: Option<&'a str>) -> Self {
        Self { principal, arguments: Arguments::Given(arguments), answers: RefCell::default() }
    }

    /// About an entry of a list: its arguments are open.
    pub(super) fn list(principal: &'a Principal) -> Self {
        Self { principal, arguments: Arguments::Open, answers: RefCell::default() }
    }

    /// About nobody in particular: every condition is open.
    pub(super) fn anybody(principal: &'a Principal) -> Self {
        Self { principal, arguments: Arguments::AllOpen, answers: RefCell::default() }
    }

    pub(super) fn judge(&self, condition: &Condition) -> Outcome {
        let mut answers = self.answers.borrow_mut();
        if let Some((_, known)) = answers.iter().find(|(asked, _)| std::ptr::eq(*asked, condition)) {
            return *known;
        }
        let outcome = match self.arguments {
            Arguments::AllOpen => Outcome::Open,
            _ if condition.lacks_groups(self.principal) => Outcome::Closed(Tri::Unknown),
            _ if !condition.uses.arguments => Outcome::Closed(condition.run(self.principal, None)),
            Arguments::Given(arguments) => Outcome::ForArguments(condition.run(self.principal, arguments)),
            Arguments::Open => Outcome::Open,
        };
        answers.push((condition, outcome));
        outcome
    }
}

/// The variables of one run.
struct Scope<'s> {
    caller: Caller<'s>,
    arguments: &'s (dyn Val + 's),
    regexes: &'s [CompiledRegex],
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "args" => Some(CowVal::Borrowed(self.arguments)),
            "principal" => Some(CowVal::Borrowed(&self.caller)),
            _ => {
                let index: usize = variable.strip_prefix(REGEX_VARIABLE)?.parse().ok()?;
                self.regexes.get(index).map(|regex| CowVal::Borrowed(regex as &dyn Val))
            }
        }
    }
}

/// What `matches(x, "literal")` becomes: the literal is compiled once, when the condition is.
const MATCHES: &str = "@matches";
const REGEX_VARIABLE: &str = "@regex";
/// What `double(x)` becomes: text such as `inf` or `1e999` is an error, as it is where arguments are decoded.
const DOUBLE: &str = "@double";
static REGEX_TYPE: Type = Type::new_unspecified_type("portcullis.regex");

#[derive(Clone, Debug)]
struct CompiledRegex(regex::Regex);

impl Val for CompiledRegex {
    fn get_type(&self) -> &Type {
        &REGEX_TYPE
    }

    fn cel_type() -> &'static Type {
        &REGEX_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}

impl StaticVal for CompiledRegex {}

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib().with_optional_support(false);
    // The names are free in the standard library; were they not, conditions that use them would be unknown.
    env.add_overload(MATCHES, "string_matches_regex", vec![types::STRING_TYPE, REGEX_TYPE.to_owned()], matches).ok();
    for (id, from) in [
        ("string_to_finite", types::STRING_TYPE),
        ("int_to_finite", types::INT_TYPE),
        ("double_to_finite", types::DOUBLE_TYPE),
    ] {
        env.add_overload(DOUBLE, id, vec![from], double).ok();
    }
    Arc::new(env)
});

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, regex] = arguments.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(2, arguments.len()));
    };
    match (text.downcast_ref::<CelString>(), regex.downcast_ref::<CompiledRegex>()) {
        (Some(text), Some(regex)) => Ok(CowVal::owned(CelBool::from(regex.0.is_match(text.inner())))),
        _ => Err(ExecutionError::MissingArgumentOrTarget),
    }
}

fn double<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [value] = arguments.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(1, arguments.len()));
    };
    let number = if let Some(text) = value.downcast_ref::<CelString>() {
        text.inner().parse().ok()
    } else if let Some(number) = value.downcast_ref::<CelInt>() {
        Some(*number.inner() as f64)
    } else {
        value.downcast_ref::<CelDouble>().map(|number| *number.inner())
    };
    match number.filter(|number: &f64| number.is_finite()) {
        Some(number) => Ok(CowVal::owned(CelDouble::from(number))),
        None => Err(ExecutionError::FunctionError {
            function: "double".to_owned(),
            message: "not a finite number".to_owned(),
        }),
    }
}
