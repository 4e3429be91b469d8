//! Ctrl-C and the scheduler's SIGTERM: the first asks the work to stop and clean up, the second ends it.
//!
//! Nothing is done in the handler but to note the signal and to wake who tells of it.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::output;

const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// The signals that have come so far.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Catches the signals from now on.
    pub(super) fn install() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        for number in SIGNALS {
            // In this order, so that the first signal does not meet its own mark.
            signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&again))?;
            signal_hook::flag::register(number, Arc::clone(&again))?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number.unsigned_abs() as usize)?;
        }
        Ok(Self { signal })
    }

    /// Has people told, once, that a signal was heard and what another one does: the work may be where it does not ask for
    /// long, as in a kernel that hangs. A thread tells it, since a handler must not.
    pub(super) fn announce() -> io::Result<()> {
        let (mut heard, hears) = UnixStream::pair()?;
        for number in SIGNALS {
            signal_hook::low_level::pipe::register(number, hears.try_clone()?)?;
        }
        let tell = move || {
            if heard.read_exact(&mut [0]).is_ok() {
                output::note_below("stopping; again to end at once");
            }
        };
        Builder::new().name("interrupt".to_owned()).spawn(tell)?;
        Ok(())
    }

    /// The number of the last signal, if there was one.
    pub(super) fn signal(&self) -> Option<u8> {
        u8::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|&number| number > 0)
    }
}
