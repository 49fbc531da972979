//! The queue: who starts next, and what those who wait may count on.

mod common;

use common::{Hand, Verdict, ask, engine, finished, puppet, toy_tokenizer};
use remask::engine::{Answer, Handle, Limits, Origin, Rejected, Request, Session, Shortage};
use remask::model::Toy;

fn stage(limits: Limits) -> (Handle, Hand) {
    let (model, hand) = puppet(Box::new(Toy::new()));
    (engine(model, Some(toy_tokenizer()), limits), hand)
}

fn submit(handle: &Handle, prompt: &str, priority: i32) -> Session {
    handle.submit(&Request { priority, ..ask(prompt, 1) }).unwrap()
}

/// A client that floods the queue with the most urgent priority gets three of four starts.
#[tokio::test]
async fn no_priority_starves_a_request() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let mut urgent = vec![submit(&handle, "u", i32::MIN)];
    assert_eq!(hand.begun(), ["u"]);
    let patient = ["a", "b", "c"].map(|prompt| submit(&handle, prompt, 0));
    urgent.extend((0..3).map(|_| submit(&handle, "u", i32::MIN)));
    let mut starts = String::new();
    for _ in 0..12 {
        urgent.push(submit(&handle, "u", i32::MIN)); // there is always another one
        hand.end(Verdict::Read);
        starts.push_str(&hand.begun().concat());
    }
    assert_eq!(starts, "uuuauuubuuuc");
    drop(hand);
    for session in patient.into_iter().chain(urgent) {
        finished(session).await;
    }
}

#[tokio::test]
async fn a_start_of_the_request_that_waited_longest_begins_the_count_anew() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let first = submit(&handle, "u", 0);
    assert_eq!(hand.begun(), ["u"]);
    let waiting =
        [("a", 0), ("b", 9), ("c", 1), ("d", 1), ("e", 1), ("f", 1)].map(|(it, rank)| submit(&handle, it, rank));
    hand.end(Verdict::Read);
    let order = [0; 6].map(|_| hand.pass().concat()).concat();
    assert_eq!(order, "acdebf", "a is the oldest itself, c, d and e pass over b");
    drop(hand);
    for session in waiting.into_iter().chain([first]) {
        finished(session).await;
    }
}

const A: Option<[u8; 32]> = Some([1; 32]);
const B: Option<[u8; 32]> = Some([2; 32]);
const C: Option<[u8; 32]> = Some([3; 32]);

/// `choices` choices of one request of `new` passes each, which comes with an API key or without.
fn submit_of(handle: &Handle, key: Option<[u8; 32]>, prompt: &str, choices: usize, new: usize) -> Vec<Session> {
    let request = Request { origin: Some(Origin::new(key)), seed: Some(7), ..ask(prompt, new) };
    let tasks = vec![request.task.clone()];
    let admitted = handle.admit_all(request, tasks, choices).unwrap();
    admitted.into_iter().map(|admitted| handle.queue(admitted).unwrap()).collect()
}

async fn all(sessions: impl IntoIterator<Item = Session>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for session in sessions {
        answers.push(finished(session).await);
    }
    answers
}

/// The rows of so many passes, one character each.
fn starts(hand: &Hand, passes: usize) -> String {
    (0..passes).map(|_| hand.pass().concat()).collect()
}

#[tokio::test]
async fn a_request_of_many_choices_lets_others_start_between_them() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let mut sessions = submit_of(&handle, A, "a", 128, 1);
    assert_eq!(hand.begun(), ["a"]);
    for (key, prompt) in [(B, "b"), (C, "c"), (None, "d"), (None, "e"), (A, "f")] {
        sessions.extend(submit_of(&handle, key, prompt, 1, 1));
    }
    hand.end(Verdict::Read);
    assert_eq!(starts(&hand, 8), "abcdefaa", "A's other request takes turns with the large one");
    drop(hand);
    assert_eq!(all(sessions).await.len(), 128 + 5);
}

#[tokio::test]
async fn many_requests_of_one_key_are_one_caller() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let mut sessions: Vec<Session> = (0..80).flat_map(|_| submit_of(&handle, A, "a", 1, 1)).collect();
    assert_eq!(hand.begun(), ["a"]);
    sessions.extend(submit_of(&handle, B, "b", 3, 1));
    hand.end(Verdict::Read);
    assert_eq!(starts(&hand, 7), "abababa", "every second start is B's");
    drop(hand);
    all(sessions).await;
}

/// A caller that asks for the most urgent priority gets three of four starts, however many choices
/// have waited longer than the others.
#[tokio::test]
async fn a_large_urgent_request_passes_over_each_caller_a_few_times_only() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let urgent = Request { priority: i32::MIN, origin: Some(Origin::new(A)), ..ask("u", 1) };
    let tasks = vec![urgent.task.clone()];
    let urgent = handle.admit_all(urgent, tasks, 128).unwrap();
    let mut sessions: Vec<Session> = urgent.into_iter().map(|admitted| handle.queue(admitted).unwrap()).collect();
    assert_eq!(hand.begun(), ["u"]);
    for (key, prompt) in [(B, "b"), (C, "c"), (None, "d")] {
        sessions.extend(submit_of(&handle, key, prompt, 1, 1));
    }
    hand.end(Verdict::Read);
    assert_eq!(starts(&hand, 14), "uuuubuuucuuudu");
    drop(hand);
    all(sessions).await;
}

#[tokio::test]
async fn requests_of_one_key_starve_each_other_as_little_as_callers_do() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let submit = |prompt, priority| {
        let request = Request { priority, origin: Some(Origin::new(A)), ..ask(prompt, 1) };
        handle.submit(&request).unwrap()
    };
    let mut sessions = vec![submit("u", -1)];
    assert_eq!(hand.begun(), ["u"]);
    sessions.extend([submit("a", 0), submit("b", 0)]);
    sessions.extend((0..8).map(|_| submit("u", -1)));
    hand.end(Verdict::Read);
    assert_eq!(starts(&hand, 9), "uuuauuubu");
    drop(hand);
    all(sessions).await;
}

/// Where all places are taken, a caller without one does not wait until a sequence ends.
#[tokio::test]
async fn a_caller_with_many_running_sequences_gives_up_a_place() {
    let (handle, hand) = stage(Limits { running_max: 4, ..Limits::default() });
    let first = submit_of(&handle, None, "z", 1, 1);
    assert_eq!(hand.begun(), ["z"]);
    let large = submit_of(&handle, A, "a", 8, 6);
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["a"; 4]);
    let mut small = submit_of(&handle, B, "b", 2, 2);
    small.extend(submit_of(&handle, None, "c", 1, 2));
    small.extend(submit_of(&handle, A, "d", 1, 2));
    hand.end(Verdict::Read);
    let mut passes = Vec::new();
    for _ in 0..8 {
        let mut rows = hand.pass();
        rows.sort();
        passes.push(rows.concat());
    }
    assert_eq!(passes, ["abcd", "abcd", "aaab", "aaab", "aaaa", "aaaa", "aaaa", "aaaa"]);
    drop(hand);
    all(first.into_iter().chain(small)).await;
    let (alone, _) = stage(Limits::default());
    assert_eq!(all(large).await, all(submit_of(&alone, A, "a", 8, 6)).await, "who paused has the same answer");
}

#[tokio::test]
async fn nobody_gives_up_its_only_place() {
    let (handle, hand) = stage(Limits { running_max: 2, ..Limits::default() });
    let mut sessions = submit_of(&handle, None, "z", 1, 1);
    assert_eq!(hand.begun(), ["z"]);
    sessions.extend(submit_of(&handle, A, "a", 1, 3));
    sessions.extend(submit_of(&handle, B, "b", 1, 3));
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["a", "b"]);
    sessions.extend(submit_of(&handle, C, "c", 2, 1));
    sessions.extend(submit_of(&handle, A, "d", 1, 1));
    hand.end(Verdict::Read);
    let passes: Vec<String> = (0..4).map(|_| hand.pass().concat()).collect();
    assert_eq!(passes, ["ab", "ab", "cd", "c"]);
    drop(hand);
    all(sessions).await;
}

/// How many of `choices` choices are taken: all or none.
fn taken(handle: &Handle, key: Option<[u8; 32]>, choices: usize) -> Result<Vec<Session>, Rejected> {
    let request = Request { origin: Some(Origin::new(key)), ..ask("a", 1) };
    let tasks = vec![request.task.clone()];
    handle.admit_all(request, tasks, choices)?.into_iter().map(|admitted| handle.queue(admitted)).collect()
}

#[tokio::test]
async fn one_key_cannot_hold_every_place_and_what_it_holds_it_keeps() {
    let (handle, hand) = stage(Limits::default());
    let (mut sessions, mut floods) = (Vec::new(), 0);
    let refused = loop {
        match taken(&handle, A, 128) {
            Ok(more) => sessions.extend(more),
            Err(refused) => break refused,
        }
        floods += 1;
    };
    assert_eq!(floods, 1, "three quarters of 320 places are 240");
    let Rejected::Full { shortage, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*shortage, Shortage::OfKey { held: 128, share: 240, asked: 128 });
    assert!(refused.to_string().starts_with("this API key holds 128 of the 240 places"), "{refused}");
    sessions.extend(taken(&handle, A, 112).unwrap());
    assert!(taken(&handle, A, 1).is_err());
    for (key, choices) in [(B, 1), (B, 8), (C, 1), (C, 8)] {
        sessions.extend(taken(&handle, key, choices).unwrap_or_else(|refused| panic!("{choices}: {refused}")));
    }
    drop(hand);
    assert_eq!(all(sessions).await.len(), 240 + 18, "nothing that was taken is given up");
    all(taken(&handle, A, 128).unwrap()).await;
}

#[tokio::test]
async fn where_there_are_no_other_keys_one_request_may_hold_every_place() {
    let (handle, hand) = stage(Limits { running_max: 2, queue_max: 6, ..Limits::default() });
    let sessions = taken(&handle, None, 8).unwrap();
    let refused = taken(&handle, None, 2).unwrap_err().to_string();
    let said = "8 of 8 places for running and waiting requests are taken, 2 more do not fit; try again in ";
    assert!(refused.starts_with(said), "{refused}");
    drop(hand);
    all(sessions).await;
}
