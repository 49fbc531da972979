//! The engine behind its public interface, with a model whose passes the test controls: which
//! requests share a pass, which events each session gets, and what happens when the model fails or
//! the server stops. No test sleeps.

mod common;

use common::{Hand, Verdict, ask, engine, failure, finished, puppet, toy, toy_tokenizer};
use remask::diffusion::Edit;
use remask::diffusion::TokenId;
use remask::engine::{
    Answer, EndOfText, Event, Failure, Finish, Handle, Limits, Readiness, Rejected, Request, Shortage, warm_up,
};
use remask::model::{ModelError, Toy};
use std::time::Duration;

/// Longer than any test.
const PATIENCE: Duration = Duration::from_secs(60);

fn stage(limits: Limits) -> (Handle, Hand) {
    let (model, hand) = puppet(Box::new(Toy::new()));
    (engine(model, Some(toy_tokenizer()), limits), hand)
}

/// One row of a few tokens fits into a pass.
fn one_row() -> Limits {
    Limits { batch_tokens_max: 1, ..Limits::default() }
}

fn model_failure(message: &str) -> Failure {
    Failure::Model(ModelError::Failed(message.to_owned()))
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let (handle, hand) = stage(Limits { running_max: 1, queue_max: 1, ..Limits::default() });
    let first = handle.submit(&ask("a", 1)).unwrap();
    assert_eq!(hand.begun(), ["a"]);
    let second = handle.submit(&ask("b", 1)).unwrap();
    match handle.submit(&ask("c", 1)).unwrap_err() {
        Rejected::Full { shortage, retry_after } => {
            assert_eq!(shortage, Shortage::OfAll { taken: 2, limit: 2, asked: 1 });
            assert!(retry_after >= 1, "{retry_after}");
        }
        other @ (Rejected::Invalid { .. } | Rejected::TooLong { .. } | Rejected::Draining | Rejected::GivenUp) => {
            panic!("{other}")
        }
    }
    hand.end(Verdict::Read);
    finished(first).await;
    assert_eq!(hand.begun(), ["b"], "who waited runs");
    let third = handle.submit(&ask("c", 1)).unwrap();
    drop(hand);
    assert_eq!((finished(second).await.filled, finished(third).await.filled), (1, 1));
}

#[tokio::test]
async fn who_is_more_urgent_waits_less_and_among_equals_who_came_first() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let submit = |prompt, priority| handle.submit(&Request { priority, ..ask(prompt, 1) }).unwrap();
    let first = submit("a", 0);
    assert_eq!(hand.begun(), ["a"]);
    let waiting = [("b", 0), ("c", 5), ("d", -1), ("e", 0), ("f", -1)].map(|(prompt, rank)| submit(prompt, rank));
    hand.end(Verdict::Read);
    let order = [0; 5].map(|_| hand.pass().remove(0));
    assert_eq!(order, ["d", "f", "b", "e", "c"]);
    drop(hand);
    finished(first).await;
    for session in waiting {
        finished(session).await;
    }
}

#[tokio::test]
async fn under_load_requests_keep_a_share_of_their_steps() {
    let limits = Limits { running_max: 1, queue_max: 4, brown_out: Some(0.5), ..Limits::default() };
    let (handle, hand) = stage(limits);
    let submit = |request: Request| handle.submit(&request).unwrap();
    let sessions = [submit(ask("a", 20)), submit(ask("b", 20)), submit(ask("c", 20)), submit(ask("d", 20))];
    let blocks = submit(Request { block_length: Some(2), steps: Some(12), ..ask("e", 20) });
    assert!(handle.submit(&ask("f", 20)).is_err(), "the queue is full");
    drop(hand);
    let planned = sessions.each_ref().map(|session| session.start.steps_planned);
    assert_eq!(planned, [20, 18, 15, 13].map(Some), "who need not wait keeps all of them");
    let mut degraded = Vec::new();
    for session in sessions {
        let answer = finished(session).await;
        assert_eq!(answer.completion_tokens, 20);
        degraded.push(answer.degraded);
    }
    assert_eq!(degraded, [false, true, true, true]);
    let answer = finished(blocks).await;
    assert!((10..12).contains(&answer.steps) && answer.degraded, "each block keeps a step: {answer:?}");
}

#[tokio::test]
async fn a_rejected_request_takes_no_place() {
    let (handle, _hand) = stage(Limits { running_max: 1, queue_max: 0, ..Limits::default() });
    for _ in 0..3 {
        assert!(matches!(handle.submit(&ask("", 1)), Err(Rejected::Invalid { .. })));
    }
    handle.submit(&ask("a", 1)).unwrap();
}

#[tokio::test]
async fn a_dropped_session_is_out_of_the_next_pass_and_its_place_is_free() {
    let (handle, hand) = stage(Limits { running_max: 2, queue_max: 1, ..Limits::default() });
    let [a, b, c] = ["a", "b", "c"].map(|prompt| handle.submit(&ask(prompt, 3)).unwrap());
    hand.pass(); // all that have arrived
    assert_eq!(hand.begun().len(), 2);
    drop((a, c)); // one runs, one waits
    assert!(handle.submit(&ask("d", 3)).is_err(), "not noticed before the pass ends");
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["b"]);
    let d = handle.submit(&ask("d", 3)).unwrap();
    drop(hand);
    assert_eq!((finished(b).await.steps, finished(d).await.steps), (3, 3));
}

#[tokio::test]
async fn a_failed_pass_fails_those_who_shared_it_and_nobody_else() {
    for (verdict, error) in [
        (Verdict::Fail, ModelError::Failed("told to".to_owned())),
        (Verdict::Panic, ModelError::Panicked),
        (Verdict::Lose, ModelError::Failed("the model gave 1 readings for 2 rows".to_owned())),
    ] {
        let (handle, hand) = stage(Limits { batch_tokens_max: 8, ..Limits::default() });
        let a = handle.submit(&ask("a", 3)).unwrap();
        assert_eq!(hand.begun(), ["a"]);
        let [b, c] = ["b", "c"].map(|prompt| handle.submit(&ask(prompt, 3)).unwrap());
        hand.end(Verdict::Read);
        assert_eq!(hand.begun(), ["a", "b"], "two rows of four tokens fit");
        let d = handle.submit(&ask("d", 3)).unwrap();
        hand.end(verdict);
        assert_eq!(hand.begun(), ["c", "d"]);
        drop(hand);
        assert_eq!(failure(a).await, Failure::Model(error.clone()));
        assert_eq!(failure(b).await, Failure::Model(error));
        assert_eq!((finished(c).await.steps, finished(d).await.steps), (3, 3));
    }
}

#[tokio::test]
async fn a_pass_without_room_is_taken_again_by_fewer_and_fails_only_alone() {
    let (handle, hand) = stage(Limits::default());
    let a = handle.submit(&ask("a", 3)).unwrap();
    assert_eq!(hand.begun(), ["a"]);
    let [b, c, d] = ["b", "c", "d"].map(|prompt| handle.submit(&ask(prompt, 3)).unwrap());
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["a", "b", "c", "d"], "four rows of four tokens");
    hand.end(Verdict::NoRoom);
    assert_eq!(hand.begun(), ["a", "b"], "half as many");
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["c", "d"], "and no more for a while");
    assert_eq!(handle.readiness(), Readiness::Ready);
    hand.end(Verdict::NoRoom);
    assert_eq!(hand.begun(), ["c"]);
    hand.end(Verdict::NoRoom);
    assert_eq!(hand.begun(), ["d"], "whoever has no room alone is told");
    drop(hand);
    assert_eq!(failure(c).await, Failure::Model(ModelError::OutOfMemory("told to".to_owned())));
    assert_eq!([finished(a).await.steps, finished(b).await.steps, finished(d).await.steps], [3, 3, 3]);
}

#[test]
fn the_first_pass_is_as_large_as_told() {
    let (model, hand) = puppet(Box::new(Toy::new()));
    let mut model = model;
    let warmed = std::thread::spawn(move || warm_up(model.as_mut(), 2500));
    assert_eq!(hand.begun().len(), 3, "canvases of 1,024 cells and what is left");
    hand.end(Verdict::Read);
    warmed.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_reading_that_does_not_fit_fails_its_own_request_only() {
    let (handle, hand) = stage(Limits::default());
    let a = handle.submit(&ask("a", 3)).unwrap();
    assert_eq!(hand.begun(), ["a"]);
    let b = handle.submit(&ask("b", 3)).unwrap();
    hand.end(Verdict::Read);
    assert_eq!(hand.begun(), ["a", "b"]);
    hand.end(Verdict::Spoil);
    assert_eq!(hand.begun(), ["b"]);
    drop(hand);
    assert!(failure(a).await.to_string().contains("1 proposals that are not the 2 blanks"));
    assert_eq!(finished(b).await.steps, 3);
}

#[tokio::test]
async fn three_failures_in_a_row_end_readiness_and_one_success_restores_it() {
    let (handle, hand) = stage(Limits::default());
    let failing = [Readiness::Ready, Readiness::Ready, Readiness::Failing { in_a_row: 3 }];
    for readiness in failing.into_iter().chain([Readiness::Failing { in_a_row: 4 }]) {
        let session = handle.submit(&ask("a", 2)).unwrap();
        hand.begun();
        hand.end(Verdict::Fail);
        assert_eq!(failure(session).await, model_failure("told to"));
        assert_eq!(handle.readiness(), readiness);
    }
    let mut session = handle.submit(&ask("a", 2)).unwrap();
    hand.pass();
    assert!(matches!(session.next().await, Some(Event::Step(_))));
    assert_eq!(handle.readiness(), Readiness::Ready);
    hand.begun();
    hand.end(Verdict::Fail);
    failure(session).await;
    assert_eq!(handle.readiness(), Readiness::Ready, "the count starts anew");
}

#[tokio::test]
async fn a_drain_finishes_what_was_admitted_and_refuses_the_rest() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let [a, b] = ["a", "b"].map(|prompt| handle.submit(&ask(prompt, 2)).unwrap());
    assert_eq!(hand.begun(), ["a"]);
    let meanwhile = async {
        assert_eq!(handle.readiness(), Readiness::Draining);
        assert_eq!(handle.submit(&ask("c", 2)).unwrap_err(), Rejected::Draining);
        drop(hand);
        (finished(a).await.steps, finished(b).await.steps)
    };
    assert_eq!(tokio::join!(handle.drain(PATIENCE), meanwhile), (0, (2, 2)));
    assert_eq!(handle.drain(Duration::ZERO).await, 0, "a second drain finds nothing to do");
}

#[tokio::test(start_paused = true)]
async fn a_drain_out_of_patience_tells_every_owner() {
    let (handle, hand) = stage(Limits { running_max: 1, ..Limits::default() });
    let [a, b] = ["a", "b"].map(|prompt| handle.submit(&ask(prompt, 2)).unwrap());
    assert_eq!(hand.begun(), ["a"]);
    let drain = tokio::spawn({
        let handle = handle.clone();
        async move { handle.drain(Duration::ZERO).await }
    });
    tokio::task::yield_now().await; // the drain begins
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await; // and gives up
    drop(hand);
    assert_eq!(drain.await.unwrap(), 2);
    assert_eq!((failure(a).await, failure(b).await), (Failure::ShutDown, Failure::ShutDown));
}

#[tokio::test]
async fn the_last_handle_gone_what_was_admitted_is_finished_and_the_model_dropped() {
    let (handle, hand) = stage(Limits::default());
    let session = handle.submit(&ask("a", 2)).unwrap();
    drop(handle);
    hand.until_gone();
    assert_eq!(finished(session).await.steps, 2);
}

#[tokio::test]
async fn sequences_that_do_not_fit_together_take_turns() {
    let (handle, hand) = stage(one_row());
    let _a = handle.submit(&ask("a", 9)).unwrap();
    assert_eq!(hand.begun(), ["a"]);
    let _b = handle.submit(&ask("b", 9)).unwrap();
    hand.end(Verdict::Read);
    assert_eq!([(); 5].map(|()| hand.pass().concat()), ["a", "b", "a", "b", "a"]);
    assert_eq!(hand.begun(), ["b"]);
    let _c = handle.submit(&ask("c", 9)).unwrap();
    hand.end(Verdict::Read);
    assert_eq!([(); 6].map(|()| hand.pass().concat()), ["a", "b", "c", "a", "b", "c"], "within one round");
}

#[tokio::test]
async fn a_pass_takes_what_fits_least_recently_stepped_first() {
    let (handle, hand) = stage(Limits { batch_tokens_max: 20, ..Limits::default() });
    let _big = handle.submit(&ask("B", 30)).unwrap();
    assert_eq!(hand.begun(), ["B"], "a canvas larger than the limit runs alone");
    let _small = ["a", "b", "c"].map(|prompt| handle.submit(&ask(prompt, 7)).unwrap()); // 8 tokens each
    hand.end(Verdict::Read);
    let passes = [(); 7].map(|()| hand.pass().concat());
    assert_eq!(passes, ["B", "ab", "ca", "B", "bc", "ab", "B"], "nobody waits for ever");
}

#[tokio::test]
async fn every_request_has_its_share_of_each_pass_however_many_choices_another_has() {
    let (handle, hand) = stage(Limits { batch_tokens_max: 16, ..Limits::default() }); // four rows
    let many = ask("a", 3);
    let admitted = handle.admit_all(many.clone(), vec![many.task.clone()], 7).unwrap();
    let _many: Vec<_> = admitted.into_iter().map(|admitted| handle.queue(admitted).unwrap()).collect();
    hand.begun();
    let _one = handle.submit(&ask("b", 3)).unwrap();
    hand.end(Verdict::Read);
    let passes = [(); 3].map(|()| hand.pass());
    for (number, pass) in passes.iter().enumerate() {
        assert_eq!(pass.iter().filter(|row| *row == "b").count(), 1, "pass {number}: {passes:?}");
        assert_eq!(pass.len(), 4, "the rest of a pass is the others': {passes:?}");
    }
}

#[tokio::test]
async fn guidance_counts_twice() {
    let (handle, hand) = stage(Limits { batch_tokens_max: 12, ..Limits::default() });
    let _a = handle.submit(&ask("a", 3)).unwrap();
    assert_eq!(hand.begun(), ["a"]);
    let _b = handle.submit(&Request { cfg_scale: 1.0, ..ask("b", 3) }).unwrap();
    let _c = handle.submit(&ask("c", 3)).unwrap();
    hand.end(Verdict::Read);
    assert_eq!(hand.pass(), ["a", "b"], "4 + 8 tokens");
    assert_eq!(hand.pass(), ["c", "a"]);
}

#[tokio::test]
async fn no_more_run_than_may() {
    let (handle, hand) = stage(Limits { running_max: 2, ..Limits::default() });
    let _sessions = ["a", "b", "c"].map(|prompt| handle.submit(&ask(prompt, 3)).unwrap());
    hand.pass();
    assert_eq!(hand.pass().len(), 2);
}

/// An answer whose blocks are this long, one token per pass.
async fn in_blocks(block_length: u32, request: Request) -> Answer {
    let request = Request { block_length: Some(block_length), ..request };
    finished(toy().submit(&request).unwrap()).await
}

#[tokio::test]
async fn blocks_after_the_end_of_the_text_are_never_computed() {
    let answer = in_blocks(16, ask("a", 160)).await;
    let end = answer.written.iter().position(|written| written.token == TokenId(257)).unwrap();
    let blocks = end / 16 + 1;
    assert!(blocks < 10, "the text ends in block {blocks} of ten");
    assert_eq!(answer.finish, Finish::Stop);
    assert_eq!(answer.written.len(), blocks * 16);
    assert_eq!(answer.forward_passes as usize, blocks * 16);
    assert_eq!((answer.completion_tokens, answer.output.text().len()), (end, end));
}

#[tokio::test]
async fn the_end_of_a_text_may_be_banned_or_put_off() {
    const END: TokenId = TokenId(257);
    let free = in_blocks(16, ask("a", 160)).await;
    let never = in_blocks(16, Request { end_of_text: Some(EndOfText::Never), ..ask("a", 160) }).await;
    assert_eq!((never.finish, never.completion_tokens), (Finish::Length, 160));
    assert!(never.written.iter().all(|written| written.token != END));
    assert_eq!(never.output.text()[..free.completion_tokens], *free.output.text(), "what comes before stays");

    let request = Request { end_of_text: Some(EndOfText::Last), block_length: Some(16), ..ask("a", 160) };
    let mut session = toy().submit_unmerged(&request).unwrap();
    let mut blocks: Vec<Vec<TokenId>> = vec![Vec::new(); 10];
    while let Some(event) = session.next().await {
        let Event::Step(step) = event else { break };
        for edit in step.edits {
            let Edit::Fill { at, token, .. } = edit else { panic!("{edit:?}") };
            blocks[(at.index() - 1) / 16].push(token);
        }
    }
    let ending = blocks.iter().find(|block| block.contains(&END)).unwrap();
    let first = ending.iter().position(|token| *token == END).unwrap();
    assert!(first > 0 && ending[first..].iter().all(|token| *token == END), "{ending:?}");
    let mixed = in_blocks(16, ask("a", 160)).await;
    assert_eq!(mixed.output, free.output);
}

#[tokio::test]
async fn blocks_after_a_stop_string_are_never_computed() {
    let whole = in_blocks(8, ask("a", 40)).await;
    assert_eq!((whole.finish, whole.forward_passes), (Finish::Length, 40));
    let text = whole.output.text();
    let stop = &text[14..18]; // across the end of the second block
    assert!(!text[..17].contains(stop), "{text:?}");
    let answer = in_blocks(8, Request { stop: vec![stop.to_owned()], ..ask("a", 40) }).await;
    assert_eq!(answer.finish, Finish::Stop);
    assert_eq!(answer.output.text(), &text[..14]);
    assert_eq!(answer.forward_passes, 24, "three blocks of eight");
}

#[tokio::test]
async fn qualities_cost_one_pass_and_change_nothing() {
    for request in [ask("a", 12), ask("a", 160)] {
        let plain = in_blocks(16, request.clone()).await;
        let judged = in_blocks(16, Request { return_quality: true, ..request }).await;
        assert_eq!(judged.forward_passes, plain.forward_passes + 1);
        assert_eq!((judged.steps, &judged.output), (plain.steps, &plain.output));
        assert!(plain.written.iter().all(|written| written.quality.is_none()));
        assert!(judged.written.iter().all(|written| written.quality.is_some()));
        let tokens = |answer: &Answer| answer.written.iter().map(|written| written.token).collect::<Vec<_>>();
        assert_eq!(tokens(&judged), tokens(&plain));
    }
}
