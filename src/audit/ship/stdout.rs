//! Records as JSON lines on standard output, for whatever collects logs. A copy: a reader that is slow or gone costs
//! lines, which are counted, and never a call.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    writing: bool,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    lines: Mutex<Lines>,
    wake: Condvar,
    idle: Condvar,
    dropped: AtomicU64,
    capacity: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines so far, once there are any; nothing when there will be no more.
    fn next(&self, mut reuse: Vec<u8>) -> Option<Vec<u8>> {
        reuse.clear();
        let mut lines = self.lock();
        lines.writing = false;
        self.idle.notify_all();
        while lines.bytes.is_empty() {
            if lines.closed {
                return None;
            }
            lines = self.wake.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        lines.writing = true;
        Some(std::mem::replace(&mut lines.bytes, reuse))
    }
}

/// A bounded queue of lines with a thread that writes them.
#[derive(Debug)]
pub struct Lane {
    shared: Arc<Shared>,
}

impl Lane {
    /// A lane to standard output that holds at most `capacity` bytes.
    pub fn stdout(capacity: usize) -> io::Result<Self> {
        Self::to(io::stdout(), capacity)
    }

    fn to(mut out: impl Write + Send + 'static, capacity: usize) -> io::Result<Self> {
        let lines = Mutex::default();
        let shared = Arc::new(Shared {
            lines,
            wake: Condvar::new(),
            idle: Condvar::new(),
            dropped: AtomicU64::new(0),
            capacity,
        });
        let own = Arc::clone(&shared);
        thread::Builder::new().name("audit-stdout".to_owned()).spawn(move || {
            let mut reuse = Vec::new();
            while let Some(bytes) = own.next(reuse) {
                if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                    let lost = bytes.iter().filter(|byte| **byte == b'\n').count();
                    own.dropped.fetch_add(lost as u64, Ordering::Relaxed);
                }
                reuse = bytes;
            }
        })?;
        Ok(Self { shared })
    }

    /// Queues one record, or counts it as dropped. Never waits.
    pub fn offer(&self, record: &[u8]) {
        let mut lines = self.shared.lock();
        if lines.bytes.len() + record.len() + 1 > self.shared.capacity {
            drop(lines);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let first = lines.bytes.is_empty();
        lines.bytes.extend_from_slice(record);
        lines.bytes.push(b'\n');
        drop(lines);
        if first {
            self.shared.wake.notify_one();
        }
    }

    /// Waits until everything queued is written, but no longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let busy = |lines: &mut Lines| lines.writing || !lines.bytes.is_empty();
        let waited = self.shared.idle.wait_timeout_while(self.shared.lock(), patience, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lines that were not written.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Lane {
    /// What is queued is still written, but nobody waits for a reader that may never read.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands every write over, and goes on only when told to.
    struct Slow(mpsc::SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_costs_lines_and_never_time() {
        let (send, receive) = mpsc::sync_channel(0);
        let lane = Lane::to(Slow(send), 100).unwrap();
        for _ in 0..1000 {
            lane.offer(b"123456789");
        }
        let dropped = lane.dropped();
        assert!(dropped >= 980, "{dropped}");
        drop(lane);
        let written: Vec<u8> = receive.into_iter().flatten().collect();
        assert_eq!(written.len() as u64, (1000 - dropped) * 10);
    }

    #[test]
    fn a_flush_waits_for_a_reader_and_not_for_ever() {
        let (send, receive) = mpsc::sync_channel(1);
        let lane = Lane::to(Slow(send), 100).unwrap();
        lane.offer(b"x");
        lane.flush(Duration::from_secs(60));
        assert_eq!(receive.try_recv().unwrap(), b"x\n");
        lane.offer(b"y");
        lane.flush(Duration::from_secs(60));
        lane.offer(b"z");
        lane.flush(Duration::from_millis(1));
        assert_eq!((receive.recv().unwrap(), receive.recv().unwrap()), (b"y\n".to_vec(), b"z\n".to_vec()));
    }

    #[test]
    fn a_reader_that_is_gone_is_counted() {
        let (send, receive) = mpsc::sync_channel(0);
        drop(receive);
        let lane = Lane::to(Slow(send), 100).unwrap();
        lane.offer(b"x");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while lane.dropped() == 0 {
            assert!(std::time::Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
