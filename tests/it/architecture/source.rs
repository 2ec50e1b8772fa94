//! Walks one source file's syntax tree and judges every path in it.

use std::collections::HashMap;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree, Visibility};

use super::page::{House, Storey};
use super::rules;

/// One name that a `use` item brings in: its absolute path, and what the file calls it.
struct Import {
    path: Vec<String>,
    called: Option<String>,
    glob: bool,
    line: usize,
}

struct Walk<'a> {
    house: &'a House,
    file: &'a str,
    folder: String,
    storey: Storey,
    module: Vec<String>,
    in_test: bool,
    names: HashMap<String, Vec<String>>,
    found: Vec<String>,
}

/// Every finding in `text`, which stands at `file` (from the crate's root), as `file:line: what`.
pub(super) fn check(house: &House, file: &str, text: &str) -> Vec<String> {
    let tree = match syn::parse_file(text) {
        Ok(tree) => tree,
        Err(e) => return vec![format!("{file}:{}: does not parse: {e}", e.span().start().line)],
    };
    let mut module: Vec<String> =
        file.trim_start_matches("src/").trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    if module == ["lib"] {
        return only_modules(file, &tree.items);
    }
    let folder = module[0].clone();
    let in_test = module.iter().any(|m| m == "tests");
    let storey = match house.storey(&folder) {
        Some(storey) => storey,
        None if folder == "main" => Storey::Top,
        None => return vec![format!("{file}:1: `{folder}` is no folder of the page in src/lib.rs; draw it there")],
    };
    let mut walk = Walk { house, file, folder, storey, module, in_test, names: HashMap::new(), found: Vec::new() };
    NameCollector(&mut walk).visit_file(&tree);
    walk.visit_file(&tree);
    walk.found.sort();
    walk.found.dedup();
    walk.found
}

/// The crate's root holds the page and the folders; a name defined here would belong to no storey.
fn only_modules(file: &str, items: &[Item]) -> Vec<String> {
    let stray = items.iter().filter(|i| !matches!(i, Item::Mod(m) if m.content.is_none()));
    stray.map(|_| format!("{file}:1: holds something else than `mod` lines")).collect()
}

fn is_cfg_test(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|a| a.path().is_ident("cfg") && matches!(&a.meta, Meta::List(list) if list.tokens.to_string() == "test"))
}

/// `#[path = ".."]` may name a file beside or below the one it stands in, and nothing else.
fn leads_elsewhere(attribute: &Attribute) -> bool {
    let Meta::NameValue(named) = &attribute.meta else { return false };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &named.value else { return false };
    named.path.is_ident("path") && (path.value().contains("..") || path.value().starts_with('/'))
}

impl Walk<'_> {
    fn say(&mut self, line: usize, what: &str) {
        self.found.push(format!("{}:{line}: {} {what}", self.file, self.folder));
    }

    /// The absolute path of `segments` as written in the current module: `crate::..` for ours, else as from outside.
    fn resolve(&self, segments: &[String]) -> Vec<String> {
        let mut module = self.module.clone();
        let mut rest = segments;
        match segments.first().map(String::as_str) {
            Some("crate" | "portcullis") => module.clear(),
            Some("self") => {}
            Some("super") => {
                while rest.first().is_some_and(|s| s == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
                return join(module, rest);
            }
            Some(first) => {
                return match self.names.get(first) {
                    Some(path) if segments.len() > 1 => [path, &segments[1..]].concat(),
                    _ => segments.to_vec(),
                };
            }
            None => return Vec::new(),
        }
        join(module, &rest[1..])
    }

    fn judge(&mut self, path: &[String], glob: bool, line: usize) {
        if path.first().is_some_and(|root| root == "crate") {
            return self.judge_ours(path, glob, line);
        }
        if self.in_test {
            return;
        }
        if let Some(what) = rules::outside(self.storey, &self.folder, path, glob) {
            self.say(line, &what);
        }
    }

    fn judge_ours(&mut self, path: &[String], glob: bool, line: usize) {
        let Some(target) = path.get(1) else {
            if glob {
                self.say(line, "takes everything with the glob `crate::*`");
            }
            return;
        };
        if self.house.storey(target).is_none() && *target != self.folder {
            self.say(line, &format!("names `crate::{target}`: `{target}` is no folder of the page in src/lib.rs"));
        } else if self.folder != "main" && !self.house.allows(&self.folder, target) {
            self.say(line, &format!("-> {target} is no arrow of the page in src/lib.rs (`{}`)", path.join("::")));
        } else if self.folder == "main" && target != "cli" {
            self.say(line, &format!("-> {target}: main.rs calls cli alone"));
        }
    }

    /// Judges the paths in tokens that no syntax tree exists for: macro calls and definitions, attributes.
    fn judge_tokens(&mut self, tokens: TokenStream, strings_are_paths: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.judge_tokens(group.stream(), strings_are_paths),
                TokenTree::Literal(literal) if strings_are_paths => {
                    self.judge_string(&literal.to_string(), literal.span().start().line);
                }
                TokenTree::Ident(first) => {
                    let line = first.span().start().line;
                    let (segments, last, tree) = path_at(&tokens, at);
                    let path = self.resolve(&segments);
                    if segments.len() > 1 {
                        self.judge(&path, false, line);
                    }
                    if tree && path.first().is_some_and(|root| root == "crate") {
                        self.say(line, "imports a tree inside a macro, which cannot be followed: write a plain path");
                    }
                    at = last;
                }
                TokenTree::Literal(_) | TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }

    /// `#[serde(with = "crate::x")]`: a path in a string.
    fn judge_string(&mut self, literal: &str, line: usize) {
        let segments: Vec<String> = literal.trim_matches('"').split("::").map(|s| s.trim().to_owned()).collect();
        if segments.len() > 1 && segments.iter().all(|s| syn::parse_str::<syn::Path>(s).is_ok()) {
            let path = self.resolve(&segments);
            self.judge(&path, false, line);
        }
    }

    fn imports(&self, item: &syn::ItemUse) -> Vec<Import> {
        let mut out = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut out);
        for import in &mut out {
            import.path = self.resolve(&import.path);
        }
        out
    }
}

/// The path that starts at `tokens[at]`: its segments, the index of its last token, and whether a `{..}` tree follows.
fn path_at(tokens: &[TokenTree], at: usize) -> (Vec<String>, usize, bool) {
    let colon = |i: usize| matches!(tokens.get(i), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    let mut segments = vec![tokens[at].to_string()];
    let mut last = at;
    while colon(last + 1) && colon(last + 2) {
        match tokens.get(last + 3) {
            Some(TokenTree::Ident(next)) => segments.push(next.to_string()),
            Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace => return (segments, last + 2, true),
            _ => break,
        }
        last += 3;
    }
    (segments, last, false)
}

fn join(module: Vec<String>, rest: &[String]) -> Vec<String> {
    std::iter::once("crate".to_owned()).chain(module).chain(rest.iter().cloned()).collect()
}

fn flatten(tree: &UseTree, before: &mut Vec<String>, into: &mut Vec<Import>) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, into);
            before.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|t| flatten(t, before, into)),
        UseTree::Name(name) => into.push(named(before, &name.ident, &name.ident)),
        UseTree::Rename(name) => into.push(named(before, &name.ident, &name.rename)),
        UseTree::Glob(glob) => into.push(Import {
            path: before.clone(),
            called: None,
            glob: true,
            line: glob.star_token.spans[0].start().line,
        }),
    }
}

fn named(before: &[String], ident: &syn::Ident, called: &syn::Ident) -> Import {
    let mut path = before.to_vec();
    // `a::{self}` names `a` itself; a lone `self` stays for `resolve`.
    if ident != "self" || path.is_empty() {
        path.push(ident.to_string());
    }
    let called = if called == "self" { path.last().cloned() } else { Some(called.to_string()) };
    Import { path, called, glob: false, line: ident.span().start().line }
}

/// First pass: what each imported name stands for. Scopes are not told apart, which can only make the check stricter.
struct NameCollector<'w, 'a>(&'w mut Walk<'a>);

impl<'ast> Visit<'ast> for NameCollector<'_, '_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.0.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.0.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for import in self.0.imports(item) {
            if let Some(called) = import.called {
                self.0.names.insert(called, import.path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let line = item.ident.span().start().line;
        if !self.in_test && item.attrs.iter().any(leads_elsewhere) {
            self.say(line, "takes a file from elsewhere with #[path]: a file's place says what it may do");
        }
        let test = is_cfg_test(&item.attrs);
        if item.content.is_none() && item.ident == "tests" && !test && !self.in_test {
            self.say(line, "builds `mod tests` always: put it behind #[cfg(test)]");
        }
        let before = self.in_test;
        self.in_test |= test;
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
        self.in_test = before;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for import in self.imports(item) {
            let ours = import.path.first().is_some_and(|root| root == "crate");
            let elsewhere = ours && import.path.get(1).is_some_and(|target| *target != self.folder);
            if elsewhere && !matches!(item.vis, Visibility::Inherited) {
                self.say(import.line, &format!("re-exports `{}`, which hides an arrow", import.path.join("::")));
            }
            self.judge(&import.path, import.glob, import.line);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let line = path.segments.first().map_or(1, |s| s.ident.span().start().line);
        let resolved = self.resolve(&segments);
        if segments.len() > 1 {
            self.judge(&resolved, false, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        let name = mac.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default();
        let line = mac.path.segments.first().map_or(1, |s| s.ident.span().start().line);
        if name == "include" {
            self.say(line, "takes text from elsewhere with include!: a file's place says what it may do");
        }
        if self.storey == Storey::Pure
            && !self.in_test
            && let Some(what) = rules::impure_macro(&name)
        {
            self.say(line, &what);
        }
        self.judge_tokens(mac.tokens.clone(), false);
        visit::visit_macro(self, mac);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.judge_tokens(list.tokens.clone(), true);
        }
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = signature.asyncness {
            self.judge_async(token.span.start().line);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.judge_async(block.async_token.span.start().line);
        visit::visit_expr_async(self, block);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.say(item.ident.span().start().line, "uses `extern crate`, which hides arrows");
    }
}

impl Walk<'_> {
    fn judge_async(&mut self, line: usize) {
        if self.storey == Storey::Pure && !self.in_test {
            self.say(line, "is pure and may not be async");
        }
    }
}
