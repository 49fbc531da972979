//! How the answer of each task is written as JSON: the body of a response, the data of `done`, and
//! what commands record.

use super::completion::{ChoiceWriter, Completion, Head, Side};
use super::infill::Infill;
use super::objects::Refinement;
use super::repair::Repair;
use super::score::Score;
use super::{Detokenizer, Shape};
use crate::diffusion::TokenId;
use crate::engine::{Answer, Handle, Start};
use serde_json::to_string;
use std::slice::from_ref;

/// Writes the answer to the request of an id.
pub(crate) type WriteAnswer = Box<dyn Fn(&str, &Answer, Detokenizer<'_>) -> serde_json::Result<String> + Send>;

/// As `POST /v1/completions` answers a request of one choice.
pub(crate) fn of_completion(model: String, handle: Handle) -> WriteAnswer {
    let (shape, logprobs, echo, prompts, calls) = (Shape::Text, false, Vec::new(), Vec::new(), None);
    let writer = ChoiceWriter { shape, logprobs, echo, prompts, choices: 1, handle, calls };
    Box::new(move |id, answer, _| {
        let answers = from_ref(answer);
        to_string(&Completion {
            head: &Head::new(id, &model, shape, false),
            choices: vec![writer.whole(0, answer)],
            usage: Some(Some(writer.usage(answers))),
            diffusion: Some(Side::Refinement(Refinement::of(answers))),
        })
    })
}

/// As `POST /v1/infill` answers.
pub(crate) fn of_infill(model: String) -> WriteAnswer {
    Box::new(move |id, answer, detokenizer| to_string(&Infill::new(id, &model, answer, detokenizer)))
}

/// As `POST /v1/repair` answers a request whose canvas was `start` at first.
pub(crate) fn of_repair(model: String, start: &Start) -> WriteAnswer {
    let given: Vec<TokenId> = start.cells.iter().filter_map(|cell| cell.token()).collect();
    Box::new(move |id, answer, detokenizer| to_string(&Repair::new(id, &model, &given, answer, detokenizer)))
}

/// As `POST /v1/score` answers. Tokens of a quality below `below` are doubtful.
pub(crate) fn of_score(model: String, below: f32) -> WriteAnswer {
    Box::new(move |id, answer, detokenizer| to_string(&Score::new(id, &model, answer, below, detokenizer)))
}
