//! A disk that hangs: whoever syncs waits at the gate until it is opened.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::storage::{Disk, Slab, Storage};
use super::{Clock, Journal, JournalConfig, JournalError, Recovery};

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
    fn prepare(&self, path: &Path, len: u64) -> io::Result<Box<dyn Slab>> {
        Ok(Box::new(GatedSlab(self.clone(), Disk.prepare(path, len)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
}

struct GatedSlab(Gate, Box<dyn Slab>);

impl Slab for GatedSlab {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.pass()?;
        self.1.sync()
    }

    fn trim(&self, len: u64) -> io::Result<()> {
        self.1.trim(len)
    }
}
