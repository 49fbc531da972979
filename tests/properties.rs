//! Laws of whole runs through the engine's public interface: the edits make the answer, no cell is
//! lost or filled twice, and an answer depends on its request alone.

mod common;

use common::{ask, engine, finished, llada_tiny_model, puppet, toy, toy_tokenizer};
use proptest::prelude::*;
use remask::diffusion::policy::{
    CORRECT_EVERY, CORRECTOR_PASSES, Count, EXACT, Kind, Knob, OFF, PROSECO, QUALITY, REMDM, Range, Rule, Setting,
    Settings, THRESHOLD, confidence::CONFIDENCE, order, random::RANDOM, rules,
};
use remask::diffusion::{Canvas, Cell, Choice, Edit, TokenId};
use remask::engine::{
    Answer, DEFAULT_BLANK, Event, Finish, Handle, Length, Limits, Prompt, Proofreading, Request, Session, StepEvent,
    Task,
};
use remask::model::{Denoiser, Toy};
use std::sync::LazyLock;

/// Runs an async test without a runtime of its own for each case.
fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Letters as ids both models have.
fn prompt() -> impl Strategy<Value = Prompt> {
    prop::collection::vec(97u32..123, 1..6).prop_map(|ids| Prompt::Tokens(ids.into_iter().map(TokenId).collect()))
}

fn task(new_max: usize) -> impl Strategy<Value = Task> {
    let gap = (0usize..3, 1usize..8).prop_map(|(letters, cells)| format!("{}<blank:{cells}>", &"abc"[..letters]));
    let infill = (prop::collection::vec(gap, 1..4), "[a-z]{0,3}")
        .prop_map(|(gaps, end)| Task::Infill { template: gaps.concat() + &end, blank: DEFAULT_BLANK.to_owned() });
    let continuation =
        (prompt(), 1..new_max).prop_map(|(prompt, new)| Task::Continue { prompt, length: Length::New(new) });
    prop_oneof![3 => continuation, 1 => infill]
}

/// A value that this knob takes, small where the range is large.
fn setting(knob: &Knob) -> BoxedStrategy<Setting> {
    match knob.range {
        Range::Count { min } => (min..9).prop_map(Setting::Count).boxed(),
        Range::Fraction => (0.0f32..=1.0).prop_map(Setting::Number).boxed(),
        Range::Number { .. } => (0.0f32..3.0).prop_map(Setting::Number).boxed(),
        Range::Span => (0.0f32..0.5, 0.5001f32..1.0).prop_map(|(from, until)| Setting::Span([from, until])).boxed(),
    }
}

/// Any rule of a kind, with any of its knobs.
fn choice(kind: Kind) -> impl Strategy<Value = Choice> {
    prop::sample::select(rules(kind)).prop_flat_map(|rule| {
        let knobs: Vec<_> = rule.knobs.iter().map(|knob| prop::option::of(setting(knob))).collect();
        knobs.prop_map(move |values| {
            let given = rule.knobs.iter().zip(values);
            given.fold(Choice::of(rule), |choice, (knob, value)| choice.with_some(knob.name, value))
        })
    })
}

/// Any pace: it is chosen by the knob of its name.
fn paces() -> impl Strategy<Value = Settings> {
    let is_chosen = |choice: &Choice| choice.settings.get(choice.rule.name).is_some();
    let any = choice(Kind::Pace).prop_filter("its own knob is set", is_chosen);
    prop_oneof![Just(Settings::EMPTY), any.prop_map(|choice| choice.settings)]
}

fn chosen(rule: &'static Rule, budget: Option<u32>, below: Option<f32>, window: Option<[f32; 2]>) -> Choice {
    Choice::of(rule).with_some("budget", budget).with_some("below", below).with_some("window", window)
}

/// Requests of every kind. Their steps are bounded so that the events of an unread session stay
/// separate: beyond 32 unread steps the mailbox merges them.
fn request(new_max: usize) -> impl Strategy<Value = Request> {
    let order = choice(Kind::Order).prop_filter("its knobs go together", |choice| choice.check().is_ok());
    let proofreading = (2u32..4, prop::option::of(0.0f32..1.0), prop::option::of(0.0f32..1.5)).prop_map(
        |(steps, below, temperature)| Some(Proofreading { steps: Some(steps), below, most: None, temperature }),
    );
    let length = prop_oneof![(8u32..30, 6u32..20, Just(None)), (8u32..16, 12u32..24, proofreading)];
    let plan = (order, paces(), length, prop::option::of(choice(Kind::Remasking)));
    let sampling = (prop_oneof![Just(0.0f32), 0.1f32..1.5], prop_oneof![3 => Just(0.0f32), 1 => 0.1f32..2.0]);
    (task(new_max), plan, sampling, any::<u64>(), any::<bool>()).prop_map(
        |(
            task,
            (order, pace, (steps, block, proofreading), remasking),
            (temperature, cfg_scale),
            seed,
            return_quality,
        )| Request {
            order: Some(order),
            pace: if remasking.is_some_and(|choice| choice.hold().is_some()) { Settings::EMPTY } else { pace },
            steps: Some(steps),
            block_length: Some(block),
            remasking,
            proofreading,
            temperature,
            cfg_scale,
            seed: Some(seed),
            return_quality,
            ..Request::new(task)
        },
    )
}

/// A session's steps and its answer.
async fn run(mut session: Session) -> (Vec<StepEvent>, Answer) {
    let mut steps = Vec::new();
    loop {
        match session.next().await {
            Some(Event::Step(step)) => steps.push(step),
            Some(Event::Finished(answer)) => return (steps, *answer),
            Some(Event::Failed(failure)) => panic!("{failure}"),
            None => panic!("the session ended without an answer"),
        }
    }
}

static TOY: LazyLock<Handle> = LazyLock::new(toy);

/// Erasures and replacements a request allows per block.
fn budget(request: &Request, per_block: u32) -> u32 {
    request.remasking.map_or(per_block, |choice| choice.with_defaults(per_block).budget())
}

/// Checks every law of one run.
fn check_laws(request: &Request) -> Result<(), TestCaseError> {
    let session = TOY.submit_unmerged(request).unwrap();
    let start = session.start.clone();
    let (steps, answer) = wait(run(session));
    prop_assert_eq!(steps.len(), answer.steps as usize, "the steps arrived unmerged");

    let first_blank = start.cells.iter().position(|cell| *cell == Cell::Blank).unwrap();
    let block_length = request.block_length.unwrap() as usize;
    let blanks_at_start = start.cells.iter().filter(|cell| **cell == Cell::Blank).count();
    let per_block = u32::try_from(block_length.min(blanks_at_start)).unwrap();

    // the prompt's cells are fixed, whatever tokens they hold
    let prompt = std::iter::repeat_n(Cell::Fixed(TokenId(0)), start.offset);
    let mut canvas = Canvas::new(prompt.chain(start.cells.iter().copied()).collect());
    let mut confidences = vec![None; canvas.len()];
    let (mut block, mut changed_in_block, mut filled, mut erased, mut replaced) = (0, 0, 0, 0, 0);
    // passes of a corrector make no edits, and its replacements reach into finished blocks
    let is_corrected = request.remasking.is_some_and(|choice| choice.rule == &PROSECO);
    for (number, step) in steps.iter().enumerate() {
        prop_assert_eq!(step.step as usize, number);
        if step.edits.is_empty() {
            let may_be_empty = request.proofreading.is_some() || is_corrected;
            prop_assert!(may_be_empty, "every step brings something, but where all is read through");
            continue;
        }
        let mut edited: Vec<usize> = step.edits.iter().map(|edit| edit.at().index()).collect();
        let touched = edited.iter().map(|at| (at - start.offset - first_blank) / block_length);
        let (first, last) = (touched.clone().min().unwrap(), touched.max().unwrap());
        let first = if is_corrected { last } else { first };
        prop_assert_eq!(first, last, "a step stays in one block");
        prop_assert!(first >= block, "blocks are finished left to right");
        if first > block {
            (block, changed_in_block) = (first, 0);
            let before = start.offset + first_blank + block * block_length;
            prop_assert_eq!(canvas.blanks(0..before).next(), None, "what lies before is finished");
        }
        edited.sort_unstable();
        prop_assert!(edited.windows(2).all(|pair| pair[0] != pair[1]), "no cell is edited twice in one step");
        for edit in &step.edits {
            prop_assert!(canvas.apply(edit).is_ok(), "{:?} does not fit", edit);
            match *edit {
                Edit::Fill { at, confidence, .. } => {
                    filled += 1;
                    confidences[at.index()] = Some(confidence);
                }
                Edit::Erase { .. } => {
                    erased += 1;
                    changed_in_block += 1;
                    prop_assert!(number + 1 < steps.len(), "nothing is erased in the last step");
                }
                Edit::Replace { at, was, token, confidence } => {
                    replaced += 1;
                    changed_in_block += 1;
                    confidences[at.index()] = Some(confidence);
                    prop_assert_ne!(was, token, "a replacement changes the token");
                }
            }
        }
        // what proofreading erases is bounded by its steps
        let is_ranked = request.remasking.is_some_and(|choice| choice.rule.count == Count::Ranked);
        let is_bounded = request.proofreading.is_none() && !is_corrected && !is_ranked;
        prop_assert!(!is_bounded || changed_in_block <= budget(request, per_block), "{} changes", changed_in_block);
        prop_assert_eq!(step.blanks, canvas.blanks(0..canvas.len()).count());
    }

    let replayed: Vec<_> =
        canvas.filled(0..canvas.len()).map(|(at, token)| (at, token, confidences[at.index()].unwrap())).collect();
    let written: Vec<_> = answer.written.iter().map(|cell| (cell.at, cell.token, cell.confidence)).collect();
    prop_assert_eq!(replayed, written, "the answer is its edits");
    prop_assert_eq!((filled, erased, replaced), (answer.filled, answer.erased, answer.replaced));
    prop_assert_eq!((filled - erased) as usize, answer.written.len());
    let is_infill = matches!(request.task, Task::Infill { .. });
    if is_infill || answer.finish == Finish::Length {
        prop_assert_eq!(filled as usize, blanks_at_start + erased as usize, "no blank is left behind");
    }

    prop_assert!(answer.steps <= start.steps_planned.unwrap());
    let blocks = u32::try_from(blanks_at_start.div_ceil(block_length)).unwrap() + 1; // a gap may reach into one more
    let proofreading = request.proofreading.as_ref().map_or(0, |proofreading| proofreading.steps.unwrap_or(0));
    let count = |choice: Choice, knob: &Knob| choice.with_defaults(1).settings.count(knob.name).unwrap();
    let correcting = request
        .remasking
        .filter(|_| is_corrected)
        .map_or(0, |choice| request.steps.unwrap() / count(choice, &CORRECT_EVERY) * count(choice, &CORRECTOR_PASSES));
    prop_assert!(start.steps_planned.unwrap() <= request.steps.unwrap() + proofreading * blocks + correcting);
    let rows = answer.forward_passes - u32::from(request.return_quality);
    let is_exact = request.remasking.is_some_and(|choice| choice.rule == &EXACT);
    let most = if is_exact { u32::try_from(1 + blanks_at_start).unwrap() } else { 1 }; // in a step
    prop_assert!((answer.steps..=answer.steps * most).contains(&rows), "{} rows", rows);
    prop_assert!(answer.written.iter().all(|cell| cell.quality.is_some() == request.return_quality));
    if !is_infill {
        let deltas: String = steps.iter().map(|step| step.text.as_str()).collect();
        prop_assert_eq!(deltas + &answer.tail, answer.output.text());
    }
    let again = wait(finished(TOY.submit(request).unwrap()));
    prop_assert_eq!(again, answer, "the same request gives the same answer");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn the_laws_of_a_run(request in request(48)) {
        check_laws(&request)?;
    }

    #[test]
    fn any_requests_together_are_what_they_are_alone(
        requests in prop::collection::vec(request(20), 2..6),
        batch_tokens_max in 1usize..200,
        running_max in 1usize..6,
    ) {
        let limits = Limits { batch_tokens_max, running_max, ..Limits::default() };
        let handle = engine(Box::new(Toy::new()), Some(toy_tokenizer()), limits);
        // a pass must have room for the rows of an exact step
        let requests: Vec<_> =
            requests.into_iter().filter(|one| one.remasking.is_none_or(|choice| choice.rule != &EXACT)).collect();
        let sessions: Vec<Session> = requests.iter().map(|request| handle.submit(request).unwrap()).collect();
        for (request, session) in requests.iter().zip(sessions) {
            let alone = wait(finished(TOY.submit(request).unwrap()));
            prop_assert_eq!(wait(finished(session)), alone, "{:?}", request);
        }
    }
}

#[test]
fn seeds_make_a_difference_where_something_is_drawn() {
    // in order of confidence the unlikely fills come last, and remasking by quality erases them:
    // the seed would hardly matter
    let request = |seed, temperature| Request {
        order: Some(Choice::of(&order::LEFTMOST)),
        seed: Some(seed),
        temperature,
        ..ask("hello", 40)
    };
    let tokens = |request| -> Vec<TokenId> {
        wait(finished(TOY.submit(&request).unwrap())).written.iter().map(|written| written.token).collect()
    };
    let drawn: Vec<_> = (0..8).map(|seed| tokens(request(seed, 1.0))).collect();
    for (index, one) in drawn.iter().enumerate() {
        assert!(drawn[..index].iter().all(|other| other != one), "seed {index} repeats an earlier one");
    }
    assert_eq!(tokens(request(1, 0.0)), tokens(request(2, 0.0)), "nothing is drawn at temperature 0");
    let unseeded = || tokens(Request { seed: None, ..request(0, 1.0) });
    assert_ne!(unseeded(), unseeded(), "who names no seed gets a fresh one");
}

/// Thirty-two requests with little in common.
fn mixed() -> Vec<Request> {
    let orders = rules(Kind::Order);
    let remasking = |index: u32| match (index + index / 6) % 6 {
        0 => Choice::of(&OFF),
        3 => chosen(&CONFIDENCE, Some(4 + index % 7), None, None),
        4 => chosen(&REMDM, Some(3 + index % 5), None, None),
        1 => chosen(&QUALITY, Some(4 + index % 7), None, None),
        2 => chosen(&QUALITY, None, Some(0.6), Some([0.2, 0.9])),
        _ => chosen(&RANDOM, Some(3 + index % 5), None, None),
    };
    let threshold = |index: u32| (index % 3 == 1).then_some([0.02, 0.5, 0.9][index as usize / 3 % 3]);
    let task = |index: u32| {
        let letters = &"abcdefghij"[..1 + index as usize % 10];
        if index % 5 == 4 {
            let template = format!("{letters}<blank:{}>x<blank:2>{letters}<blank>", 1 + index % 11);
            return Task::Infill { template, blank: DEFAULT_BLANK.to_owned() };
        }
        Task::Continue { prompt: Prompt::Text(letters.to_owned()), length: Length::New(1 + index as usize * 11 % 61) }
    };
    let request = |index: u32| Request {
        order: Some(Choice::of(orders[index as usize % orders.len()])),
        pace: Choice::of(&THRESHOLD).with_some("threshold", threshold(index)).settings,
        steps: (index % 6 != 1).then_some(12 + index % 13),
        block_length: Some([8, 61, 7, 16, 32][index as usize % 5]),
        remasking: Some(remasking(index)),
        cfg_scale: if index % 7 == 3 { 0.8 } else { 0.0 },
        temperature: [0.0, 1.0, 0.0, 0.6][index as usize / 4 % 4],
        seed: Some(u64::from(index)),
        return_quality: index.is_multiple_of(2),
        ..Request::new(task(index))
    };
    (0..32).map(request).collect()
}

/// Answers the requests one after the other and then together, in several orders of arrival, with
/// passes that hold one row, some or all.
async fn check_independence(model: fn() -> Box<dyn Denoiser>) {
    let requests = mixed();
    let handle = engine(model(), Some(toy_tokenizer()), Limits::default());
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(finished(handle.submit(request).unwrap()).await);
    }
    assert!(alone.iter().map(|answer| answer.erased).sum::<u32>() > 50, "too little is erased to test anything");

    let forwards: Vec<usize> = (0..requests.len()).collect();
    let backwards = forwards.iter().rev().copied().collect();
    let shuffled = forwards.iter().map(|index| (index * 13 + 5) % requests.len()).collect();
    let limits = |batch_tokens_max, running_max| Limits { batch_tokens_max, running_max, ..Limits::default() };
    let ways: [(Vec<usize>, Limits, usize); 4] = [
        (forwards.clone(), limits(8192, 64), 28),
        (backwards, limits(200, 64), 3),
        (shuffled, limits(8192, 7), 5),
        (forwards, limits(1, 64), 1),
    ];
    for (arrival, limits, rows_min) in ways {
        let (model, hand) = puppet(model());
        let handle = engine(model, Some(toy_tokenizer()), limits);
        let sessions: Vec<Session> = arrival.iter().map(|&index| handle.submit(&requests[index]).unwrap()).collect();
        hand.pass(); // by the second pass all have arrived, and a few are done
        let rows = hand.pass().len();
        assert!(rows >= rows_min, "only {rows} rows shared a pass under {limits:?}");
        drop(hand);
        for (index, session) in arrival.into_iter().zip(sessions) {
            let together = finished(session).await;
            assert_eq!(together, alone[index], "request {index} under {limits:?}: {:?}", requests[index]);
        }
    }
}

#[tokio::test]
async fn the_toys_answers_do_not_depend_on_who_shares_the_pass() {
    check_independence(|| Box::new(Toy::new())).await;
}

#[tokio::test]
async fn a_networks_answers_do_not_depend_on_who_shares_the_pass() {
    check_independence(llada_tiny_model).await;
}

/// What the documentation shows: at default settings tokens are wrong, erased and filled again.
#[tokio::test]
async fn the_toy_makes_mistakes_and_corrects_them_at_default_settings() {
    for prompt in ["Once", "Write a haiku.", "a", "Hello, who are you?", "1", "One", "Berlin", "x y z"] {
        let task = Task::Continue { prompt: Prompt::Text(prompt.to_owned()), length: Length::Default };
        let session = TOY.submit_unmerged(&Request::new(task)).unwrap();
        let offset = session.start.offset;
        let (steps, answer) = run(session).await;
        let edits = steps.iter().flat_map(|step| &step.edits);
        let erased: Vec<(usize, TokenId)> = edits
            .filter_map(|edit| match edit {
                Edit::Erase { at, was, .. } => Some((at.index() - offset, *was)),
                Edit::Fill { .. } | Edit::Replace { .. } => None,
            })
            .collect();
        assert!((1..30).contains(&erased.len()) && erased.len() == answer.erased as usize, "{prompt:?}: {erased:?}");
        let text = answer.output.text();
        let is_rewritten = |&(at, was): &(usize, TokenId)| answer.written.get(at).is_none_or(|now| now.token != was);
        assert!(erased.iter().all(is_rewritten), "{prompt:?}: {erased:?} in {text:?}");
        assert!(text.starts_with(' ') && text.ends_with('.'), "{prompt:?}: {text:?} is a whole sentence");
        assert_eq!(answer.finish, Finish::Stop);
    }
}
