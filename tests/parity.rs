//! The LLaDA forward pass against numbers of the published PyTorch code, from every published file
//! layout; and laws that relate different requests to each other.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::safetensors::{load as load_tensors, save};
use candle_core::{DType, Device as Cpu, Tensor};
use common::data;
use common::golden::{Golden, Tensors, model, near, tiny};
use remask::diffusion::{Canvas, Cell, Position, Reading, Seed, TokenId};
use remask::model::{Change, Config, Denoiser, Device, Filter, Inspection, ModelSpec, Row, Sampling, Source, load};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The tiny model after a change to its configuration and tensors.
fn altered(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Tensors)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut keys: Value = serde_json::from_slice(&std::fs::read(tiny("config.json")).unwrap()).unwrap();
    config(&mut keys);
    std::fs::write(dir.path().join("config.json"), keys.to_string()).unwrap();
    let mut weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    tensors(&mut weights);
    save(&weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn inspections(model: &mut dyn Denoiser) -> Vec<Inspection> {
    let golden = Golden::open(&tiny("io.safetensors"));
    (0..3).map(|row| model.inspect(&golden.ids(row)).unwrap()).collect()
}

#[test]
fn logits_states_and_qualities_are_those_of_the_published_code() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    assert!(model.spec().has_quality && !model.spec().adapters_folded);
    assert_eq!(model.spec().ends, [TokenId(257)]);
    for row in 0..3 {
        golden.check(row, "", &model.inspect(&golden.ids(row)).unwrap(), 1e-5);
    }
}

#[test]
fn every_published_layout_of_adapter_and_head_gives_the_published_numbers() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let layouts = [
        (None, Some(tiny(""))),
        (Some(tiny("prism_head.safetensors")), Some(tiny(""))),
        (Some(tiny("prism_checkpoint.bin")), None),
        (Some(tiny("prism_checkpoint.safetensors")), None),
    ];
    for (head, adapter) in layouts {
        println!("{head:?} {adapter:?}");
        let mut model = model(&tiny(""), head, adapter);
        assert!(model.spec().has_quality && model.spec().adapters_folded);
        assert_eq!(model.spec().parameters, 128_320 + 4_353, "adapters don't count once folded");
        for row in 0..3 {
            golden.check(row, "lora.", &model.inspect(&golden.ids(row)).unwrap(), 1e-5);
        }
    }
}

#[test]
fn a_checkpoint_alone_needs_no_other_weights() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let dir = TempDir::new().unwrap();
    for file in ["config.json", "prism_checkpoint.bin"] {
        std::fs::copy(tiny(file), dir.path().join(file)).unwrap();
    }
    let mut model = model(dir.path(), Some(dir.path().to_owned()), None);
    golden.check(2, "lora.", &model.inspect(&golden.ids(2)).unwrap(), 1e-5);
}

#[test]
fn the_sudoku_model_is_that_of_the_published_code_embedded_or_not() {
    let golden = Golden::open(&data("sudoku/io.safetensors"));
    let mut from_files = model(&data("../../models/sudoku"), None, None);
    let found = from_files.inspect(&golden.ids(0)).unwrap();
    golden.check(0, "", &found, 1e-5);
    let embedded = Source::Embedded {
        generation_config: include_bytes!("../models/sudoku/generation_config.json"),
        config: include_bytes!("../models/sudoku/config.json"),
        weights: include_bytes!("../models/sudoku/model.safetensors"),
        prism_head: Some(include_bytes!("../models/sudoku/prism_head.safetensors")),
    };
    let mut embedded = load(&embedded, Device::Cpu).unwrap();
    assert_eq!(embedded.inspect(&golden.ids(0)).unwrap(), found);
    let presets = from_files.spec().presets.clone(); // with another name of the file
    assert_eq!(embedded.spec().presets.as_ref().unwrap().presets, presets.as_ref().unwrap().presets);
    assert_eq!(ModelSpec { presets, ..embedded.spec().clone() }, *from_files.spec());
}

#[test]
fn half_precision_files_load_and_stay_close() {
    let exact = inspections(&mut *model(&tiny(""), None, None));
    for (dtype, tolerance) in [(DType::F16, 2e-3), (DType::BF16, 2e-2)] {
        let dir = altered(|_| (), |weights| weights.values_mut().for_each(|t| *t = t.to_dtype(dtype).unwrap()));
        let mut half = model(dir.path(), Some(tiny("prism_head.safetensors")), None);
        for (exact, found) in exact.iter().zip(inspections(&mut *half)) {
            near(dtype.as_str(), &found.logits.concat(), &exact.logits.concat(), tolerance);
            assert_ne!(&found, exact, "the copy was not stored in half precision");
        }
    }
}

#[test]
fn shards_are_the_same_model() {
    let dir = TempDir::new().unwrap();
    std::fs::copy(tiny("config.json"), dir.path().join("config.json")).unwrap();
    let mut shards = [Tensors::new(), Tensors::new(), Tensors::new()];
    let mut map = serde_json::Map::new();
    let name = |shard: usize| format!("model-0000{}-of-00003.safetensors", shard + 1);
    for (index, (tensor, weight)) in load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap().into_iter().enumerate()
    {
        map.insert(tensor.clone(), json!(name(index % 3)));
        shards[index % 3].insert(tensor, weight);
    }
    for (shard, tensors) in shards.iter().enumerate() {
        save(tensors, dir.path().join(name(shard))).unwrap();
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let head = Some(tiny("prism_head.safetensors"));
    assert_eq!(inspections(&mut *model(dir.path(), head, None)), inspections(&mut *model(&tiny(""), None, None)));
}

#[test]
fn shared_key_value_heads_equal_repeated_ones() {
    let narrow = |weights: &mut Tensors, repeat: bool| {
        for name in weights.keys().cloned().collect::<Vec<_>>() {
            if name.contains("k_proj") || name.contains("v_proj") {
                let two = weights[&name].narrow(0, 0, 32).unwrap().contiguous().unwrap(); // two heads of 16
                let heads = two.reshape((2, 1, 16, 64)).unwrap().broadcast_as((2, 2, 16, 64)).unwrap();
                let four = heads.reshape((64, 64)).unwrap();
                weights.insert(name, if repeat { four } else { two });
            }
        }
    };
    let shared = altered(|config| config["n_kv_heads"] = json!(2), |weights| narrow(weights, false));
    let repeated = altered(|_| (), |weights| narrow(weights, true));
    let [shared, repeated] = [shared, repeated].map(|dir| inspections(&mut *model(dir.path(), None, None)));
    for (shared, repeated) in shared.iter().zip(&repeated) {
        near("shared heads", &shared.logits.concat(), &repeated.logits.concat(), 1e-6);
    }
}

#[test]
fn a_tied_output_layer_is_the_embedding() {
    const FF_OUT: &str = "model.transformer.ff_out.weight";
    const WTE: &str = "model.transformer.wte.weight";
    let tied = altered(|config| config["weight_tying"] = json!(true), |weights| drop(weights.remove(FF_OUT)));
    let copied = altered(|_| (), |weights| drop(weights.insert(FF_OUT.to_owned(), weights[WTE].clone())));
    let [tied, copied] = [tied, copied].map(|dir| model(dir.path(), None, None));
    assert_eq!(tied.spec().parameters + 264 * 64, copied.spec().parameters);
    let [mut tied, mut copied] = [tied, copied];
    assert_eq!(inspections(&mut *tied), inspections(&mut *copied));
}

#[test]
fn rows_of_the_embedding_beyond_the_vocabulary_are_never_proposed() {
    let padded = altered(
        |config| config["embedding_size"] = json!(300),
        |weights| {
            for name in ["model.transformer.wte.weight", "model.transformer.ff_out.weight"] {
                let real = &weights[name];
                // 36 rows that would beat every other, being 50 times as long
                let loud = (real.narrow(0, 0, 36).unwrap() * 50.0).unwrap();
                let all = Tensor::cat(&[real, &loud], 0).unwrap();
                weights.insert(name.to_owned(), all);
            }
        },
    );
    let golden = Golden::open(&tiny("io.safetensors"));
    let canvas = canvas(&golden.ids(0), 4);
    let row = Row { review: false, ..row(&canvas) };
    let [padded, plain] =
        [padded.path(), &tiny("")].map(|dir| model(dir, None, None).read(std::slice::from_ref(&row)).unwrap());
    assert!(padded[0].as_ref().is_ok_and(|reading| !reading.proposals.is_empty()));
    assert_eq!(padded, plain);
}

/// Blanks where the ids are the mask, fixed cells up to `prompt`, filled ones after it.
fn canvas(ids: &[TokenId], prompt: usize) -> Canvas {
    let cell = |(index, id): (usize, &TokenId)| match id {
        TokenId(263) => Cell::Blank,
        id if index < prompt => Cell::Fixed(*id),
        id => Cell::Filled(*id),
    };
    Canvas::new(ids.iter().enumerate().map(cell).collect())
}

fn row(canvas: &Canvas) -> Row<'_> {
    let sampling = Sampling { temperature: 0.0, seed: Seed(1), step: 0, filter: Filter::ALL };
    Row { sampling, review: true, ..Row::plain(canvas, 0..canvas.len()) }
}

#[test]
fn a_reading_says_what_an_inspection_shows() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    for index in 0..3 {
        let ids = golden.ids(index);
        let canvas = canvas(&ids, 4);
        let inspection = model.inspect(&ids).unwrap();
        let window = 5..canvas.len() - 1;
        let row = Row { window: window.clone(), present: true, ..row(&canvas) };
        let reading = model.read(&[row]).unwrap().remove(0).unwrap();

        let blanks: Vec<Position> = canvas.blanks(window.clone()).collect();
        assert_eq!(reading.proposals.iter().map(|proposal| proposal.at).collect::<Vec<_>>(), blanks);
        for proposal in &reading.proposals {
            let logits = &inspection.logits[proposal.at.index()][..263];
            let likeliest = (0..263).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            assert_eq!(proposal.token.0 as usize, likeliest);
            let mass: f32 = logits.iter().map(|logit| (logit - logits[likeliest]).exp()).sum();
            assert!((proposal.confidence.get() - 1.0 / mass).abs() < 1e-5);
        }
        let filled: Vec<Position> = canvas.filled(window.clone()).map(|(at, _)| at).collect();
        assert_eq!(reading.present.iter().map(|present| present.at).collect::<Vec<_>>(), filled);
        for (present, (at, token)) in reading.present.iter().zip(canvas.filled(window.clone())) {
            let logits = &inspection.logits[at.index()][..263]; // without the mask
            let mass: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let probability = f64::from(logits[token.0 as usize]).exp() / mass;
            assert!((f64::from(present.confidence.get()) - probability).abs() < 1e-5);
        }
        assert_eq!(reading.reviews.iter().map(|review| review.at).collect::<Vec<_>>(), filled);
        for review in &reading.reviews {
            let logit = inspection.quality_logits.as_ref().unwrap()[review.at.index()];
            assert!((review.quality.get() - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-5);
        }
        // exact reviews: the token's probability where its own cell is masked
        let exact = Row { window: window.clone(), review: false, exact: true, ..self::row(&canvas) };
        assert_eq!(exact.tokens(), canvas.len() * (1 + filled.len()));
        let exact = model.read(&[exact]).unwrap().remove(0).unwrap();
        assert_eq!(exact.reviews.iter().map(|review| review.at).collect::<Vec<_>>(), filled);
        for (review, (at, token)) in exact.reviews.iter().zip(canvas.filled(window)) {
            let mut without = ids.clone();
            without[at.index()] = TokenId(263);
            let logits = &model.inspect(&without).unwrap().logits[at.index()][..263];
            let mass: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let probability = f64::from(logits[token.0 as usize]).exp() / mass;
            assert!((f64::from(review.quality.get()) - probability).abs() < 1e-5);
        }
        assert!(exact.present.is_empty());
        for (one, other) in exact.proposals.iter().zip(&reading.proposals) {
            assert_eq!((one.at, one.token), (other.at, other.token));
            assert!((one.confidence.get() - other.confidence.get()).abs() < 1e-5);
        }
        assert!(!blanks.is_empty() && !filled.is_empty(), "the row tests nothing");
    }
}

#[test]
fn rows_read_together_are_read_as_if_alone() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    let canvases: Vec<Canvas> = (0..3).map(|index| canvas(&golden.ids(index), 4)).collect();
    let mut rows: Vec<Row<'_>> = canvases.iter().map(row).collect();
    rows[1].guidance = Some(0.5);
    rows.push(Row { window: 0..0, ..row(&canvases[0]) }); // asks for nothing
    rows.push(Row {
        sampling: Sampling { temperature: 1.0, seed: Seed(3), step: 2, filter: Filter::ALL },
        ..row(&canvases[0])
    });
    let together: Vec<Reading> = model.read(&rows).unwrap().into_iter().map(Result::unwrap).collect();
    for (row, together) in rows.iter().zip(&together) {
        let alone = model.read(std::slice::from_ref(row)).unwrap().remove(0).unwrap();
        assert_eq!(&alone, together, "bit by bit");
    }
    assert!(together[3].proposals.is_empty() && together[3].reviews.is_empty());
    assert_ne!(together[0].proposals, together[4].proposals, "temperature 1 draws something else");
}

/// Wide enough that the matrix product sums in parts; rows and windows of many sizes, one cell
/// included.
#[test]
fn the_company_in_a_pass_changes_no_bit() {
    let config = Config { d_model: 640, mlp_hidden_size: 1300, vocab_size: 777, ..Config::read(&tiny("")).unwrap() };
    let config = Config { embedding_size: 777, n_kv_heads: 2, ..config };
    let mut model = load(&Source::Dummy { config, seed: 5 }, Device::Cpu).unwrap();
    let lengths = [1, 2, 5, 33, 64, 65, 130, 200];
    let canvas = |length: u32| {
        let cell = |at: u32| if (at + length).is_multiple_of(3) { Cell::Filled(TokenId(at)) } else { Cell::Blank };
        Canvas::new((0..length).map(cell).collect())
    };
    let canvases = lengths.map(canvas);
    let rows: Vec<Row<'_>> =
        canvases.iter().flat_map(|canvas| [row(canvas), Row { window: 0..1, ..row(canvas) }]).collect();
    let together = model.read(&rows).unwrap();
    let mut reversed = model.read(&rows.iter().rev().cloned().collect::<Vec<_>>()).unwrap();
    reversed.reverse();
    assert_eq!(together, reversed);
    for (row, together) in rows.iter().zip(together) {
        assert_eq!(model.read(std::slice::from_ref(row)).unwrap(), [together], "{} cells", row.canvas.len());
    }
}

#[test]
fn what_admission_lets_through_by_mistake_is_refused() {
    let mut model = model(&tiny(""), None, None);
    let refusal =
        |model: &mut dyn Denoiser, row: Row<'_>| model.read(&[row]).unwrap().remove(0).unwrap_err().to_string();
    let long = Canvas::continuing(&[], 513);
    assert!(refusal(&mut *model, row(&long)).contains("513 cells; this model reads up to 512"));
    let foreign = Canvas::continuing(&[TokenId(264)], 1);
    assert!(refusal(&mut *model, row(&foreign)).contains("token id 264; this model's ids are below 264"));
    let canvas = Canvas::continuing(&[], 1);
    assert!(refusal(&mut *model, Row { guidance: Some(f32::NAN), ..row(&canvas) }).contains("guidance weight of NaN"));
    let unweighted = altered(
        |_| (),
        |weights| {
            let name = "model.transformer.ff_out.weight";
            weights.insert(name.to_owned(), (&weights[name] * f64::INFINITY).unwrap());
        },
    );
    let mut damaged = self::model(unweighted.path(), None, None);
    assert!(refusal(&mut *damaged, row(&canvas)).contains("quality head"));
    let error = refusal(&mut *damaged, Row { review: false, ..row(&canvas) });
    assert!(error.contains("a logit in f32 is not finite"), "{error}");
}

#[test]
fn a_biased_token_is_likelier_by_that_and_a_banned_one_is_never_proposed() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    let canvas = canvas(&golden.ids(2), 4);
    let mut read =
        |biases: &[(TokenId, Change)]| model.read(&[Row { biases, ..row(&canvas) }]).unwrap().remove(0).unwrap();
    let plain = read(&[]);
    let first = plain.proposals[0];
    let odds = |confidence: f32| (confidence / (1.0 - confidence)).ln();
    let raised = read(&[(first.token, Change::Add(2.0))]).proposals[0];
    assert_eq!(raised.token, first.token);
    let (before, after) = (odds(first.confidence.get()), odds(raised.confidence.get()));
    assert!((after - before - 2.0).abs() < 1e-3, "{before} {after}");

    let ban = Change::Add(f32::NEG_INFINITY);
    let banned: Vec<(TokenId, Change)> = plain.proposals.iter().map(|p| (p.token, ban)).collect();
    let others = read(&banned);
    assert!(others.proposals.iter().all(|proposal| banned.iter().all(|(token, _)| *token != proposal.token)));
    assert!(others.proposals.iter().all(|proposal| proposal.confidence.get() > 0.0 && proposal.entropy.is_finite()));
    assert_eq!(others.reviews, plain.reviews, "what stands is judged as it is");

    for (id, bias) in [(264, 1.0), (5, f32::NAN), (5, f32::INFINITY)] {
        let row = Row { biases: &[(TokenId(id), Change::Add(bias))], ..row(&canvas) };
        let error = model.read(&[row]).unwrap().remove(0).unwrap_err().to_string();
        assert!(error.contains(&format!("a bias of {bias} for token {id}")), "{error}");
    }
}

#[test]
fn guidance_moves_the_logits_away_from_those_without_the_prompt() {
    const WEIGHT: f32 = 0.7;
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    let ids = golden.ids(2);
    let canvas = canvas(&ids, 4);
    let masked: Vec<TokenId> = (0..).zip(&ids).map(|(index, id)| if index < 4 { TokenId(263) } else { *id }).collect();
    let [conditional, free] = [&ids, &masked].map(|ids| model.inspect(ids).unwrap());
    let guided = model.read(&[Row { guidance: Some(WEIGHT), ..row(&canvas) }]).unwrap().remove(0).unwrap();
    let plain = model.read(&[row(&canvas)]).unwrap().remove(0).unwrap();
    assert_eq!(guided.reviews, plain.reviews, "reviews are of the row as it stands");
    for proposal in &guided.proposals {
        let at = proposal.at.index();
        let logits = conditional.logits[at].iter().zip(&free.logits[at]);
        let logits: Vec<f32> = logits.map(|(l, u)| u + (1.0 + WEIGHT) * (l - u)).take(263).collect();
        let likeliest = (0..263).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        let mass: f32 = logits.iter().map(|logit| (logit - logits[likeliest]).exp()).sum();
        assert_eq!(proposal.token.0 as usize, likeliest);
        assert!((proposal.confidence.get() - 1.0 / mass).abs() < 1e-5);
    }
    assert_ne!(guided.proposals, plain.proposals);
}

#[test]
fn a_dummy_model_has_the_shapes_of_its_configuration_and_is_the_same_for_the_same_seed() {
    let config = Config::read(&tiny("")).unwrap();
    let dummy = |seed| load(&Source::Dummy { config: config.clone(), seed }, Device::Cpu).unwrap();
    assert_eq!(dummy(1).spec(), model(&tiny(""), None, None).spec());
    let [one, same, other] = [1, 1, 2].map(|seed| inspections(&mut *dummy(seed)));
    assert_eq!(one, same);
    assert_ne!(one, other);
}
