//! The queue: who starts next, and what those who wait may count on.

mod common;

use common::{Hand, Verdict, ask, engine, finished, puppet, toy_tokenizer};
use remask::engine::{Handle, Limits, Request, Session};
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
