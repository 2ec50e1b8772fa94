//! A disk that hangs: whoever syncs waits at the gate until it is opened. And a forger who has everything but the key.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::chain::Head;
use super::reader::{Record, SegmentReader, Step, list};
use super::segment::{push_frame, seal};
use super::storage::{Slab, Storage};
use super::{Clock, Journal, JournalConfig, JournalError, Recovery};

/// Writes every segment anew with the records that `keep` keeps: checksums, numbers, hashes and headers all hold.
pub(crate) fn forge(dir: &Path, keep: impl Fn(&Record) -> bool) {
    let mut chain = (1, 0, Head::default());
    for file in list(dir).unwrap() {
        let mut reader = SegmentReader::open(&file.path).unwrap();
        let mut header = reader.header().clone();
        (header.first_seq, header.previous_len, header.previous_head) = chain;
        let mut bytes = header.encode().to_vec();
        let (mut seq, mut head) = (chain.0, Head::of_header(&bytes));
        while let Step::Record(record) = reader.step().unwrap() {
            if keep(&record) {
                let mut frame = Vec::new();
                push_frame(&mut frame, record.kind, &record.payload);
                head = seal(&mut frame, seq, head);
                seq += 1;
                bytes.extend(frame);
            }
        }
        chain = (seq, bytes.len() as u64, head);
        fs::write(&file.path, bytes).unwrap();
    }
}

#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    shut: bool,
    held: usize,
    fails: bool,
}

impl Gate {
    pub(crate) fn open_journal(
        &self,
        config: JournalConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Journal, Recovery), JournalError> {
        Journal::open_on(Arc::new(self.clone()), config, clock)
    }

    pub(crate) fn shut(&self) {
        self.0.0.lock().unwrap().shut = true;
    }

    /// Lets everyone through; those who were held, with an error if `failing`.
    pub(crate) fn open(&self, failing: bool) {
        let mut state = self.0.0.lock().unwrap();
        state.shut = false;
        state.fails = failing && state.held > 0;
        self.0.1.notify_all();
    }

    /// Whether somebody hangs.
    pub(crate) fn holds(&self) -> bool {
        self.0.0.lock().unwrap().held > 0
    }

    fn pass(&self) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        if !state.shut {
            return Ok(());
        }
        state.held += 1;
        let mut state = self.0.1.wait_while(state, |state| state.shut).unwrap();
        state.held -= 1;
        if std::mem::take(&mut state.fails) { Err(io::Error::other("injected")) } else { Ok(()) }
    }
}

impl Storage for Gate {
    // Nothing is synced for real: how long that takes on a busy machine is no part of these tests.
    fn prepare(&self, path: &Path, len: u64) -> io::Result<Box<dyn Slab>> {
        let file = File::create(path)?;
        file.set_len(len)?;
        Ok(Box::new(GatedSlab(self.clone(), file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

struct GatedSlab(Gate, File);

impl Slab for GatedSlab {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.pass()
    }

    fn trim(&self, len: u64) -> io::Result<()> {
        self.1.trim(len)
    }
}
