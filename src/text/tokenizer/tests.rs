//! Texts to ids and back, of tokenizers of every kind.

use super::*;

fn toy() -> Tokenizer {
    Tokenizer::from_bytes(include_bytes!("../../../models/toy/tokenizer.json")).unwrap()
}

fn sudoku() -> Tokenizer {
    Tokenizer::from_bytes(include_bytes!("../../../models/sudoku/tokenizer.json")).unwrap()
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

#[test]
fn the_toy_spells_in_bytes() {
    let tokenizer = toy();
    for text in ["hello world\n", "naïve 日本 🦀 \u{0}", "  two  spaces", ""] {
        let tokens = tokenizer.encode(text, Special::AsText).unwrap();
        assert_eq!(ids(&tokens), text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&tokens), text);
    }
    assert_eq!(tokenizer.vocabulary(), 258);
    assert_eq!(tokenizer.decode(&[TokenId(0xc3)]), "\u{fffd}", "half a character");
}

#[test]
fn a_special_tokens_name_in_a_users_text_stays_text() {
    let tokenizer = toy();
    let text = "a<|end|>";
    assert_eq!(ids(&tokenizer.encode(text, Special::AsTokens).unwrap()), [97, 257]);
    let spelled = tokenizer.encode(text, Special::AsText).unwrap();
    assert_eq!(ids(&spelled), text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(tokenizer.decode(&[TokenId(97), TokenId(257)]), "a");
    assert_eq!(tokenizer.piece(TokenId(257)), "<|end|>");
    assert_eq!(tokenizer.piece(TokenId(9999)), "");
}

#[test]
fn each_token_knows_its_characters() {
    let spans = toy().encode_with_spans("aé🦀b").unwrap();
    let spans: Vec<Range<usize>> = spans.into_iter().map(|(_, span)| span).collect();
    assert_eq!(spans, [0..1, 1..2, 1..2, 2..3, 2..3, 2..3, 2..3, 3..4]);
    let spans = sudoku().encode_with_spans("5.\n3").unwrap();
    assert_eq!(
        spans.into_iter().map(|(id, span)| (id.0, span)).collect::<Vec<_>>(),
        [(5, 0..1), (0, 1..2), (10, 2..3), (3, 3..4)]
    );
}

/// As transformers saves a tokenizer that has encoded a batch.
#[test]
fn padding_and_truncation_are_cleared() {
    let mut json: serde_json::Value =
        serde_json::from_slice(include_bytes!("../../../models/toy/tokenizer.json")).unwrap();
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 257, "pad_type_id": 0, "pad_token": "<|end|>"});
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    for text in ["Hello", "The quick brown fox jumps", ""] {
        for special in [Special::AsText, Special::AsTokens] {
            assert_eq!(tokenizer.encode(text, special).unwrap().len(), text.len(), "{text:?}");
        }
    }
}

/// A tokenizer of a few words, with and without SentencePiece's space before a text.
fn words(parts: &serde_json::Value) -> Tokenizer {
    let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
    let plain = ["▁", "a", "b", "c", "e", "é", "H", "▁H", "▁a", "▁b", "▁world", "[UNK]", "hello", "##lo"];
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        bytes.chain(plain.map(str::to_owned)).enumerate().map(|(id, word)| (word, serde_json::json!(id))).collect();
    let mut json = serde_json::json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE",
        "vocab": vocabulary, "merges": [["▁", "H"], ["▁", "a"], ["▁", "b"]], "byte_fallback": true}});
    json.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    if let Some(model) = parts.get("model") {
        json["model"] = model.clone();
        json["model"]["vocab"] = vocabulary.into();
    }
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

#[test]
fn a_continuation_keeps_the_space_at_its_start() {
    let legacy = serde_json::json!({
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    });
    let metaspace = |scheme: &str| {
        let part =
            serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
        serde_json::json!({"pre_tokenizer": part, "decoder": part})
    };
    for (parts, adds_space) in
        [(legacy, true), (metaspace("always"), true), (metaspace("first"), true), (metaspace("never"), false)]
    {
        let tokenizer = words(&parts);
        let names = |ids: &[TokenId]| {
            ids.iter().map(|id| tokenizer.with_special.id_to_token(id.0).unwrap()).collect::<Vec<_>>()
        };
        let start = tokenizer.encode("a b", Special::AsText).unwrap();
        assert_eq!(names(&start), if adds_space { ["▁a", "▁b"] } else { ["a", "▁b"] }, "{parts}");
        assert_eq!(tokenizer.decode(&start), "a b");
        assert_eq!(tokenizer.decode_after(&start), if adds_space { " a b" } else { "a b" });
        let after = tokenizer.encode_after("a b", Special::AsText).unwrap();
        assert_eq!(names(&after), ["a", "▁b"], "{parts}");
        assert_eq!(tokenizer.decode_after(&after), "a b");
        assert_eq!(
            tokenizer.decode_after(&[tokenizer.with_special.token_to_id("▁world").map(TokenId).unwrap()]),
            " world"
        );
        assert_eq!(tokenizer.piece(start[1]), " b");
        assert_eq!(tokenizer.encode_after("", Special::AsText).unwrap(), []);
        // an incomplete character stays one
        let byte = tokenizer.with_special.token_to_id("<0xC3>").map(TokenId).unwrap();
        assert_eq!(tokenizer.decode_after(&[byte]), tokenizer.decode(&[byte]));
    }
    let pieces = words(&serde_json::json!({
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    }));
    let id = |name: &str| TokenId(pieces.with_special.token_to_id(name).unwrap());
    assert_eq!(pieces.decode(&[id("hello"), id("##lo"), id("a")]), "hellolo a");
    assert_eq!(pieces.decode_after(&[id("hello"), id("##lo"), id("a")]), " hellolo a");
    assert_eq!((pieces.piece(id("##lo")), pieces.piece(id("a"))), ("lo".to_owned(), " a".to_owned()));
    for byte_level in [toy(), sudoku()] {
        let tokens = [TokenId(3), TokenId(5)];
        assert_eq!(byte_level.decode_after(&tokens), byte_level.decode(&tokens));
        assert_eq!(byte_level.encode_after("53", Special::AsText), byte_level.encode("53", Special::AsText));
    }
}

#[test]
fn what_normalises_to_something_has_a_token() {
    let of = |normalizer: serde_json::Value| {
        words(&serde_json::json!({"normalizer": normalizer,
        "model": {"type": "BPE", "merges": []}, "decoder": {"type": "Fuse"}}))
    };
    let (bert, strip) = (
        serde_json::json!({"type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
        serde_json::json!({"type": "Sequence",
        "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}),
    );
    let nfc = serde_json::json!({"type": "NFC"});
    let nfkc = serde_json::json!({"type": "NFKC"});
    let lower = serde_json::json!({"type": "Lowercase"});
    let replace = serde_json::json!({"type": "Replace", "pattern": {"String": "xyz"}, "content": "a"});
    let removed = serde_json::json!({"type": "Replace", "pattern": {"String": "x"}, "content": ""});
    let stripped = serde_json::json!({"type": "Strip", "strip_left": true, "strip_right": true});
    for (normalizer, text, expected) in [
        (&nfc, "cae\u{301}", "caé"),
        (&nfc, "e\u{301}e\u{301}", "éé"),
        (&nfkc, "ａ\u{ff42}", "ab"),
        (&strip, "cáé\u{301}\u{302}", "cae"),
        (&bert, "ÁBe\u{301}\u{0}\u{200b}", "abe"),
        (&bert, "\u{301}", ""),
        (&lower, "ABC", "abc"),
        (&replace, "bxyzb", "bab"),
        (&removed, "xaxbx", "ab"),
        (&stripped, "  ab  ", "ab"),
    ] {
        let tokenizer = of(normalizer.clone());
        let tokens = tokenizer.encode(text, Special::AsText);
        assert_eq!(tokens.map(|tokens| tokenizer.decode(&tokens)), Ok(expected.to_owned()), "{normalizer} {text:?}");
    }
    for (normalizer, text, missing) in
        [(&nfc, "ae\u{301}zq", vec!['z', 'q']), (&bert, "aÉz", vec!['z']), (&strip, "ż", vec!['z'])]
    {
        let error = of(normalizer.clone()).encode(text, Special::AsText).unwrap_err();
        assert_eq!(error, TextError::Inexpressible { characters: missing }, "{normalizer} {text:?}");
    }
}

#[test]
fn turns_end_with_special_tokens_of_known_names() {
    let json = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0,"<|im_end|>":1},"merges":[]},"added_tokens":[
        {"id":2,"content":"<|eot_id|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
        {"id":3,"content":"<|end|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}]}"#;
    let ends: Vec<TokenId> = Tokenizer::from_bytes(json).unwrap().turn_ends().collect();
    assert_eq!(ends, [TokenId(2)], "an ordinary word of such a name is none");
    assert_eq!(toy().turn_ends().count(), 0);
}

#[test]
fn a_grid_is_its_digits() {
    let tokenizer = sudoku();
    let grid = "53..7....\n6..195...";
    let tokens = tokenizer.encode(grid, Special::AsText).unwrap();
    assert_eq!(ids(&tokens), [5, 3, 0, 0, 7, 0, 0, 0, 0, 10, 6, 0, 0, 1, 9, 5, 0, 0, 0]);
    assert_eq!(tokenizer.decode(&tokens), grid);
}

#[test]
fn what_the_vocabulary_cannot_express_is_named() {
    let error = sudoku().encode("5 x7é", Special::AsText).unwrap_err();
    assert_eq!(error, TextError::Inexpressible { characters: vec![' ', 'x', 'é'] });
    assert_eq!(error.to_string(), "the model's vocabulary has nothing for ' ', 'x', 'é'; leave it out");
    let named = |text: &str| sudoku().encode(text, Special::AsText).unwrap_err().to_string();
    assert!(named("hello").ends_with("for 'h', 'e', 'l', 'o'; leave it out"), "{}", named("hello"));
    assert!(named("abcdef").ends_with("for 'a', 'b', 'c', 'd', 'e', others; leave it out"), "{}", named("abcdef"));
}

#[test]
fn a_character_is_tried_once_however_often_it_occurs() {
    let tried = |text: &str| {
        let mut tried = Vec::new();
        let found = without_token(text, |character| {
            tried.push(character);
            "abc".contains(character)
        });
        (found, tried)
    };
    assert_eq!(tried(&"abxa".repeat(1000)), (vec!['x'], vec!['a', 'b', 'x']));
    assert_eq!(
        tried("zyxwvuts").0,
        ['z', 'y', 'x', 'w', 'v', 'u'],
        "those that are named, and whether there are others"
    );
}

#[test]
fn what_a_vocabulary_would_drop_in_silence_is_named_too() {
    let json = br#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}"#;
    let tokenizer = Tokenizer::from_bytes(json).unwrap();
    assert_eq!(ids(&tokenizer.encode("abba", Special::AsText).unwrap()), [0, 1, 1, 0]);
    let error = tokenizer.encode("abcab", Special::AsText).unwrap_err();
    assert_eq!(error, TextError::Inexpressible { characters: vec!['c'] });
}

#[test]
fn a_damaged_tokenizer_is_named_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Tokenizer::from_dir(dir.path()).unwrap().is_none());
    std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("not a tokenizer"), "{error}");
}

#[test]
fn each_token_knows_its_bytes() {
    let bytes = Tokenizer::from_bytes(include_bytes!("../../../models/toy/tokenizer.json")).unwrap();
    for byte in 0..=u8::MAX {
        assert_eq!(bytes.bytes(TokenId(u32::from(byte))), Some(vec![byte]));
    }
    let pieces = Tokenizer::from_bytes(include_bytes!("../../../tests/data/spm/tokenizer.json")).unwrap();
    assert_eq!(pieces.bytes(TokenId(3 + 0xc3)), Some(vec![0xc3]), "the piece <0xC3>");
}
