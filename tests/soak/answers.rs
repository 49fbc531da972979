//! Requests for the Sudoku model and checks of its answers: clues are kept, blanks are filled, and
//! the edits of a stream make its text. Out of scope: whether a grid is solved.

use crate::common::server::SseEvent;
use serde_json::Value;

const PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
const ROW: &str = "534678912\n";
pub(super) const BLANK: char = '.';

/// One of nine puzzles: the same with its digits renamed.
pub(super) fn puzzle(draw: f64) -> String {
    renamed(PUZZLE, draw)
}

/// The first line of a grid, its newline included.
pub(super) fn row(draw: f64) -> String {
    renamed(ROW, draw)
}

fn renamed(text: &str, draw: f64) -> String {
    let by = (draw * 9.0) as u8;
    let digit = |c: char| if c.is_ascii_digit() { char::from(b'1' + (c as u8 - b'1' + by) % 9) } else { c };
    text.chars().map(digit).collect()
}

/// The fault of an answer.
pub(super) type Checked = Result<(), String>;

pub(super) fn ensure(holds: bool, else_say: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(else_say()) }
}

/// Checks a filled template: clues are kept, blanks are filled.
pub(super) fn check_filled(template: &str, answer: &Value) -> Checked {
    let text = answer["choices"][0]["text"].as_str().unwrap_or_default();
    let fits = |(given, said): (char, char)| if given == BLANK { said != BLANK } else { said == given };
    let is_filled = text.len() == template.len() && template.chars().zip(text.chars()).all(fits);
    ensure(is_filled, || format!("{template:?} became {answer}"))
}

/// The canvas that edits make, as tokens and texts.
#[derive(Debug, Default)]
struct Canvas(Vec<Option<(u64, String)>>);

impl Canvas {
    fn blank(length: &Value) -> Self {
        Self(vec![None; usize::try_from(length.as_u64().unwrap_or_default()).unwrap_or_default()])
    }

    fn put(&mut self, cell: &Value) -> Checked {
        let (at, token, text) = (cell["at"].as_u64(), cell["token"].as_u64(), cell["text"].as_str());
        match (at.and_then(|at| self.0.get_mut(usize::try_from(at).ok()?)), token, text) {
            (Some(cell @ None), Some(token), Some(text)) => {
                *cell = Some((token, text.to_owned()));
                Ok(())
            }
            _ => Err(format!("{cell} does not fit {}", self.text())),
        }
    }

    fn step(&mut self, step: &Value) -> Checked {
        for edit in step["edits"].as_array().into_iter().flatten() {
            if edit["kind"] == "fill" {
                self.put(edit)?;
                continue;
            }
            let at = edit["at"].as_u64().and_then(|at| usize::try_from(at).ok());
            let cell = at.and_then(|at| self.0.get_mut(at)).and_then(Option::take);
            let is_change = edit["kind"] == "erase" || edit["kind"] == "replace";
            let is_fit = is_change && cell.is_some_and(|(token, _)| edit["was"] == token);
            ensure(is_fit, || format!("{edit} does not fit {}", self.text()))?;
            if edit["kind"] == "replace" {
                self.put(edit)?;
            }
        }
        let blanks = self.0.iter().filter(|cell| cell.is_none()).count();
        ensure(step["blanks"] == blanks, || format!("{blanks} blanks are left after {step}"))
    }

    fn text(&self) -> String {
        self.0.iter().map(|cell| cell.as_ref().map_or(".", |(_, text)| text)).collect()
    }
}

/// Checks the named events of an infill, from `start` to `done`.
pub(super) fn check_infill(template: &str, events: &[SseEvent]) -> Checked {
    let (start, steps, done) = match events {
        [start, steps @ .., done] if start.name == "start" && done.name == "done" => (start.json(), steps, done.json()),
        _ => return Err(format!("no start or no end: {:?}", events.last())),
    };
    let mut canvas = Canvas::blank(&start["canvas_length"]);
    start["pinned"].as_array().into_iter().flatten().try_for_each(|pinned| canvas.put(pinned))?;
    ensure(canvas.text() == template, || format!("{start} is not {template:?}"))?;
    steps.iter().try_for_each(|step| canvas.step(&step.json()))?;
    check_filled(template, &done)?;
    ensure(done["choices"][0]["text"] == canvas.text(), || format!("edits give {:?}, not {done}", canvas.text()))
}

/// Checks OpenAI's chunks with edits and usage, to `[DONE]`: the deltas are the text that the edits
/// make.
pub(super) fn check_completion(events: &[SseEvent]) -> Checked {
    let (usage, chunks): (Value, Vec<Value>) = match events {
        [chunks @ .., usage, done] if done.data == "[DONE]" => {
            (usage.json(), chunks.iter().map(SseEvent::json).collect())
        }
        _ => return Err(format!("no end: {:?}", events.last())),
    };
    let choices = || chunks.iter().map(|chunk| &chunk["choices"][0]);
    let delta = |choice: &Value| choice["text"].as_str().or(choice["delta"]["content"].as_str()).map(str::to_owned);
    let said: String = choices().filter_map(delta).collect();
    let mut steps = chunks.iter().map(|chunk| &chunk["diffusion"]).filter(|side| side["edits"].is_array()).peekable();
    let mut canvas = Canvas::blank(steps.peek().map_or(&Value::Null, |first| &first["canvas_length"]));
    steps.try_for_each(|step| canvas.step(step))?;
    ensure(!said.is_empty() && said == canvas.text(), || format!("edits give {:?}, not {said:?}", canvas.text()))?;
    ensure(usage["usage"]["completion_tokens"] == said.len(), || format!("{said:?} is counted as {usage}"))?;
    let finish = choices().next_back().map(|choice| &choice["finish_reason"]);
    ensure(finish.is_some_and(|finish| *finish == "length"), || format!("it finished with {finish:?}"))
}

#[test]
fn what_is_no_answer_is_found_out() {
    let answer = |text: &str| serde_json::json!({"choices": [{"text": text}]});
    assert_eq!(check_filled("1.\n", &answer("12\n")), Ok(()));
    for wrong in ["22\n", "1.\n", "12", "12\n\n"] {
        assert!(check_filled("1.\n", &answer(wrong)).is_err(), "{wrong:?}");
    }
    let event = |name: &str, data: &str| SseEvent { name: name.to_owned(), data: data.to_owned(), id: String::new() };
    let stream = |edits: &str, blanks: usize| {
        [
            event("start", r#"{"canvas_length": 2, "pinned": [{"at": 0, "token": 1, "text": "1"}]}"#),
            event("step", &format!("{{\"blanks\": {blanks}, \"edits\": [{edits}]}}")),
            event("done", r#"{"choices": [{"text": "12"}]}"#),
        ]
    };
    let fill = |token: u8| format!("{{\"at\": 1, \"kind\": \"fill\", \"token\": {token}, \"text\": \"{token}\"}}");
    let erase = |token: u8| format!("{{\"at\": 1, \"kind\": \"erase\", \"was\": {token}}}");
    assert_eq!(check_infill("1.", &stream(&fill(2), 0)), Ok(()));
    assert_eq!(check_infill("1.", &stream(&[fill(3), erase(3), fill(2)].join(","), 0)), Ok(()));
    for (edits, blanks) in [(fill(3), 0), (fill(2), 1), ([fill(2), fill(2)].join(","), 0), (erase(2), 1)] {
        assert!(check_infill("1.", &stream(&edits, blanks)).is_err(), "{edits}");
    }
    assert!(check_infill("1.", &stream(&fill(2), 0)[..2]).is_err(), "it breaks off");
}
