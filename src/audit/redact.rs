//! A redacted value never reaches a record in clear.

/// Which values are replaced by keyed digests: compiled once per server.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    pointers: Vec<Vec<String>>,
}

impl Redaction {
    /// Compiles JSON pointers (RFC 6901). `*` as a segment stands for every member or element.
    pub fn new<'a>(pointers: impl IntoIterator<Item = &'a str>) -> Result<Self, RedactionError> {
        let pointers = pointers.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { pointers })
    }
}

/// A pointer that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redaction pointer {0:?} must be empty or begin with `/` and escape only with ~0 and ~1 (RFC 6901)")]
pub struct RedactionError(pub String);

fn parse(pointer: &str) -> Result<Vec<String>, RedactionError> {
    let bad = || RedactionError(pointer.to_owned());
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let rest = pointer.strip_prefix('/').ok_or_else(bad)?;
    rest.split('/')
        .map(|segment| {
            let plain = segment.replace("~0", "").replace("~1", "");
            if plain.contains('~') { Err(bad()) } else { Ok(segment.replace("~1", "/").replace("~0", "~")) }
        })
        .collect()
}
