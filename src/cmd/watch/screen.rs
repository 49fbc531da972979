//! Frames on standard output: redrawn in place on a terminal, one below the other elsewhere. The
//! terminal's other screen is used, so that a window that changes its size leaves nothing behind.

use super::canvas::Canvas;
use super::glyphs::glyphs;
use super::layout::{Row, first_row, lines, rows};
use super::look::{Look, plain_legend, symbol};
use crate::cmd::signal::{TerminalEvent, TerminalSignals, stop_here};
use console::{Term, measure_text_width};
use std::io::{self, Write, stdout};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a frame stays on a terminal where no `--delay` says so.
const DELAY: Duration = Duration::from_millis(60);
/// Switches to the other screen and hides the cursor; switches back and shows it.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Fewest rows of the canvas beside which the legend is drawn.
const ROWS_MIN: usize = 3;

/// Where frames are drawn, and how fast.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) look: Look,
    delay: Duration,
    /// The first row of the canvas that is drawn.
    first: usize,
    has_legend: bool,
    redraw: Arc<Notify>,
}

impl Screen {
    /// For standard output. Each frame stays for `delay` milliseconds, by default for a moment on a
    /// terminal and not at all elsewhere.
    pub(super) fn new(delay: Option<u64>) -> Self {
        let look = Look::of_stdout();
        let own = if look.is_redrawn() { DELAY } else { Duration::ZERO };
        let delay = delay.map_or(own, Duration::from_millis);
        Self { look, delay, first: 0, has_legend: false, redraw: Arc::default() }
    }

    /// Draws a frame and keeps it for its time.
    pub(super) async fn show(&mut self, canvas: &Canvas, caption: &[String]) -> io::Result<()> {
        let until = Instant::now() + self.delay;
        loop {
            self.draw(canvas, caption)?;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return Ok(()),
                () = self.redraw.notified() => {} // the window has another size
            }
        }
    }

    fn draw(&mut self, canvas: &Canvas, caption: &[String]) -> io::Result<()> {
        if self.look.is_redrawn() {
            let (height, width) = Term::stdout().size_checked().unwrap_or((24, 80));
            return write(&self.frame(canvas, caption, (height.into(), width.into())));
        }
        let (width, has_legend) = (width(), std::mem::replace(&mut self.has_legend, true));
        let legend = if has_legend { String::new() } else { listed(&plain_legend(canvas.has_ends()), width) };
        let caption = listed(caption, width).replacen(',', ":", 1);
        write(&[legend, picture(canvas, self.look, width), caption].concat())
    }

    /// A frame that fills a terminal of `height` rows and `width` columns at most, from its first
    /// cell on.
    fn frame(&mut self, canvas: &Canvas, caption: &[String], (height, width): (usize, usize)) -> String {
        let (height, width) = (height.max(1), width.max(1));
        let all = rows(&glyphs(canvas), width);
        let legend = Look::legend(canvas.is_revision(), canvas.has_ends());
        let legend = legend.map(|(mark, words)| (self.look.paint(mark, words), measure_text_width(words)));
        let mut legend = lines(&legend.collect::<Vec<_>>(), "  ", width);
        // which rows are drawn is a part of the caption, whose lines decide how many there are
        let captions = |range: Option<String>| {
            let words = caption.iter().cloned().chain(range);
            lines(&words.map(|word| (self.look.dim(&word), measure_text_width(&word))).collect::<Vec<_>>(), "  ", width)
        };
        let range = |first: usize, last: usize| format!("rows {first} to {last} of {}", all.len());
        let mut below = captions(None);
        let widest = range(all.len(), all.len());
        let has_range = all.len() + below.len() + legend.len() > height && widest.len() <= width;
        if has_range {
            below = captions(Some(widest));
        }
        if height < below.len() + legend.len() + ROWS_MIN {
            legend.clear();
        }
        if height < below.len() + 1 {
            below.clear();
        }
        let room = height - below.len() - legend.len();
        self.first = first_row(&all, room, self.first);
        let seen = &all[self.first..all.len().min(self.first + room)];
        if !below.is_empty() {
            let is_part = has_range && seen.len() < all.len();
            below = captions(is_part.then(|| range(self.first + 1, self.first + seen.len())));
        }
        let look = self.look;
        let drawn = seen.iter().map(|row| painted(row, look)).chain(below).chain(legend);
        // a line is cleared before it is written: in its last column, its end would be cleared
        let drawn: Vec<String> = drawn.map(|line| format!("\x1b[2K{line}")).collect();
        format!("\x1b[H{}\x1b[J", drawn.join("\r\n"))
    }

    /// Runs `work`, which shows frames, and leaves the terminal as it was, also after an error, a
    /// panic, Ctrl-C or Ctrl-Z. A signal that ends the program ends it at once.
    pub(super) async fn run<T>(redraw: Option<Arc<Notify>>, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let Some(redraw) = redraw else { return Ok(work.await) };
        let mut signals = TerminalSignals::new()?;
        let screen = OtherScreen::enter()?;
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                event = signals.next() => match event {
                    TerminalEvent::End(code) => {
                        drop(screen);
                        std::process::exit(code.into());
                    }
                    TerminalEvent::Suspend => {
                        write(LEAVE)?;
                        stop_here();
                        write(ENTER)?;
                        redraw.notify_one();
                    }
                    TerminalEvent::Resized => redraw.notify_one(),
                },
                done = &mut work => return Ok(done),
            }
        }
    }

    /// What [`Self::run`] needs to know of a screen that is redrawn in place.
    pub(super) fn redrawn(&self) -> Option<Arc<Notify>> {
        self.look.is_redrawn().then(|| Arc::clone(&self.redraw))
    }
}

/// The terminal's other screen, which is left when this is dropped.
struct OtherScreen;

impl OtherScreen {
    fn enter() -> io::Result<Self> {
        let screen = Self;
        write(ENTER)?;
        Ok(screen)
    }
}

impl Drop for OtherScreen {
    fn drop(&mut self) {
        let _ = write(LEAVE); // the terminal may be gone
    }
}

fn painted(row: &Row, look: Look) -> String {
    row.pieces.iter().map(|piece| look.paint(piece.mark, &piece.text)).collect()
}

/// The whole canvas with its marks, each row with its line end. Where the output shows text only,
/// the symbols of the marks stand below the rows that have some.
pub(super) fn picture(canvas: &Canvas, look: Look, width: usize) -> String {
    let mut picture = String::new();
    for row in rows(&glyphs(canvas), width) {
        picture += &(painted(&row, look) + "\n");
        if look == Look::Plain {
            let below = row.pieces.iter().map(|piece| symbol(piece.mark).to_string().repeat(piece.columns));
            let below: String = below.collect();
            if !below.trim().is_empty() {
                picture += &format!("{}\n", below.trim_end());
            }
        }
    }
    picture
}

/// The columns of the terminal; no limit where the output is none.
pub(super) fn width() -> usize {
    Term::stdout().size_checked().map_or(usize::MAX, |(_, width)| width.into())
}

/// A list with commas, in lines of at most `width` columns.
pub(super) fn listed(words: &[impl AsRef<str>], width: usize) -> String {
    let (words, last) = (words.iter().map(AsRef::as_ref), words.len().saturating_sub(1));
    let words = words.enumerate().map(|(at, word)| format!("{word}{}", if at < last { "," } else { "" }));
    let words: Vec<(String, usize)> = words.map(|word| (word.clone(), measure_text_width(&word))).collect();
    lines(&words, " ", width).iter().map(|line| format!("{line}\n")).collect()
}

fn write(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::super::trajectory::{Event, GivenCell, Start, read_line};
    use super::*;

    fn canvas(length: usize, pinned: &str) -> Canvas {
        let cell = |(at, letter): (usize, char)| GivenCell { at, token: 0, text: Some(letter.into()), bytes: None };
        let pinned = pinned.chars().enumerate().map(cell).collect();
        Canvas::new(Start { canvas_length: length, pinned, ..Start::default() })
    }

    fn screen(look: Look) -> Screen {
        Screen { look, delay: Duration::ZERO, first: 0, has_legend: false, redraw: Arc::default() }
    }

    /// The lines of a frame without control sequences.
    fn shown(frame: &str) -> Vec<String> {
        let frame = frame.strip_prefix("\x1b[H").unwrap().strip_suffix("\x1b[J").unwrap();
        frame.split("\r\n").map(|line| console::strip_ansi_codes(line).into_owned()).collect()
    }

    fn caption() -> Vec<String> {
        ["step 12 of 61", "+1 -0 ~0", "25 blank"].map(str::to_owned).into()
    }

    #[test]
    fn a_frame_fits_every_window() {
        let canvas = canvas(300, "ab\ncd日本語\n\nefg");
        for height in 1..40 {
            for width in 1..90 {
                let frame = screen(Look::Colours).frame(&canvas, &caption(), (height, width));
                let lines = shown(&frame);
                assert!(lines.len() <= height, "{height} {width}: {lines:?}");
                let is_wide = |line: &&String| measure_text_width(line) > width.max(2); // a character has two columns
                assert_eq!(lines.iter().find(is_wide), None, "{height} {width}");
                assert!(lines.iter().any(|line| line.contains('·')), "{height} {width}: {lines:?}");
            }
        }
    }

    #[test]
    fn a_frame_has_the_canvas_its_caption_and_the_legend() {
        let drawn = |size| shown(&screen(Look::Attributes).frame(&canvas(6, "ab"), &caption(), size));
        let legend = "given  · blank  new  filled  low confidence  × erased  replaced";
        assert_eq!(drawn((24, 80)), ["ab····", "step 12 of 61  +1 -0 ~0  25 blank", legend]);
        let narrow = ["ab····", "step 12 of 61", "+1 -0 ~0  25 blank"];
        let narrow_legend = ["given  · blank  new", "filled", "low confidence", "× erased  replaced"];
        assert_eq!(drawn((24, 20)), [&narrow[..], &narrow_legend].concat());
        assert_eq!(drawn((5, 20)), narrow, "there is no room for the legend");
        assert_eq!(drawn((2, 20)), ["ab····"]);
    }

    #[test]
    fn a_long_canvas_shows_the_rows_that_change_and_says_which() {
        let mut canvas = canvas(400, "");
        let line = r#"{"step":0,"edits":[{"kind":"fill","at":399,"token":1,"text":"z","confidence":1}]}"#;
        let Ok(Some(Event::Step(None, step))) = read_line(line) else { panic!("{line}") };
        canvas.apply(&step).unwrap();
        let lines = shown(&screen(Look::Colours).frame(&canvas, &caption(), (10, 40)));
        assert_eq!(lines[5], format!("{}z", "·".repeat(39)));
        assert_eq!(lines[6..8], ["step 12 of 61  +1 -0 ~0  25 blank", "rows 5 to 10 of 10"]);
    }

    #[test]
    fn a_plain_picture_has_symbols_below_what_changed() {
        let mut canvas = canvas(6, "ab\n");
        let edits = r#"{"kind":"fill","at":3,"token":1,"text":"xy","confidence":0.9},
                       {"kind":"fill","at":4,"token":2,"text":"z","confidence":0.1}"#;
        let line = format!(r#"{{"step":0,"edits":[{}]}}"#, edits.replace('\n', ""));
        let Ok(Some(Event::Step(None, step))) = read_line(&line) else { panic!("{line}") };
        canvas.apply(&step).unwrap();
        assert_eq!(picture(&canvas, Look::Plain, usize::MAX), "ab\nxyz·\n++?\n");
        assert!(!picture(&canvas, Look::Colours, usize::MAX).contains("++?"));
    }
}
