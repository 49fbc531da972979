//! Rows of files and folders, and where they are kept.

use super::cutting::{Cutting, Filling};
use super::example::Example;
use super::reading::{PIECE, RowCache, read};
use super::{Data, shuffled};
use crate::diffusion::{TokenId, u32_of};
use crate::text::Tokenizer;
use crate::train::sudoku::{Grid, Split};
use std::fs;
use std::path::Path;

/// A tokenizer whose tokens are words.
fn words() -> Tokenizer {
    let vocabulary: serde_json::Map<String, serde_json::Value> = ["?", "a", "b", "c", "d", "e", "f"]
        .into_iter()
        .zip(0..)
        .map(|(word, id)| (word.to_owned(), id.into()))
        .collect();
    let json = serde_json::json!({
        "version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"},
    });
    Tokenizer::from_texts(json.to_string().as_bytes(), None).unwrap()
}

fn line(prompt: &str, response: &str) -> String {
    serde_json::json!({"prompt": prompt, "response": response}).to_string() + "\n"
}

/// The rows of these files of a folder, or of the only one.
fn rows(files: &[(&str, &str)], length: usize, end: Option<u32>, filling: Filling) -> Result<Vec<Example>, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let path = if let [(name, _)] = files { dir.path().join(name) } else { dir.path().to_owned() };
    let tokenizer = words();
    let cutting = Cutting { tokenizer: &tokenizer, length, end: end.map(TokenId), filling };
    let store = read(&path, cutting, None).map_err(|error| error.to_string())?;
    Ok((0..store.count()).map(|index| store.row(index).unwrap()).collect())
}

fn row(tokens: &[u32], first_free: u32) -> Example {
    Example { tokens: tokens.to_vec(), free: (first_free..u32_of(tokens.len())).collect() }
}

#[test]
fn a_prompt_is_never_free_and_what_fills_up_is() {
    let text = line("a b", "c d") + "\n" + &line("a", "c d e f c d");
    let expected = [row(&[1, 2, 3, 4, 9, 9], 2), row(&[1, 3, 4, 5, 6, 3], 1)];
    assert_eq!(rows(&[("x.jsonl", &text)], 6, Some(9), Filling::EndOfText).unwrap(), expected);
    for (text, end, words) in [
        (line("a b c", "d"), Some(9), "line 1 has a prompt of 3 tokens, which leaves nothing of the 3 of a row"),
        (line("a", "b c") + &line("a", "b"), None, "line 2 is shorter than a row"),
        ("{}".to_owned(), None, "line 1 is no object with prompt and response"),
    ] {
        let error = rows(&[("x.jsonl", &text)], 3, end, Filling::EndOfText).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let error = rows(&[("x.jsonl", &line("a", "b"))], 3, None, Filling::Packed).unwrap_err();
    assert!(error.contains("line 1 cannot be packed, since the model names no end of text"), "{error}");
}

#[test]
fn examples_are_packed_and_one_that_is_cut_off_begins_the_next_row() {
    let text = line("a", "b") + &line("c d", "e") + &line("f", "a b") + &line("d", "d d d d d d");
    let expected = [
        row(&[1, 2, 9, 3, 4, 5], 1), // its end is cut off
        row(&[3, 4, 5, 9, 6, 1], 2),
        row(&[6, 1, 2, 9, 4, 4], 1),
        row(&[4, 4, 4, 4, 4, 4], 1),
    ];
    assert_eq!(rows(&[("x.jsonl", &text)], 6, Some(9), Filling::Packed).unwrap(), expected);
    let fits = line("a", "b") + &line("c", "d");
    assert_eq!(rows(&[("x.jsonl", &fits)], 6, Some(9), Filling::Packed).unwrap(), [row(&[1, 2, 9, 3, 4, 9], 1)]);
    assert_eq!(rows(&[("x.jsonl", &fits)], 8, Some(9), Filling::Packed).unwrap(), [row(&[1, 2, 9, 3, 4, 9, 9, 9], 1)]);
}

#[test]
fn rows_that_are_not_padded_are_as_long_as_their_examples() {
    let text = line("a", "b") + &line("c d", "e f a") + &line("f", "a b c d e f");
    let expected = [row(&[1, 2, 9], 1), row(&[3, 4, 5, 6, 1, 9], 2), row(&[6, 1, 2, 3, 4, 5], 1)];
    assert_eq!(rows(&[("x.jsonl", &text)], 6, Some(9), Filling::Unpadded).unwrap(), expected);
}

#[test]
fn text_is_cut_as_if_it_were_read_at_once() {
    assert_eq!(
        rows(&[("x", "a b c\nd e f a")], 3, Some(9), Filling::EndOfText).unwrap(),
        [row(&[1, 2, 3], 0), row(&[4, 5, 6], 0)]
    );
    let long = "a b c d e f\n".repeat(3 * PIECE / 12);
    let all = rows(&[("x", &long)], 6, None, Filling::EndOfText).unwrap();
    assert_eq!(all.len(), 3 * PIECE / 12);
    assert!(all.iter().all(|one| *one == row(&[1, 2, 3, 4, 5, 6], 0)));
    assert!(rows(&[("x", "a b")], 3, None, Filling::EndOfText).unwrap_err().contains("holds no row of 3 tokens"));
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let files = [
        ("b.txt", "d e"),
        ("a/two.jsonl", &*line("a", "c c")),
        ("a/one.txt", "a b"),
        (".git/config", "f f f f"),
        ("c", "f"),
    ];
    let expected = [row(&[1, 3, 3], 1), row(&[1, 2, 9], 0), row(&[4, 5, 9], 0)];
    let mut found = rows(&files, 3, Some(9), Filling::EndOfText).unwrap();
    found.sort_by_key(|row| (row.tokens[0], row.tokens[1] != 3));
    assert_eq!(found, expected);
    assert!(rows(&[("a.txt", "a b c"), ("b.txt", "")], 3, None, Filling::EndOfText).is_ok());
    assert!(rows(&[], 3, None, Filling::EndOfText).unwrap_err().contains("holds no row"));
}

#[test]
fn rows_that_are_kept_are_those_of_the_files_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (data, kept) = (dir.path().join("x.txt"), dir.path().join("rows.bin"));
    let (one, other) = (words(), words());
    let first = |text: &str, tokenizer: (&Tokenizer, &str), length: usize| {
        fs::write(&data, text).unwrap();
        let cutting = Cutting { tokenizer: tokenizer.0, length, end: None, filling: Filling::EndOfText };
        let cache = RowCache { file: &kept, tokenizer: tokenizer.1 };
        Data::read(&data, cutting, 0, Some(cache)).unwrap().row(0).unwrap().tokens
    };
    let made = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(first("a b", (&one, "1"), 2), [1, 2]);
    let before = made(&kept);
    assert_eq!(first("a b", (&one, "1"), 2), [1, 2]);
    assert_eq!(made(&kept), before, "they were read");
    assert_eq!(first("c d", (&one, "1"), 2), [3, 4], "other data");
    assert_eq!(first("c d", (&one, "1"), 1).len(), 1, "another length");
    let before = made(&kept);
    assert_eq!(first("c d", (&other, "2"), 1).len(), 1, "another tokenizer");
    assert!(made(&kept) > before);
}

#[test]
fn every_round_is_a_permutation_of_its_own() {
    for count in [1u64, 2, 3, 10, 17, 64, 1000] {
        let round = |key| (0..count).map(|index| shuffled(index, count, key)).collect::<Vec<_>>();
        let mut sorted = round(5);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        assert!(count < 10 || round(5) != round(6));
    }
}

#[test]
fn one_row_of_twenty_is_held_out_and_no_row_is_lost() {
    for count in [1u32, 19, 20, 21, 39, 40, 41, 100] {
        let all = Data::of((0..count).map(|token| Example { tokens: vec![token], free: vec![0] }).collect(), 3);
        let tokens = |data: &Data| {
            let Data::Rows(rows) = data else { panic!("grids") };
            rows.all().map(|row| row.unwrap().tokens[0]).collect::<Vec<u32>>()
        };
        let (learned, held_out) = all.held_out();
        let (learned, held_out) = (tokens(&learned), tokens(&held_out));
        let every = |token: &u32| token % 20 == 19;
        if count < 20 {
            assert_eq!((&learned, &held_out), (&(0..count).collect(), &(0..count).collect()));
        } else {
            assert_eq!(held_out, (0..count).filter(every).collect::<Vec<_>>(), "{count}");
            assert_eq!(learned, (0..count).filter(|token| !every(token)).collect::<Vec<_>>(), "{count}");
        }
    }
}

#[test]
fn a_sudoku_row_is_a_grid_with_clues_that_are_never_masked() {
    let data = |puzzles| Data::Sudoku { seed: 1, split: Split::Train, puzzles };
    let clues = |row: &Example| {
        let mut tokens = row.tokens.clone();
        row.free.iter().for_each(|position| tokens[*position as usize] = 0);
        Grid::of_tokens(&tokens)
    };
    let mut free = Vec::new();
    for index in 0..24 {
        let row = data(1.0).row(index).unwrap();
        assert!(Grid::of_tokens(&row.tokens).is_solved());
        assert_eq!(clues(&row).solutions(2), 1, "a puzzle");
        free.push(row.free.len());
    }
    assert!((48..56).all(|count| free.contains(&count)), "{free:?}");
    let row = data(0.0).row(3).unwrap();
    assert_eq!((row.tokens.len(), row.free.len()), (89, 57));
    assert!(row.free.iter().all(|position| (1..=9).contains(&row.tokens[*position as usize])));
    assert!(clues(&row).solutions(2) > 1, "random clues");
    assert_eq!(data(0.0).row(3).unwrap(), row);
    assert_ne!(data(0.0).row(4).unwrap(), row);
    let puzzles = (0..400).filter(|index| data(0.25).row(*index).unwrap().free.len() != 57).count();
    assert!((70..130).contains(&puzzles), "{puzzles} of 400");
}
