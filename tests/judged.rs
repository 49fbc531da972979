//! Tokens that a quality head was not trained to judge: they have no quality and are never
//! erased or replaced.

mod common;

use common::server::Server;
use common::{data, sudoku_model, toy_tokenizer};
use remask::diffusion::policy::{BUDGET, Choice, Kind, OFF, order, rules};
use remask::diffusion::{
    Best, Canvas, Cell, Edit, Pace, Policy, Position, Present, Probability, Proofreading, Reading, Review, Seed,
    Sequence, TokenId, TokenSet,
};
use remask::engine::Limits;
use remask::model::{Device, Format, HeadEntry, Source, Toy, annotate_head, load, put_together, quantise, take_apart};
use remask::text::Tokenizer;
use remask::train::sudoku::{Grid, Split};
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

#[tokio::test]
async fn line_breaks_of_a_grid_have_no_quality_and_are_not_doubtful() {
    let server = Server::sudoku().await;
    let (_, grid) = Grid::clued(1, Split::Test, 0, 57);
    let answer = server.answer("/v1/score", &json!({"text": grid.to_string(), "likelihood": true})).await;
    assert_eq!(answer["doubtful"], json!([]));
    let strict = server.answer("/v1/score", &json!({"text": grid.to_string(), "below": 1})).await;
    assert_eq!(strict["doubtful"].as_array().unwrap().len(), 81, "every digit and no line break");
    for token in answer["tokens"].as_array().unwrap() {
        assert_eq!(token["quality"].is_null(), token["text"] == "\n", "{token}");
        assert!(token["likelihood"].is_f64(), "{token}");
    }
    let judged = json!({"text": grid.to_string(), "diffusion": {"return_quality": true}});
    let repaired = server.answer("/v1/repair", &judged).await;
    let none = repaired["tokens"].as_array().unwrap().iter().filter(|token| token["quality"].is_null());
    assert_eq!(none.map(|token| &token["text"]).collect::<Vec<_>>(), vec!["\n"; 8]);

    // a text of which nothing can be judged still has its tokens
    let breaks = server.answer("/v1/repair", &json!({"text": "\n\n", "diffusion": {"return_quality": true}})).await;
    let tokens = breaks["tokens"].as_array().unwrap();
    assert_eq!((tokens.len(), &tokens[0]["quality"], &breaks["edits"]), (2, &Value::Null, &json!([])));
}

#[tokio::test]
async fn a_right_grid_is_repaired_into_itself() {
    let server = Server::sudoku().await;
    for index in 0..10 {
        let (_, grid) = Grid::clued(2, Split::Test, index, 57);
        let answer = server.answer("/v1/repair", &json!({"text": grid.to_string()})).await;
        assert_eq!((&answer["text"], &answer["edits"]), (&json!(grid.to_string()), &json!([])));
        let all = json!({"text": grid.to_string(), "below": 1, "steps": 8});
        let answer = server.answer("/v1/repair", &all).await;
        assert_eq!(answer["text"].as_str().unwrap().matches('\n').count(), 8, "{answer}");
        assert!(answer["diffusion"]["erased"].as_u64() >= Some(81), "{answer}");
    }
}

/// Of 50 grids each, 48, 49 and 50 are solved (models/sudoku/README.md); here fewer are tried.
#[tokio::test]
async fn grids_with_some_mistakes_are_solved_and_keep_their_layout() {
    let server = Server::sudoku().await;
    for mistakes in [1, 2, 3] {
        let mut solved = 0;
        for index in 0..8 {
            let (_, grid) = Grid::clued(3, Split::Test, index, 57);
            let mut tokens = grid.tokens();
            for n in 0..mistakes {
                let at = (index as usize * 37 + n * 31) % 89; // different cells, on any row
                let at = if at % 10 == 9 { at - 1 } else { at };
                tokens[at] = tokens[at] % 9 + 1;
            }
            let given: Vec<u32> = tokens.to_vec();
            assert_ne!(Grid::of_tokens(&tokens), grid);
            let answer = server.answer("/v1/repair", &json!({"text": given})).await;
            let text = answer["text"].as_str().unwrap();
            assert!(text.lines().count() == 9 && text.lines().all(|line| line.len() == 9), "{text}");
            solved += usize::from(text == grid.to_string());
        }
        assert!(solved >= 7, "{solved} of 8 grids with {mistakes} mistakes are solved");
    }
}

#[tokio::test]
async fn the_examples_of_a_repair_are_solved() {
    let server = Server::sudoku().await;
    let document: Value = server.get("/openapi.json").await.json().await.unwrap();
    let content = &document["paths"]["/v1/repair"]["post"]["requestBody"]["content"];
    let examples = content["application/json"]["examples"].as_object().unwrap();
    assert_eq!(examples.len(), 2);
    for (name, example) in examples {
        let mut body = example["value"].clone();
        body.as_object_mut().unwrap().remove("stream");
        let answer = server.answer("/v1/repair", &body).await;
        assert!(answer["text"].as_str().unwrap().parse::<Grid>().unwrap().is_solved(), "{name}: {answer}");
    }
}

/// A reading in which every filled cell is as bad as can be.
fn worst(canvas: &Canvas) -> Reading {
    let filled: Vec<Position> = canvas.filled(0..canvas.len()).map(|(at, _)| at).collect();
    let proposal = |at| remask::diffusion::Proposal {
        at,
        token: TokenId(2),
        confidence: Probability::HALF,
        margin: Probability::ZERO,
        entropy: 1.0,
    };
    Reading {
        proposals: canvas.blanks(0..canvas.len()).map(proposal).collect(),
        reviews: filled.iter().map(|at| Review { at: *at, quality: Probability::ZERO }).collect(),
        present: filled.iter().map(|at| Present { at: *at, confidence: Probability::ZERO }).collect(),
        best: filled.iter().map(|at| Best { at: *at, token: TokenId(2), confidence: Probability::ONE }).collect(),
        ..Reading::default()
    }
}

/// The tokens that were erased or replaced.
fn changed(mut sequence: Sequence) -> Vec<TokenId> {
    let mut changed = Vec::new();
    for _ in 0..40 {
        let outcome = sequence.advance(&worst(sequence.canvas())).unwrap();
        let tokens = outcome.edits.iter().filter_map(|edit| match edit {
            Edit::Erase { was, .. } | Edit::Replace { was, .. } => Some(*was),
            Edit::Fill { .. } => None,
        });
        changed.extend(tokens);
    }
    changed
}

#[test]
fn no_policy_changes_a_token_that_is_not_judged() {
    let judged: TokenSet = "0-9".parse().unwrap();
    let filled = [1, 10, 2, 11, 3].map(|id| Cell::Filled(TokenId(id)));
    let canvas = Canvas::new(filled.into_iter().chain([Cell::Blank; 8]).collect());
    let proofreading = Proofreading { steps: 12, below: Probability::ONE, most: None };
    for rule in rules(Kind::Remasking).into_iter().filter(|rule| *rule != &OFF) {
        let policy = Policy {
            order: Choice::of(&order::LEFTMOST),
            pace: Pace::Steps(NonZeroU32::new(8).unwrap()),
            remasking: Choice::of(rule).with(BUDGET.name, 40).with_defaults(8),
            block_length: NonZeroU32::MAX,
            proofreading: Some(proofreading),
        };
        // the first block starts at the first blank, so the canvas begins with one
        let cells = [Cell::Blank].into_iter().chain(canvas.cells().iter().copied()).collect();
        let sequence = |judged| Sequence::new(Canvas::new(cells), policy, Seed(1)).unwrap().judging(judged);
        let changed = changed(sequence(Some(judged.clone())));
        assert!(!changed.is_empty() && changed.iter().all(|token| judged.contains(*token)), "{rule:?}: {changed:?}");
    }
    let full = Canvas::new(filled.to_vec());
    let repair = || Sequence::proofread(full.clone(), Choice::of(&order::LEFTMOST), proofreading, Seed(1));
    assert!(changed(repair()).contains(&TokenId(10)), "without a set all tokens are judged");
    let changed = changed(repair().judging(Some(judged)));
    assert!(changed.contains(&TokenId(1)) && !changed.contains(&TokenId(10)) && !changed.contains(&TokenId(11)));
}

#[tokio::test]
async fn without_a_word_in_the_heads_file_special_tokens_are_not_judged_but_ends_are() {
    let mut tokenizer: Value = serde_json::from_str(include_str!("../models/toy/tokenizer.json")).unwrap();
    let start = json!({"id": 126, "content": "~", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().insert(0, start);
    let tokenizer = Arc::new(Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).unwrap());
    let server = Server::loading(1 << 20, std::time::Duration::from_secs(30)).await;
    server.load(Box::new(Toy::new()), Some(tokenizer), Limits::default());
    let ids = [126, 97, 98, 257, 99];
    let answer = server.answer("/v1/score", &json!({"text": ids, "below": 1})).await;
    assert_eq!(answer["doubtful"], json!([1, 2, 3, 4]), "{answer}");
    let repaired = server.answer("/v1/repair", &json!({"text": ids, "below": 1})).await;
    let edits = repaired["edits"].as_array().unwrap();
    assert!(!edits.is_empty() && edits.iter().all(|edit| edit["at"] != 0), "{repaired}");
    assert!(toy_tokenizer().special_ids().any(|id| id == TokenId(257)));
}

fn judged(dir: PathBuf, prism_head: Option<PathBuf>) -> Option<String> {
    let model = load(&Source::Directory { dir, prism_head, adapter: None }, Device::Cpu).unwrap();
    model.spec().judged.as_ref().map(TokenSet::to_string)
}

#[test]
fn what_a_head_judges_is_in_its_file_and_stays_with_it() {
    assert_eq!(sudoku_model().spec().judged, Some("1-9".parse().unwrap()));
    let (tiny, dir) = (data("llada-tiny"), tempfile::tempdir().unwrap());
    assert_eq!(judged(tiny.clone(), None), None);
    let head = dir.path().join("prism_head.safetensors");
    std::fs::copy(tiny.join("prism_head.safetensors"), &head).unwrap();
    let before = load_tensors(&head);
    for set in ["3-200", "0-8,10"] {
        annotate_head(&head, HeadEntry::Judged(&set.parse().unwrap())).unwrap();
        assert_eq!(judged(tiny.clone(), Some(head.clone())).as_deref(), Some(set));
    }
    assert!(load_tensors(&head) == before, "the tensors are as they were");

    // into one file with the model, and out of it again
    let (whole, apart) = (dir.path().join("whole.safetensors"), dir.path().join("apart"));
    put_together(&tiny, Some(&head), None, &whole, false).unwrap();
    assert_eq!(judged(tiny.clone(), Some(whole.clone())).as_deref(), Some("0-8,10"));
    take_apart(&whole, &tiny, &apart, false).unwrap();
    assert_eq!(judged(apart, None).as_deref(), Some("0-8,10"));
    let gguf = dir.path().join("model.gguf");
    quantise(&tiny, Some(&head), None, Format::Q8_0, &gguf, false).unwrap();
    let model = load(&Source::Gguf { file: gguf, prism_head: None }, Device::Cpu).unwrap();
    assert_eq!(model.spec().judged, Some("0-8,10".parse().unwrap()));

    let error = annotate_head(&tiny.join("model.safetensors"), HeadEntry::Judged(&"1".parse().unwrap()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("norm.*, proj1.* and proj2.*"), "{error}");
}

/// The names of a file's tensors with their numbers.
fn load_tensors(file: &std::path::Path) -> Vec<(String, Vec<f32>)> {
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    let numbers = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let mut tensors: Vec<_> = tensors.into_iter().map(|(name, tensor)| (name, numbers(tensor))).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}
