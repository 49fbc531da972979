//! The policies that requests can choose, as `/v1/models` lists them. Made from the registry of
//! rules.

use crate::diffusion::policy::{self, COUNT_MAX, Kind, Range, rules};
use crate::engine::Handle;
use serde::Serialize;
use utoipa::ToSchema;

/// The names that `unmasking`, `remasking` and `cache` take, and their knobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Policies {
    /// Orders in which blanks are filled.
    unmasking: Vec<Policy>,
    /// Paces: how many blanks a step fills. A request chooses one by its knob of the same name.
    paces: Vec<Policy>,
    /// Which filled cells are erased or replaced.
    remasking: Vec<Policy>,
    /// Which keys and values of earlier passes a pass uses.
    caches: Vec<Policy>,
}

/// One policy.
#[derive(Debug, Serialize, ToSchema)]
struct Policy {
    name: &'static str,
    /// What it does.
    help: &'static str,
    needs_quality_head: bool,
    /// Why the model refuses it, in words that follow its name; `null` where it does not.
    #[schema(required)]
    refused: Option<String>,
    knobs: Vec<Knob>,
}

/// A number that a request may set.
#[derive(Debug, Serialize, ToSchema)]
struct Knob {
    name: &'static str,
    /// What it does, and its default.
    help: &'static str,
    /// `count` (a whole number), `fraction` (a number) or `span` (two numbers, the second above the
    /// first).
    kind: &'static str,
    minimum: u32,
    maximum: u32,
}

impl Policies {
    /// All policies of this program, and which of them the model of `handle` refuses.
    pub(super) fn all(handle: &Handle) -> Self {
        let list = |kind| rules(kind).into_iter().map(|rule| Policy::of(rule, handle)).collect();
        Self {
            unmasking: list(Kind::Order),
            paces: list(Kind::Pace),
            remasking: list(Kind::Remasking),
            caches: list(Kind::Cache),
        }
    }
}

impl Policy {
    fn of(rule: &'static policy::Rule, handle: &Handle) -> Self {
        Self {
            name: rule.name,
            help: rule.help,
            needs_quality_head: rule.needs.quality,
            refused: handle.refusal(rule),
            knobs: rule.knobs.iter().map(|knob| Knob::of(knob)).collect(),
        }
    }
}

impl Knob {
    fn of(knob: &'static policy::Knob) -> Self {
        let (kind, minimum, maximum) = match knob.range {
            Range::Count { min } => ("count", min, COUNT_MAX),
            Range::Fraction => ("fraction", 0, 1),
            Range::Number { max } => ("number", 0, max),
            Range::Span => ("span", 0, 1),
        };
        Self { name: knob.name, help: knob.help, kind, minimum, maximum }
    }
}
