//! Progress bars on standard error; nothing where that is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// Counts images.
pub struct Images(ProgressBar);

impl Images {
    /// A bar for `total` images, labelled `what`.
    pub fn new(what: &str, total: usize) -> Self {
        let style = "{msg:24} {wide_bar} {pos}/{len} images, {per_sec}, {eta} left";
        Self(bar(total as u64, what, style))
    }

    /// Shows `done`; `false` if the work should stop.
    pub fn set(&self, done: usize) -> bool {
        self.0.set_position(done as u64);
        !interrupt::requested()
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Counts steps of training.
pub struct Steps(ProgressBar);

impl Steps {
    /// A bar for `total` steps, labelled `what`.
    pub fn new(what: &str, total: usize) -> Self {
        let style = "{msg:24} {wide_bar} {pos}/{len} {prefix}, {per_sec}, {eta} left";
        Self(bar(total as u64, what, style))
    }

    /// Whether nobody sees it: standard error is not a terminal.
    pub fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    /// Prints beside the bar.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    /// Changes the number of steps.
    pub fn total(&self, total: usize) {
        self.0.set_length(total as u64);
    }

    /// Shows `done` and a note; `false` if the work should stop.
    pub fn set(&self, done: usize, note: &str) -> bool {
        self.0.set_position(done as u64);
        self.0.set_prefix(note.to_string());
        !interrupt::requested()
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar for a download of `total` bytes.
pub fn bytes(what: &str) -> ProgressBar {
    let style = "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    bar(0, what, style)
}

fn bar(total: u64, what: &str, style: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(style).expect("the template is fixed");
    let bar = ProgressBar::new(total)
        .with_style(style)
        .with_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
