//! Turns a task into its first canvas: encodes texts, checks lengths and ids, and prepares how the
//! answer is decoded. Out of scope: how the canvas is refined.

use super::encoding::Encoder;
use super::json_layout::{Vocabulary, lay_out};
use super::spellings::Spellings;
use crate::diffusion::{Canvas, Cell, TokenId, counted};
use crate::engine::origin::Origin;
use crate::engine::request::{Format, Length, Prompt, Rejected, Request, Task, invalid, too_long};
use crate::engine::template::{self, Segment};
use crate::engine::writing::{Until, Writing};
use crate::model::{Change, ModelSpec};
use crate::text::{Brackets, Conversation, Tokenizer, Transcript, quoted};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

const NO_ROOM: &str = "max_tokens is 0; ask for at least 1";
const NO_TEXT: &str = "stop goes with texts, and this model has no tokenizer.json; give stop_token_ids";
/// Most stop strings of one request. Each reads every byte of the answer once.
pub(crate) const STOPS_MAX: usize = 64;
/// Most bytes of the stop strings of one request. A search takes up to 8 bytes of memory for each.
const STOP_BYTES_MAX: usize = 16 << 10;

/// The first canvas of a request, and how its answer is decoded.
pub(super) struct Draft {
    pub(super) canvas: Canvas,
    pub(super) offset: usize,
    pub(super) prompt_tokens: usize,
    pub(super) writing: Writing,
}

/// What all choices of a request share.
#[derive(Debug)]
pub(super) struct Common {
    stop: Arc<[String]>,
    /// Tokens that end the text: the model's, and those of the request.
    pub(super) ends: Arc<[TokenId]>,
    pub(super) biases: Arc<[(TokenId, Change)]>,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) struct CanvasBuilder {
    pub(super) spec: Arc<ModelSpec>,
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    /// Most cells of a canvas: the model's limit, or the operator's if that is lower.
    pub(super) canvas_max: usize,
    /// Made when the first JSON layout needs them: it takes a look at each token of the vocabulary.
    spellings: Arc<OnceLock<Spellings>>,
    encoder: Arc<Encoder>,
}

impl CanvasBuilder {
    pub(super) fn new(spec: Arc<ModelSpec>, tokenizer: Option<Arc<Tokenizer>>, canvas_max: usize) -> Self {
        let encoder = Arc::new(Encoder::new(tokenizer.clone(), spec.mask, canvas_max));
        Self { spec, tokenizer, canvas_max, spellings: Arc::default(), encoder }
    }

    /// What the choices of `request` share.
    ///
    /// # Errors
    /// When a stop token is no token.
    pub(super) fn common(&self, request: &Request, biases: Arc<[(TokenId, Change)]>) -> Result<Common, Rejected> {
        let mut ends = self.ends();
        self.check_ids("stop_token_ids", &request.stop_tokens)?;
        ends.extend(&request.stop_tokens);
        let origin = request.origin.unwrap_or_else(|| Origin::new(None));
        Ok(Common { stop: request.stop.clone().into(), ends: ends.into(), biases, origin })
    }

    /// The first canvas for the task of `request`.
    ///
    /// # Errors
    /// When a text cannot be encoded, or ids, lengths or options are invalid.
    pub(super) fn draft(&self, request: &Request, common: &Common) -> Result<Draft, Rejected> {
        match &request.task {
            Task::Continue { prompt, length } => self.continuation(prompt, *length, request, common),
            Task::Between { cells: 0, .. } => Err(invalid("max_tokens", NO_ROOM)),
            Task::Between { before, cells, after } => self.between(before, *cells, after, request, common),
            Task::Infill { template, blank } => self.infill(template, blank, &request.stop),
            Task::InfillTokens { cells } => self.infill_tokens(cells, &request.stop),
            Task::Score { text, likelihood } => self.revision(text, &[], !likelihood),
            Task::Repair { text, pinned } => self.revision(text, pinned, true),
        }
    }

    pub(super) fn encode_chat(&self, conversation: &Conversation, most: usize) -> Result<Vec<TokenId>, Rejected> {
        self.encoder.encode_chat_of(conversation, most)
    }

    /// The tokens that end a text: the model's own, and those that end a turn in a conversation.
    pub(super) fn ends(&self) -> Vec<TokenId> {
        let mut ends = self.spec.ends.clone();
        let turns = self.tokenizer.iter().flat_map(|tokenizer| tokenizer.turn_ends());
        ends.extend(turns.filter(|end| end.0 < self.spec.vocabulary && !self.spec.ends.contains(end)));
        ends
    }

    fn continuation(
        &self,
        prompt: &Prompt,
        length: Length,
        request: &Request,
        common: &Common,
    ) -> Result<Draft, Rejected> {
        let (param, prompt) = match prompt {
            Prompt::Text(text) => ("prompt", self.encoder.encode("prompt", text)?),
            Prompt::Tokens(tokens) => ("prompt", tokens.clone()),
            Prompt::Chat(conversation) => ("messages", self.encoder.encode_chat(conversation)?),
        };
        self.check_prompt(param, &prompt)?;
        let (given, limit) = (prompt.len(), self.canvas_max);
        let (room, tokens) = (limit - given, counted(given, "token"));
        let new_tokens = match length {
            Length::Default => self.spec.defaults.new_tokens.map_or(room, |new| room.min(new.get() as usize)),
            Length::New(0) => return Err(invalid("max_tokens", NO_ROOM)),
            Length::New(new) if new > room => {
                let message = format!(
                    "max_tokens {new} does not fit: the prompt has {tokens} and the canvas {limit} cells; \
                     ask for at most {room}"
                );
                return Err(too_long("max_tokens", message));
            }
            Length::New(new) => new,
            Length::Total(total) if total <= given || total > limit => {
                let range = format!("must be above the prompt's {tokens} and at most {limit}");
                let refuse = if total > limit { too_long } else { invalid };
                return Err(refuse("total_length", format!("total_length {total} {range}")));
            }
            Length::Total(total) => total - given,
        };
        self.check_stop(&request.stop)?;
        if request.format != Format::Text && !request.stop.is_empty() {
            const MESSAGE: &str = "stop does not go with a response_format: the answer ends where its JSON does";
            return Err(invalid("stop", MESSAGE));
        }
        if let Format::Shaped(shape) = &request.format {
            let room = if length == Length::Default { room } else { new_tokens };
            let (canvas, layout) = lay_out(shape, &prompt, room, self.vocabulary()?)?;
            let writing = Writing::Shaped { tokenizer: self.tokenizer.clone(), layout: Arc::new(layout) };
            return Ok(Draft { canvas, offset: given, prompt_tokens: given, writing });
        }
        let transcript = Transcript::new(self.tokenizer.clone(), Arc::clone(&common.stop));
        let transcript = if prompt.is_empty() { transcript } else { transcript.following() };
        let ends = Arc::clone(&common.ends);
        let (canvas, writing) = match request.format {
            Format::Json => self.object(&prompt, new_tokens, transcript, ends)?,
            Format::Text | Format::Shaped(_) => {
                (Canvas::continuing(&prompt, new_tokens), Writing::Continuation { transcript, ends, json: None })
            }
        };
        Ok(Draft { canvas, offset: given, prompt_tokens: given, writing })
    }

    /// A gap between two texts. Its text ends before a stop string or token of the request.
    fn between(
        &self,
        before: &str,
        cells: usize,
        after: &str,
        request: &Request,
        common: &Common,
    ) -> Result<Draft, Rejected> {
        self.check_stop(&request.stop)?;
        let follows = !before.is_empty();
        let mut draft = self.between_texts(before, cells, after)?;
        let has_stop = !request.stop.is_empty() || !request.stop_tokens.is_empty();
        if let (Writing::Infill { until, .. }, true) = (&mut draft.writing, has_stop) {
            let transcript = Transcript::new(self.tokenizer.clone(), Arc::clone(&common.stop));
            let transcript = if follows { transcript.following() } else { transcript };
            *until = Some(Box::new(Until { transcript, ends: request.stop_tokens.clone().into() }));
        }
        Ok(draft)
    }

    fn check_stop(&self, stop: &[String]) -> Result<(), Rejected> {
        if stop.iter().any(String::is_empty) {
            const MESSAGE: &str = "stop has an empty string, which would end every answer at once; leave it out";
            return Err(invalid("stop", MESSAGE));
        }
        let (count, bytes) = (stop.len(), stop.iter().map(String::len).sum::<usize>());
        if count > STOPS_MAX {
            return Err(invalid("stop", format!("stop has {count} strings; give at most {STOPS_MAX}")));
        }
        if bytes > STOP_BYTES_MAX {
            let message = format!("the strings of stop have {bytes} bytes; give at most {STOP_BYTES_MAX} in all");
            return Err(invalid("stop", message));
        }
        match stop.iter().map(String::len).max() {
            Some(_) if self.tokenizer.is_none() => Err(invalid("stop", NO_TEXT)),
            Some(longest) => self.encoder.check_bytes("stop", longest), // it could never be found
            None => Ok(()),
        }
    }

    fn vocabulary(&self) -> Result<Vocabulary<'_>, Rejected> {
        let Some(tokenizer) = &self.tokenizer else {
            const MESSAGE: &str = "this model was loaded without a tokenizer.json; it can write no JSON";
            return Err(invalid("response_format", MESSAGE));
        };
        let (mask, ends) = (self.spec.mask, self.ends());
        let spellings = self.spellings.get_or_init(|| {
            let ids = (0..self.spec.vocabulary).map(TokenId);
            Spellings::of(tokenizer, ids.filter(|id| *id != mask && !ends.contains(id)))
        });
        Ok(Vocabulary { tokenizer, spellings, ends, mask })
    }

    /// A canvas on which the prompt is followed by the start of a JSON object.
    fn object(
        &self,
        prompt: &[TokenId],
        new_tokens: usize,
        mut transcript: Transcript,
        ends: Arc<[TokenId]>,
    ) -> Result<(Canvas, Writing), Rejected> {
        const PARAM: &str = "response_format";
        let opening = match prompt {
            [] => self.encoder.encode(PARAM, "{")?,
            _ => self.encoder.encode_after(PARAM, "{")?,
        };
        if opening.len() >= new_tokens {
            let message = format!("an object takes at least {} tokens; ask for more max_tokens", opening.len() + 1);
            return Err(invalid(PARAM, message));
        }
        let mut brackets = Brackets::default();
        brackets.close_in(&transcript.push(&opening).text);
        let given = prompt.iter().chain(&opening).copied().map(Cell::Fixed);
        let cells = given.chain(std::iter::repeat_n(Cell::Blank, new_tokens - opening.len()));
        Ok((Canvas::new(cells.collect()), Writing::Continuation { transcript, ends, json: Some(brackets) }))
    }

    fn infill(&self, template: &str, blank: &str, stop: &[String]) -> Result<Draft, Rejected> {
        if blank.is_empty() {
            return Err(invalid("blank", "blank is empty; say what stands for one blank cell, as \"<blank>\""));
        }
        check_no_stop(stop)?;
        let segments = template::parse(template, blank);
        if !segments.iter().any(|segment| matches!(segment, Segment::Blanks(1..))) {
            let advice = "mark each cell to fill with it, or name another \"blank\"";
            return Err(invalid("template", format!("the template holds no {}; {advice}", quoted(blank))));
        }
        self.segments(segments)
    }

    /// The canvas of a prompt, blanks and a suffix.
    fn between_texts(&self, before: &str, cells: usize, after: &str) -> Result<Draft, Rejected> {
        let prompt = self.encoder.encode("prompt", before)?;
        let suffix = self.encoder.encode_after("suffix", after)?;
        let (given, limit) = (prompt.len() + suffix.len(), self.canvas_max);
        let has = format!("prompt and suffix have {} and the canvas {limit} cells", counted(given, "token"));
        if prompt.len() >= limit {
            return Err(self.too_long("prompt", prompt.len()));
        }
        if given >= limit {
            return Err(too_long("suffix", format!("the suffix does not fit: {has}, new tokens included")));
        }
        if cells > limit - given {
            let room = limit - given;
            let message = format!("max_tokens {cells} does not fit: {has}; ask for at most {room}");
            return Err(too_long("max_tokens", message));
        }
        let (prompt, suffix) = (prompt.into_iter().map(Cell::Fixed), suffix.into_iter().map(Cell::Fixed));
        let canvas = Canvas::new(prompt.chain(std::iter::repeat_n(Cell::Blank, cells)).chain(suffix).collect());
        let [before, after] = [before, after].map(|text| Segment::Text(text.to_owned()));
        let segments = [before, Segment::Blanks(cells), after];
        let segments = segments.into_iter().filter(|part| *part != Segment::Text(String::new())).collect();
        let writing = Writing::Infill { tokenizer: self.tokenizer.clone(), segments, until: None };
        Ok(Draft { canvas, offset: 0, prompt_tokens: given, writing })
    }

    fn segments(&self, segments: Vec<Segment>) -> Result<Draft, Rejected> {
        let mut cells = Vec::new();
        let bytes = |segment: &Segment| if let Segment::Text(text) = segment { text.len() } else { 0 };
        self.encoder.check_bytes("template", segments.iter().map(bytes).sum())?;
        for segment in &segments {
            match segment {
                Segment::Text(text) => {
                    let tokens = match cells.as_slice() {
                        [] => self.encoder.encode("template", text)?,
                        _ => self.encoder.encode_after("template", text)?,
                    };
                    cells.extend(tokens.into_iter().map(Cell::Fixed));
                }
                Segment::Blanks(count) if *count > self.canvas_max => return Err(self.too_long("template", *count)),
                Segment::Blanks(count) => cells.extend(std::iter::repeat_n(Cell::Blank, *count)),
            }
            if cells.len() > self.canvas_max {
                return Err(self.too_long("template", cells.len()));
            }
        }
        let fixed = cells.iter().filter(|cell| matches!(cell, Cell::Fixed(_))).count();
        let tokenizer = self.tokenizer.clone();
        let canvas = Canvas::new(cells);
        Ok(Draft {
            canvas,
            offset: 0,
            prompt_tokens: fixed,
            writing: Writing::Infill { tokenizer, segments: segments.into(), until: None },
        })
    }

    fn infill_tokens(&self, cells: &[Option<TokenId>], stop: &[String]) -> Result<Draft, Rejected> {
        check_no_stop(stop)?;
        if cells.len() > self.canvas_max {
            return Err(self.too_long("template", cells.len()));
        }
        if !cells.iter().any(Option::is_none) {
            return Err(invalid("template", "the template holds no blank; leave at least one cell to fill"));
        }
        let fixed: Vec<TokenId> = cells.iter().copied().flatten().collect();
        self.check_ids("template", &fixed)?;
        let text = |index: usize, tokens: &[TokenId]| match (&self.tokenizer, index) {
            (None, _) => String::new(),
            (Some(tokenizer), 0) => tokenizer.decode(tokens),
            (Some(tokenizer), _) => tokenizer.decode_after(tokens),
        };
        let segments = cells
            .chunk_by(|a, b| a.is_some() == b.is_some())
            .enumerate()
            .map(|(index, run)| match run.iter().copied().collect::<Option<Vec<_>>>() {
                Some(pinned) => Segment::Text(text(index, &pinned)),
                None => Segment::Blanks(run.len()),
            })
            .collect();
        let canvas = Canvas::new(cells.iter().map(|cell| cell.map_or(Cell::Blank, Cell::Fixed)).collect());
        let writing = Writing::Infill { tokenizer: self.tokenizer.clone(), segments, until: None };
        Ok(Draft { canvas, offset: 0, prompt_tokens: fixed.len(), writing })
    }

    /// A complete text to score or repair. Tokens with a character in `pinned` are fixed.
    fn revision(&self, text: &Prompt, pinned: &[Range<usize>], needs_head: bool) -> Result<Draft, Rejected> {
        const PARAM: &str = "text";
        if needs_head && !self.spec.has_quality {
            const MESSAGE: &str =
                "judging a text needs a quality head, which this model does not have; give one with --prism-head";
            return Err(invalid(PARAM, MESSAGE));
        }
        let (tokens, unit, length) = match text {
            Prompt::Text(text) => (self.encoder.encode_with_spans(PARAM, text)?, "characters", text.chars().count()),
            Prompt::Tokens(tokens) => {
                let spans = tokens.iter().enumerate().map(|(at, token)| (*token, at..at + 1));
                (spans.collect(), "tokens", tokens.len())
            }
            Prompt::Chat(_) => return Err(invalid(PARAM, "text is a conversation; give a text or token ids")),
        };
        if tokens.is_empty() {
            return Err(invalid(PARAM, "the text is empty; give at least one token"));
        }
        if tokens.len() > self.canvas_max {
            return Err(self.too_long(PARAM, tokens.len()));
        }
        self.check_ids(PARAM, &tokens.iter().map(|(token, _)| *token).collect::<Vec<_>>())?;
        if let Some(Range { start, end }) = pinned.iter().find(|span| span.start >= span.end || span.end > length) {
            let message = format!(
                "pinned has [{start}, {end}]; give pairs of {unit}, the first before the second, and that at most {length}"
            );
            return Err(invalid("pinned", message));
        }
        let is_pinned = |span: &Range<usize>| pinned.iter().any(|pin| span.start < pin.end && pin.start < span.end);
        let cell = |(token, span): &(TokenId, Range<usize>)| {
            if is_pinned(span) { Cell::Fixed(*token) } else { Cell::Filled(*token) }
        };
        let canvas = Canvas::new(tokens.iter().map(cell).collect());
        let writing = Writing::Revision { tokenizer: self.tokenizer.clone() };
        Ok(Draft { canvas, offset: 0, prompt_tokens: tokens.len(), writing })
    }

    fn check_prompt(&self, param: &'static str, prompt: &[TokenId]) -> Result<(), Rejected> {
        if prompt.is_empty() {
            return Err(invalid(param, "the prompt is empty; give at least one token"));
        }
        if prompt.len() >= self.canvas_max {
            return Err(self.too_long(param, prompt.len()));
        }
        self.check_ids(param, prompt)
    }

    pub(super) fn check_ids(&self, param: &'static str, tokens: &[TokenId]) -> Result<(), Rejected> {
        let (vocabulary, mask) = (self.spec.vocabulary, self.spec.mask);
        let invalid_id = tokens.iter().enumerate().find(|(_, token)| token.0 >= vocabulary || **token == mask);
        let Some((at, TokenId(id))) = invalid_id else { return Ok(()) };
        let rule = format!("ids are below {vocabulary} and may not be the mask, {}", mask.0);
        Err(invalid(param, format!("token {at} of the {param} is {id}; {rule}")))
    }

    fn too_long(&self, param: &'static str, given: usize) -> Rejected {
        let limit = self.canvas_max;
        let room = if ["prompt", "messages"].contains(&param) { ", new tokens included" } else { "" };
        let takes = if param == "messages" { "take" } else { "takes" };
        too_long(param, format!("the {param} {takes} {given} cells; the canvas has {limit}{room}"))
    }
}

fn check_no_stop(stop: &[String]) -> Result<(), Rejected> {
    if stop.is_empty() {
        return Ok(());
    }
    Err(invalid("stop", "stop does not go with a template: what lies between fixed texts is always filled"))
}
