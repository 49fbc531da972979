//! Draws and records the events of a request. What is drawn follows from the events that a stream
//! sends, so a recorded run looks as it did.

mod canvas;
mod glyphs;
mod layout;
mod look;
mod screen;
mod trajectory;

use super::print::OutputError;
use super::words::whole;
use crate::diffusion::counted;
use anyhow::{Context, bail};
use canvas::Canvas;
use clap::Args;
use look::Look;
use screen::{Screen, picture};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use trajectory::{Counts, Event, Step, read_line};

/// Longest time that a frame stays, in milliseconds.
const DELAY_MAX: u64 = 60_000;

const NO_START: &str = "is an answer, and no start came before it; give \"stream\": true in the request, and for a \
                        completion also \"stream_edits\": true";

/// Reads the time that a frame stays, in milliseconds.
pub(super) fn delay() -> impl clap::builder::TypedValueParser<Value = u64> {
    whole::<u64>(0, DELAY_MAX)
}

#[derive(Args, Clone, Debug)]
pub(super) struct WatchArgs {
    /// Draw the canvas after each step: redrawn in place on a terminal, as plain lines elsewhere
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// How long each step is shown, in milliseconds [default: 60 on a terminal, else 0]
    #[arg(long, value_name = "MS", requires = "watch", value_parser = delay())]
    delay: Option<u64>,
    /// Write the events of the run to a file, which `remask replay` plays
    #[arg(long, value_name = "FILE.jsonl")]
    record: Option<PathBuf>,
}

impl WatchArgs {
    pub(super) const fn is_watched(&self) -> bool {
        self.watch
    }
}

/// A file that receives events.
#[derive(Debug)]
struct Record {
    file: File,
    path: PathBuf,
}

/// Where the events of a request go: onto the screen, into a file, and onto a canvas.
#[derive(Debug)]
pub(super) struct Stage {
    player: Player,
    record: Option<Record>,
    is_needed: bool,
}

impl Stage {
    /// As the flags say. `keeps_canvas` is for commands that report on the canvas in any case.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn new(args: &WatchArgs, keeps_canvas: bool) -> anyhow::Result<Self> {
        let record = args.record.clone().map(|path| {
            if path == Path::new("-") {
                bail!("--record: give the name of a file; standard output has the answer");
            }
            let file = File::create(&path).with_context(|| format!("--record: cannot write {}", path.display()))?;
            anyhow::Ok(Record { file, path })
        });
        let record = record.transpose()?;
        let is_needed = args.watch || record.is_some() || keeps_canvas;
        let player = Player::new(args.watch.then(|| Screen::new(args.delay)));
        Ok(Self { player, record, is_needed })
    }

    /// Whether anything is done with events. Else they need not be written.
    pub(super) const fn is_needed(&self) -> bool {
        self.is_needed
    }

    /// Takes the data of an event.
    ///
    /// # Errors
    /// When the output or the file cannot be written.
    pub(super) async fn take(&mut self, data: &str) -> anyhow::Result<()> {
        if let Some(Record { file, path }) = &mut self.record {
            let written = file.write_all(format!("{data}\n").as_bytes());
            written.with_context(|| format!("--record: cannot write {}", path.display()))?;
        }
        self.player.play(data).await
    }

    /// Runs `work`, which hands events to the stage, with the terminal as it needs it.
    pub(super) async fn run<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> T) -> anyhow::Result<T> {
        let redrawn = self.player.screen.as_ref().and_then(Screen::redrawn);
        Screen::run(redrawn, work(self)).await
    }

    pub(super) const fn player(&self) -> &Player {
        &self.player
    }
}

/// Plays events: applies them to a canvas and draws it.
#[derive(Debug)]
pub(super) struct Player {
    canvas: Option<Canvas>,
    screen: Option<Screen>,
    /// What remains of the trajectories before: their last canvas and what they took.
    before: String,
    counts: Option<Counts>,
    /// Whether the last trajectory has its answer.
    is_done: bool,
    failure: Option<String>,
}

impl Player {
    const fn new(screen: Option<Screen>) -> Self {
        Self { canvas: None, screen, before: String::new(), counts: None, is_done: false, failure: None }
    }

    /// For standard output, at a pace.
    pub(super) fn of_replay(delay: Option<u64>) -> Self {
        Self::new(Some(Screen::new(delay)))
    }

    /// Plays a line of a trajectory.
    ///
    /// # Errors
    /// What is wrong with the line; an [`OutputError`] when the output cannot be written.
    pub(super) async fn play(&mut self, line: &str) -> anyhow::Result<()> {
        match read_line(line).map_err(anyhow::Error::msg)? {
            None => Ok(()),
            Some(Event::Start(start)) => self.begin(start).await,
            Some(Event::Step(start, step)) => {
                if let Some(start) = start {
                    self.begin(start).await?;
                }
                self.step(&step).await
            }
            Some(Event::Done(done)) => {
                let canvas = self.canvas.as_mut().context(NO_START)?;
                canvas.end(&done).map_err(anyhow::Error::msg)?;
                (self.counts, self.is_done) = (done.diffusion, true);
                Ok(())
            }
            Some(Event::Failed(message)) => {
                self.failure = Some(message);
                Ok(())
            }
        }
    }

    async fn begin(&mut self, start: trajectory::Start) -> anyhow::Result<()> {
        self.before = self.closed();
        (self.counts, self.is_done, self.failure) = (None, false, None);
        let canvas = self.canvas.insert(Canvas::new(start));
        let caption = ["start".to_owned(), format!("{} blank", canvas.blanks())];
        if let Some(screen) = &mut self.screen {
            screen.show(canvas, &caption).await.map_err(OutputError::from)?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let canvas = self.canvas.as_mut().context("is a step, and no start came before it")?;
        let canvas::Counts { filled, erased, replaced } = canvas.apply(step).map_err(anyhow::Error::msg)?;
        if let Some(screen) = &mut self.screen {
            let number = step.step.saturating_add(1);
            let number = match step.steps_planned {
                Some(planned) => format!("step {number} of {planned}"),
                None => format!("step {number}"),
            };
            let caption = [number, format!("+{filled} -{erased} ~{replaced}"), format!("{} blank", canvas.blanks())];
            screen.show(canvas, &caption).await.map_err(OutputError::from)?;
        }
        Ok(())
    }

    /// As [`Self::end`], also for a run that was cut off.
    pub(super) fn closed(&mut self) -> String {
        if let (false, Some(canvas)) = (self.is_done, &mut self.canvas) {
            canvas.settle();
        }
        self.end()
    }

    /// What remains on the output at the end: the last canvas, and what the run took.
    pub(super) fn end(&self) -> String {
        let counts = self.counts.map(|counts| {
            let Counts { steps, forward_passes, filled, erased, replaced } = counts;
            let counts = [
                counted(steps, "step"),
                if forward_passes == 1 {
                    "1 forward pass".to_owned()
                } else {
                    format!("{forward_passes} forward passes")
                },
                format!("{filled} filled"),
                format!("{erased} erased"),
                format!("{replaced} replaced"),
            ];
            screen::listed(&counts, screen::width())
        });
        [self.before.clone(), self.picture(), counts.unwrap_or_default()].concat()
    }

    /// The last canvas.
    pub(super) fn picture(&self) -> String {
        self.canvas.as_ref().map_or_else(String::new, |canvas| picture(canvas, Look::of_stdout(), usize::MAX))
    }

    /// The quality for which the token of a cell was erased last.
    pub(super) fn erased_for(&self, at: usize) -> Option<f32> {
        self.canvas.as_ref()?.erased_for(at)
    }

    /// Whether the trajectory came to its answer; an error's message if it failed.
    ///
    /// # Errors
    /// The message of a request that failed.
    pub(super) fn is_complete(&self) -> Result<bool, &str> {
        self.failure.as_deref().map_or(Ok(self.is_done), Err)
    }

    /// Whether a trajectory has begun.
    pub(super) const fn has_begun(&self) -> bool {
        self.canvas.is_some()
    }

    /// Runs `work`, which plays lines, with the terminal as it needs it.
    pub(super) async fn run<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> T) -> anyhow::Result<T> {
        let redrawn = self.screen.as_ref().and_then(Screen::redrawn);
        Screen::run(redrawn, work(self)).await
    }
}
