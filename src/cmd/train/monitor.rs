//! The progress of a training run in the terminal.

use crate::train::{Finished, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::path::Path;

/// A progress bar on a terminal; elsewhere one JSON object per line on standard output.
pub(super) struct Monitor {
    bar: Option<ProgressBar>,
}

impl Monitor {
    pub(super) fn new(steps: u32) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} [{elapsed} < {eta}]");
        let bar = ProgressBar::new(u64::from(steps)).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset_eta();
        Self { bar: Some(bar) }
    }

    pub(super) fn show(&self, progress: &Progress) {
        match &self.bar {
            Some(bar) => {
                let Progress { loss, accuracy, tokens_per_s, .. } = progress;
                bar.set_position(u64::from(progress.step));
                bar.set_message(format!("loss {loss:.3}, {:.1} % right, {tokens_per_s:.0} tokens/s", 100.0 * accuracy));
            }
            None => println!("{}", serde_json::to_string(progress).unwrap_or_default()),
        }
    }

    pub(super) fn close(&self, finished: &Finished, out: &Path) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        let out = out.display();
        if finished.is_complete {
            eprintln!("done: weights are in {out}");
        } else {
            eprintln!("stopped after step {}; the same command goes on from {out}", finished.step);
        }
    }
}
