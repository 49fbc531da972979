//! Quality heads of other sizes, and those that read the states after an earlier block: what they
//! judge, alone, in batches and with caches, in every kind of file, and which are refused.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::safetensors::load as load_tensors;
use candle_core::{DType, Device as Cpu, Tensor};
use common::data;
use common::golden::near;
use remask::diffusion::{Canvas, Cell, Reuse, TokenId, TokenSet};
use remask::model::{
    Denoiser, Device, Format, HeadEntry, LoadError, LoadOptions, Row, SequenceName, Source, annotate_head, load,
    load_with, put_together, quantise, take_apart,
};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Numbers between -1 and 1 that repeat nowhere near.
fn numbers(shape: &[usize], seed: f64) -> Tensor {
    let count: usize = shape.iter().product();
    let wave = |at: usize| (seed + 1.7 * f64::from(u32::try_from(at).unwrap())).sin() as f32;
    Tensor::from_vec((0..count).map(wave).collect::<Vec<f32>>(), shape, &Cpu::Cpu).unwrap()
}

/// A head of a size for states of width `d`.
fn head(d: usize, size: usize) -> HashMap<String, Tensor> {
    let tensor = |name: &str, shape: &[usize], seed: f64| (name.to_owned(), numbers(shape, seed));
    let ones = Tensor::ones(d, DType::F32, &Cpu::Cpu).unwrap();
    let mut head = HashMap::from([
        tensor("norm.bias", &[d], 1.0),
        tensor("proj1.weight", &[size, d], 2.0),
        tensor("proj1.bias", &[size], 3.0),
        tensor("proj2.weight", &[1, size], 4.0),
        tensor("proj2.bias", &[1], 5.0),
    ]);
    head.insert("norm.weight".to_owned(), (ones + numbers(&[d], 6.0).affine(0.3, 0.0).unwrap()).unwrap());
    let scaled = head["proj2.weight"].affine(3.0 / (size as f64).sqrt(), 0.0).unwrap();
    head.insert("proj2.weight".to_owned(), scaled);
    head
}

fn save(path: &Path, tensors: &HashMap<String, Tensor>, entries: &[(&str, &str)]) {
    let entries = entries.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    std::fs::write(path, safetensors::serialize(tensors, Some(entries)).unwrap()).unwrap();
}

/// A model's directory, to which a head can be given.
struct Model {
    dir: TempDir,
    width: usize,
}

impl Model {
    fn of(family: &str, width: usize) -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(data(family).join(name), dir.path().join(name)).unwrap();
        }
        Self { dir, width }
    }

    fn tiny() -> Self {
        Self::of("llada-tiny", 64)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn with_head(self, size: usize, layer: Option<&str>) -> Self {
        let entries: Vec<(&str, &str)> = layer.map(|layer| ("layer", layer)).into_iter().collect();
        save(&self.path("prism_head.safetensors"), &head(self.width, size), &entries);
        self
    }

    fn source(&self) -> Source {
        Source::Directory { dir: self.dir.path().to_owned(), prism_head: None, adapter: None }
    }

    fn load(&self) -> Box<dyn Denoiser> {
        load(&self.source(), Device::Cpu).unwrap()
    }

    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let error = load(&self.source(), Device::Cpu).map(|_| ()).unwrap_err().to_string();
        assert!(words.iter().all(|words| error.contains(words)), "{error}");
    }
}

/// Some cells of each kind; others of another `kind`.
fn canvas(length: u32, kind: u32) -> Canvas {
    let cell = |at: u32| match at % 5 {
        _ if at < 3 => Cell::Fixed(TokenId((at * 7 + kind) % 57)),
        2 => Cell::Blank,
        _ => Cell::Filled(TokenId((at * 13 + kind * at) % 57)),
    };
    Canvas::new((0..length).map(cell).collect())
}

fn reviewed(canvas: &Canvas) -> Row<'_> {
    Row { review: true, ..Row::plain(canvas, 0..canvas.len()) }
}

fn read(model: &mut dyn Denoiser, rows: &[Row<'_>]) -> Vec<Vec<f32>> {
    let readings = model.read(rows).unwrap().into_iter().map(Result::unwrap);
    readings.map(|reading| reading.reviews.iter().map(|review| review.quality.get()).collect()).collect()
}

/// The logits of a head at every position.
fn logits(model: &mut dyn Denoiser) -> Vec<f32> {
    let ids: Vec<TokenId> = (0..40u32).map(|at| TokenId(at * 11 % 57)).collect();
    model.inspect(&ids).unwrap().quality_logits.unwrap()
}

/// The block of a tensor that writes into the residual stream.
fn writer(name: &str) -> Option<usize> {
    let is_writer =
        ["attn_out", "ff_out", "o_proj", "down_proj"].iter().any(|end| name.ends_with(&format!("{end}.weight")));
    let inside = name.split_once(".blocks.").or_else(|| name.split_once(".layers."))?.1;
    inside.split_once('.')?.0.parse().ok().filter(|_| is_writer)
}

/// A model whose later blocks add nothing has the states of the block before them at its end. With
/// large states the norm in between changes nothing for a head, whose own norm follows.
#[test]
fn a_head_reads_the_residual_stream_after_its_block() {
    for (family, width, blocks) in [("llada-tiny", 64, 2), ("illada-tiny", 64, 3), ("dream-tiny", 32, 3)] {
        let mut tensors = load_tensors(data(family).join("model.safetensors"), &Cpu::Cpu).unwrap();
        for (name, tensor) in &mut tensors {
            if ["ln_f.weight", "model.norm.weight"].contains(&name.trim_start_matches("model.transformer.")) {
                *tensor = Tensor::full(1e3f32, width, &Cpu::Cpu).unwrap();
            } else if writer(name).is_some() || name.ends_with("wte.weight") || name.ends_with("embed_tokens.weight") {
                *tensor = tensor.affine(1e3, 0.0).unwrap();
            }
        }
        let judged = |silent_from: usize, layer: Option<&str>| {
            let silence = |(name, tensor): (&String, &Tensor)| {
                let is_silent = writer(name).is_some_and(|block| block >= silent_from);
                (name.clone(), if is_silent { tensor.zeros_like().unwrap() } else { tensor.clone() })
            };
            let model = Model::of(family, width).with_head(24, layer);
            save(&model.path("model.safetensors"), &tensors.iter().map(silence).collect(), &[]);
            logits(&mut *model.load())
        };
        let early: Vec<Vec<f32>> = (1..=blocks).map(|block| judged(blocks, Some(&block.to_string()))).collect();
        for (block, early) in (1..).zip(&early) {
            near(&format!("{family} after block {block}"), early, &judged(block, None), 2e-4);
        }
        let differ = |pair: &[Vec<f32>]| pair[0].iter().zip(&pair[1]).any(|(a, b)| (a - b).abs() > 0.05);
        assert!(early.windows(2).all(differ), "{family}: blocks change the states");
    }
}

#[test]
fn a_head_of_any_size_reads_what_it_reads_in_a_larger_one() {
    let (small, large) = (Model::tiny().with_head(5, None), Model::tiny());
    // the same numbers, and rows that add nothing
    let mut tensors = head(64, 5);
    for (name, dim) in [("proj1.weight", 0), ("proj1.bias", 0), ("proj2.weight", 1)] {
        let mut shape = tensors[name].dims().to_vec();
        shape[dim] = 95;
        let more = Tensor::zeros(shape, DType::F32, &Cpu::Cpu).unwrap();
        tensors.insert(name.to_owned(), Tensor::cat(&[&tensors[name], &more], dim).unwrap());
    }
    save(&large.path("prism_head.safetensors"), &tensors, &[]);
    let [small, large] = [small, large].map(|model| (logits(&mut *model.load()), model.load().spec().parameters));
    near("a larger head", &large.0, &small.0, 1e-5);
    assert_eq!(large.1 - small.1, 95 * (64 + 2));
    let one = Model::tiny().with_head(1, None);
    assert_eq!(logits(&mut *one.load()).len(), 40);
}

#[test]
fn what_a_head_says_is_the_same_alone_in_a_batch_and_where_few_cells_are_asked_for() {
    for (family, width) in [("llada-tiny", 64), ("dream-tiny", 32)] {
        let mut model = Model::of(family, width).with_head(24, Some("1")).load();
        let canvases = [canvas(70, 0), canvas(9, 1), canvas(33, 2)];
        let alone: Vec<Vec<f32>> =
            canvases.iter().map(|canvas| read(&mut *model, &[reviewed(canvas)]).remove(0)).collect();
        let left_out = Row { exact: true, ..reviewed(&canvases[1]) };
        let present = Row { present: true, best: true, ..reviewed(&canvases[0]) };
        let rows = [present, left_out.clone(), reviewed(&canvases[1]), reviewed(&canvases[2])];
        let together = read(&mut *model, &rows);
        assert_eq!([&together[0], &together[2], &together[3]], [&alone[0], &alone[1], &alone[2]], "{family}");
        assert_eq!(together[1], read(&mut *model, &[left_out])[0], "{family}: each token without itself");
        assert_ne!(together[1], alone[1], "{family}");
        // of some cells, to the bit
        let window = Row { window: 20..40, ..reviewed(&canvases[0]) };
        let first = canvases[0].filled(0..20).count();
        let count = canvases[0].filled(20..40).count();
        assert_eq!(read(&mut *model, &[window])[0], alone[0][first..first + count], "{family}");
        // of a full canvas the head reads all, and the pass ends at its block
        let full = Canvas::new((0..50).map(|at| Cell::Filled(TokenId(at * 13 % 57))).collect());
        let present = Row { present: true, ..reviewed(&full) }; // it needs the output layer
        assert_eq!(read(&mut *model, &[reviewed(&full)]), read(&mut *model, &[present]), "{family}");
        let cost = |model: &dyn Denoiser| model.cost(&[reviewed(&full)]).unwrap().flop;
        let all_blocks = cost(&*Model::of(family, width).with_head(24, None).load());
        assert!(4 * cost(&*model) < 3 * all_blocks, "{family}: {} of {all_blocks}", cost(&*model));
    }
}

/// Keys and values of the first block are of each cell by itself. So what a cache has of them is
/// exact as long as only cells that are computed anew have changed, and a head that reads the
/// states after this block judges with a cache as without one. Deeper ones judge what the pass
/// defines, whatever is kept.
#[test]
fn a_cached_pass_judges_as_one_that_keeps_nothing() {
    const WINDOW: Range<usize> = 20..40;
    for (family, width, blocks) in [("llada-tiny", 64, 2), ("dream-tiny", 32, 3)] {
        for block in 1..=blocks {
            let model = Model::of(family, width).with_head(24, Some(&block.to_string()));
            let open = |cache_bytes: Option<u64>| {
                let options = LoadOptions { cache_bytes, ..LoadOptions::default() };
                load_with(&model.source(), Device::Cpu, options).unwrap()
            };
            let (base, other) = (canvas(60, 0), canvas(60, 3));
            let cells = base.cells().iter().zip(other.cells()).enumerate();
            let now = Canvas::new(
                cells.map(|(at, (base, other))| if WINDOW.contains(&at) { *other } else { *base }).collect(),
            );
            let row = |now, run| {
                let reuse = Some((SequenceName(1), Reuse { base: &base, run: vec![run], seen: vec![0..60] }));
                Row { reuse, window: WINDOW, ..reviewed(now) }
            };
            let (mut keeping, mut forgetting) = (open(None), open(Some(0)));
            let full = read(&mut *keeping, &[Row { window: WINDOW, ..reviewed(&now) }]).remove(0);
            read(&mut *keeping, &[row(&base, 0..60)]);
            let sources = if family == "dream-tiny" { 21 } else { 20 }; // that of the cell before, too
            assert_eq!(keeping.tokens(&row(&now, WINDOW)), sources, "the rest is kept");
            let cached = read(&mut *keeping, &[row(&now, WINDOW)]).remove(0);
            let again = read(&mut *forgetting, &[row(&now, WINDOW)]).remove(0);
            near(&format!("{family} after block {block}, nothing kept"), &cached, &again, 1e-5);
            let difference = cached.iter().zip(&full).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{family} after block {block}: {difference:.1e} from a full pass");
            assert_eq!(difference < 1e-5, block == 1, "{family} after block {block}: {difference}");
        }
    }
}

#[test]
fn a_file_of_another_kind_keeps_size_layer_and_tokens_of_the_head() {
    let model = Model::tiny().with_head(24, Some("1"));
    let head = model.path("prism_head.safetensors");
    let judged: TokenSet = "1-56".parse().unwrap();
    annotate_head(&head, HeadEntry::Judged(&judged)).unwrap();
    annotate_head(&head, HeadEntry::MadeFor { dir: model.dir.path(), adapter: None }).unwrap();
    let expected = logits(&mut *model.load());
    assert_ne!(expected, logits(&mut *Model::tiny().with_head(24, None).load()), "the layer matters");
    let check = |what: &str, found: Result<Box<dyn Denoiser>, LoadError>, tolerance: f64| {
        let mut found = found.unwrap();
        assert_eq!(found.spec().judged.as_ref(), Some(&judged), "{what}");
        near(what, &logits(&mut *found), &expected, tolerance);
    };
    check("directory", load(&model.source(), Device::Cpu), 0.0);
    let (gguf, whole, apart) = (model.path("model.gguf"), model.path("whole.safetensors"), TempDir::new().unwrap());
    quantise(model.dir.path(), None, None, Format::F16, &gguf, false).unwrap();
    check("gguf", load(&Source::Gguf { file: gguf.clone(), prism_head: None }, Device::Cpu), 5e-3);
    put_together(model.dir.path(), None, None, &whole, false).unwrap();
    let source = |dir: &Path, head| Source::Directory { dir: dir.to_owned(), prism_head: head, adapter: None };
    check("checkpoint", load(&source(model.dir.path(), Some(whole.clone())), Device::Cpu), 0.0);
    take_apart(&whole, model.dir.path(), apart.path(), false).unwrap();
    check("taken apart", load(&source(apart.path(), None), Device::Cpu), 0.0);
    // a head beside a GGUF file
    std::fs::rename(&head, model.path("head.safetensors")).unwrap();
    quantise(model.dir.path(), None, None, Format::F16, &gguf, false).unwrap();
    let beside = Some(model.path("head.safetensors"));
    check("beside", load(&Source::Gguf { file: gguf, prism_head: beside }, Device::Cpu), 5e-3);
}

#[test]
fn heads_whose_parts_or_whose_model_do_not_fit_are_refused() {
    for layer in ["0", "3", "-1", "one", ""] {
        let words = format!("has under \"layer\" in its header {layer:?}");
        Model::tiny().with_head(24, Some(layer)).refused(&["prism_head.safetensors", &words, "blocks are 1 to 2"]);
    }
    let last = Model::tiny().with_head(24, Some("2"));
    assert_eq!(logits(&mut *last.load()), logits(&mut *Model::tiny().with_head(24, None).load()), "the last block's");
    for (name, shape, words) in [
        (
            "proj1.weight",
            &[24usize, 32][..],
            "`proj1.weight` has shape [24, 32], expected [SIZE, 64], of any size from 1",
        ),
        ("proj1.weight", &[0, 64], "`proj1.weight` has shape [0, 64], expected [SIZE, 64]"),
        ("proj1.weight", &[24], "`proj1.weight` has shape [24], expected [SIZE, 64]"),
        ("proj1.bias", &[23], "`proj1.bias` has shape [23], expected [24]"),
        ("proj2.weight", &[1, 64], "`proj2.weight` has shape [1, 64], expected [1, 24]"),
        ("norm.bias", &[24], "`norm.bias` has shape [24], expected [64]"),
    ] {
        let model = Model::tiny();
        let mut tensors = head(64, 24);
        tensors.insert(name.to_owned(), Tensor::zeros(shape, DType::F32, &Cpu::Cpu).unwrap());
        save(&model.path("prism_head.safetensors"), &tensors, &[]);
        model.refused(&["prism_head.safetensors", words]);
    }
    // a DiT's head has blocks of its own behind the last one
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("head.safetensors");
    save(&file, &load_tensors(data("dit-tiny/prism_head_0.safetensors"), &Cpu::Cpu).unwrap(), &[("layer", "1")]);
    let source = Source::Directory { dir: data("dit-tiny"), prism_head: Some(file), adapter: None };
    let error = load(&source, Device::Cpu).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("a head of a DiT reads what follows the last block"), "{error}");
    let remedi = Model::of("remedi-tiny", 64).with_head(24, Some("1"));
    remedi.refused(&["this model judges its tokens itself; leave the head out"]);
}
