//! Caches of a block-causal model are exact: to the bit what full passes give, with far fewer
//! tokens computed.

mod common;

use common::golden::{Golden, near};
use common::{data, engine, finished};
use remask::diffusion::policy::{Choice, DUAL, LOCK, NO_CACHE, PREFIX, QUALITY, Rule};
use remask::diffusion::{Canvas, Cell, Reuse, TokenId};
use remask::engine::{Answer, Handle, Length, Limits, Prompt, Request, Session, Task};
use remask::model::{Denoiser, Device, Keeping, LoadOptions, Row, SequenceName, Source, load_with};

use std::num::NonZeroUsize;

const MASK: TokenId = TokenId(263);

fn model(cache_bytes: Option<u64>) -> Box<dyn Denoiser> {
    let source = Source::Directory { dir: data("remedi-tiny"), prism_head: None, adapter: None };
    load_with(&source, Device::Cpu, LoadOptions { cache_bytes, ..LoadOptions::default() }).unwrap()
}

fn remedi(cache_bytes: Option<u64>) -> Handle {
    engine(model(cache_bytes), None, Limits::default())
}

/// A request over blocks of `block` cells, with erasures by quality.
fn request(prompt: u32, new: usize, block: u32, cache: Option<&'static Rule>, seed: u64) -> Request {
    let prompt = Prompt::Tokens((0..prompt).map(|at| TokenId((at * 7 + 3) % 250)).collect());
    Request {
        steps: Some(u32::try_from(new).unwrap() / 4),
        block_length: Some(block),
        remasking: Some(Choice::of(&QUALITY).with("budget", 5)),
        temperature: 0.8,
        seed: Some(seed),
        cache: cache.map(Choice::of),
        ..Request::new(Task::Continue { prompt, length: Length::New(new) })
    }
}

fn text(answer: &Answer) -> Vec<(u32, f32)> {
    answer.written.iter().map(|written| (written.token.0, written.confidence.get())).collect()
}

#[tokio::test]
async fn an_answer_is_to_the_bit_what_full_passes_give_whatever_the_blocks_of_the_request() {
    let handle = remedi(None);
    assert_eq!(handle.spec().keeping, Keeping::Exact(NonZeroUsize::new(32).unwrap()));
    for (prompt, new, block, cfg_scale) in
        [(20, 70, 32, 0.0), (33, 40, 16, 0.0), (30, 40, 40, 0.0), (20, 70, 32, 1.5), (33, 40, 16, 0.5)]
    {
        let answers = |cache| {
            let asked = Request { cfg_scale, ..request(prompt, new, block, cache, 5) };
            let session = handle.submit(&asked).unwrap();
            async move { finished(session).await }
        };
        let full = answers(Some(&NO_CACHE)).await;
        for cache in [None, Some(&PREFIX), Some(&DUAL), Some(&LOCK)] {
            let found = answers(cache).await;
            assert_eq!(text(&found), text(&full), "{cache:?}, {prompt} + {new}, blocks of {block}, {cfg_scale}");
            assert_eq!(found.steps, full.steps);
            assert!(found.erased > 0);
            assert!(found.forward_tokens * 10 < full.forward_tokens * 9, "{found:?}");
        }
    }
}

#[tokio::test]
async fn nothing_changes_when_it_is_evicted_or_shared_with_others() {
    // 36 layers of keys and values, 32 numbers each; 16 tokens a page
    let page = 36 * 2 * 32 * 4 * 16;
    // every other one with guidance
    let ask = |seed: u64, cache| Request {
        cfg_scale: (seed % 2) as f32,
        ..request(10 + 7 * seed as u32, 40, 32, cache, seed)
    };
    let asks = |cache| (0..4).map(move |seed| ask(seed, cache)).collect::<Vec<_>>();
    let all = |bytes, requests: Vec<Request>| async move {
        let handle = remedi(bytes);
        let sessions: Vec<Session> = requests.iter().map(|asked| handle.submit(asked).unwrap()).collect();
        let mut texts = Vec::new();
        for session in sessions {
            texts.push(text(&finished(session).await));
        }
        texts
    };
    let full = all(None, asks(Some(&NO_CACHE))).await;
    for pages in [0, 4, 9] {
        assert_eq!(all(Some(pages * page), asks(None)).await, full, "{pages} pages");
    }
}

#[test]
fn a_finished_block_is_not_computed_again() {
    let golden = Golden::open(&data("remedi-tiny").join("io.safetensors"));
    let prompt = usize::try_from(golden.tensors["2.prompt_len"].to_vec1::<i64>().unwrap()[0]).unwrap();
    let ids = golden.ids(2);
    let cell = |(at, id): (usize, &TokenId)| match *id {
        id if at < prompt => Cell::Fixed(id),
        id if id == MASK => Cell::Blank,
        id => Cell::Filled(id),
    };
    let canvas = Canvas::new(ids.iter().enumerate().map(cell).collect());
    let (cells, mut model) = (canvas.len(), model(None));
    // the answer has two whole blocks and one of twenty cells, most blanks in the last
    for (block, tokens) in [(0..32, prompt + 32), (32..64, 32), (64..84, 20)] {
        let window = prompt + block.start..prompt + block.end;
        let whole = vec![0..cells];
        let reuse = Some((SequenceName(1), Reuse { base: &canvas, run: whole.clone(), seen: whole }));
        let asked = Row { review: true, distributions: true, ..Row::plain(&canvas, window) };
        let cached = Row { reuse, ..asked.clone() };
        assert_eq!(model.tokens(&cached), tokens);
        let [full, cached] = [asked, cached].map(|row| model.read(&[row]).unwrap().remove(0).unwrap());
        assert_eq!(cached, full);
        let confidences = golden.numbers(2, "confidences");
        for review in &cached.reviews {
            let expected = 1.0 / (1.0 + (-confidences[review.at.index()]).exp());
            near("quality", &[review.quality.get()], &[expected], 1e-4);
        }
    }
    // what comes before a block decides what is kept of it
    let mut changed = canvas.cells().to_vec();
    let Some(at) = (prompt + 32..prompt + 64).find(|at| matches!(changed[*at], Cell::Filled(_))) else { panic!() };
    changed[at] = Cell::Filled(TokenId(1));
    let changed = Canvas::new(changed);
    let whole = vec![0..cells];
    let reuse = Some((SequenceName(1), Reuse { base: &changed, run: whole.clone(), seen: whole }));
    let row = Row { reuse, ..Row::plain(&changed, prompt + 64..cells) };
    assert_eq!(model.tokens(&row), 32 + 20);
    model.forget(SequenceName(1));
    assert_eq!(model.tokens(&row), prompt + 84);
}
