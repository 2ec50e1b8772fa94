//! Which scopes a request needs, and whether a token has them.
//!
//! Invariant: scopes are compared as whole tokens, by code point (RFC 6749 section 3.3): `mcp:readonly` never stands in
//! for `mcp:read`. A check that succeeds allocates nothing.

use crate::generated::server::Scopes;
use crate::glob::Glob;

/// The scopes that a token carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantedScopes(Box<[Box<str>]>);

impl GrantedScopes {
    /// Scopes in any order, duplicates allowed.
    pub fn new<'a>(scopes: impl IntoIterator<Item = &'a str>) -> GrantedScopes {
        let mut scopes: Vec<Box<str>> = scopes.into_iter().map(Into::into).collect();
        scopes.sort_unstable();
        scopes.dedup();
        GrantedScopes(scopes.into())
    }

    /// Whether this exact scope is among them.
    pub fn contains(&self, scope: &str) -> bool {
        self.0.binary_search_by(|own| (**own).cmp(scope)).is_ok()
    }

    /// All of them, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| &**scope)
    }
}

/// The scopes that one server asks for, prepared for looking up.
#[derive(Clone, Debug)]
pub struct ScopeTable {
    baseline: Box<[Box<str>]>,
    tools: Box<[ToolEntry]>,
}

#[derive(Clone, Debug)]
struct ToolEntry {
    patterns: Box<[Glob]>,
    scopes: Box<[Box<str>]>,
}

/// A scope in the configuration that cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{scope:?} is not a scope token: visible ASCII without space, quote and backslash (RFC 6749 section 3.3)")]
pub struct ScopeError {
    /// The offending text.
    pub scope: String,
}

impl ScopeError {
    /// A stable word for conditions, logs and metrics.
    pub fn reason(&self) -> &'static str {
        "ScopeInvalid"
    }
}

/// A token lacks scopes that the operation needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token lacks scopes; ask for: {}", self.ask_for.join(" "))]
pub struct InsufficientScope {
    /// *All* scopes that the operation needs, those that the token has included: one round of consent is enough. Then those
    /// that it has of what this server asks for elsewhere: a client that asks for just what it is told, as clients of
    /// 2025-11-25 may, would give them up, and ask for them again at the next call.
    pub ask_for: Vec<String>,
}

impl ScopeTable {
    /// Prepares a server's scopes. Every scope must be a scope token.
    pub fn compile(scopes: &Scopes) -> Result<ScopeTable, ScopeError> {
        let tools = scopes.tools.iter().map(|entry| {
            let patterns = entry.patterns.iter().map(|pattern| Glob::new(pattern)).collect();
            Ok(ToolEntry { patterns, scopes: scope_tokens(&entry.scopes)? })
        });
        Ok(ScopeTable { baseline: scope_tokens(&scopes.baseline)?, tools: tools.collect::<Result<_, ScopeError>>()? })
    }

    /// The scopes needed for any request.
    pub fn baseline(&self) -> impl Iterator<Item = &str> {
        self.baseline.iter().map(|scope| &**scope)
    }

    /// Every scope that some request needs. A scope may come more than once.
    fn all(&self) -> impl Iterator<Item = &str> {
        self.baseline().chain(self.tools.iter().flat_map(|entry| entry.scopes.iter().map(|scope| &**scope)))
    }

    /// All scopes needed for a request, about `tool` if it is about one. A scope may come more than once.
    pub fn needed<'s>(&'s self, tool: Option<&'s str>) -> impl Iterator<Item = &'s str> {
        let matching = move |entry: &&ToolEntry| {
            tool.is_some_and(|tool| entry.patterns.iter().any(|pattern| pattern.matches(tool)))
        };
        let tools = self.tools.iter().filter(matching).flat_map(|entry| entry.scopes.iter().map(|scope| &**scope));
        self.baseline().chain(tools)
    }

    /// Whether `granted` covers a request, about `tool` if it is about one.
    pub fn check(&self, granted: &GrantedScopes, tool: Option<&str>) -> Result<(), InsufficientScope> {
        if self.needed(tool).all(|scope| granted.contains(scope)) {
            return Ok(());
        }
        let mut ask_for: Vec<String> = Vec::new();
        for scope in self.needed(tool).chain(self.all().filter(|scope| granted.contains(scope))) {
            if !ask_for.iter().any(|known| known == scope) {
                ask_for.push(scope.to_owned());
            }
        }
        Err(InsufficientScope { ask_for })
    }
}

fn scope_tokens(scopes: &[String]) -> Result<Box<[Box<str>]>, ScopeError> {
    let token = |scope: &String| {
        if is_scope_token(scope) { Ok(scope.as_str().into()) } else { Err(ScopeError { scope: scope.clone() }) }
    };
    scopes.iter().map(token).collect()
}

/// `scope-token` of RFC 6749 section 3.3: `1*( %x21 / %x23-5B / %x5D-7E )`.
pub fn is_scope_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::server::ToolScopes;

    fn table() -> ScopeTable {
        let entry = |name: &str, patterns: &[&str], scopes: &[&str]| ToolScopes {
            name: name.into(),
            patterns: patterns.iter().map(|text| (*text).to_owned()).collect(),
            scopes: scopes.iter().map(|text| (*text).to_owned()).collect(),
        };
        ScopeTable::compile(&Scopes {
            baseline: vec!["mcp:use".into()],
            tools: vec![
                entry("admin", &["delete_*", "purge"], &["mcp:admin", "mcp:use"]),
                entry("write", &["*_repo"], &["mcp:write"]),
            ],
        })
        .unwrap()
    }

    fn asked(granted: &[&str], tool: Option<&str>) -> Option<String> {
        let granted = GrantedScopes::new(granted.iter().copied());
        table().check(&granted, tool).err().map(|error| error.ask_for.join(" "))
    }

    #[test]
    fn a_challenge_names_all_scopes_of_the_operation() {
        assert_eq!(asked(&["mcp:use"], None), None);
        assert_eq!(asked(&["mcp:use"], Some("get_issue")), None);
        assert_eq!(asked(&[], None).as_deref(), Some("mcp:use"));
        assert_eq!(asked(&["mcp:use"], Some("delete_issue")).as_deref(), Some("mcp:use mcp:admin"));
        let all = Some("mcp:use mcp:admin mcp:write");
        assert_eq!(asked(&["mcp:use", "mcp:admin"], Some("delete_repo")).as_deref(), all, "entries add up");
        assert_eq!(asked(&["mcp:use", "mcp:admin", "mcp:write"], Some("delete_repo")), None);
    }

    #[test]
    fn a_challenge_keeps_what_the_token_has_of_this_servers_scopes_and_no_other() {
        let kept = asked(&["mcp:use", "mcp:write", "profile", "mcp:adm"], Some("delete_issue"));
        assert_eq!(kept.as_deref(), Some("mcp:use mcp:admin mcp:write"));
        assert_eq!(asked(&["mcp:write", "profile"], None).as_deref(), Some("mcp:use mcp:write"));
    }

    #[test]
    fn scopes_match_as_whole_tokens() {
        for near in ["mcp:user", "mcp:us", "MCP:USE", "mcp", "*", "mcp:*", "mcp:use mcp:x", ""] {
            assert!(asked(&[near], None).is_some(), "{near}");
        }
        assert!(asked(&["a", "z", "mcp:use", "mcp:use"], None).is_none());
    }

    #[test]
    fn what_is_no_scope_token_is_refused() {
        for scope in ["", "a b", "a\"b", "a\\b", "a\nb", "\u{e4}"] {
            let error = ScopeTable::compile(&Scopes { baseline: vec![scope.into()], tools: Vec::new() }).unwrap_err();
            assert_eq!(error.scope, scope);
        }
        assert!(is_scope_token("https://graph.example/.default") && is_scope_token("mcp:use"));
    }
}
