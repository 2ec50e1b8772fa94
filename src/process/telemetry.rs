//! What the process says about itself.
//!
//! Invariant: text chosen by strangers cannot forge or hide a line: control characters, line separators and
//! bidirectional overrides are escaped in both formats, and no terminal sequence is written unless to a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;

/// The variable that says what is logged, for example `info,portcullis::proxy=debug`.
pub const FILTER_VARIABLE: &str = "PORTCULLIS_LOG";

/// What is not logged unless somebody asks for it by name: the client of Kubernetes logs every failed try, and what it
/// sends. Whoever uses it says once that something fails, and once that it is over.
const QUIET: &str = "kube_client=off,kube_runtime=off";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("{FILTER_VARIABLE} is not a log filter such as info or portcullis::proxy=debug: {0}")]
    Filter(String),
    /// A subscriber was installed before.
    #[error("logging was already set up")]
    Installed,
}

impl TelemetryError {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            TelemetryError::Filter(_) => "LogFilterInvalid",
            TelemetryError::Installed => "LoggingInstalled",
        }
    }
}

/// Installs logging to standard error for the whole process; the level is `filter`, else `PORTCULLIS_LOG`, else `info`.
///
/// # Errors
/// If the filter does not parse or logging was installed before.
pub fn init(format: Format, filter: Option<&str>) -> Result<(), TelemetryError> {
    let from_environment = std::env::var(FILTER_VARIABLE).ok();
    let directives = filter.or(from_environment.as_deref()).unwrap_or("info");
    let filter =
        EnvFilter::try_new(format!("{QUIET},{directives}")).map_err(|e| TelemetryError::Filter(e.to_string()))?;
    let terminal = io::stderr().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let text = match format {
        Format::Auto => terminal,
        Format::Text => true,
        Format::Json => false,
    };
    let installed = if text {
        builder.with_writer(io::stderr).with_ansi(terminal && !no_color).fmt_fields(text_fields()).try_init()
    } else {
        builder.json().flatten_event(true).with_writer(EscapingStderr).try_init()
    };
    installed.map_err(|_| TelemetryError::Installed)
}

/// Fields as text, their values escaped: the formatter's own colours stay, a stranger's do not.
fn text_fields() -> impl for<'a> tracing_subscriber::fmt::FormatFields<'a> + Send + Sync + 'static {
    debug_fn(|writer, field, value| {
        let text = escaped(&format!("{value:?}"));
        if field.name() == "message" { write!(writer, "{text}") } else { write!(writer, "{}={text}", field.name()) }
    })
    .delimited(" ")
}

/// Whether a character could change what a reader of the log sees around it.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `text` with deceptive characters written as `\u{...}`.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_deceptive(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Standard error behind [`escape_json`].
struct EscapingStderr;

impl<'a> MakeWriter<'a> for EscapingStderr {
    type Writer = Escaping;

    fn make_writer(&'a self) -> Escaping {
        Escaping
    }
}

struct Escaping;

impl Write for Escaping {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(escape_json(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// JSON text with deceptive characters as `\uXXXX`. The serializer has escaped all below U+0020; the others can stand
/// only inside strings, where such an escape means the same.
fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_deceptive(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                write!(out, "\\u{unit:04x}").unwrap_or_default();
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const HOSTILE: &str = "a\nlevel=error forged\r\u{1b}[2J\u{9b}31m\u{202e}x\u{2028}y";

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stranger_cannot_forge_a_text_line() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .fmt_fields(text_fields())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(tool = %HOSTILE, "called {HOSTILE}"));
        let line = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.trim_end_matches('\n').chars().all(|c| !is_deceptive(c)), "{line:?}");
        assert!(line.contains("tool=a\\nlevel"), "{line}");
    }

    #[test]
    fn escaping_json_keeps_its_meaning() {
        let json = serde_json::json!({ "tool": HOSTILE }).to_string();
        let escaped = escape_json(&json);
        assert!(escaped.chars().all(|c| !is_deceptive(c)));
        let read: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read["tool"], HOSTILE);
    }
}
