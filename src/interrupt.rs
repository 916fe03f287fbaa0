//! SIGINT, SIGTERM and SIGHUP, as a flag that long loops poll.
//!
//! The first signal asks for a stop at the next safe point; a second one ends the process at
//! once, which every writer here survives (see [`crate::durable`]).

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use crate::error::{Error, Result};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static BEFORE_EXIT: OnceLock<fn()> = OnceLock::new();

/// Installs the handlers. Called once, by the binary.
pub fn install() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    // A file-size limit would kill the process here; with a handler, the write fails instead.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    let last = Arc::new(AtomicUsize::new(0));
    let Ok((arrivals, sender)) = UnixStream::pair() else {
        return;
    };
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let number = signal as usize;
        let _ = signal_hook::flag::register_usize(signal, Arc::clone(&last), number);
        let _ = signal_hook::flag::register(signal, Arc::clone(&REQUESTED));
        let _ = sender
            .try_clone()
            .and_then(|sender| signal_hook::low_level::pipe::register(signal, sender));
    }
    std::thread::spawn(move || end_at_second(arrivals, &last));
}

/// What a second signal still has to do before it ends the process.
pub fn before_exit(clean: fn()) {
    let _ = BEFORE_EXIT.set(clean);
}

/// Reads a byte for every signal, and ends the process at the second.
fn end_at_second(mut arrivals: UnixStream, last: &AtomicUsize) {
    if arrivals.read_exact(&mut [0; 2]).is_err() {
        return;
    }
    if let Some(clean) = BEFORE_EXIT.get() {
        clean();
    }
    signal_hook::low_level::exit(128 + last.load(Ordering::Relaxed) as i32);
}

/// Whether a stop was asked for. With `SCALE_CKPT_STOP_AT=n` in the environment, the n-th look
/// finds that one was: so that tests can visit every moment at which a signal is noticed.
pub fn requested() -> bool {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    static AT: LazyLock<Option<u64>> =
        LazyLock::new(|| std::env::var("SCALE_CKPT_STOP_AT").ok()?.parse().ok());
    if let Some(at) = *AT
        && LOOKS.fetch_add(1, Ordering::Relaxed) + 1 == at
    {
        REQUESTED.store(true, Ordering::Relaxed);
    }
    REQUESTED.load(Ordering::Relaxed)
}

/// Fails if a stop was asked for; `what` says what becomes of the work.
pub fn check(what: &str) -> Result<()> {
    if requested() {
        return Err(Error::Interrupted {
            message: what.to_owned(),
            hint: None,
        });
    }
    Ok(())
}
