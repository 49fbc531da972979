//! A rule: one way to decide which blanks are filled or which cells are erased. It is an entry with
//! a name, knobs and one pure function from a view of the block to edits.

use super::knob::{Knob, Setting, Settings};
use crate::diffusion::canvas::Edit;
use crate::diffusion::random::DrawKey;
use crate::diffusion::reading::{Best, Proposal, Score};
use crate::diffusion::units::{Position, Probability, TokenId};
use std::{fmt, ops::Range};

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which blank is filled first ("unmasking order").
    Order,
    /// Which blanks are filled at once, however many they are.
    Pace,
    /// Which filled cells are erased or replaced ("remasking").
    Remasking,
    /// Which cells a pass computes anew, where others keep the keys and values of an earlier one.
    Cache,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Order => "order of unmasking",
            Self::Pace => "pace",
            Self::Remasking => "remasking",
            Self::Cache => "cache",
        })
    }
}

/// An entry of the registry.
pub struct Rule {
    /// What it decides.
    pub kind: Kind,
    /// Name in JSON, on the command line and in metrics. Lower case, words joined by `_`.
    pub name: &'static str,
    /// One sentence for users.
    pub help: &'static str,
    /// Where it is from, as `arXiv 2510.01384`; empty where there is nothing to cite.
    pub source: &'static str,
    /// What a request may set. A remasking has [`super::BUDGET`] among them, unless it erases
    /// nothing, has [`Count::Replacements`] or [`Count::Ranked`].
    pub knobs: &'static [&'static Knob],
    /// Of a remasking: how many cells a step erases or replaces.
    pub count: Count,
    /// What it needs of the model.
    pub needs: Needs,
    /// The number it remembers of a filled cell from now on, from the cell as it stands, for a rule
    /// that depends on its own past. 0 when a cell is filled. `None` remembers nothing.
    pub remember: Option<fn(&FilledCell) -> f32>,
    /// The decision. An order returns a fill for every blank, the first to fill first. A pace
    /// returns the fills of the blanks to fill at once. A remasking returns the erasures and
    /// replacements it proposes, the first to make first. The schedule takes as many from the front
    /// as the step has room for.
    pub decide: fn(&View<'_>) -> Vec<Edit>,
    /// Of a cache: the cells that the passes after a full pass compute anew, as ascending ranges.
    /// They contain the block's blanks. The others keep the keys and values of the full pass.
    pub runs: fn(&Stage<'_>) -> Vec<Range<usize>>,
}

/// What a cache sees of a full pass.
#[derive(Clone, Debug)]
pub struct Stage<'a> {
    /// The block that is refined.
    pub block: Range<usize>,
    /// Cells of the canvas.
    pub cells: usize,
    /// The cells of the block that the model filled, left to right, as the full pass saw them.
    pub filled: &'a [FilledCell],
    /// The rule's knobs, defaults included.
    pub settings: &'a Settings,
}

/// How many cells a remasking erases or replaces in a step, of those that it proposes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// The step's even share of the budget.
    #[default]
    Planned,
    /// All, as far as the budget allows, and of the erasures as far as the blanks allow: the step
    /// fills as many blanks more.
    Own,
    /// All replacements, without a budget, since they take no steps. Nothing is erased.
    Replacements,
    /// As many as its ranking leaves. The rule ranks the cells of the block, the best first, in
    /// place of order and pace: a fill for a blank, an erasure for a filled cell. The step keeps
    /// the first ones, an even share more than the step before (with a pace, as many more as are
    /// ready, at least one), and all others are blank after it.
    Ranked,
}

/// What a rule needs of a reading besides the proposals for blanks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The quality of each filled cell; needs a model with a quality head.
    pub quality: bool,
    /// The present confidence of each filled cell: the output layer runs on it as on a blank.
    pub present: bool,
    /// The most probable token of each filled cell: the output layer runs on it as on a blank.
    pub best: bool,
    /// The exact quality of each filled cell, in place of a head's: the token's probability with
    /// its own cell masked. Costs a row for each of them.
    pub exact: bool,
    /// The most probable token of each filled cell, also of finished blocks, in a corrected working
    /// copy of the canvas. There are such tokens in every [`super::CORRECT_EVERY`]th step of a
    /// block, which takes up to [`super::CORRECTOR_PASSES`] passes more.
    pub corrected: bool,
    /// How far the distribution of each blank moved in the last passes: the whole distribution
    /// comes to the host.
    pub shift: bool,
    /// A score of each cell, blanks included.
    pub score: Option<Scoring>,
}

/// What cells are scored by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// The logit of the quality, that of a blank included; needs a model that judges blanks.
    Quality,
    /// The logit of the proposed token in a blank, and of the token that stands in a filled cell:
    /// the model's own, without guidance, biases, penalties and credit. All logits of the block
    /// come to the host.
    Logit,
}

impl Needs {
    /// Nothing but the proposals.
    pub const NOTHING: Self =
        Self { quality: false, present: false, best: false, exact: false, corrected: false, shift: false, score: None };
    /// The quality of each filled cell.
    pub const QUALITY: Self = Self { quality: true, ..Self::NOTHING };
    /// The present confidence of each filled cell.
    pub const PRESENT: Self = Self { present: true, ..Self::NOTHING };
    /// The most probable token of each filled cell.
    pub const BEST: Self = Self { best: true, ..Self::NOTHING };
    /// The exact quality of each filled cell.
    pub const EXACT: Self = Self { exact: true, ..Self::NOTHING };
    /// The most probable token of each filled cell in a corrected working copy.
    pub const CORRECTED: Self = Self { corrected: true, ..Self::NOTHING };
    /// How far the distributions of blanks moved.
    pub const SHIFT: Self = Self { shift: true, ..Self::NOTHING };

    /// A score of each cell.
    pub const fn score(scoring: Scoring) -> Self {
        Self { score: Some(scoring), ..Self::NOTHING }
    }

    /// What either of two rules needs. At most one of them ranks cells.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            quality: self.quality || other.quality,
            present: self.present || other.present,
            best: self.best || other.best,
            exact: self.exact || other.exact,
            corrected: self.corrected || other.corrected,
            shift: self.shift || other.shift,
            score: if self.score.is_some() { self.score } else { other.score },
        }
    }
}

/// What a rule sees: one block, and one reading of it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the model would write into the block's blanks, left to right.
    pub proposals: &'a [Proposal],
    /// One per proposal: the largest of the last two divergences KL(p_t || p_t-1) of the blank's
    /// distribution, in nats; infinite in the first two passes. Empty unless asked for, and for
    /// orders.
    pub shifts: &'a [f32],
    /// One per cell of the block that is not fixed, left to right. Empty unless asked for.
    pub scores: &'a [Score],
    /// The cells of the block that the model filled, left to right. For a remasking, in a step
    /// that corrects, also those of the blocks before it. Empty for orders.
    pub filled: &'a [FilledCell],
    /// Blanks that the step fills if it erases nothing. 0 for orders and paces.
    pub due: u32,
    /// Blanks that the block began with. 0 for orders and paces.
    pub blanks_at_start: u32,
    /// The rule's knobs, defaults included.
    pub settings: &'a Settings,
    /// What random draws of this step are keyed by.
    pub key: DrawKey,
}

/// A cell that the model filled, as a rule sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FilledCell {
    /// Where it is.
    pub at: Position,
    /// What stands there.
    pub token: TokenId,
    /// Probability of the token when it was written.
    pub confidence: Probability,
    /// Steps since it was written; 1 in the first step that sees it.
    pub age: u32,
    /// Probability that the token is right, as a quality head says or exact; `None` unless asked
    /// for.
    pub quality: Option<Probability>,
    /// Probability of the token as the canvas stands now; `None` unless asked for.
    pub present: Option<Probability>,
    /// The most probable token of the cell as the canvas stands now, or as the working copy does
    /// in a step that corrects; `None` unless asked for, and where that token may not be written
    /// yet.
    pub best: Option<Best>,
    /// What the rule remembered of this cell (see [`Rule::remember`]).
    pub memory: f32,
}

impl<'a> View<'a> {
    /// A view for orders and paces, without knobs.
    pub const fn of(proposals: &'a [Proposal], filled: &'a [FilledCell], key: DrawKey) -> Self {
        Self {
            proposals,
            shifts: &[],
            scores: &[],
            filled,
            due: 0,
            blanks_at_start: 0,
            settings: &Settings::EMPTY,
            key,
        }
    }

    /// The filled share of the block's cells before and after this step, 0 to 1: the paper's
    /// alpha_t and alpha_s of a schedule that is linear in time.
    pub fn progress(&self) -> [f32; 2] {
        let all = self.blanks_at_start.max(1) as f32;
        let blanks = self.proposals.len() as f32;
        [all - blanks, all - blanks + self.due as f32].map(|filled| (filled / all).clamp(0.0, 1.0))
    }
}

impl FilledCell {
    /// The edit that erases it, with the quality it was judged by if the rule looked at that.
    pub const fn erase(&self, quality: Option<Probability>) -> Edit {
        Edit::Erase { at: self.at, was: self.token, quality }
    }

    /// The edit that writes the most probable token in place of the one that stands there; `None`
    /// where that is the same, or was not asked for.
    pub fn replace(&self) -> Option<Edit> {
        let Best { token, confidence, .. } = self.best.filter(|best| best.token != self.token)?;
        Some(Edit::Replace { at: self.at, was: self.token, token, confidence })
    }
}

impl Proposal {
    /// The edit that writes it.
    pub const fn fill(&self) -> Edit {
        Edit::Fill { at: self.at, token: self.token, confidence: self.confidence }
    }
}

impl Rule {
    /// A remasking without name, knobs and needs that erases nothing: the base of struct updates.
    pub const NONE: Self = Self {
        kind: Kind::Remasking,
        name: "",
        help: "",
        source: "",
        knobs: &[],
        count: Count::Planned,
        needs: Needs::NOTHING,
        remember: None,
        decide: |_| Vec::new(),
        runs: |stage| vec![0..stage.cells],
    };

    /// What a request asks for that may name a rule and set knobs: this rule, unless it names
    /// another; nothing if it does neither.
    pub(crate) fn unless(&'static self, named: Option<&'static Self>, settings: Settings) -> Option<Choice> {
        let is_asked = named.is_some() || !settings.is_empty();
        is_asked.then_some(Choice { rule: named.unwrap_or(self), settings })
    }

    /// The knob of this name.
    pub fn knob(&self, name: &str) -> Option<&'static Knob> {
        self.knobs.iter().copied().find(|knob| knob.name == name)
    }
}

/// A rule as a request asks for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The rule.
    pub rule: &'static Rule,
    /// Its knobs, as far as they are set.
    pub settings: Settings,
}

impl Choice {
    /// `rule` with no knob set.
    pub const fn of(rule: &'static Rule) -> Self {
        Self { rule, settings: Settings::EMPTY }
    }

    /// The same with a value for `knob`.
    #[must_use]
    pub fn with(self, knob: &'static str, value: impl Into<Setting>) -> Self {
        Self { settings: self.settings.with(knob, value.into()), ..self }
    }

    /// The same with a value for `knob`, where there is one.
    #[must_use]
    pub fn with_some(self, knob: &'static str, value: Option<impl Into<Setting>>) -> Self {
        value.map_or(self, |value| self.with(knob, value))
    }

    /// The same with a default for each knob that is not set, for blocks of `blanks` blanks.
    #[must_use]
    pub fn with_defaults(self, blanks: u32) -> Self {
        let asked = self.settings;
        let unset = self.rule.knobs.iter().filter(|knob| asked.get(knob.name).is_none());
        unset.fold(self, |choice, knob| choice.with_some(knob.name, (knob.default)(&asked, blanks)))
    }

    /// Decides, by its own knobs.
    pub(in crate::diffusion) fn decide(&self, view: View<'_>) -> Vec<Edit> {
        (self.rule.decide)(&View { settings: &self.settings, ..view })
    }
}

/// Two rules are the same when they have the same name and decide the same thing.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.name) == (other.kind, other.name)
    }
}

impl Eq for Rule {}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}
