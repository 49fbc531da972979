//! A canvas in the terminal, redrawn each step: new tokens green, replaced ones cyan, doubtful
//! yellow, erased red.

use crate::diffusion::{Cell, DOUBTFUL, Edit, TokenSet};
use crate::engine::{EditCounts, Handle, Start, StepEvent};
use crate::text::Tokenizer;
use console::{Style, Term, measure_text_width, style};
use std::{io, time::Duration};

/// How long each frame stays on a terminal.
const FRAME: Duration = Duration::from_millis(60);

/// A canvas on a terminal, redrawn in place. On another output, frames follow each other.
pub(super) struct Screen<'a> {
    term: Term,
    tokenizer: Option<&'a Tokenizer>,
    judged: Option<&'a TokenSet>,
    cells: Vec<(Cell, Highlight)>,
    offset: usize,
    lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Highlight {
    Given,
    Blank,
    Erased,
    New,
    Replaced,
    Doubtful,
    Settled,
}

impl Highlight {
    fn style(self) -> Style {
        match self {
            Self::Given => Style::new().bold(),
            Self::Blank => Style::new().dim(),
            Self::Erased => Style::new().red().bold(),
            Self::New => Style::new().green().bold(),
            Self::Replaced => Style::new().cyan().bold(),
            Self::Doubtful => Style::new().yellow(),
            Self::Settled => Style::new().green(),
        }
    }
}

impl<'a> Screen<'a> {
    pub(super) fn new(start: &Start, handle: &'a Handle) -> Self {
        let highlight = |cell: &Cell| if matches!(cell, Cell::Fixed(_)) { Highlight::Given } else { Highlight::Blank };
        let cells = start.cells.iter().map(|cell| (*cell, highlight(cell))).collect();
        let (tokenizer, judged) = (handle.tokenizer(), handle.judged());
        Self { term: Term::stdout(), tokenizer, judged, cells, offset: start.offset, lines: 0 }
    }

    /// Draws the canvas after `step`.
    pub(super) async fn show(&mut self, step: &StepEvent) -> io::Result<()> {
        for (_, highlight) in &mut self.cells {
            match highlight {
                Highlight::New | Highlight::Replaced => *highlight = Highlight::Settled,
                Highlight::Erased => *highlight = Highlight::Blank,
                Highlight::Given | Highlight::Blank | Highlight::Doubtful | Highlight::Settled => {}
            }
        }
        let judged = self.judged;
        let is_judged = |token| judged.is_none_or(|judged| judged.contains(token));
        for edit in &step.edits {
            self.cells[edit.at().index() - self.offset] = match (edit.written(), edit) {
                (None, _) => (Cell::Blank, Highlight::Erased),
                (Some((token, confidence)), _) if confidence.get() < DOUBTFUL && is_judged(token) => {
                    (Cell::Filled(token), Highlight::Doubtful)
                }
                (Some((token, _)), Edit::Replace { .. }) => (Cell::Filled(token), Highlight::Replaced),
                (Some((token, _)), _) => (Cell::Filled(token), Highlight::New),
            };
        }
        self.draw(step)?;
        if self.term.is_term() {
            tokio::time::sleep(FRAME).await;
        }
        Ok(())
    }

    fn draw(&mut self, step: &StepEvent) -> io::Result<()> {
        let picture: String = self.cells.iter().map(|(cell, highlight)| self.draw_cell(*cell, *highlight)).collect();
        let EditCounts { filled, erased, replaced } = EditCounts::of(&step.edits);
        let caption = format!("step {}: +{filled} -{erased} ~{replaced}, {} blank", step.step + 1, step.blanks);
        if self.term.is_term() {
            self.term.clear_last_lines(self.lines)?;
        }
        let picture = format!("{picture}\n{}\n", style(caption).dim());
        self.term.write_str(&picture)?;
        let width = usize::from(self.term.size().1).max(1);
        self.lines = picture.lines().map(|line| measure_text_width(line).div_ceil(width).max(1)).sum();
        Ok(())
    }

    fn draw_cell(&self, cell: Cell, highlight: Highlight) -> String {
        let text = match (cell.token(), self.tokenizer) {
            (None, _) if highlight == Highlight::Erased => "×".to_owned(),
            (None, _) => "·".to_owned(),
            (Some(token), Some(tokenizer)) => tokenizer.piece(token),
            (Some(token), None) => format!("{} ", token.0),
        };
        // a style that spans a line end would colour the rest of the line
        let lines: Vec<String> = text.split('\n').map(|line| highlight.style().apply_to(line).to_string()).collect();
        lines.join("\n")
    }
}
