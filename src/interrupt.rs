//! SIGINT, SIGTERM and SIGHUP, as a flag that long loops poll.
//!
//! The first signal asks for a stop at the next safe point; a second one ends the process at
//! once, which every writer here survives (see [`crate::durable`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use crate::error::{Error, Result};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Installs the handlers. Called once, by the binary.
pub fn install() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    // A file-size limit would kill the process here; with a handler, the write fails instead.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Registered first, so that it sees the flag as the previous signal left it.
        let code = 128 + signal;
        let requested = Arc::clone(&REQUESTED);
        let _ = signal_hook::flag::register_conditional_shutdown(signal, code, requested);
        let _ = signal_hook::flag::register(signal, Arc::clone(&REQUESTED));
    }
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
