//! Reads the picture in `src/lib.rs`' documentation, so that there is one copy of it: the storeys with their folders, then
//! the arrows, as clauses `from [from..] -> to [to..]` that stand two or more spaces apart.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storey {
    Pure,
    Effects,
    Plane,
    Top,
}

#[derive(Debug)]
pub(crate) struct House {
    storeys: BTreeMap<String, Storey>,
    arrows: BTreeMap<String, BTreeSet<String>>,
}

impl House {
    /// Parses the documentation of `lib.rs`; fails when a folder has no arrow or an arrow names no folder.
    pub(crate) fn read(lib_rs: &str) -> Result<Self, String> {
        let mut house = Self { storeys: BTreeMap::new(), arrows: BTreeMap::new() };
        let lines: Vec<&str> = lib_rs.lines().filter_map(|l| l.strip_prefix("//!")).map(str::trim).collect();
        for line in &lines {
            house.read_storey(line);
        }
        for clause in lines.iter().flat_map(|l| l.split("  ")).filter(|c| c.contains("->")) {
            house.read_arrow(clause)?;
        }
        for (folder, storey) in &house.storeys {
            if *storey != Storey::Top && !house.arrows.contains_key(folder) {
                return Err(format!(
                    "src/lib.rs draws `{folder}` but no arrow from it (`{folder} -> nothing of ours`?)"
                ));
            }
        }
        Ok(house)
    }

    fn read_storey(&mut self, line: &str) {
        let storey = match line.split_whitespace().next() {
            Some("PURE") => Storey::Pure,
            Some("EFFECTS") => Storey::Effects,
            Some("PLANES") => Storey::Plane,
            Some("TOP") => Storey::Top,
            _ => return,
        };
        self.storeys.extend(line.split_whitespace().skip(1).map(|folder| (folder.to_owned(), storey)));
    }

    fn read_arrow(&mut self, clause: &str) -> Result<(), String> {
        let (from, to) = clause.split_once("->").ok_or("no arrow")?;
        let to = match to.trim().trim_end_matches('.') {
            "nothing of ours" => BTreeSet::new(),
            "pure, effects" => self.of(&[Storey::Pure, Storey::Effects]),
            list => list.split_whitespace().map(str::to_owned).collect(),
        };
        for folder in from.split_whitespace().chain(to.iter().map(String::as_str)) {
            if folder != "|" && !self.storeys.contains_key(folder) {
                return Err(format!("src/lib.rs: `{}` names `{folder}`, which is in no storey", clause.trim()));
            }
        }
        for folder in from.split_whitespace().filter(|f| *f != "|") {
            self.arrows.entry(folder.to_owned()).or_default().extend(to.iter().cloned());
        }
        Ok(())
    }

    fn of(&self, wanted: &[Storey]) -> BTreeSet<String> {
        self.storeys.iter().filter(|(_, s)| wanted.contains(s)).map(|(f, _)| f.clone()).collect()
    }

    pub(crate) fn folders(&self) -> impl Iterator<Item = &str> {
        self.storeys.keys().map(String::as_str)
    }

    pub(crate) fn storey(&self, folder: &str) -> Option<Storey> {
        self.storeys.get(folder).copied()
    }

    /// Whether code in `from` may name something in `to`. The top storey joins everything.
    pub(crate) fn allows(&self, from: &str, to: &str) -> bool {
        from == to
            || self.storey(from) == Some(Storey::Top)
            || self.arrows.get(from).is_some_and(|targets| targets.contains(to))
    }
}
