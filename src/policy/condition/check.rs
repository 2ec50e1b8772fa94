//! What a condition may be: the bounds and the language, checked before it ever runs.
//!
//! Invariant: a condition that passes names only what exists (roots, fields of `principal`, functions), has every name
//! that it asks the arguments for written in it, and does an amount of work that its size and the input's bounds limit.

use std::collections::BTreeSet;

use cel::Env;
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use cel::parser::ParseErrors;

use super::{CompiledRegex, ConditionError, DOUBLE, MATCHES, REGEX_VARIABLE};
use crate::tools::lock::JsonType;

/// The longest condition, in bytes.
const MAX_LENGTH: usize = 1024;
/// The deepest nesting of brackets, before the parser sees the text.
const MAX_NESTING: usize = 16;
/// The most nodes of the syntax tree, macros expanded.
const MAX_NODES: usize = 160;
/// The most nodes of one comprehension, which run once per element.
const MAX_LOOP_NODES: usize = 48;
/// The largest compiled regular expression, in bytes.
const MAX_REGEX: usize = 1 << 16;

/// The members of `principal`.
pub(super) const PRINCIPAL_FIELDS: [&str; 5] = ["subject", "kind", "client", "groups", "authority"];

/// Functions and operators, apart from `has`, the comprehensions and `matches`.
const FUNCTIONS: [&str; 25] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::IN,
    operators::NOT_STRICTLY_FALSE,
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "double",
    "string",
];

/// What a condition asks for.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// It mentions `args`.
    pub(super) arguments: bool,
    /// It mentions `args` otherwise than by member: every member is decoded.
    pub(super) all_members: bool,
    /// The members of `args` that it mentions.
    pub(super) members: Vec<String>,
    /// Those of them whose value it takes.
    pub(super) taken: Vec<String>,
    /// Members of `args`, and of which types they must be for what it does with them to come to anything.
    pub(super) expected: Vec<(String, BTreeSet<JsonType>)>,
    /// Those of which it asks whether they are there.
    pub(super) guarded: Vec<String>,
    /// Every member name, at any depth, that it asks the arguments for.
    pub(super) names: Vec<String>,
    /// It mentions `principal.groups`.
    pub(super) groups: bool,
    /// It has a comprehension: the bounds on its input are tighter.
    pub(super) loops: bool,
}

pub(super) fn parse(env: &Env, text: &str) -> Result<IdedExpr, ConditionError> {
    if text.len() > MAX_LENGTH {
        let message = format!("the condition has {} bytes, the limit is {MAX_LENGTH}", text.len());
        return Err(ConditionError::new("ConditionTooLong", message));
    }
    if nesting(text) > MAX_NESTING {
        let message = format!("brackets are nested more than {MAX_NESTING} deep");
        return Err(ConditionError::new("ConditionTooDeep", message));
    }
    env.parser().max_recursion_depth(64).parse(text).map_err(|e| ConditionError::new("ConditionSyntax", describe(&e)))
}

/// An upper bound of how deep the parser recurses: brackets in strings count too, and so do runs of prefix operators.
fn nesting(text: &str) -> usize {
    let (mut depth, mut run, mut deepest) = (0usize, 0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        run = match byte {
            b'!' | b'-' => run + 1,
            b' ' | b'\t' | b'\n' | b'\r' => run,
            _ => 0,
        };
        deepest = deepest.max(depth + run);
    }
    deepest
}

fn describe(errors: &ParseErrors) -> String {
    match errors.errors.first() {
        Some(e) => format!("line {}, column {}: {}", e.pos.0, e.pos.1, e.msg),
        None => "not a CEL expression".into(),
    }
}

/// Checks the tree, and replaces the literals of regular expressions by compiled ones.
pub(super) fn inspect(expression: &mut IdedExpr) -> Result<(Uses, Vec<CompiledRegex>), ConditionError> {
    let mut inspection = Inspection::default();
    inspection.visit(expression)?;
    let mut uses = inspection.uses;
    if uses.loops || inspection.dynamic_membership {
        // Which of the literals are compared with member names cannot be told: all are taken for one.
        uses.names.append(&mut inspection.literals);
    }
    for names in [&mut uses.names, &mut uses.members, &mut uses.taken, &mut uses.guarded] {
        names.sort_unstable();
        names.dedup();
    }
    Ok((uses, inspection.regexes))
}

#[derive(Default)]
struct Inspection {
    uses: Uses,
    regexes: Vec<CompiledRegex>,
    nodes: usize,
    /// The variables of the comprehension that encloses this place.
    bound: Option<Vec<String>>,
    dynamic_membership: bool,
    literals: Vec<String>,
}

impl Inspection {
    fn visit(&mut self, expression: &mut IdedExpr) -> Result<(), ConditionError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(ConditionError::new("ConditionTooLarge", "the condition has too many parts; split the rule"));
        }
        match &mut expression.expr {
            Expr::Literal(LiteralValue::Bytes(_)) => Err(refused("bytes")),
            Expr::Literal(literal) => {
                if let LiteralValue::String(text) = literal {
                    self.literals.push(text.inner().to_owned());
                }
                Ok(())
            }
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|element| self.visit(element)),
            Expr::Comprehension(comprehension) => {
                if self.bound.is_some() {
                    let message = "a comprehension inside a comprehension is not supported; split the rule";
                    return Err(ConditionError::new("ConditionNestedLoop", message));
                }
                self.visit(&mut comprehension.iter_range)?;
                let mut bound = vec![comprehension.iter_var.clone(), comprehension.accu_var.clone()];
                bound.extend(comprehension.iter_var2.clone());
                if bound.iter().any(|name| matches!(name.as_str(), "args" | "principal")) {
                    let message = "args and principal cannot be names of loop variables";
                    return Err(ConditionError::new("ConditionReference", message));
                }
                self.uses.loops = true;
                self.bound = Some(bound);
                let before = self.nodes;
                self.visit(&mut comprehension.accu_init)?;
                self.visit(&mut comprehension.loop_cond)?;
                self.visit(&mut comprehension.loop_step)?;
                self.visit(&mut comprehension.result)?;
                self.bound = None;
                if self.nodes - before > MAX_LOOP_NODES {
                    let message = "a comprehension has too many parts; split the rule";
                    return Err(ConditionError::new("ConditionTooLarge", message));
                }
                Ok(())
            }
            Expr::Map(_) => Err(refused("a map literal")),
            Expr::Struct(_) => Err(refused("a message literal")),
            Expr::Unspecified => Err(ConditionError::new("ConditionSyntax", "the condition is empty")),
        }
    }

    /// A name by itself.
    fn name(&mut self, name: &str) -> Result<(), ConditionError> {
        match name {
            "args" => {
                self.uses.arguments = true;
                self.uses.all_members = true;
                Ok(())
            }
            "principal" => {
                let message = format!("say which member of principal: {}", PRINCIPAL_FIELDS.join(", "));
                Err(ConditionError::new("ConditionReference", message))
            }
            _ if self.bound.as_ref().is_some_and(|bound| bound.iter().any(|b| b == name)) => Ok(()),
            _ => {
                let message = format!("{name:?} is not known; a condition speaks about args and principal");
                Err(ConditionError::new("ConditionReference", message))
            }
        }
    }

    fn select(&mut self, select: &mut SelectExpr) -> Result<(), ConditionError> {
        if matches!(&select.operand.expr, Expr::Ident(name) if name == "principal") {
            if !PRINCIPAL_FIELDS.contains(&select.field.as_str()) {
                let known = PRINCIPAL_FIELDS.join(", ");
                let message = format!("principal has no member {:?}; it has {known}", select.field);
                return Err(ConditionError::new("ConditionReference", message));
            }
            self.uses.groups |= select.field == "groups";
            return Ok(());
        }
        self.member(&mut select.operand, &select.field, select.test)
    }

    /// A member, by its name, of whatever `of` is: whether it is there (`test`), or its value.
    fn member(&mut self, of: &mut IdedExpr, name: &str, test: bool) -> Result<(), ConditionError> {
        self.uses.names.push(name.to_owned());
        if matches!(&of.expr, Expr::Ident(root) if root == "args") {
            self.uses.arguments = true;
            self.uses.members.push(name.to_owned());
            if test { &mut self.uses.guarded } else { &mut self.uses.taken }.push(name.to_owned());
            return Ok(());
        }
        self.visit(of)
    }

    fn call(&mut self, call: &mut CallExpr) -> Result<(), ConditionError> {
        if call.func_name == "matches" {
            self.compile_regex(call)?;
        } else if call.func_name == operators::INDEX {
            return self.index(call);
        } else if !FUNCTIONS.contains(&call.func_name.as_str()) {
            let message = format!("{:?} is not a function that conditions have", call.func_name);
            return Err(ConditionError::new("ConditionFunction", message));
        }
        self.expect(call);
        if call.func_name == "double" {
            call.func_name = DOUBLE.to_owned();
        }
        if call.func_name == operators::IN
            && let [element, container] = call.args.as_mut_slice()
        {
            if let Some(name) = string_literal(element) {
                return self.member(container, &name, true);
            }
            self.dynamic_membership = true;
        }
        if call.func_name == MATCHES {
            // The second argument is a compiled expression by now.
            return call.args.first_mut().map_or(Ok(()), |text| self.visit(text));
        }
        if let Some(target) = &mut call.target {
            self.visit(target)?;
        }
        call.args.iter_mut().try_for_each(|argument| self.visit(argument))
    }

    /// Notes what is done with a member of `args` that only some types stand: it is compared with a value that is written out, or
    /// given to a function.
    fn expect(&mut self, call: &CallExpr) {
        let expected = match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            (operators::EQUALS | operators::NOT_EQUALS, None, [one, other])
            | (operators::LESS | operators::LESS_EQUALS, None, [one, other])
            | (operators::GREATER | operators::GREATER_EQUALS, None, [one, other]) => argument(one)
                .zip(literal_type(other))
                .or_else(|| argument(other).zip(literal_type(one)))
                .map(|(name, of)| (name, BTreeSet::from([of]))),
            (operators::IN, None, [element, IdedExpr { expr: Expr::List(list), .. }]) if !list.elements.is_empty() => {
                let types: Option<BTreeSet<JsonType>> = list.elements.iter().map(literal_type).collect();
                argument(element).zip(types)
            }
            (MATCHES, None, [text, _]) | ("startsWith" | "endsWith", Some(text), [_]) => {
                argument(text).map(|name| (name, BTreeSet::from([JsonType::String])))
            }
            _ => None,
        };
        self.uses.expected.extend(expected);
    }

    fn index(&mut self, call: &mut CallExpr) -> Result<(), ConditionError> {
        let [of, index] = call.args.as_mut_slice() else { return Err(refused("this index")) };
        if let Some(name) = string_literal(index) {
            return self.member(of, &name, false);
        }
        if !matches!(&index.expr, Expr::Literal(LiteralValue::Int(_))) {
            let message = "an index must be written out, as args[\"name\"] or args.list[0]";
            return Err(ConditionError::new("ConditionReference", message));
        }
        self.visit(of)
    }

    /// Turns `text.matches("literal")` and `matches(text, "literal")` into a call with a compiled expression.
    fn compile_regex(&mut self, call: &mut CallExpr) -> Result<(), ConditionError> {
        let mut arguments: Vec<IdedExpr> = call.target.take().map(|target| *target).into_iter().collect();
        arguments.append(&mut call.args);
        let literal = match arguments.as_slice() {
            [_, pattern] => string_literal(pattern),
            _ => None,
        };
        let Some(literal) = literal else {
            let message = "the regular expression of matches() must be a string written out in the condition";
            return Err(ConditionError::new("ConditionRegex", message));
        };
        let regex = regex::RegexBuilder::new(&literal).size_limit(MAX_REGEX).build().map_err(|e| {
            let message = match e {
                regex::Error::CompiledTooBig(_) => "the regular expression is too large".to_owned(),
                e => format!("not a regular expression: {e}"),
            };
            ConditionError::new("ConditionRegex", message)
        })?;
        if let Some(pattern) = arguments.last_mut() {
            pattern.expr = Expr::Ident(format!("{REGEX_VARIABLE}{}", self.regexes.len()));
        }
        call.func_name = MATCHES.to_owned();
        call.args = arguments;
        self.regexes.push(CompiledRegex(regex));
        Ok(())
    }
}

/// The member of `args` that an expression is.
fn argument(expression: &IdedExpr) -> Option<String> {
    let is_root = |of: &IdedExpr| matches!(&of.expr, Expr::Ident(root) if root == "args");
    match &expression.expr {
        Expr::Select(select) if !select.test && is_root(&select.operand) => Some(select.field.clone()),
        Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
            [of, index] if is_root(of) => string_literal(index),
            _ => None,
        },
        _ => None,
    }
}

/// The type of a value that is written out; nothing of `null`, which people compare with to see whether there is a value.
fn literal_type(expression: &IdedExpr) -> Option<JsonType> {
    match &expression.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => Some(JsonType::Boolean),
        Expr::Literal(LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_)) => Some(JsonType::Number),
        Expr::Literal(LiteralValue::String(_)) => Some(JsonType::String),
        _ => None,
    }
}

fn string_literal(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    }
}

fn refused(what: &str) -> ConditionError {
    ConditionError::new("ConditionFunction", format!("{what} is not supported in conditions"))
}
