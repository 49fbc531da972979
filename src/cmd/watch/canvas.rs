//! A canvas as it is drawn: the text of each cell and what happened to it. It follows from the
//! events alone.

use super::trajectory::{Done, Edit, GivenCell, JudgedToken, Start, Step};
use crate::diffusion::DOUBTFUL;

/// What is shown of a cell beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Given, and it stays.
    Given,
    /// Given, and it may change, but has not.
    Kept,
    Blank,
    /// Erased in this step.
    Erased,
    /// Filled in this step.
    New,
    /// Filled in this step, with a low confidence.
    NewUnsure,
    /// Filled before.
    Filled,
    /// Filled before, with a low confidence.
    Unsure,
    /// Its token was replaced in this step; at the end, it is not the one that was given.
    Replaced,
    /// Of a low quality at the end.
    Doubtful,
    /// Filled before, with a token that ends the answer.
    End,
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    /// `None` is blank.
    token: Option<u32>,
    /// The text of its token.
    pub(super) text: String,
    /// Of a token that has a part of a character.
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) mark: Mark,
    is_pinned: bool,
    /// The quality for which a token was erased here last.
    erased: Option<f32>,
}

/// Edits by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) filled: u32,
    pub(super) erased: u32,
    pub(super) replaced: u32,
}

/// A canvas and what happened to its cells last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Canvas {
    pub(super) cells: Vec<Cell>,
    /// The tokens that were given and may change, and their texts.
    given: Vec<GivenCell>,
    /// The tokens that end the answer.
    ends: Vec<u32>,
    /// Whether nothing changes any more.
    is_ended: bool,
}

/// The text of a token. A model without a tokenizer has only numbers.
fn shown(token: u32, text: Option<&str>) -> String {
    text.map_or_else(|| format!("{token} "), str::to_owned)
}

impl Canvas {
    pub(super) fn new(start: Start) -> Self {
        let (token, bytes, erased) = (None, None, None);
        let blank = Cell { token, text: String::new(), bytes, mark: Mark::Blank, is_pinned: false, erased };
        let mut cells = vec![blank; start.canvas_length];
        let all = start.given.iter().map(|cell| (cell, Mark::Kept));
        let all = all.chain(start.pinned.iter().map(|cell| (cell, Mark::Given)));
        for (GivenCell { at, token, text, bytes }, mark) in all {
            let (text, bytes) = (shown(*token, text.as_deref()), bytes.clone());
            let is_pinned = mark == Mark::Given;
            cells[*at] = Cell { token: Some(*token), text, bytes, mark, is_pinned, erased: None };
        }
        Self { cells, given: start.given, ends: start.ends, is_ended: false }
    }

    /// Applies the edits of a step, and counts them.
    ///
    /// # Errors
    /// When an edit does not go with the canvas.
    pub(super) fn apply(&mut self, step: &Step) -> Result<Counts, String> {
        self.settle();
        let mut counts = Counts::default();
        for edit in &step.edits {
            match edit {
                Edit::Fill { at, token, text, bytes, confidence } => {
                    let cell = self.cell(*at, None)?;
                    let mark = if is_low(*confidence) { Mark::NewUnsure } else { Mark::New };
                    cell.write(*token, text.as_deref(), bytes.clone(), mark);
                    counts.filled += 1;
                }
                Edit::Erase { at, was, quality } => {
                    let cell = self.cell(*at, Some(*was))?;
                    (cell.token, cell.bytes) = (None, None);
                    (cell.mark, cell.erased) = (Mark::Erased, *quality);
                    counts.erased += 1;
                }
                Edit::Replace { at, was, token, text, bytes, confidence } => {
                    let cell = self.cell(*at, Some(*was))?;
                    let mark = if is_low(*confidence) { Mark::NewUnsure } else { Mark::Replaced };
                    cell.write(*token, text.as_deref(), bytes.clone(), mark);
                    counts.replaced += 1;
                }
            }
        }
        Ok(counts)
    }

    /// The cell of an edit, which has to have this token, or to be blank.
    fn cell(&mut self, at: usize, was: Option<u32>) -> Result<&mut Cell, String> {
        let length = self.cells.len();
        let Some(cell) = self.cells.get_mut(at) else {
            return Err(format!("has an edit of cell {at}, but the canvas has {length} cells"));
        };
        match (was, cell.token) {
            _ if cell.is_pinned => Err(format!("has an edit of cell {at}, which is pinned")),
            (None, None) => Ok(cell),
            (Some(was), Some(token)) if was == token => Ok(cell),
            (None, Some(token)) => Err(format!("fills cell {at}, which is not blank: it has token {token}")),
            (Some(was), None) => Err(format!("has an edit of token {was} in cell {at}, which is blank")),
            (Some(was), Some(token)) => {
                Err(format!("has an edit of token {was} in cell {at}, which has token {token}"))
            }
        }
    }

    /// The next step begins, or there is none: what was new is not any more.
    pub(super) fn settle(&mut self) {
        for cell in &mut self.cells {
            let is_end = cell.token.is_some_and(|token| self.ends.contains(&token));
            cell.mark = match cell.mark {
                Mark::New | Mark::NewUnsure | Mark::Replaced if is_end => Mark::End,
                Mark::New | Mark::Replaced => Mark::Filled,
                Mark::NewUnsure => Mark::Unsure,
                Mark::Erased => Mark::Blank,
                Mark::Given | Mark::Kept | Mark::Blank | Mark::Filled | Mark::Unsure | Mark::Doubtful | Mark::End => {
                    cell.mark
                }
            };
        }
    }

    /// The run has ended: rewritten tokens are marked, and those that the answer doubts.
    ///
    /// # Errors
    /// When the answer judges a cell that the canvas does not have.
    pub(super) fn end(&mut self, done: &Done) -> Result<(), String> {
        self.settle();
        self.is_ended = true;
        for GivenCell { at, token, .. } in &self.given {
            let cell = &mut self.cells[*at];
            if cell.mark != Mark::Kept {
                cell.mark = if cell.token == Some(*token) { Mark::Kept } else { Mark::Replaced };
            }
        }
        let judged = done.tokens.iter().flatten();
        let is_doubtful = |token: &&JudgedToken| token.quality.is_some_and(|quality| quality < DOUBTFUL);
        let doubtful = match &done.doubtful {
            Some(doubtful) => doubtful.clone(),
            None => judged.filter(is_doubtful).map(|token| token.at).collect(),
        };
        let length = self.cells.len();
        for at in doubtful {
            let cell = self.cells.get_mut(at);
            let cell = cell.ok_or_else(|| format!("doubts cell {at}, but the canvas has {length} cells"))?;
            cell.mark = Mark::Doubtful;
        }
        Ok(())
    }

    pub(super) fn blanks(&self) -> usize {
        self.cells.iter().filter(|cell| cell.token.is_none()).count()
    }

    /// Whether a token ends the answer before its cells do.
    pub(super) const fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Whether this cell was written with a token that ends the answer.
    pub(super) fn is_end(&self, cell: &Cell) -> bool {
        !cell.is_pinned && cell.token.is_some_and(|token| self.ends.contains(&token))
    }

    /// The cells that are no part of the answer once it is there: those behind its end, apart from
    /// what was given.
    pub(super) fn behind_end(&self) -> impl Iterator<Item = usize> {
        let end = self.cells.iter().position(|cell| self.is_end(cell)).filter(|_| self.is_ended);
        let behind = end.map_or(self.cells.len(), |end| end + 1)..self.cells.len();
        behind.filter(|at| !self.cells[*at].is_pinned)
    }

    /// Whether the canvas had tokens at first that edits may change.
    pub(super) fn is_revision(&self) -> bool {
        !self.given.is_empty()
    }

    /// The quality for which the token of a cell was erased last.
    pub(super) fn erased_for(&self, at: usize) -> Option<f32> {
        self.cells.get(at)?.erased
    }
}

impl Cell {
    fn write(&mut self, token: u32, text: Option<&str>, bytes: Option<Vec<u8>>, mark: Mark) {
        (self.token, self.text, self.bytes, self.mark) = (Some(token), shown(token, text), bytes, mark);
    }

    pub(super) fn is_blank(&self) -> bool {
        self.token.is_none()
    }
}

fn is_low(confidence: Option<f32>) -> bool {
    confidence.is_some_and(|confidence| confidence < DOUBTFUL)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::trajectory::{Event, read_line};
    use super::*;

    pub(in super::super) fn start(json: &str) -> Canvas {
        match read_line(json).unwrap() {
            Some(Event::Start(start)) => Canvas::new(start),
            other => panic!("{json} is {other:?}"),
        }
    }

    pub(in super::super) fn step(edits: &str) -> Step {
        match read_line(&format!(r#"{{"step":0,"edits":[{edits}]}}"#)).unwrap() {
            Some(Event::Step(None, step)) => step,
            other => panic!("{edits} is {other:?}"),
        }
    }

    fn drawn(canvas: &Canvas) -> String {
        let letter = |cell: &Cell| match cell.mark {
            Mark::Given | Mark::Kept => cell.text.clone(),
            Mark::Blank => "_".to_owned(),
            Mark::Erased => "x".to_owned(),
            Mark::New => format!("+{}", cell.text),
            Mark::NewUnsure => format!("+?{}", cell.text),
            Mark::Filled => format!("={}", cell.text),
            Mark::Unsure => format!("?{}", cell.text),
            Mark::Replaced => format!("~{}", cell.text),
            Mark::Doubtful => format!("!{}", cell.text),
            Mark::End => "$".to_owned(),
        };
        canvas.cells.iter().map(letter).collect()
    }

    #[test]
    fn what_happened_to_a_cell_is_marked_in_the_step_and_settles() {
        let mut canvas = start(r#"{"canvas_length":4,"pinned":[{"at":0,"token":1,"text":"a"}]}"#);
        assert_eq!((drawn(&canvas).as_str(), canvas.blanks()), ("a___", 3));
        for (edits, expected) in [
            (
                r#"{"kind":"fill","at":1,"token":2,"text":"b","confidence":0.9},
                   {"kind":"fill","at":2,"token":3,"text":"c","confidence":0.4}"#,
                "a+b+?c_",
            ),
            (r#"{"kind":"fill","at":3,"token":7,"text":null,"confidence":null}"#, "a=b?c+7 "),
            (r#"{"kind":"erase","at":2,"was":3,"quality":0.125}"#, "a=bx=7 "),
            (r#"{"kind":"replace","at":1,"was":2,"token":5,"text":"e","confidence":0.9}"#, "a~e_=7 "),
            ("", "a=e_=7 "),
        ] {
            canvas.apply(&step(edits)).unwrap();
            assert_eq!(drawn(&canvas), expected);
        }
        assert_eq!((canvas.erased_for(2), canvas.erased_for(1)), (Some(0.125), None));
    }

    #[test]
    fn at_the_end_of_a_revision_what_was_rewritten_and_what_is_doubtful_is_marked() {
        let cell = |at: u32| format!(r#"{{"at":{at},"token":{at},"text":"{at}"}}"#);
        let given: Vec<String> = (0..4).map(cell).collect();
        let mut canvas = start(&format!(r#"{{"canvas_length":4,"pinned":[],"given":[{}]}}"#, given.join(",")));
        for edits in [
            r#"{"kind":"erase","at":1,"was":1},{"kind":"erase","at":2,"was":2}"#,
            r#"{"kind":"fill","at":1,"token":9,"text":"9"},{"kind":"fill","at":2,"token":2,"text":"2"}"#,
        ] {
            canvas.apply(&step(edits)).unwrap();
        }
        let judged = |at, quality| JudgedToken { at, quality };
        let tokens = Some(vec![judged(0, None), judged(1, Some(0.9)), judged(3, Some(0.2))]);
        canvas.end(&Done { tokens, ..Done::default() }).unwrap();
        assert_eq!(drawn(&canvas), "0~92!3");
        let far = Done { doubtful: Some(vec![4]), ..Done::default() };
        assert_eq!(canvas.end(&far), Err("doubts cell 4, but the canvas has 4 cells".to_owned()));
    }

    #[test]
    fn an_edit_that_does_not_go_with_the_canvas_is_refused() {
        let canvas = start(r#"{"canvas_length":3,"pinned":[{"at":0,"token":1}],"given":[{"at":1,"token":2}]}"#);
        for (edit, words) in [
            (r#"{"kind":"fill","at":3,"token":1}"#, "has an edit of cell 3, but the canvas has 3 cells"),
            (r#"{"kind":"erase","at":0,"was":1}"#, "has an edit of cell 0, which is pinned"),
            (r#"{"kind":"fill","at":1,"token":1}"#, "fills cell 1, which is not blank: it has token 2"),
            (r#"{"kind":"erase","at":2,"was":1}"#, "has an edit of token 1 in cell 2, which is blank"),
            (r#"{"kind":"replace","at":1,"was":1,"token":3}"#, "has an edit of token 1 in cell 1, which has token 2"),
        ] {
            assert_eq!(canvas.clone().apply(&step(edit)).unwrap_err(), words);
        }
    }
}
