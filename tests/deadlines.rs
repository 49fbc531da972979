//! Deadlines: which steps are given up to meet one, and what stays true of the answer.

mod common;

use common::server::Server;
use common::{Hand, Verdict, ask, finished, puppet, toy_tokenizer};
use remask::api::{BODY_MAX, Service};
use remask::diffusion::policy::{BUDGET, HOLD, QUALITY, THRESHOLD, order};
use remask::diffusion::{
    Canvas, Choice, Pace, Policy, Probability, Proofreading, Proposal, Reading, Review, Seed, Sequence, TokenId,
};
use remask::engine::{
    Clock, EndOfText, Event, Failure, Handle, Limits, Prompt, Rejected, Request, Session, Task, start_by,
};
use remask::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Readings, Toy};
use remask::telemetry::Metrics;
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a pass of the slow toy takes.
const STEP: Duration = Duration::from_millis(20);

/// A clock that only the passes of the slow toy move.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU32>);

impl Time {
    fn passed(&self) -> Duration {
        STEP * self.0.load(Ordering::SeqCst)
    }

    fn clock(&self) -> Clock {
        let (start, time) = (Instant::now(), self.clone());
        Clock::of(move || start + time.passed())
    }
}

/// A toy whose passes take a while: each one step, or each row.
struct Slow(Toy, Time, Each);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Each {
    Pass,
    Row,
}

impl Denoiser for Slow {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        let readings = self.0.read(batch);
        let steps = if self.2 == Each::Row { batch.len() } else { 1 };
        self.1.0.fetch_add(u32::try_from(steps).unwrap(), Ordering::SeqCst);
        readings
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.0.inspect(ids)
    }
}

fn slow(limits: Limits) -> (Handle, Time) {
    let (handle, hand, time) = slow_stage(limits, Each::Pass);
    drop(hand);
    (handle, time)
}

/// The same, whose passes begin and end on command of the test.
fn slow_stage(limits: Limits, each: Each) -> (Handle, Hand, Time) {
    let time = Time::default();
    let (model, hand) = puppet(Box::new(Slow(Toy::new(), time.clone(), each)));
    let metrics = Metrics::new().unwrap().model("toy").unwrap();
    (start_by(time.clock(), model, Some(toy_tokenizer()), limits, metrics).unwrap(), hand, time)
}

/// A request whose text fills the whole canvas.
fn full(prompt: &str, new: usize) -> Request {
    Request { end_of_text: Some(EndOfText::Never), block_length: Some(300), ..ask(prompt, new) }
}

#[tokio::test]
async fn an_answer_is_there_within_its_deadline_and_a_step() {
    let (handle, time) = slow(Limits::default());
    let patient = Request { deadline: Some(Duration::from_secs(3600)), ..full("a", 100) };
    let answer = finished(handle.submit(&patient).unwrap()).await;
    assert_eq!((answer.forward_passes, answer.degraded), (100, false));
    for (block_length, millis) in [(8, 400), (300, 400), (300, 1999), (300, 60), (50, 20)] {
        let (before, deadline) = (time.passed(), Duration::from_millis(millis));
        let hurried = Request { block_length: Some(block_length), deadline: Some(deadline), ..full("a", 300) };
        let answer = finished(handle.submit(&hurried).unwrap()).await;
        let took = time.passed() - before;
        assert!(took <= deadline + STEP && took + 2 * STEP >= deadline, "{took:?} of {deadline:?}");
        assert!(answer.degraded, "{answer:?}");
        assert_eq!(answer.filled, 300, "the best canvas there is by then: a full one");
    }
    let at_once = Request { deadline: Some(Duration::from_millis(10)), ..ask("a", 64) };
    let answer = finished(handle.submit(&at_once).unwrap()).await;
    assert_eq!((answer.forward_passes, answer.filled, answer.degraded), (1, 64, true), "all in one go");
}

#[tokio::test]
async fn a_machine_that_slept_for_hours_goes_on_as_before() {
    let (handle, time) = slow(Limits::default());
    let mut session = handle.submit(&Request { deadline: Some(Duration::from_secs(3600)), ..full("a", 1000) }).unwrap();
    session.next().await.unwrap();
    time.0.fetch_add(1_000_000, Ordering::SeqCst);
    assert_eq!(finished(session).await.filled, 1000, "whoever was in the middle has an answer");
    let next = Request { deadline: Some(400 * STEP), ..full("b", 100) };
    let answer = finished(handle.submit(&next).unwrap()).await;
    assert_eq!((answer.forward_passes, answer.degraded), (100, false), "one long pass is no slow model");
}

#[tokio::test]
async fn who_shares_passes_counts_on_them_all_the_same() {
    let (handle, _) = slow(Limits { batch_tokens_max: 128, ..Limits::default() });
    let others: Vec<_> = (0..3).map(|_| handle.submit(&full("b", 100)).unwrap()).collect();
    let hurried = Request { deadline: Some(40 * STEP), ..full("a", 100) };
    let answer = finished(handle.submit(&hurried).unwrap()).await;
    assert!(answer.degraded && answer.filled == 100, "{answer:?}");
    // a pass has room for one row in four, so each sequence takes part in every fourth pass
    assert!((2..=11).contains(&answer.forward_passes), "{answer:?}");
    drop(others);
}

/// Requests with as large a canvas as `full("a", 100)` has, and five passes each.
fn short(handle: &Handle, count: usize) -> Vec<Session> {
    let prompt = "b".repeat(96);
    (0..count)
        .map(|_| handle.submit(&Request { end_of_text: Some(EndOfText::Never), ..ask(&prompt, 5) }).unwrap())
        .collect()
}

#[tokio::test]
async fn steps_lost_to_a_moment_of_load_come_back_when_it_is_over() {
    let (handle, time) = slow(Limits { batch_tokens_max: 128, ..Limits::default() });
    let others = short(&handle, 3);
    let hurried = Request { deadline: Some(150 * STEP), ..full("a", 100) };
    let answer = finished(handle.submit(&hurried).unwrap()).await;
    // shared by four, there is time for 37 passes; alone, for nearly all
    assert!((60..100).contains(&answer.forward_passes) && answer.filled == 100, "{answer:?}");
    assert!(answer.degraded && time.passed() <= 151 * STEP);
    drop(others);
}

#[tokio::test]
async fn a_queued_request_loses_no_steps_to_those_before_it() {
    let (handle, _) = slow(Limits { batch_tokens_max: 128, running_max: 3, ..Limits::default() });
    let others = short(&handle, 3);
    let hurried = Request { deadline: Some(150 * STEP), ..full("a", 100) };
    let answer = finished(handle.submit(&hurried).unwrap()).await;
    // it starts beside the last of them, and has time for all its steps once it is alone
    assert!(answer.forward_passes >= 90 && answer.filled == 100, "{answer:?}");
    drop(others);
}

#[tokio::test]
async fn a_sequence_that_gave_up_its_place_is_full_by_its_deadline() {
    let (handle, hand, time) = slow_stage(Limits { running_max: 2, ..Limits::default() }, Each::Pass);
    let first = handle.submit(&ask("z", 1)).unwrap();
    assert_eq!(hand.begun(), ["z"]);
    let hurried = Request { deadline: Some(12 * STEP), ..full("a", 100) };
    let tasks = vec![hurried.task.clone()];
    let hurried: Vec<_> = handle.admit_all(hurried, tasks, 2).unwrap();
    let hurried: Vec<_> = hurried.into_iter().map(|admitted| handle.queue(admitted).unwrap()).collect();
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["a", "a"]);
    let other = handle.submit(&full("b", 100)).unwrap();
    hand.end(Verdict::Read);
    let mut passes = Vec::new();
    let mut rows = hand.begun();
    while rows != ["b"] {
        rows.sort();
        passes.push(rows.concat());
        hand.end(Verdict::Read);
        rows = hand.begun();
    }
    assert_eq!(time.passed(), 12 * STEP);
    drop(hand);
    assert_eq!(passes, [["ab"; 9].as_slice(), &["aab"]].concat(), "the last pass is for both");
    for session in hurried {
        let answer = finished(session).await;
        assert!(answer.degraded && answer.filled == 100, "{answer:?}");
    }
    assert_eq!((finished(first).await.degraded, finished(other).await.degraded), (false, false));
}

fn choices(handle: &Handle, request: Request, count: usize) -> Vec<Session> {
    let tasks = vec![request.task.clone()];
    let admitted = handle.admit_all(request, tasks, count).unwrap();
    admitted.into_iter().map(|admitted| handle.queue(admitted).unwrap()).collect()
}

/// Lets passes end while they have rows of `prompt`: the time when the last one of these has ended.
fn until_without(hand: &Hand, time: &Time, prompt: &str) -> Duration {
    let mut ended = Duration::ZERO;
    for _ in 0..400 {
        let has_rows = hand.begun().iter().any(|row| row.starts_with(prompt));
        ended = if has_rows { time.passed() + STEP } else { ended };
        hand.end(Verdict::Read);
    }
    ended
}

#[tokio::test]
async fn all_choices_of_a_request_that_has_begun_are_answered_by_its_deadline() {
    for (running_max, batch_tokens_max, count, others) in
        [(2, 8192, 8, 0), (4, 256, 8, 0), (4, 128, 8, 0), (4, 256, 8, 8), (4, 128, 12, 4), (8, 512, 4, 8)]
    {
        let limits = Limits { running_max, batch_tokens_max, ..Limits::default() };
        let (handle, hand, time) = slow_stage(limits, Each::Pass);
        let first = handle.submit(&ask("z", 1)).unwrap();
        hand.begun();
        let others = choices(&handle, full("b", 100), others);
        let last = handle.submit(&full("c", 1000)).unwrap(); // so that there always is a next pass
        let hurried = Request { deadline: Some(70 * STEP), ..full("a", 100) };
        let hurried = choices(&handle, hurried, count);
        hand.end(Verdict::Read);
        let ended = until_without(&hand, &time, "a");
        drop((hand, others, first, last));
        for session in hurried {
            let answer = finished(session).await;
            assert!(answer.degraded && answer.filled == 100, "{limits:?}: {answer:?}");
        }
        assert!(ended <= 71 * STEP && ended >= 30 * STEP, "{limits:?}: {ended:?}");
    }
}

#[tokio::test]
async fn a_full_pass_is_expected_to_take_longer_than_a_small_one() {
    let (handle, hand, time) = slow_stage(Limits::default(), Each::Row);
    drop(hand);
    for _ in 0..4 {
        finished(handle.submit(&full("b", 100)).unwrap()).await; // passes of one row
    }
    let begun = time.passed();
    let hurried = Request { deadline: Some(100 * STEP), ..full("a", 100) };
    for session in choices(&handle, hurried, 20) {
        let answer = finished(session).await;
        assert!(answer.degraded && answer.filled == 100, "{answer:?}");
    }
    assert!(time.passed() - begun <= 120 * STEP, "{:?}", time.passed() - begun); // a pass takes 20 steps
}

#[tokio::test]
async fn a_refused_request_is_told_how_long_so_many_places_take() {
    let (handle, hand, time) = slow_stage(Limits { running_max: 2, queue_max: 2, ..Limits::default() }, Each::Pass);
    let held: Vec<_> = (0..4).map(|_| handle.submit(&full("a", 290)).unwrap()).collect();
    for _ in 0..50 {
        hand.begun();
        hand.end(Verdict::Read);
    }
    hand.begun(); // 50 passes are measured
    assert_eq!(time.passed(), 50 * STEP);
    let told = |count: usize| {
        let (request, tasks) = (ask("b", 4), vec![ask("b", 4).task]);
        match handle.admit_all(request, tasks, count) {
            Err(Rejected::Full { retry_after, .. }) => retry_after,
            other => panic!("{other:?}"),
        }
    };
    // two run for 240 steps of 20 ms more, the two that wait for 290 after them
    assert_eq!([1, 2, 3, 4].map(told), [5, 5, 11, 11]);
    drop((hand, held));
}

#[tokio::test]
async fn likelihoods_for_which_there_is_no_time_are_left_out() {
    let (handle, time) = slow(Limits { batch_tokens_max: 1, ..Limits::default() });
    let text = Prompt::Text("x".repeat(40));
    let score = Request { deadline: Some(10 * STEP), ..Request::new(Task::Score { text, likelihood: true }) };
    // the average time of a step is known after the first
    finished(handle.submit(&ask("a", 4)).unwrap()).await;
    let before = time.passed();
    let answer = finished(handle.submit(&score).unwrap()).await;
    let took = time.passed() - before;
    assert!(took <= 11 * STEP && took >= 8 * STEP, "{took:?}");
    let measured = answer.written.iter().filter(|written| written.likelihood.is_some()).count();
    assert!((7..=10).contains(&measured) && answer.degraded, "{measured} {answer:?}");
    assert!(answer.written.iter().all(|written| written.quality.is_some()), "the first pass is for these");
}

#[tokio::test]
async fn whose_time_is_up_before_its_turn_is_told() {
    let (handle, _) = slow(Limits { running_max: 1, ..Limits::default() });
    let long = handle.submit(&ask("a", 1000)).unwrap();
    let mut late = handle.submit(&Request { deadline: Some(Duration::from_millis(60)), ..ask("b", 4) }).unwrap();
    let Some(Event::Failed(failure)) = late.next().await else { panic!("an answer") };
    assert_eq!(failure, Failure::TooLate { deadline: Duration::from_millis(60) });
    drop(long);
}

#[tokio::test]
async fn the_wire_says_degraded_or_504() {
    let server = Server::loading(BODY_MAX, Duration::from_secs(30)).await;
    let (handle, _) = slow(Limits { running_max: 1, ..Limits::default() });
    server.state.loaded(vec![Service { handle: handle.clone(), name: "toy".to_owned(), created: 0 }]).unwrap();
    let body = |deadline: u64| json!({"prompt": "Once", "max_tokens": 200, "diffusion": {"deadline_ms": deadline}});
    let answer = server.answer("/v1/completions", &body(300)).await;
    assert_eq!(answer["diffusion"]["degraded"], true, "{answer}");
    assert!(answer["diffusion"]["forward_passes"].as_u64().unwrap() <= 16, "{answer}");
    let long: Vec<_> = (0..64).map(|_| handle.submit(&ask("a", 1000)).unwrap()).collect(); // one after the other
    let late = server.post("/v1/completions", &body(60)).await;
    assert_eq!(late.status(), 504);
    let error: Value = late.json().await.unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["type"]),
        (&json!("deadline_exceeded"), &json!("server_error"))
    );
    drop(long);
}

/// Whatever the plan: the run ends within the passes it has, and no blank is left. In every second
/// run there is time for the whole plan again two steps later.
#[test]
fn a_hurried_run_is_full_in_time() {
    let number = |number: u32| NonZeroU32::new(number).unwrap();
    let tenth = |tenths: u8| Probability::new(f32::from(tenths) / 10.0).unwrap();
    let paces = [
        Pace::Steps(number(30)),
        Pace::Adaptive { rule: Choice::of(&THRESHOLD).with(THRESHOLD.name, 0.9), steps_max: None },
    ];
    let worst = Choice::of(&QUALITY).with(BUDGET.name, 12);
    let held = worst.with(HOLD.name, [0.3, 0.8]).with_defaults(24);
    let proofreading = Some(Proofreading { steps: 9, below: tenth(9), most: None });
    for (pace, remasking, block_length, proofreading) in paces
        .iter()
        .flat_map(|pace| [4, 9, 24].map(|length| (*pace, worst, length, None)))
        .chain([(paces[0], worst, 24, proofreading)])
        .chain([9, 24].map(|length| (paces[0], held, length, None)))
    {
        for before in 0..24 {
            for (passes, is_relieved) in (0..12).flat_map(|passes| [(passes, false), (passes, true)]) {
                let policy = Policy {
                    order: Choice::of(&order::LEFTMOST),
                    pace,
                    remasking,
                    block_length: number(block_length),
                    proofreading,
                };
                let mut sequence = Sequence::new(Canvas::continuing(&[TokenId(1)], 24), policy, Seed(1)).unwrap();
                let mut left = None;
                for step in 0.. {
                    if step == before {
                        sequence.fit(passes);
                        left = Some(passes.max(1));
                    }
                    if is_relieved && step == before + 2 {
                        sequence.fit(1000);
                        left = None;
                    }
                    let Some(window) = sequence.window() else { break };
                    if let Some(left) = &mut left {
                        assert!(*left > 0, "{pace:?} {block_length} {before} {passes}");
                        *left -= 1;
                    }
                    let (token, confidence) = (TokenId(2), tenth(5));
                    let propose = |at| Proposal { at, token, confidence, margin: confidence, entropy: 1.0 };
                    let review = |(at, _)| Review { at, quality: tenth(2) };
                    let canvas = sequence.canvas();
                    let reading = Reading {
                        proposals: canvas.blanks(window.clone()).map(propose).collect(),
                        reviews: canvas.filled(window).map(review).collect(),
                        ..Reading::default()
                    };
                    sequence.advance(&reading).unwrap();
                }
                let canvas = sequence.canvas();
                assert_eq!(canvas.blanks(0..canvas.len()).count(), 0);
                let most = pace.steps_max().map(|steps| steps.get() + proofreading.map_or(0, |more| more.steps));
                assert!(most.is_none_or(|most| sequence.step() <= most), "{pace:?} {before} {passes}");
            }
        }
    }
}
