//! One admitted request: the sequence it refines, and the text made of it. Says what the next
//! forward pass has to read and takes the reading. Out of scope: other requests of the batch.

use super::biases::Biases;
use super::event::{Answer, EditCounts, Event, Failure, Start, StepEvent, Written};
use super::layout::Accepted;
use super::likelihoods::Likelihoods;
use super::origin::Origin;
use super::writing::{Ending, Finished, Writing};
use crate::diffusion::policy::{Needs, OFF, QUALITY};
use crate::diffusion::{Cell, Position, Probability, Reading, Sequence, TokenId, u32_of};
use crate::model::{Denoiser, Filter, ModelError, Restriction, Row, RowError, Sampling, SequenceName};
use crate::text::heal;
use std::{collections::BTreeMap, ops::Range, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SequenceId(pub(super) u64);

/// How a job is run, beyond the policy of its sequence.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Sampling temperature of the steps that fill; finite, not negative.
    pub(super) temperature: f32,
    /// Sampling temperature of the steps that proofread; finite, not negative.
    pub(super) refill_temperature: f32,
    /// Weight of classifier-free guidance; `None` is off.
    pub(super) guidance: Option<f32>,
    pub(super) filter: Filter,
    /// Added to the logits of these tokens.
    pub(super) biases: Biases,
    /// Jobs with a lower number leave the queue first, within the bounds of the rotation.
    pub(super) priority: i32,
    /// Whose turn in the rotation it takes.
    pub(super) origin: Origin,
    /// When the answer is due, counted from the submission.
    pub(super) deadline: Option<Duration>,
    /// Whether the finished canvas is read once more for the quality of its tokens.
    pub(super) quality: bool,
    /// Whether one more row per token measures its probability given all others.
    pub(super) likelihood: bool,
    /// Whether admission took steps away, because many requests were queued.
    pub(super) degraded: bool,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) options: Options,
    sequence: Sequence,
    writing: Writing,
    restrictions: Vec<Restriction>,
    /// What `restrictions` were made of.
    accepted: Accepted,
    /// Whether the pass for the quality of the finished canvas is still to be made.
    quality_pending: bool,
    /// Whether this pass was made.
    is_judged: bool,
    /// The likelihoods of the finished canvas that are still to be measured.
    likelihoods: Likelihoods,
    offset: usize,
    prompt_tokens: usize,
    written: BTreeMap<Position, Written>,
    text_tokens: usize,
    ended: bool,
    /// Whether it has had a place among the running sequences.
    is_started: bool,
    passes: u32,
    /// Tokens of the rows of these passes, if all was kept that they reused.
    tokens: u64,
    made: EditCounts,
    degraded: bool,
    /// Tokens of the next step's row.
    own_tokens: usize,
    /// Further ones, because what the row reuses is not kept any more.
    lost_tokens: usize,
}

impl Job {
    pub(super) fn new(sequence: Sequence, writing: Writing, start: &Start, options: Options) -> Self {
        let canvas = sequence.canvas();
        let existing = canvas.filled(0..canvas.len()).map(|(at, token)| {
            (at, Written { at, token, confidence: Probability::ONE, quality: None, likelihood: None })
        });
        // where all cells are given, there is nothing to judge
        let has_writing = canvas.cells().iter().any(|cell| !matches!(cell, Cell::Fixed(_)));
        let mut job = Self {
            written: existing.collect(),
            likelihoods: if options.likelihood { Likelihoods::new(canvas) } else { Likelihoods::default() },
            quality_pending: options.quality && has_writing,
            is_judged: options.quality && !has_writing,
            degraded: options.degraded,
            options,
            sequence,
            writing,
            restrictions: Vec::new(),
            accepted: Accepted::default(),
            offset: start.offset,
            prompt_tokens: start.prompt_tokens,
            text_tokens: 0,
            ended: false,
            is_started: false,
            passes: 0,
            tokens: 0,
            made: EditCounts::default(),
            own_tokens: 0,
            lost_tokens: 0,
        };
        job.refresh();
        job
    }

    /// Notes that the job has a place among the running ones; true the first time.
    pub(super) const fn start(&mut self) -> bool {
        !std::mem::replace(&mut self.is_started, true)
    }

    /// Whether the model has read it: then it also ends by its deadline, with fewer steps.
    pub(super) const fn has_begun(&self) -> bool {
        self.passes > 0
    }

    /// The policy that erases or replaces while blanks are left, as the label of a metric.
    pub(super) fn policy(&self) -> &'static str {
        match self.sequence.policy().remasking.rule {
            rule if rule == &OFF => QUALITY.name, // only proofreading erases then
            rule => rule.name,
        }
    }

    #[cfg(test)]
    pub(super) fn writing(&self) -> &Writing {
        &self.writing
    }

    /// Works out what depends on the tokens of the canvas.
    fn refresh(&mut self) {
        self.options.biases.refresh(self.sequence.canvas());
        self.restrictions = match &self.writing {
            Writing::Shaped { layout, .. } => layout.restrictions(self.sequence.canvas(), &mut self.accepted),
            Writing::Continuation { .. } | Writing::Infill { .. } | Writing::Revision { .. } => Vec::new(),
        };
        self.count_tokens();
    }

    /// Counts the tokens of the next step, as far as the sequence alone says.
    fn count_tokens(&mut self) {
        let tokens = self.sequence.reuse().map_or(self.sequence.canvas().len(), |reuse| reuse.tokens());
        if std::mem::replace(&mut self.own_tokens, tokens) != tokens {
            self.lost_tokens = 0;
        }
    }

    /// Counts what the next step needs of `model` besides, because it does not keep it any more.
    pub(super) fn count_lost(&mut self, id: SequenceId, model: &dyn Denoiser) {
        if self.sequence.reuse().is_some() {
            let lost = |row: &Row<'_>| model.tokens(row).saturating_sub(row.tokens());
            self.lost_tokens = self.rows(id).iter().map(lost).sum();
        }
    }

    /// Plans for at most so many passes, at least one: drops the steps that do not fit, and takes
    /// up again those that do. Without a pass left nothing more is measured.
    pub(super) fn limit_passes(&mut self, passes: u32) {
        self.sequence.fit(passes.saturating_sub(u32::from(self.quality_pending)));
        self.count_tokens();
        let is_pending = self.quality_pending || !self.likelihoods.is_empty();
        if is_pending && passes == 0 && self.passes > 0 && self.sequence.window().is_none() {
            self.quality_pending = false;
            self.likelihoods.clear();
            self.degraded = true;
        }
    }

    /// Passes this job may still need, if a pass has `batch_tokens`.
    pub(super) fn passes_at_most(&self, batch_tokens: usize) -> u32 {
        let likelihoods = self.likelihoods.len().div_ceil((batch_tokens / self.sequence.canvas().len().max(1)).max(1));
        let measuring = usize::from(self.quality_pending) + likelihoods;
        u32::try_from(self.sequence.passes().all() + measuring as u64).unwrap_or(u32::MAX)
    }

    /// Tokens of one row of the next pass; `None` when the answer is complete.
    pub(super) fn row_tokens(&self) -> Option<usize> {
        let tokens = self.sequence.canvas().len();
        match (self.sequence.window(), self.quality_pending || !self.likelihoods.is_empty()) {
            (Some(_), _) => {
                let own = self.own_tokens * (1 + usize::from(self.options.guidance.is_some()));
                Some(tokens * self.sequence.rows_beside() + own + self.lost_tokens)
            }
            (None, true) => Some(tokens),
            (None, false) => None,
        }
    }

    /// Rows that the next pass may have of this job: one, or as many as there are likelihoods left.
    pub(super) fn rows_max(&self) -> usize {
        let is_measured = self.sequence.window().is_none() && !self.quality_pending;
        if is_measured { self.likelihoods.len() } else { 1 }
    }

    /// Makes the next pass have so many rows of this job, as far as it may.
    pub(super) fn prepare(&mut self, rows: usize) {
        self.likelihoods.prepare(self.sequence.canvas(), rows.min(self.rows_max()));
    }

    /// What the next pass has to read; nothing when the answer is complete.
    pub(super) fn rows(&self, id: SequenceId) -> Vec<Row<'_>> {
        let Options { temperature, refill_temperature, guidance, filter, .. } = &self.options;
        let temperature = match &self.sequence {
            sequence if sequence.is_proposing() => 0.0,
            sequence if sequence.is_proofreading() => *refill_temperature,
            _ => *temperature,
        };
        let (seed, step) = (self.sequence.seed(), self.sequence.step());
        let sampling = Sampling { temperature, seed, step, filter: *filter };
        let canvas = self.sequence.canvas();
        let block_length = self.sequence.block_length();
        let plain = Row { sampling, block_length, ..Row::plain(canvas, 0..0) };
        match (self.sequence.window(), self.quality_pending) {
            (Some(window), _) => {
                let needs = self.sequence.needs();
                let Needs { quality: review, present, best, exact, shift: distributions, .. } = needs;
                let (only, own) = (&self.restrictions[..], &self.options.biases);
                let (blank_biases, biases) = (Some(own.of_blanks()), &own.requested[..]);
                let (shown, credit) = (self.sequence.shown(), self.sequence.credits());
                let reuse = self.sequence.reuse().map(|reuse| (SequenceName(id.0), reuse));
                let asked = Row {
                    shown,
                    reuse,
                    review,
                    exact,
                    present,
                    best,
                    distributions,
                    credit,
                    scores: needs.score,
                    ..plain
                };
                vec![Row { window, guidance: *guidance, biases, blank_biases, only, ..asked }]
            }
            (None, true) => vec![Row { window: self.written_range(), review: true, ..plain }],
            (None, false) => self.likelihoods.rows(&plain),
        }
    }

    /// The answer, once there is nothing left to read.
    pub(super) fn finished(&mut self) -> Option<Event> {
        self.row_tokens().is_none().then(|| Event::Finished(Box::new(self.answer())))
    }

    /// Takes the readings of [`Self::rows`] and returns the events that follow from them. The last
    /// of them is the answer, once there is nothing left to read.
    ///
    /// # Errors
    /// When a row has no reading, or the reading does not fit the canvas.
    pub(super) fn take(
        &mut self,
        readings: impl Iterator<Item = Result<Reading, RowError>>,
    ) -> Result<Vec<Event>, Failure> {
        let readings = readings.collect::<Result<Vec<Reading>, RowError>>().map_err(ModelError::from)?;
        self.passes += u32_of(readings.len() + self.sequence.rows_beside());
        let row = self.row_tokens().unwrap_or(0).saturating_sub(self.lost_tokens);
        self.tokens += row as u64 * readings.len() as u64;
        let mut events = Vec::new();
        match (&readings[..], self.sequence.window(), self.quality_pending) {
            ([reading, ..], Some(_), _) => events.push(Event::Step(self.step(reading)?)),
            ([reading, ..], None, true) => self.record_quality(reading),
            (readings, _, _) => self.record_likelihoods(readings),
        }
        events.extend(self.finished());
        Ok(events)
    }

    fn step(&mut self, reading: &Reading) -> Result<StepEvent, Failure> {
        self.degraded |= self.sequence.is_hurried();
        let outcome = self.sequence.advance(reading).map_err(|error| ModelError::Failed(error.to_string()))?;
        self.made.add(&outcome.edits);
        for (at, written) in outcome.edits.iter().map(|edit| (edit.at(), edit.written())) {
            match written {
                Some((token, confidence)) => {
                    self.written.insert(at, Written { at, token, confidence, quality: None, likelihood: None })
                }
                None => self.written.remove(&at),
            };
        }
        self.refresh();
        let text = outcome.finished.map(|block| self.close_block(block)).unwrap_or_default();
        let canvas = self.sequence.canvas();
        let blanks = canvas.blanks(0..canvas.len()).count();
        let erased_by = outcome.erased_by.into_iter().collect();
        Ok(StepEvent { step: outcome.step, blanks, edits: outcome.edits, erased_by, text })
    }

    /// The text that is final with a finished block. Stops the sequence where the text ends.
    fn close_block(&mut self, mut block: Range<usize>) -> String {
        let (transcript, ends, json, is_sent) = match &mut self.writing {
            Writing::Continuation { transcript, ends, json } => (transcript, ends, json.as_mut(), true),
            Writing::Infill { until: Some(until), .. } => (&mut until.transcript, &mut until.ends, None, false),
            Writing::Infill { until: None, .. } | Writing::Shaped { .. } | Writing::Revision { .. } => {
                return String::new();
            }
        };
        let is_sent = is_sent && json.is_none();
        if self.sequence.is_final_at_end() {
            let last = self.sequence.canvas().filled(block.clone()).last();
            if last.is_some_and(|(_, token)| ends.contains(&token)) {
                self.sequence.stop(); // as in the published sampler of ProSeCo
            }
            if self.sequence.window().is_some() {
                return String::new();
            }
            block.start = 0;
        }
        let tokens: Vec<TokenId> = self.sequence.canvas().filled(block).map(|(_, token)| token).collect();
        let end = tokens.iter().position(|token| ends.contains(token));
        self.text_tokens += end.unwrap_or(tokens.len());
        let delta = transcript.push(&tokens[..end.unwrap_or(tokens.len())]);
        if delta.stopped {
            let written: Vec<TokenId> = self.written.values().map(|written| written.token).collect();
            self.text_tokens = transcript.tokens_of_text(&written);
        }
        let is_closed = json.is_some_and(|brackets| brackets.close_in(&delta.text));
        let is_whole = is_closed && heal(transcript.text()).is_whole;
        if end.is_some() || delta.stopped || is_whole {
            self.ended = true;
            self.sequence.stop();
        }
        if is_sent { delta.text } else { String::new() }
    }

    fn record_quality(&mut self, reading: &Reading) {
        for review in &reading.reviews {
            let written = self.written.get_mut(&review.at);
            if let Some(written) = written.filter(|written| self.sequence.judges(written.token)) {
                written.quality = Some(review.quality);
            }
        }
        (self.quality_pending, self.is_judged) = (false, true);
    }

    fn record_likelihoods(&mut self, readings: &[Reading]) {
        for (at, likelihood) in self.likelihoods.take(readings) {
            if let Some(written) = self.written.get_mut(&at) {
                written.likelihood = Some(likelihood);
            }
        }
    }

    /// From the first cell after the prompt to the last written one.
    fn written_range(&self) -> Range<usize> {
        self.offset..self.written.last_key_value().map_or(self.offset, |(at, _)| at.index() + 1)
    }

    fn answer(&mut self) -> Answer {
        let of = Finished {
            canvas: self.sequence.canvas(),
            written: &self.written,
            offset: self.offset,
            text_tokens: self.text_tokens,
            is_ended: self.ended,
            filled: self.made.filled,
        };
        let Ending { output, parts, tail, finish, completion_tokens } = self.writing.end(&of);
        Answer {
            output,
            finish,
            written: self.written.values().copied().collect(),
            parts,
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            steps: self.sequence.step(),
            forward_passes: self.passes,
            forward_tokens: self.tokens,
            filled: self.made.filled,
            erased: self.made.erased,
            replaced: self.made.replaced,
            degraded: self.degraded,
            is_judged: self.is_judged,
            tail,
        }
    }
}
