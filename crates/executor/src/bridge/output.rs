//! What programs print: passed on to the sandbox's log, and kept, within bounds, for the call that
//! it belongs to.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Bytes of one call's output that are kept.
const OUTPUT_MAX: usize = 1 << 20;
const CUT: &str = "\n[output cut: a call may print 1 MiB]\n";

/// A text of bounded size.
#[derive(Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Text {
    /// What is kept of a text.
    pub(super) fn of(text: &str) -> String {
        let mut kept = Text::default();
        kept.push(text.as_bytes());
        kept.take()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    pub(super) fn take(&mut self) -> String {
        let Text { bytes, is_cut } = std::mem::take(self);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if is_cut {
            text.push_str(CUT);
        }
        text
    }
}

/// The output of a program that outlives calls. The bridge can write into it as well: what the
/// program has printed before comes out before.
pub(super) struct Stream {
    writer: PipeWriter,
    kept: Arc<(Mutex<Kept>, Condvar)>,
}

#[derive(Default)]
struct Kept {
    text: Text,
    /// Marks that have come out.
    marks: u64,
}

/// Ends what was printed before. No program prints this by chance, and one that does so on purpose
/// only spoils its own output.
const MARK: &[u8] = b"\0serverledge: end of a call's output\0";

impl Stream {
    pub(super) fn open() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let kept = Arc::<(Mutex<Kept>, Condvar)>::default();
        let shared = Arc::clone(&kept);
        thread::Builder::new().spawn(move || read(reader, &shared))?;
        Ok(Stream { writer, kept })
    }

    /// An end for the program to print into.
    pub(super) fn writer(&self) -> io::Result<PipeWriter> {
        self.writer.try_clone()
    }

    /// All that has been printed since this was called last.
    pub(super) fn take(&self) -> String {
        let (kept, changed) = &*self.kept;
        let wanted = lock(kept).marks + 1;
        if (&self.writer).write_all(MARK).is_err() {
            return String::new();
        }
        let mut kept = lock(kept);
        while kept.marks < wanted {
            kept = changed.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
        kept.text.take()
    }
}

fn read(mut reader: PipeReader, kept: &(Mutex<Kept>, Condvar)) {
    let (kept, changed) = kept;
    let mut buffer = vec![0; 64 << 10];
    let mut pending: Vec<u8> = Vec::new();
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..count]);
        let mut kept = lock(kept);
        while let Some(at) = find(&pending, MARK) {
            pass_on(&mut kept.text, &pending[..at]);
            pending.drain(..at + MARK.len());
            kept.marks += 1;
            changed.notify_all();
        }
        // The last bytes may be the beginning of a mark.
        let begun = (1..MARK.len())
            .rev()
            .find(|length| pending.ends_with(&MARK[..*length]));
        let whole = pending.len() - begun.unwrap_or(0);
        pass_on(&mut kept.text, &pending[..whole]);
        pending.drain(..whole);
    }
}

fn pass_on(text: &mut Text, bytes: &[u8]) {
    text.push(bytes);
    // The log's reader may have gone.
    let _ = io::stderr().write_all(bytes);
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_get_what_was_printed_before_they_ended() {
        let stream = Stream::open().unwrap();
        let mut writer = stream.writer().unwrap();
        for text in ["a", "", "b\nc", "\0serverledge:"] {
            writer.write_all(text.as_bytes()).unwrap();
            assert_eq!(stream.take(), text);
        }
    }

    #[test]
    fn output_is_bounded() {
        let mut text = Text::default();
        text.push(&vec![b'x'; OUTPUT_MAX]);
        text.push(b"y");
        assert_eq!(text.take().len(), OUTPUT_MAX + CUT.len());
        text.push(b"z");
        assert_eq!(text.take(), "z");
    }
}
