//! GGUF files: those of llama.cpp and our own give the same model as the checkpoint, and quantised
//! weights nearly the same. Damaged files and files of other models are refused with a clear
//! message.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::safetensors;
use common::golden::{Golden, near, tiny};
use common::{data, sudoku_model};
use remask::diffusion::{Canvas, Cell, Seed, TokenId};
use remask::model::{
    Denoiser, Device, Filter, Format, GgufVocabulary, LoadError, Row, Sampling, Source, Tokens, load, quantise,
};
use remask::text::{Lists, Special, Tokenizer};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn open(file: &Path, prism_head: Option<PathBuf>) -> Result<Box<dyn Denoiser>, LoadError> {
    load(&Source::Gguf { file: file.to_owned(), prism_head }, Device::Cpu)
}

fn sudoku() -> PathBuf {
    data("../../models/sudoku")
}

/// A model directory as a GGUF file.
fn quantised(dir: &Path, format: Format) -> (TempDir, PathBuf) {
    let out = TempDir::new().unwrap();
    let file = out.path().join("model.gguf");
    quantise(dir, None, None, format, &file, false).unwrap();
    (out, file)
}

#[test]
fn llama_cpps_file_is_the_checkpoint_it_was_made_of() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = open(&tiny("llama_cpp.gguf"), None).unwrap();
    let spec = model.spec();
    assert_eq!((spec.family.as_str(), spec.vocabulary, spec.canvas_max), ("llada", 264, 512));
    assert_eq!((spec.mask, spec.ends.as_slice()), (TokenId(263), [TokenId(257), TokenId(258)].as_slice()));
    assert!(!spec.has_quality);
    for row in 0..3 {
        let found = model.inspect(&golden.ids(row)).unwrap();
        near("logits", &found.logits.concat(), &golden.numbers(row, "logits"), 1e-5);
    }
}

#[test]
fn llama_cpps_vocabulary_is_a_tokenizer() {
    let GgufVocabulary { tokens, tokenizer_config } = GgufVocabulary::read(&tiny("llama_cpp.gguf")).unwrap().unwrap();
    let Tokens::Parts { words, special, merges, cut } = tokens else { panic!("{tokens:?}") };
    let lists = Lists { words: &words, special: &special, merges: &merges, cut: &cut };
    let tokenizer = Tokenizer::from_lists(&lists, tokenizer_config.as_deref().map(str::as_bytes)).unwrap();
    let ids = |text: &str, special| tokenizer.encode(text, special).unwrap().iter().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(ids("abab ab c", Special::AsText), [262, 261, 32, 99]);
    for text in ["grüß 你好 👩‍👩‍👧\r\n\t x", "<|mdm_mask|><|endoftext|>", "[PAD256]"] {
        let encoded = tokenizer.encode(text, Special::AsText).unwrap();
        assert!(encoded.iter().all(|id| id.0 < 263 && id.0 != 257), "{encoded:?}");
        assert_eq!(tokenizer.decode(&encoded), text);
    }
    let turn = vec![remask::text::Message::new("user", "ab")];
    let text = tokenizer.chat().unwrap().render(&turn.into(), true).unwrap();
    assert_eq!(text, "<|startoftext|>ab<|eot_id|>");
    assert_eq!(ids(&text, Special::AsTokens), [259, 260, 258]);
}

#[test]
fn our_own_files_are_near_the_model_by_their_bits() {
    let golden = Golden::open(&tiny("io.safetensors"));
    // rows of 64 columns do not fill blocks of 256, so q4_k falls back to q8_0
    for (format, tolerance) in [(Format::F16, 2e-3), (Format::Q8_0, 3e-2), (Format::Q4K, 3e-2), (Format::Q4_0, 0.3)] {
        let (_dir, file) = quantised(&tiny(""), format);
        let mut model = open(&file, None).unwrap();
        assert!(model.spec().has_quality, "the head is in the file");
        assert_eq!(model.spec().ends, [TokenId(257)]);
        for row in 0..3 {
            println!("{format}");
            golden.check(row, "", &model.inspect(&golden.ids(row)).unwrap(), tolerance);
        }
    }
}

#[test]
fn chat_templates_in_files_of_their_own_are_in_the_file() {
    let dir = TempDir::new().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny(name), dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("tokenizer.json"), include_bytes!("../models/toy/tokenizer.json")).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": "old", "bos_token": "<s>"}"#).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "{{ bos_token }}{{ messages[0].content }}").unwrap();
    fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    fs::write(dir.path().join("additional_chat_templates/tool_use.jinja"), "{{ tools | length }}").unwrap();
    let (_dir, file) = quantised(dir.path(), Format::F16);
    let read = GgufVocabulary::read(&file).unwrap().unwrap();
    let Tokens::Whole(json) = read.tokens else { panic!("{:?}", read.tokens) };
    let config = read.tokenizer_config.unwrap();
    let tokenizer = Tokenizer::from_texts(json.as_bytes(), Some(config.as_bytes())).unwrap();
    let hello: remask::text::Conversation = vec![remask::text::Message::new("user", "Hi")].into();
    assert_eq!(tokenizer.chat().unwrap().render(&hello, true).unwrap(), "<s>Hi");
    let with_tool = remask::text::Conversation { tools: vec![serde_json::json!({})], ..hello };
    assert_eq!(tokenizer.chat().unwrap().render(&with_tool, true).unwrap(), "1");
}

#[test]
fn fewer_bits_take_less_room() {
    let size = |format| fs::metadata(quantised(&sudoku(), format).1).unwrap().len();
    let whole = fs::metadata(sudoku().join("model.safetensors")).unwrap().len();
    let (f16, q8, q4) = (size(Format::F16), size(Format::Q8_0), size(Format::Q4_0));
    assert!(f16 < whole * 6 / 10 && q8 < f16 * 7 / 10 && q4 < q8 * 8 / 10, "{whole} {f16} {q8} {q4}");
}

#[test]
fn a_head_goes_with_a_file_of_its_own_model_and_no_other() {
    let head = sudoku().join("prism_head.safetensors");
    let headless = TempDir::new().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(sudoku().join(name), headless.path().join(name)).unwrap();
    }
    let (_dir, file) = quantised(headless.path(), Format::Q8_0);
    assert!(!open(&file, None).unwrap().spec().has_quality);
    assert!(open(&file, Some(head)).unwrap().spec().has_quality);

    let (_dir, file) = quantised(&tiny(""), Format::Q8_0);
    let error = open(&file, Some(sudoku())).unwrap_err().to_string();
    assert!(error.contains("has shape [128"), "{error}");
}

#[test]
fn a_head_that_is_given_replaces_the_one_inside() {
    let (dir, file) = quantised(&sudoku(), Format::Q8_0);
    let tensors = |name: &str| safetensors::load(sudoku().join(name), &candle_core::Device::Cpu).unwrap();
    let (mut model, mut head) = (tensors("model.safetensors"), tensors("prism_head.safetensors"));
    model.extend(head.iter().map(|(name, tensor)| (format!("remasking_head.{name}"), tensor.clone())));
    safetensors::save(&model, dir.path().join("model.safetensors")).unwrap();
    fs::copy(sudoku().join("config.json"), dir.path().join("config.json")).unwrap();
    // a head that says the same of every token
    for (name, value) in [("proj2.weight", 0.0), ("proj2.bias", 2.0)] {
        head.insert(name.to_owned(), head[name].affine(0.0, value).unwrap());
    }
    let given = dir.path().join("given.safetensors");
    safetensors::save(&head, &given).unwrap();

    let in_gguf = |prism_head| Source::Gguf { file: file.clone(), prism_head };
    let in_checkpoint = |prism_head| Source::Directory { dir: dir.path().to_owned(), prism_head, adapter: None };
    assert!(open(&file, None).unwrap().spec().judged.is_some(), "the head inside says what it judges");
    for source in [&in_gguf as &dyn Fn(_) -> Source, &in_checkpoint] {
        let [own, others] = [None, Some(given.clone())].map(|head| load(&source(head), Device::Cpu).unwrap());
        let [own, others] = [own, others].map(|mut model| {
            let judged = model.spec().judged.clone();
            (judged, model.inspect(&[TokenId(1); 89]).unwrap().quality_logits.unwrap())
        });
        assert_eq!(others, (None, vec![2.0; 89]));
        assert_ne!(own.1, others.1);
    }
}

/// Readings of some near-empty grids by the whole model and by one of its files.
#[test]
fn the_sudoku_model_in_eight_bits_reads_as_the_whole_one() {
    let (_dir, file) = quantised(&sudoku(), Format::Q8_0);
    let (mut whole, mut small) = (sudoku_model(), open(&file, None).unwrap());
    assert_eq!(whole.spec().defaults, small.spec().defaults);
    assert_eq!([&whole, &small].map(|model| model.spec().weights.as_str()), ["f32", "q8_0"]);
    let tokenizer = match GgufVocabulary::read(&file).unwrap().unwrap().tokens {
        Tokens::Whole(json) => Tokenizer::from_bytes(json.as_bytes()).unwrap(),
        parts @ Tokens::Parts { .. } => panic!("{parts:?}"),
    };
    let grid = "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
    let cells = tokenizer.encode(grid, Special::AsText).unwrap().into_iter().map(|token| match token {
        TokenId(0) => Cell::Blank,
        token => Cell::Filled(token),
    });
    let canvas = Canvas::new(cells.collect());
    let sampling = Sampling { temperature: 0.0, seed: Seed(0), step: 0, filter: Filter::ALL };
    let row = Row {
        canvas: &canvas,
        shown: None,
        reuse: None,
        window: 0..canvas.len(),
        sampling,
        guidance: None,
        biases: &[],
        blank_biases: None,
        credit: None,
        distributions: false,
        scores: None,
        block_length: None,
        only: &[],
        review: true,
        exact: false,
        present: false,
        best: false,
    };
    let read = |model: &mut Box<dyn Denoiser>| model.read(std::slice::from_ref(&row)).unwrap().remove(0).unwrap();
    let (whole, small) = (read(&mut whole), read(&mut small));
    let off = |pairs: &mut dyn Iterator<Item = (f32, f32)>| {
        pairs.map(|(a, b)| (a - b).abs()).fold((0.0f32, 0.0f32), |(sum, most), off| (sum + off, most.max(off)))
    };
    let blanks = whole.proposals.len();
    let mut pairs = whole.proposals.iter().zip(&small.proposals);
    let (sum, most) = off(&mut pairs.by_ref().map(|(a, b)| (a.confidence.get(), b.confidence.get())));
    println!("confidence: {sum} in {blanks}, {most} at most");
    assert!(sum < 0.01 * blanks as f32 && most < 0.1, "{sum} in {blanks}, {most} at most");
    let pairs = whole.reviews.iter().zip(&small.reviews).map(|(a, b)| (a.quality.get(), b.quality.get()));
    let (sum, most) = off(&mut { pairs });
    println!("quality: {sum} in {}, {most} at most", whole.reviews.len());
    assert!(sum < 0.02 * whole.reviews.len() as f32 && most < 0.2, "{sum}, {most} at most");
}

#[test]
fn the_company_in_a_pass_changes_no_bit_of_quantised_readings() {
    let (_dir, file) = quantised(&sudoku(), Format::Q8_0);
    let mut model = open(&file, None).unwrap();
    let canvas = |length: u32| {
        let cell = |at: u32| if at.is_multiple_of(3) { Cell::Blank } else { Cell::Filled(TokenId(1 + at * at % 9)) };
        Canvas::new((0..length).map(cell).collect())
    };
    let canvases = [89, 1, 70, 7, 64].map(canvas);
    let sampling = Sampling { temperature: 1.0, seed: Seed(4), step: 2, filter: Filter::ALL };
    let row = |canvas| Row {
        canvas,
        shown: None,
        reuse: None,
        window: 0..Canvas::len(canvas),
        sampling,
        guidance: None,
        biases: &[],
        blank_biases: None,
        credit: None,
        distributions: false,
        scores: None,
        block_length: None,
        only: &[],
        review: true,
        exact: false,
        present: false,
        best: false,
    };
    let together = model.read(&canvases.each_ref().map(row)).unwrap();
    for (canvas, reading) in canvases.iter().zip(together) {
        assert_eq!(model.read(&[row(canvas)]).unwrap(), [reading]);
    }
}

#[test]
fn damaged_and_foreign_files_are_refused_in_a_sentence() {
    let whole = fs::read(tiny("llama_cpp.gguf")).unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("broken.gguf");
    let refusal = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let error = open(&file, None).unwrap_err().to_string();
        assert!(error.contains("broken.gguf"), "{error}");
        error
    };
    for length in [0, 3, 11, 100, 5000] {
        let error = refusal(&whole[..length]);
        assert!(error.contains("is damaged, incomplete or no GGUF file"), "{length}: {error}");
    }
    let error = refusal(&whole[..whole.len() - 1000]);
    assert!(error.contains("is incomplete: tensor") && error.contains("fetch it again"), "{error}");
    let error = refusal(b"{\"model_type\": \"llada\"}");
    assert!(error.contains("no GGUF file"), "{error}");

    // a shape whose number of elements overflows
    let name = b"token_embd.weight";
    let dims = whole.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4;
    let mut vast = whole.clone();
    vast[dims..dims + 16].copy_from_slice(&[0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f].repeat(2));
    let error = refusal(&vast);
    assert!(error.contains("is damaged: tensor `token_embd.weight` of shape ["), "{error}");

    let changed = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        refusal(&bytes)
    };
    let error = changed("llada", "llama");
    assert!(error.contains("`general.architecture` is \"llama\", supported is \"llada\""), "{error}");
    let error = changed("llada.block_count", "llada.block_cOunt");
    assert!(error.contains("`llada.block_count` is missing"), "{error}");
    let error = changed("blk.1.ffn_up.weight", "blk.1.ffn_op.weight");
    assert!(error.contains("`blk.1.ffn_op.weight` belongs to no LLaDA or Dream model"), "{error}");
    let error = changed("tokenizer.ggml.mask_token_id", "tokenizer.ggml.mask_token_iD");
    assert!(error.contains("`tokenizer.ggml.mask_token_id` is missing"), "{error}");
}
