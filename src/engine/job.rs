//! One admitted request: a sequence being refined and its answer being put into words. Says what it needs read and
//! takes the reading; refuses to know who else is in the batch.

use super::event::{Answer, Event, Failure, Finish, Output, Start, StepEvent, Written};
use super::layout::Layout;
use super::template::Segment;
use crate::diffusion::{Canvas, Cell, Edit, Position, Probability, Reading, Remask, Sequence, TokenId};
use crate::model::{Filter, ModelError, Restriction, Row, Sampling};
use crate::text::{Tokenizer, Transcript, heal};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Names a sequence from its admission to its last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SequenceId(pub(super) u64);

/// How tokens become an answer.
#[derive(Debug)]
pub(super) enum Writing {
    /// Text that grows block by block and may end early; JSON is told when it is whole.
    Continuation { transcript: Transcript, ends: Vec<TokenId>, is_json: bool },
    /// JSON of a given shape, whose gaps are filled.
    Shaped { tokenizer: Option<Arc<Tokenizer>>, layout: Layout },
    /// A template whose gaps are filled.
    Infill { tokenizer: Option<Arc<Tokenizer>>, segments: Vec<Segment> },
    /// A text that was given, judged or mended.
    Given { tokenizer: Option<Arc<Tokenizer>> },
}

/// An admitted request.
#[derive(Debug)]
pub(super) struct Job {
    sequence: Sequence,
    writing: Writing,
    temperature: f32,
    proofreading_temperature: f32,
    guidance: Option<f32>,
    filter: Filter,
    biases: Vec<(TokenId, f32)>,
    restrictions: Vec<Restriction>,
    priority: i32,
    judgement: Judgement,
    /// Each token of a finished canvas in its turn, and the canvas without it; what is left to do of that.
    likelihoods: Option<Shadow>,
    offset: usize,
    prompt_tokens: usize,
    written: BTreeMap<Position, Written>,
    text_tokens: usize,
    ended: bool,
    passes: u32,
    filled: u32,
    erased: u32,
    deadline: Option<Duration>,
    degraded: bool,
}

/// A finished canvas whose tokens are told from all others, one after the other.
#[derive(Debug)]
struct Shadow {
    at: Position,
    canvas: Canvas,
    only: [Restriction; 1],
}

/// Whether the finished canvas is read once more for the quality of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    NotAsked,
    Pending,
    Done,
}

impl Job {
    pub(super) fn new(sequence: Sequence, writing: Writing, start: &Start) -> Self {
        let canvas = sequence.canvas();
        let given = canvas.filled(0..canvas.len()).map(|(at, token)| {
            let confidence = Probability::ONE; // whoever gave them
            (at, Written { at, token, confidence, quality: None, likelihood: None })
        });
        let job = Self {
            written: given.collect(),
            sequence,
            writing,
            temperature: 0.0,
            proofreading_temperature: 0.0,
            guidance: None,
            filter: Filter::ALL,
            biases: Vec::new(),
            restrictions: Vec::new(),
            priority: 0,
            judgement: Judgement::NotAsked,
            likelihoods: None,
            offset: start.offset,
            prompt_tokens: start.prompt_tokens,
            text_tokens: 0,
            ended: false,
            passes: 0,
            filled: 0,
            erased: 0,
            deadline: None,
            degraded: false,
        };
        Self { restrictions: job.restrictions(), ..job }
    }

    /// Tells each token from all others in the end.
    pub(super) fn likened(mut self, likened: bool) -> Self {
        self.likelihoods = if likened { self.shadow(0) } else { None };
        self
    }

    /// Who waits with a lower number is served first.
    pub(super) fn urgent(self, priority: i32) -> Self {
        Self { priority, ..self }
    }

    /// What erases its cells while blanks are left.
    pub(super) const fn policy(&self) -> &'static str {
        match self.sequence.policy().remask {
            Remask::Never | Remask::Quality { .. } => "quality", // proofreading, then
            Remask::Confidence { .. } => "confidence",
            Remask::ReMdm { .. } => "remdm",
            Remask::Random { .. } => "random",
        }
    }

    pub(super) const fn priority(&self) -> i32 {
        self.priority
    }

    fn restrictions(&self) -> Vec<Restriction> {
        match &self.writing {
            Writing::Shaped { layout, .. } => layout.restrictions(self.sequence.canvas()),
            Writing::Continuation { .. } | Writing::Infill { .. } | Writing::Given { .. } => Vec::new(),
        }
    }

    /// The answer is wanted this long after the submission.
    pub(super) fn due(self, deadline: Option<Duration>) -> Self {
        Self { deadline, ..self }
    }

    /// Steps were taken from it at its admission.
    pub(super) fn reduced(self, degraded: bool) -> Self {
        Self { degraded, ..self }
    }

    /// When the answer is wanted, counted from the submission.
    pub(super) const fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Has the answer ready after so many passes, at least one, giving up what does not fit.
    pub(super) fn hurry(&mut self, passes: u32) {
        let judging = u32::from(self.judgement == Judgement::Pending);
        if self.sequence.hurry(passes.saturating_sub(judging)) {
            self.degraded = true;
        }
        if self.degraded && passes <= judging && self.sequence.window().is_some() {
            self.judgement = Judgement::NotAsked;
        }
    }

    /// `temperatures`: of the steps that fill, and of those that proofread.
    pub(super) fn sampled(self, temperatures: [f32; 2], guidance: Option<f32>) -> Self {
        let [temperature, proofreading_temperature] = temperatures;
        Self { temperature, proofreading_temperature, guidance, ..self }
    }

    /// What is added to logits, and which tokens may be drawn.
    pub(super) fn steered(self, biases: Vec<(TokenId, f32)>, filter: Filter) -> Self {
        Self { biases, filter, ..self }
    }

    pub(super) fn judged(self, judged: bool) -> Self {
        let judgement = if judged { Judgement::Pending } else { Judgement::NotAsked };
        Self { judgement, ..self }
    }

    /// Passes this job may still need, where its pace has a bound.
    pub(super) fn passes_left(&self) -> Option<u32> {
        let judging = u32::from(self.judgement == Judgement::Pending);
        let to_liken = self.likelihoods.as_ref().map_or(0, |shadow| self.written.range(shadow.at..).count());
        let judging = judging + u32::try_from(to_liken).unwrap_or(u32::MAX);
        self.sequence.steps_max().map(|steps| steps.saturating_sub(self.sequence.step()).saturating_add(judging))
    }

    /// What the next pass is to read; `None` once there is nothing left to do.
    pub(super) fn row(&self) -> Option<Row<'_>> {
        let temperature =
            if self.sequence.is_proofreading() { self.proofreading_temperature } else { self.temperature };
        let sampling =
            Sampling { temperature, seed: self.sequence.seed(), step: self.sequence.step(), filter: self.filter };
        let canvas = self.sequence.canvas();
        let needs_quality = self.sequence.needs_quality();
        match (self.sequence.window(), self.judgement, &self.likelihoods) {
            (Some(window), ..) => {
                let (guidance, biases, only) = (self.guidance, &self.biases[..], &self.restrictions[..]);
                Some(Row { canvas, window, sampling, guidance, biases, only, review: needs_quality })
            }
            (None, Judgement::Pending, _) => {
                let window = self.written_range();
                Some(Row { canvas, window, sampling, guidance: None, biases: &[], only: &[], review: true })
            }
            (None, Judgement::NotAsked | Judgement::Done, Some(Shadow { at, canvas, only })) => {
                let window = at.index()..at.index() + 1;
                Some(Row { canvas, window, sampling, guidance: None, biases: &[], only, review: false })
            }
            (None, Judgement::NotAsked | Judgement::Done, None) => None,
        }
    }

    /// The answer, if there is nothing left to read.
    pub(super) fn finished(&mut self) -> Option<Event> {
        if self.row().is_none() { Some(Event::Finished(Box::new(self.answer()))) } else { None }
    }

    /// Takes the reading of [`Self::row`]: the events it leads to, the last of which is the answer once there is
    /// nothing left to read.
    pub(super) fn take(&mut self, reading: &Reading) -> Result<Vec<Event>, Failure> {
        self.passes += 1;
        let mut events = Vec::new();
        if self.sequence.window().is_some() {
            events.push(Event::Step(self.step(reading)?));
        } else if self.judgement == Judgement::Pending {
            self.judge(reading);
        } else {
            self.liken(reading);
        }
        events.extend(self.finished());
        Ok(events)
    }

    fn step(&mut self, reading: &Reading) -> Result<StepEvent, Failure> {
        let outcome = self.sequence.advance(reading).map_err(|error| ModelError::Failed(error.to_string()))?;
        for edit in &outcome.edits {
            match *edit {
                Edit::Fill { at, token, confidence } => {
                    self.filled += 1;
                    self.written.insert(at, Written { at, token, confidence, quality: None, likelihood: None });
                }
                Edit::Erase { at, .. } => {
                    self.erased += 1;
                    self.written.remove(&at);
                }
            }
        }
        self.restrictions = self.restrictions();
        let text = outcome.finished.map(|block| self.close_block(&block)).unwrap_or_default();
        let canvas = self.sequence.canvas();
        let blanks = canvas.blanks(0..canvas.len()).count();
        Ok(StepEvent { step: outcome.step, blanks, edits: outcome.edits, text })
    }

    /// The text a finished block adds. Ends the sequence where the text ends.
    fn close_block(&mut self, block: &Range<usize>) -> String {
        let Writing::Continuation { transcript, ends, is_json } = &mut self.writing else { return String::new() };
        let tokens: Vec<TokenId> = self.sequence.canvas().filled(block.clone()).map(|(_, token)| token).collect();
        let end = tokens.iter().position(|token| ends.contains(token));
        self.text_tokens += end.unwrap_or(tokens.len());
        let delta = transcript.push(&tokens[..end.unwrap_or(tokens.len())]);
        let is_whole = *is_json && heal(transcript.text()).is_whole;
        if end.is_some() || delta.stopped || is_whole {
            self.ended = true;
            self.sequence.stop();
        }
        if *is_json { String::new() } else { delta.text }
    }

    fn judge(&mut self, reading: &Reading) {
        for review in &reading.reviews {
            if let Some(written) = self.written.get_mut(&review.at) {
                written.quality = Some(review.quality);
            }
        }
        self.judgement = Judgement::Done;
    }

    fn liken(&mut self, reading: &Reading) {
        let Some(Shadow { at, .. }) = self.likelihoods.take() else { return };
        if let (Some(written), Some(proposal)) = (self.written.get_mut(&at), reading.proposals.first()) {
            written.likelihood = Some(proposal.confidence);
        }
        self.likelihoods = self.shadow(at.index() + 1);
    }

    /// The canvas without the first token that was written at or behind `from`.
    fn shadow(&self, from: usize) -> Option<Shadow> {
        let (at, written) = self.written.range(Position::at(from)..).next()?;
        let mut cells = self.sequence.canvas().cells().to_vec();
        *cells.get_mut(at.index())? = Cell::Blank;
        let only = [Restriction { cells: at.index()..at.index() + 1, tokens: [written.token].into() }];
        Some(Shadow { at: *at, canvas: Canvas::new(cells), only })
    }

    /// From the first cell that could be written to the last that was.
    fn written_range(&self) -> Range<usize> {
        self.offset..self.written.last_key_value().map_or(self.offset, |(at, _)| at.index() + 1)
    }

    fn answer(&mut self) -> Answer {
        let tokens: Vec<TokenId> = self.written.values().map(|written| written.token).collect();
        let (output, tail, finish, completion_tokens) = match &mut self.writing {
            Writing::Continuation { transcript, is_json: true, .. } => {
                transcript.finish();
                let healed = heal(transcript.text());
                let finish = if healed.is_whole { Finish::Stop } else { Finish::Length };
                (Output::Continuation(healed.json.clone()), healed.json, finish, self.text_tokens)
            }
            Writing::Shaped { tokenizer, layout } => {
                let json = layout.json(&self.written, tokenizer.as_deref());
                (Output::Continuation(json.clone()), json, Finish::Stop, tokens.len())
            }
            Writing::Continuation { transcript, .. } => {
                let tail = transcript.finish();
                let finish = if self.ended { Finish::Stop } else { Finish::Length };
                (Output::Continuation(transcript.text().to_owned()), tail, finish, self.text_tokens)
            }
            Writing::Infill { tokenizer, segments } => {
                let output = fill_in(segments, &tokens, tokenizer.as_deref());
                (output, String::new(), Finish::Stop, tokens.len())
            }
            Writing::Given { tokenizer } => {
                let tokens: Vec<TokenId> =
                    self.sequence.canvas().cells().iter().filter_map(|cell| cell.token()).collect();
                let text = tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&tokens)).unwrap_or_default();
                (Output::Given(text), String::new(), Finish::Stop, self.filled as usize)
            }
        };
        Answer {
            output,
            finish,
            written: self.written.values().copied().collect(),
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            steps: self.sequence.step(),
            forward_passes: self.passes,
            filled: self.filled,
            erased: self.erased,
            degraded: self.degraded,
            tail,
        }
    }
}

/// The template with its gaps filled, in order, from `tokens`.
fn fill_in(segments: &[Segment], tokens: &[TokenId], tokenizer: Option<&Tokenizer>) -> Output {
    let mut rest = tokens.iter().copied();
    let (mut text, mut gaps) = (String::new(), Vec::new());
    for segment in segments {
        match segment {
            Segment::Text(pinned) => text.push_str(pinned),
            Segment::Blanks(cells) => {
                let filling: Vec<TokenId> = rest.by_ref().take(*cells).collect();
                let filling = tokenizer.map(|tokenizer| tokenizer.decode(&filling)).unwrap_or_default();
                text.push_str(&filling);
                gaps.push(filling);
            }
        }
    }
    Output::Infill { text, gaps }
}
