//! Ctrl-C: the first one asks the running work to stop at its next safe point, the second one
//! ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Listens for Ctrl-C from now on.
pub fn install() {
    let installed = ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping at the next safe point; Ctrl-C again to stop at once");
    });
    if let Err(e) = installed {
        eprintln!("warning: Ctrl-C will stop at once: {e}");
    }
}

/// Whether Ctrl-C was pressed.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// The flag itself, for work that watches one.
pub fn flag() -> &'static AtomicBool {
    &REQUESTED
}
