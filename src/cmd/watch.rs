//! A canvas drawn in the terminal and redrawn after each step: new tokens green, doubtful ones yellow, erased ones red.

use crate::diffusion::{Cell, Edit, Position};
use crate::engine::{DOUBTFUL, Start, StepEvent};
use crate::text::Tokenizer;
use console::{Style, Term, measure_text_width, style};
use std::io;
use std::time::Duration;

/// How long each picture stays: slow enough to be seen, fast enough to be watched to the end.
const FRAME: Duration = Duration::from_millis(60);

/// A canvas on a terminal; where output is not a terminal, one picture after another.
pub(super) struct Screen<'a> {
    term: Term,
    tokenizer: Option<&'a Tokenizer>,
    cells: Vec<(Cell, Look)>,
    offset: usize,
    lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Given,
    Blank,
    Erased,
    New,
    Doubtful,
    Settled,
}

impl Look {
    fn style(self) -> Style {
        match self {
            Self::Given => Style::new().bold(),
            Self::Blank => Style::new().dim(),
            Self::Erased => Style::new().red().bold(),
            Self::New => Style::new().green().bold(),
            Self::Doubtful => Style::new().yellow(),
            Self::Settled => Style::new().green(),
        }
    }
}

impl<'a> Screen<'a> {
    pub(super) fn new(start: &Start, tokenizer: Option<&'a Tokenizer>) -> Self {
        let look = |cell: &Cell| if matches!(cell, Cell::Fixed(_)) { Look::Given } else { Look::Blank };
        let cells = start.cells.iter().map(|cell| (*cell, look(cell))).collect();
        Self { term: Term::stdout(), tokenizer, cells, offset: start.offset, lines: 0 }
    }

    /// Draws the canvas after `step`.
    pub(super) async fn show(&mut self, step: &StepEvent) -> io::Result<()> {
        for (_, look) in &mut self.cells {
            match look {
                Look::New => *look = Look::Settled,
                Look::Erased => *look = Look::Blank,
                Look::Given | Look::Blank | Look::Doubtful | Look::Settled => {}
            }
        }
        for edit in &step.edits {
            *self.cell_at(edit.at()) = match edit {
                Edit::Fill { token, confidence, .. } if confidence.get() < DOUBTFUL => {
                    (Cell::Filled(*token), Look::Doubtful)
                }
                Edit::Fill { token, .. } => (Cell::Filled(*token), Look::New),
                Edit::Erase { .. } => (Cell::Blank, Look::Erased),
            };
        }
        self.draw(step)?;
        if self.term.is_term() {
            tokio::time::sleep(FRAME).await;
        }
        Ok(())
    }

    /// Leaves the last picture standing.
    pub(super) fn close(self) {
        let _ = self.term.flush(); // nothing is left to draw
    }

    fn cell_at(&mut self, at: Position) -> &mut (Cell, Look) {
        &mut self.cells[at.index() - self.offset]
    }

    fn draw(&mut self, step: &StepEvent) -> io::Result<()> {
        let picture: String = self.cells.iter().map(|(cell, look)| self.draw_cell(*cell, *look)).collect();
        let erased = step.edits.iter().filter(|edit| matches!(edit, Edit::Erase { .. })).count();
        let filled = step.edits.len() - erased;
        let caption = format!("step {}: +{filled} -{erased}, {} blank", step.step + 1, step.blanks);
        if self.term.is_term() {
            self.term.clear_last_lines(self.lines)?;
        }
        let picture = format!("{picture}\n{}\n", style(caption).dim());
        self.term.write_str(&picture)?;
        let width = usize::from(self.term.size().1).max(1);
        self.lines = picture.lines().map(|line| measure_text_width(line).div_ceil(width).max(1)).sum();
        Ok(())
    }

    fn draw_cell(&self, cell: Cell, look: Look) -> String {
        let text = match (cell.token(), self.tokenizer) {
            (None, _) if look == Look::Erased => "×".to_owned(),
            (None, _) => "·".to_owned(),
            (Some(token), Some(tokenizer)) => tokenizer.piece(token),
            (Some(token), None) => format!("{} ", token.0),
        };
        // a style across a line end would colour the rest of the line
        let lines: Vec<String> = text.split('\n').map(|line| look.style().apply_to(line).to_string()).collect();
        lines.join("\n")
    }
}
