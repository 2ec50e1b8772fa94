//! Options by the names that other verbs, or other tools, have for them.
//!
//! Invariant: none of these is ever taken; whoever types one is told the name that this verb has for it.

use clap::builder::UnknownArgumentValueParser;
use clap::{Arg, Command};

/// What is typed, and what may be meant by it.
const MEANT: &[(&str, &str)] = &[
    ("manifests", "--filename"),
    ("filename", "--manifests"),
    ("file", "--filename"),
    ("file", "--manifests"),
    ("user", "--as"),
    ("as", "--user"),
    ("kube-context", "--context"),
];

/// The command with these names, in every verb that has the option which is meant.
pub(super) fn taught(command: Command) -> Command {
    let mut command = command.mut_subcommands(taught);
    let plain = command.clone();
    for (typed, meant) in MEANT {
        if has(&plain, meant.trim_start_matches('-')) && !has(&command, typed) {
            command = command.arg(mistaken(typed, meant).long(*typed));
        }
    }
    let has_f = plain.get_arguments().any(|option| option.get_short() == Some('f'));
    if has(&plain, "manifests") && !has_f {
        command = command.arg(mistaken("f", "--manifests").short('f'));
    }
    command
}

fn has(command: &Command, long: &str) -> bool {
    command.get_arguments().any(|option| option.get_long() == Some(long))
}

fn mistaken(typed: &'static str, meant: &'static str) -> Arg {
    Arg::new(typed).hide(true).value_parser(UnknownArgumentValueParser::suggest_arg(meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> String {
        let words = ["portcullis"].iter().chain(words);
        taught(super::super::command()).try_get_matches_from(words).unwrap_err().to_string()
    }

    #[test]
    fn the_option_that_is_meant_is_named() {
        for (words, meant) in [
            (&["explain", "--server", "team/a", "--user", "ana"][..], "--as"),
            (&["what-can", "--as", "user:ana"], "--user"),
            (&["who-can", "--server", "team/a", "--manifests", "deploy"], "--filename"),
            (&["standalone", "-f", "deploy"], "--manifests"),
            (&["standalone", "--file", "deploy"], "--manifests"),
            (&["clients", "adopt", "team/a", "--kube-context", "blue"], "--context"),
        ] {
            let said = said(words);
            assert!(said.contains("unexpected argument") && said.contains(&format!("'{meant}'")), "{words:?}: {said}");
        }
    }

    #[test]
    fn it_is_in_no_help() {
        fn helps(command: &mut Command, into: &mut Vec<String>) {
            into.push(command.render_long_help().to_string());
            command.get_subcommands_mut().for_each(|verb| helps(verb, into));
        }
        let (mut plain, mut with_names) = (Vec::new(), Vec::new());
        helps(&mut super::super::command(), &mut plain);
        helps(&mut taught(super::super::command()), &mut with_names);
        assert!(plain.len() > 20 && plain == with_names);
    }
}
