//! The journals of a cluster's proxies, each asked in its Pod by kubectl, with the rights of whoever asks.
//!
//! Invariant: an answer that lacks a Pod's journal says so, and its exit code is 2: what is missing is never taken for
//! what did not happen.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::mpsc;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::table;
use crate::audit::Entry;
use crate::audit::query::Call;
use crate::cli::output::{self, Format};

/// How proxies are labelled by the chart.
const PROXIES: &str = "app.kubernetes.io/name=portcullis,app.kubernetes.io/component=proxy";
/// The container of such a Pod that holds the journal.
const CONTAINER: &str = "proxy";

/// Whose journals are meant.
#[derive(Clone, Debug)]
pub(super) struct Pods {
    /// The kubeconfig's context; `None`: the current one.
    pub(super) context: Option<String>,
    /// Where the proxies run.
    pub(super) namespace: String,
    /// Which of them; empty: all that run.
    pub(super) names: Vec<String>,
}

/// A call as a proxy prints it.
#[derive(Deserialize)]
struct Printed<'a> {
    #[serde(borrow)]
    record: &'a RawValue,
    #[serde(borrow, default)]
    completion: Option<&'a RawValue>,
}

impl Pods {
    /// `audit query`: the newest `limit` calls of all proxies, the newest last.
    pub(super) fn query(&self, wanted: &[String], limit: usize, format: Format) -> anyhow::Result<ExitCode> {
        let mut arguments = vec!["query".to_owned(), "-o".to_owned(), "json".to_owned(), format!("--limit={limit}")];
        arguments.extend_from_slice(wanted);
        let mut complete = true;
        let mut calls: Vec<Call> = Vec::new();
        for (pod, output) in self.ask(&arguments)? {
            // 1: none was found.
            complete &= pass_on(&pod, &output, &[0, 1]);
            if matches!(output.status.code(), Some(0 | 1)) {
                calls.extend(read(&output.stdout).with_context(|| format!("{pod} runs another version"))?);
            }
        }
        calls.sort_by_key(|call| call.entry.fields.unix_ms());
        if let Some(more) = calls.len().checked_sub(limit).filter(|more| *more > 0) {
            calls.drain(..more);
            eprintln!("note: older calls match too; ask for more with --limit");
        }
        table::print(&calls, format)?;
        let found = if calls.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        Ok(if complete { found } else { ExitCode::from(2) })
    }

    /// `audit verify`: each journal by itself, as each has a chain of its own.
    pub(super) fn verify(&self, more: &[String], format: Format) -> anyhow::Result<ExitCode> {
        let mut arguments = vec!["verify".to_owned(), "-o".to_owned(), "json".to_owned()];
        if format == Format::Table {
            arguments.pop();
            arguments.push("table".to_owned());
        }
        arguments.extend_from_slice(more);
        let (mut worst, mut verdicts) = (0, BTreeMap::new());
        for (pod, output) in self.ask(&arguments)? {
            pass_on(&pod, &output, &[0, 1]);
            worst = worst.max(output.status.code().unwrap_or(2));
            let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
            verdicts.insert(pod, text);
        }
        match format {
            Format::Table => {
                let parts: Vec<String> = verdicts.iter().map(|(pod, text)| format!("{pod}\n{text}")).collect();
                output::say(&parts.join("\n\n"))?;
            }
            format => {
                let read = |text: &String| serde_json::from_str(text).unwrap_or(Value::Null);
                let verdicts: BTreeMap<&String, Value> = verdicts.iter().map(|(pod, text)| (pod, read(text))).collect();
                output::print(format, &verdicts, |_| String::new())?;
            }
        }
        Ok(ExitCode::from(u8::try_from(worst).unwrap_or(2)))
    }

    /// `audit checkpoint`: of one Pod as it is, of several by Pod.
    pub(super) fn checkpoint(&self) -> anyhow::Result<ExitCode> {
        let answers = self.ask(&["checkpoint".to_owned()])?;
        let mut complete = true;
        for (pod, output) in &answers {
            let whole = pass_on(pod, output, &[0]);
            complete &= whole;
            let text = String::from_utf8_lossy(&output.stdout);
            match whole {
                false => {}
                true if answers.len() == 1 => output::say(text.trim_end())?,
                true => output::say(&format!(r#"{{"pod":"{pod}","checkpoint":{}}}"#, text.trim_end()))?,
            }
        }
        Ok(ExitCode::from(if complete { 0 } else { 2 }))
    }

    /// `audit tail`: every proxy's records as they come, until Ctrl-C ends kubectl with us.
    pub(super) fn tail(&self, wanted: &[String], from_start: bool, format: Format) -> anyhow::Result<ExitCode> {
        let mut arguments = vec!["tail".to_owned(), "-o".to_owned(), "json".to_owned()];
        arguments.extend(from_start.then(|| "--from-start".to_owned()));
        arguments.extend_from_slice(wanted);
        let (tell, told) = mpsc::channel();
        let mut followed: Vec<(String, Child)> = Vec::new();
        for pod in self.running()? {
            let mut child = self.exec(&pod, &arguments).stdout(Stdio::piped()).spawn().context(NO_KUBECTL)?;
            if let Some(stdout) = child.stdout.take() {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    BufReader::new(stdout).lines().map_while(Result::ok).all(|line| tell.send(line).is_ok())
                });
            }
            followed.push((pod, child));
        }
        drop(tell);
        for line in told {
            let Some(entry) = Entry::read(line.into_bytes()) else { continue };
            let mut out = std::io::stdout().lock();
            if writeln!(out, "{}", table::one(&entry, format)?).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        for (pod, child) in &mut followed {
            // Nobody reads on: those that still follow are ended.
            drop(child.kill());
            eprintln!("note: {pod} is not followed any more");
            drop(child.wait());
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Asks every Pod at once.
    fn ask(&self, arguments: &[String]) -> anyhow::Result<Vec<(String, Output)>> {
        let mut asked = Vec::new();
        for pod in self.running()? {
            let mut command = self.exec(&pod, arguments);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            asked.push((pod, command.spawn().context(NO_KUBECTL)?));
        }
        // What one prints must not wait for another's to be read.
        let waiting = asked.into_iter().map(|(pod, child)| (pod, std::thread::spawn(move || child.wait_with_output())));
        let waiting: Vec<_> = waiting.collect();
        waiting
            .into_iter()
            .map(|(pod, thread)| {
                let output = thread.join().map_err(|_| anyhow::anyhow!("{pod} could not be waited for"))??;
                Ok((pod, output))
            })
            .collect()
    }

    fn running(&self) -> anyhow::Result<Vec<String>> {
        if !self.names.is_empty() {
            return Ok(self.names.clone());
        }
        let mut command = self.kubectl();
        command.args(["get", "pods", "-l", PROXIES, "--field-selector=status.phase=Running", "-o", "name"]);
        let output = command.output().context(NO_KUBECTL)?;
        if !output.status.success() {
            // Before its last word kubectl tells every try.
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("cannot list the proxies: {}", said.lines().last().unwrap_or_default());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let pods: Vec<String> = text.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect();
        if pods.is_empty() {
            bail!("no proxy runs in the namespace {}: say another with --gateway-namespace", self.namespace);
        }
        Ok(pods)
    }

    fn exec(&self, pod: &str, arguments: &[String]) -> Command {
        let mut command = self.kubectl();
        command.args(["exec", pod, "-c", CONTAINER, "--", "portcullis", "audit"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn kubectl(&self) -> Command {
        let mut command = Command::new("kubectl");
        if let Some(context) = &self.context {
            command.arg(format!("--context={context}"));
        }
        command.arg(format!("--namespace={}", self.namespace));
        command
    }
}

const NO_KUBECTL: &str = "cannot run kubectl, which reaches into the proxies' Pods: is it on PATH?";

/// Says what a Pod said beside its answer; whether its answer counts.
fn pass_on(pod: &str, output: &Output, good: &[i32]) -> bool {
    let counts = output.status.code().is_some_and(|code| good.contains(&code));
    // kubectl's own word for an exit code that is part of the answer.
    let said = String::from_utf8_lossy(&output.stderr);
    for line in said.lines().filter(|line| !(counts && line.starts_with("command terminated with exit code"))) {
        eprintln!("{pod}: {}", output::printable(line));
    }
    if !counts {
        eprintln!("warning: the answer lacks what {pod} has recorded");
    }
    counts
}

/// The calls that a proxy has printed.
fn read(json: &[u8]) -> anyhow::Result<Vec<Call>> {
    let printed: Vec<Printed<'_>> = serde_json::from_slice(json)?;
    let entry = |raw: &RawValue| Entry::read(raw.get().as_bytes().to_vec()).context("not a record");
    printed
        .into_iter()
        .map(|Printed { record, completion }| {
            Ok(Call { entry: entry(record)?, completion: completion.map(entry).transpose()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_prints_is_read_back() {
        let record = r#"{"event.name":"mcp.gateway.decision","time":"2026-11-25T10:00:00Z","audit.id":"a"}"#;
        let end =
            r#"{"event.name":"mcp.gateway.completion","time":"2026-11-25T10:00:01Z","portcullis.outcome":"result"}"#;
        let text = format!(r#"[{{"record": {record}, "completion": {end}}}, {{"record": {record}}}]"#);
        let calls = read(text.as_bytes()).unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0].entry.json, record);
        assert_eq!(calls[0].completion.as_ref().unwrap().fields.outcome.as_deref(), Some("result"));
        assert!(calls[1].completion.is_none());
        assert!(read(b"{}").is_err());
    }
}
