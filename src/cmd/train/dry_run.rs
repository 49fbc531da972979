//! `--dry-run`: three steps of a run, and what follows from them for all of it.

use super::options::RunArgs;
use crate::cmd::print;
use crate::model::{Device, LoadError, free_on_gpu};
use crate::train::{Finished, Progress};
use indicatif::{HumanBytes, HumanDuration};
use std::fs;
use std::time::Duration;

/// The memory of a device before a run.
pub(super) struct Memory {
    device: Device,
    /// Bytes that were free on the GPU, if it is one.
    free: Option<u64>,
}

impl Memory {
    /// That of the device of a dry run; `None` of another run.
    ///
    /// # Errors
    /// When the device does not exist.
    pub(super) fn before(args: &RunArgs) -> Result<Option<Self>, LoadError> {
        let device = args.device;
        if args.dry_run { Ok(Some(Self { device, free: free_on_gpu(device)? })) } else { Ok(None) }
    }

    /// Takes the steps of `trial`, and says what the run of `args` takes. `frozen` parameters do
    /// not learn.
    ///
    /// # Errors
    /// Those of the run.
    pub(super) fn show(
        self,
        args: &RunArgs,
        frozen: u64,
        trial: impl FnOnce(&mut dyn FnMut(&Progress)) -> anyhow::Result<Finished>,
    ) -> anyhow::Result<()> {
        let mut reports: Vec<Progress> = Vec::new();
        let Finished { learned, .. } = trial(&mut |progress| reports.push(progress.clone()))?;
        print::line(format_args!("parameters: {learned} learn, {frozen} do not"))?;
        match reports.as_slice() {
            // the first step is not timed: it also sets up what the others use
            [first, .., last] => {
                let seconds = (last.seconds - first.seconds) / f64::from(last.step - first.step);
                let tokens = last.tokens_per_s;
                print::line(format_args!("a step: {} rows, {seconds:.2} s, {tokens:.0} tokens/s", args.batch))?;
                let left = args.steps - (first.step - 1);
                let whole = Duration::from_secs_f64(seconds * f64::from(left));
                print::line(format_args!("steps: {left}, about {}", HumanDuration(whole)))?;
            }
            _ => print::line("fewer than two steps are left: too few to time them")?,
        }
        print::line(format_args!("memory: {} of the host at most", peak()))?;
        if let Some((before, now)) = self.free.zip(free_on_gpu(self.device)?) {
            print::line(format_args!("memory: {} of the GPU", HumanBytes(before.saturating_sub(now))))?;
        }
        Ok(print::line("nothing was written")?)
    }
}

/// The most memory that this process has had, in words.
fn peak() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| HumanBytes(kib * 1024).to_string())
}
