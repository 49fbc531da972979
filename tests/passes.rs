//! What shares a forward pass: rows that measure likelihoods, and fewer rows while the device is
//! short of memory.

mod common;

use common::{Hand, Verdict, ask, engine, finished, puppet, toy, toy_tokenizer};
use remask::diffusion::Probability;
use remask::engine::{Answer, EndOfText, Handle, Limits, Prompt, Request, Task};
use remask::model::{ModelError, Toy};

const TEXT: &str = "the quick brown fox jumps over the lazy ";

fn stage(batch_tokens_max: usize) -> (Handle, Hand) {
    let (model, hand) = puppet(Box::new(Toy::without_head()));
    (engine(model, Some(toy_tokenizer()), Limits { batch_tokens_max, ..Limits::default() }), hand)
}

/// The likelihood of each of the forty tokens of [`TEXT`].
fn score() -> Request {
    Request::new(Task::Score { text: Prompt::Text(TEXT.to_owned()), likelihood: true })
}

fn likelihoods(answer: &Answer) -> Vec<Option<f32>> {
    answer.written.iter().map(|written| written.likelihood.map(Probability::get)).collect()
}

/// Whole passes; returns the rows of each.
fn passes(hand: &Hand, count: usize) -> Vec<usize> {
    (0..count).map(|_| hand.pass().len()).collect()
}

#[tokio::test]
async fn likelihoods_fill_a_pass_and_are_the_same_however_many_share_it() {
    assert_eq!(TEXT.len(), 40);
    let (handle, hand) = stage(40 * 16);
    let session = handle.submit(&score()).unwrap();
    assert_eq!(passes(&hand, 3), [16, 16, 8]);
    let together = finished(session).await;
    assert_eq!(together.forward_passes, 40, "one for each token, as if it were alone");

    let (handle, hand) = stage(1);
    let session = handle.submit(&score()).unwrap();
    assert_eq!(passes(&hand, 40), [1; 40]);
    assert_eq!(finished(session).await, together, "to the bit");
    assert!(likelihoods(&together).iter().all(Option::is_some));
}

#[tokio::test]
async fn beside_others_likelihoods_take_no_more_of_a_pass_than_these() {
    let (handle, hand) = stage(8192);
    let ordinary = handle.submit(&ask("a", 99)).unwrap(); // 100 tokens
    assert_eq!(hand.begun(), ["a"]);
    let scores = [handle.submit(&score()).unwrap(), handle.submit(&score()).unwrap()];
    hand.end(Verdict::Read);
    // one row each, and two more in the hundred tokens that the ordinary one has
    assert_eq!(passes(&hand, 2), [1 + 2 + 2, 1 + 2 + 2]);
    drop(ordinary);
    let mut read = 4; // of each score
    let mut rows = hand.begun().len();
    while rows == 5 {
        read += 2; // the engine has not noticed yet
        hand.end(Verdict::Read);
        rows = hand.begun().len();
    }
    assert_eq!(rows, 2 * (40 - read), "alone they share all of it");
    drop(hand);
    for session in scores {
        assert!(likelihoods(&finished(session).await).iter().all(Option::is_some));
    }
}

#[tokio::test]
async fn rows_of_one_request_without_room_are_read_in_smaller_passes() {
    let (handle, hand) = stage(8192);
    let session = handle.submit(&score()).unwrap();
    assert_eq!(hand.begun().len(), 40);
    hand.end(Verdict::NoRoom);
    assert_eq!(hand.begun().len(), 20);
    hand.end(Verdict::NoRoom);
    assert_eq!(passes(&hand, 4), [10; 4]);
    assert!(likelihoods(&finished(session).await).iter().all(Option::is_some));
}

#[tokio::test]
async fn a_row_without_finite_numbers_fails_its_request_and_no_other() {
    let (handle, hand) = stage(8192);
    let ordinary = handle.submit(&ask("a", 99)).unwrap();
    assert_eq!(hand.begun(), ["a"]);
    let session = handle.submit(&score()).unwrap();
    hand.end(Verdict::NotFinite); // the first row is the ordinary one's
    assert_eq!(passes(&hand, 1), [40]);
    drop(hand);
    assert!(likelihoods(&finished(session).await).iter().all(Option::is_some));
    let error = common::failure(ordinary).await;
    assert_eq!(error, remask::engine::Failure::Model(ModelError::Row(common::not_finite())));
}

/// Two sequences of 100 tokens, which fit into a pass together or one after the other.
#[tokio::test]
async fn after_a_moment_without_memory_passes_grow_again() {
    let (handle, hand) = stage(200);
    let ask = |prompt| Request { end_of_text: Some(EndOfText::Never), block_length: Some(99), ..ask(prompt, 99) };
    let first = handle.submit(&ask("a")).unwrap();
    assert_eq!(hand.begun(), ["a"]);
    let second = handle.submit(&ask("b")).unwrap();
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["a", "b"]);
    hand.end(Verdict::NoRoom);
    assert_eq!(passes(&hand, 16), [1; 16]);
    assert_eq!(hand.begun().len(), 2, "tried again");
    hand.end(Verdict::NoRoom);
    assert_eq!(passes(&hand, 32), [1; 32], "no memory yet: the next try is later");
    assert_eq!(passes(&hand, 20), [2; 20], "and nobody noticed");
    drop(hand);
    assert_eq!([finished(first).await.steps, finished(second).await.steps], [99, 99]);
}

#[tokio::test]
async fn a_likelihood_is_what_it_was() {
    let answer = finished(toy().submit(&score()).unwrap()).await;
    // the toy's quality of a token is its probability without its own cell
    let judged = answer.written.iter().map(|written| written.quality.unwrap().get());
    for (likelihood, quality) in likelihoods(&answer).into_iter().zip(judged) {
        assert!((likelihood.unwrap() - quality).abs() < 1e-3);
    }
}
