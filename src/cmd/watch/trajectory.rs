//! Lines of a trajectory: the data of a stream's events, alone or as server-sent events
//! (`docs/api.md`, trajectory files). Out of scope: what the events do to a canvas.

use serde::Deserialize;
use serde_json::Value;

/// Most cells of a canvas, as `--max-model-len` allows. A file cannot ask for more memory.
const CELLS_MAX: usize = 1 << 20;

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// The first canvas.
    Start(Start),
    /// A step. Its start is there if the step has it, as the first chunk of a completion does.
    Step(Option<Start>, Step),
    /// The answer.
    Done(Done),
    /// There is no answer; why.
    Failed(String),
}

/// The first canvas.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Start {
    pub(super) canvas_length: usize,
    /// Cells that stay.
    #[serde(default)]
    pub(super) pinned: Vec<GivenCell>,
    /// Cells that are filled and may change.
    #[serde(default)]
    pub(super) given: Vec<GivenCell>,
    /// The tokens that end the answer, which is what is before the first of them.
    #[serde(default)]
    pub(super) ends: Vec<u32>,
}

/// A cell of the first canvas with its token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct GivenCell {
    pub(super) at: usize,
    pub(super) token: u32,
    pub(super) text: Option<String>,
    /// Of a token that has a part of a character.
    pub(super) bytes: Option<Vec<u8>>,
}

/// The edits of one step, or of several that were merged.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Step {
    /// The number of the (last) step, from 0.
    pub(super) step: u32,
    pub(super) steps_planned: Option<u32>,
    pub(super) edits: Vec<Edit>,
}

/// A change of one cell.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Edit {
    Fill { at: usize, token: u32, text: Option<String>, bytes: Option<Vec<u8>>, confidence: Option<f32> },
    Erase { at: usize, was: u32, quality: Option<f32> },
    Replace { at: usize, was: u32, token: u32, text: Option<String>, bytes: Option<Vec<u8>>, confidence: Option<f32> },
}

/// What is shown of an answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Done {
    pub(super) diffusion: Option<Counts>,
    /// The tokens that were judged, if any were.
    pub(super) tokens: Option<Vec<JudgedToken>>,
    /// Those of a low quality, where a limit was asked for.
    pub(super) doubtful: Option<Vec<usize>>,
}

/// A token and the probability that it is right.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct JudgedToken {
    pub(super) at: usize,
    pub(super) quality: Option<f32>,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Counts {
    pub(super) steps: u32,
    pub(super) forward_passes: u32,
    pub(super) filled: u32,
    pub(super) erased: u32,
    pub(super) replaced: u32,
}

/// Reads a line; `None` if it says nothing about a canvas.
///
/// # Errors
/// What is wrong with the line, and what is allowed.
pub(super) fn read_line(line: &str) -> Result<Option<Event>, String> {
    let line = line.trim_start_matches('\u{feff}').trim();
    let json = match line.split_once(':') {
        _ if line.starts_with('{') => line,
        Some(("data", data)) => data.trim_start(),
        Some(("" | "event" | "id" | "retry", _)) => return Ok(None), // other fields of server-sent events, and comments
        _ if line.is_empty() => return Ok(None),
        _ => return Err("is neither a JSON object nor a line of server-sent events".to_owned()),
    };
    if json == "[DONE]" {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(json).map_err(|error| format!("is no JSON: {error}"))?;
    let Value::Object(members) = &value else {
        return Err("is no JSON object; give one event per line".to_owned());
    };
    let has = |name: &str| members.contains_key(name);
    if has("request") {
        Ok(None)
    } else if has("canvas_length") {
        parsed(value, "start").and_then(Start::checked).map(|start| Some(Event::Start(start)))
    } else if has("edits") && has("step") {
        parsed(value, "step").map(|step| Some(Event::Step(None, step)))
    } else if has("error") {
        let message = value["error"]["message"].as_str().or(value["error"].as_str());
        Ok(Some(Event::Failed(message.unwrap_or("without a message").to_owned())))
    } else if has("object") {
        of_object(value)
    } else {
        const KNOWN: &str = "canvas_length (a start), edits (a step), object (an answer), error or request";
        Err(format!("is no event of a trajectory: it has none of {KNOWN}"))
    }
}

/// An answer, or a chunk of a completion with its edits in `diffusion`. Of several choices, those
/// behind the first one are left out.
fn of_object(mut value: Value) -> Result<Option<Event>, String> {
    let is_later = |index: &Value| index.as_u64().is_some_and(|index| index > 0);
    let choices = value["choices"].as_array();
    let is_of_none = choices.is_some_and(Vec::is_empty); // of the usage only
    if is_of_none || choices.is_some_and(|choices| choices.iter().all(|choice| is_later(&choice["index"]))) {
        return Ok(None);
    }
    if value["diffusion"].get("edits").is_some() {
        let diffusion = value["diffusion"].take();
        let start = diffusion["canvas_length"].is_u64().then(|| parsed(diffusion.clone(), "start"));
        let start = start.transpose()?.map(Start::checked).transpose()?;
        return Ok(Some(Event::Step(start, parsed(diffusion, "step")?)));
    }
    let is_piece = value["choices"].get(0).is_some_and(|choice| choice["finish_reason"].is_null());
    if is_piece { Ok(None) } else { Ok(Some(Event::Done(parsed(value, "answer")?))) }
}

fn parsed<T: for<'de> Deserialize<'de>>(value: Value, what: &str) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("is no {what}: {error}"))
}

impl Start {
    /// The same, if it can be a canvas.
    fn checked(self) -> Result<Self, String> {
        let Self { canvas_length, pinned, given, ends: _ } = &self;
        if *canvas_length > CELLS_MAX {
            return Err(format!("has canvas_length {canvas_length}; a canvas has at most {CELLS_MAX} cells"));
        }
        match pinned.iter().chain(given).find(|cell| cell.at >= *canvas_length) {
            Some(GivenCell { at, .. }) => Err(format!("names cell {at}, but its canvas has {canvas_length} cells")),
            None => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_same_event_alone_and_in_a_stream() {
        for (json, is_event) in [
            (r#"{"canvas_length":2,"pinned":[{"at":0,"token":5,"text":"5"}]}"#, true),
            (r#"{"index":0,"step":0,"steps_planned":null,"blanks":1,"edits":[{"kind":"erase","at":1,"was":7}]}"#, true),
            (r#"{"id":"infill-local","object":"infill","choices":[{"index":0,"finish_reason":"stop"}]}"#, true),
            (r#"{"error":{"message":"cancelled"},"request_id":"a"}"#, true),
            (r#"{"request":{"path":"/v1/infill"}}"#, false),
        ] {
            let alone = read_line(json).unwrap();
            assert_eq!(alone.is_some(), is_event, "{json}");
            for line in [format!("data: {json}"), format!("data:{json}\r"), format!("\u{feff}{json}\r")] {
                assert_eq!(read_line(&line).unwrap(), alone, "{line}");
            }
        }
        for line in ["", " ", ": keep-alive", "event: step", "id: a:1", "retry: 5", "data: [DONE]"] {
            assert_eq!(read_line(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn chunks_of_a_completion_are_steps_of_its_first_choice() {
        let chunk = |index: u32, rest: &str| {
            let choice = format!(r#""choices":[{{"index":{index},"text":"","finish_reason":null}}]"#);
            read_line(&format!(r#"data: {{"object":"text_completion",{choice}{rest}}}"#)).unwrap()
        };
        let edits = r#","diffusion":{"index":0,"step":3,"edits":[],"canvas_length":4}"#;
        let Some(Event::Step(Some(start), step)) = chunk(0, edits) else { panic!("no step with a start") };
        assert_eq!((start.canvas_length, step.step), (4, 3));
        assert_eq!((chunk(1, edits), chunk(0, "")), (None, None));
        let last = r#"{"object":"text_completion","choices":[{"index":0,"text":"a","finish_reason":"stop"}]}"#;
        assert_eq!(read_line(last), Ok(Some(Event::Done(Done::default()))));
        assert_eq!(read_line(r#"{"object":"text_completion","choices":[],"usage":{}}"#), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, words) in [
            ("hello", "is neither a JSON object nor"),
            ("HTTP/1.1 200 OK", "is neither a JSON object nor"),
            ("{", "is no JSON: "),
            ("data: 1", "is no JSON object; give one event per line"),
            ("{}", "is no event of a trajectory: it has none of canvas_length"),
            (r#"{"canvas_length":-1}"#, "is no start: invalid value"),
            (r#"{"canvas_length":9999999}"#, "a canvas has at most 1048576 cells"),
            (r#"{"canvas_length":1,"given":[{"at":1,"token":0}]}"#, "names cell 1, but its canvas has 1 cells"),
            (r#"{"step":0,"edits":[{"kind":"move","at":0}]}"#, "is no step: unknown variant `move`"),
            (r#"{"step":0,"edits":[{"kind":"fill","at":0}]}"#, "is no step: missing field `token`"),
            (r#"{"object":"score","tokens":3}"#, "is no answer: invalid type"),
        ] {
            let error = read_line(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
