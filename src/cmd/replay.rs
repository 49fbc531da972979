//! `remask replay`: plays a recorded run. What it draws follows from the file alone.

use super::print::{self, OutputError, say};
use super::watch::{Player, delay};
use crate::files;
use anyhow::{Context, bail, ensure};
use clap::Args;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Most bytes of a line: the start of a canvas of a million cells.
const LINE_MAX: u64 = 256 << 20;
/// Lines that are read ahead of those that are drawn.
const AHEAD: usize = 16;

#[derive(Args, Clone, Debug)]
pub(super) struct ReplayArgs {
    /// A file that --record wrote, or a stream that was saved as the server sent it; `-` is
    /// standard input
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    /// How long each step is shown, in milliseconds [default: 60 on a terminal, else 0]
    #[arg(long, value_name = "MS", value_parser = delay())]
    delay: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let is_stdin = args.file == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { args.file.display().to_string() };
    let input: Box<dyn Read + Send> = if is_stdin {
        Box::new(stdin())
    } else {
        Box::new(files::open(&args.file).with_context(|| format!("cannot read {name}"))?)
    };
    let mut lines = lines_of(input);
    let mut player = Player::of_replay(args.delay);
    let play = async |player: &mut Player| {
        for number in 1_u64.. {
            let Some(line) = lines.recv().await else { break };
            let played = player.play(&line.with_context(|| format!("{name}, line {number}"))?).await;
            played.map_err(|error| {
                if error.is::<OutputError>() { error } else { error.context(format!("{name}, line {number}")) }
            })?;
        }
        anyhow::Ok(())
    };
    player.run(play).await??;
    ensure!(
        player.has_begun() || player.is_complete().is_err(),
        "{name} has no first canvas, which a line with canvas_length is"
    );
    print::text(&player.closed())?;
    match player.is_complete() {
        Ok(true) => {}
        Ok(false) => say(format_args!("remask: {name} ends before the answer")),
        Err(message) => bail!("{name}: the request failed: {message}"),
    }
    Ok(())
}

/// The lines of a text, read by a thread: reading may wait, and the terminal does not.
fn lines_of(input: Box<dyn Read + Send>) -> mpsc::Receiver<anyhow::Result<String>> {
    let (send, lines) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut input = BufReader::new(input);
        loop {
            let line = line_of(&mut input).transpose();
            let Some(line) = line else { return };
            let is_last = line.is_err();
            if send.blocking_send(line).is_err() || is_last {
                return; // nobody wants more
            }
        }
    });
    lines
}

fn line_of(input: &mut impl BufRead) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    let length = input.take(LINE_MAX + 1).read_until(b'\n', &mut bytes).context("cannot be read")?;
    ensure!(length as u64 <= LINE_MAX, "has more than {LINE_MAX} bytes; no event is as long");
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8(bytes).ok().context("is no UTF-8 text")?))
}
