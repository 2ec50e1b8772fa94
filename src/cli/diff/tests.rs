use super::*;
use crate::access::tests::example;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn printed(old: &Loaded, new: &Loaded, more: &[&str]) -> (String, ExitCode) {
    let line = <Line as clap::Parser>::parse_from([&["diff", "old", "new"], more].concat());
    run(&line.args, old, new, 0).unwrap()
}

fn loaded(fleet: crate::fleet::Fleet) -> Loaded {
    Loaded { fleet, ..Loaded::default() }
}

fn refused() -> Refused {
    let (object, field) = ("McpPolicy team/`x`".to_owned(), "spec.rules[0]".to_owned());
    Refused { object, reason: "UnknownField", field, message: "no such field | \u{1b}[2J @all".to_owned() }
}

#[test]
fn a_gain_fails_and_a_loss_does_not_unless_it_is_asked_for() {
    let (none, some) = (loaded(crate::fleet::Fleet::default()), loaded(example()));
    for (old, new, on, code) in [
        (&none, &some, "gained", 1),
        (&none, &some, "none", 0),
        (&some, &none, "gained", 0),
        (&some, &none, "any", 1),
        (&some, &some, "any", 0),
    ] {
        assert_eq!(printed(old, new, &["--fail-on", on]).1, ExitCode::from(code), "{on}");
    }
    let broken = Loaded { refused: vec![refused()], ..loaded(example()) };
    assert_eq!(printed(&some, &broken, &[]).1, ExitCode::from(1), "nobody knows what it would do");
    assert_eq!(printed(&broken, &broken, &[]).1, ExitCode::from(0), "that was so before");
}

#[test]
fn what_is_refused_comes_first_and_cannot_steer() {
    let (old, new) = (loaded(example()), Loaded { refused: vec![refused()], ..loaded(example()) });
    let (text, _) = printed(&old, &new, &[]);
    assert!(text.starts_with("McpPolicy team/`x` is refused: UnknownField: spec.rules[0]: no such field"), "{text}");
    assert!(text.ends_with("1 object refused; nobody gains or loses access") && !text.contains('\u{1b}'), "{text}");
    let (page, _) = printed(&old, &new, &["-o", "markdown"]);
    let line = page.lines().find(|line| line.starts_with("- ")).unwrap();
    assert!(
        !line.contains(['|', '\u{1b}', '@']) && line.contains("<code>McpPolicy team&#47;&#96;x&#96;</code>"),
        "{page}"
    );
}

#[test]
fn a_long_page_fits_into_a_comment() {
    let (none, some) = (loaded(crate::fleet::Fleet::default()), example());
    let served = some.by_name("team", "a").unwrap().server;
    let mut many = some.clone();
    for n in 0..2000 {
        let mut server = crate::generated::Server::clone(served);
        (server.id.uid, server.id.name, server.path) = (format!("uid-{n}"), format!("s{n}"), format!("/team/s{n}"));
        many.put_server(server);
    }
    let (page, _) = printed(&none, &loaded(many.clone()), &["-o", "markdown"]);
    assert!(page.len() < 60_000 && page.contains("more: see `portcullis diff`"), "{}", page.len());
    let (page, _) = printed(&loaded(many), &none, &["-o", "markdown"]);
    assert!(page.len() < 60_000 && page.contains("<details><summary>"), "{}", page.len());
}
