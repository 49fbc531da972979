//! Scores and repairs in words: which tokens are doubtful, and which were written anew. They are
//! made of the objects that the server answers with.

use super::output::Report;
use super::watch::Player;
use crate::diffusion::counted;
use crate::engine::DOUBTFUL;
use crate::text::quoted;
use serde_json::Value;
use std::fmt::Write;

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A token of an object, as people read it: its text, or its bytes if it has a part of a letter.
fn token(text: &Value, bytes: &Value, id: &Value) -> String {
    match (array(bytes), text.as_str()) {
        ([], Some(text)) => quoted(text),
        ([], None) => format!("token {id}"),
        (bytes, _) => {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{:02X}", byte.as_u64().unwrap_or(0))).collect();
            format!("{} {}", if hex.len() == 1 { "byte" } else { "bytes" }, hex.join(" "))
        }
    }
}

/// A probability of an object, or of a canvas.
fn probability(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

/// `count` tokens.
fn tokens(count: usize) -> String {
    counted(count, "token")
}

/// A text with its doubtful tokens marked, and a table of these. With likelihoods, the table has
/// all tokens.
pub(super) fn of_score(score: &Value, player: &Player) -> Report {
    let (all, doubtful) = (array(&score["tokens"]), array(&score["doubtful"]));
    let has_likelihood = all.iter().any(|token| token.get("likelihood").is_some());
    let judged = all.iter().filter(|token| token["quality"].is_number()).count();
    let mut result = player.picture() + "\n";
    let mut row = |cells: [&str; 4]| {
        let [at, text, quality, likelihood] = cells;
        let likelihood = if has_likelihood { likelihood } else { "" };
        let line = format!("{at:>7}  {text:<16} {quality:>9} {likelihood:>11}");
        let _ = writeln!(result, "{}", line.trim_end()); // writing to a text never fails
    };
    let is_doubtful = |one: &&Value| doubtful.contains(&one["at"]);
    if has_likelihood || !doubtful.is_empty() {
        row(["cell", "token", "quality", "likelihood"]);
    }
    for one in all.iter().filter(|one| has_likelihood || is_doubtful(one)) {
        let sign = if has_likelihood && is_doubtful(&one) { "? " } else { "" };
        let quality = format!("{sign}{}", probability(one["quality"].as_f64()));
        let likelihood = probability(one["likelihood"].as_f64());
        row([&one["at"].to_string(), &token(&one["text"], &one["bytes"], &one["token"]), &quality, &likelihood]);
    }
    let unjudged = match all.len() - judged {
        0 => String::new(),
        unjudged => format!("; {} without a quality", tokens(unjudged)),
    };
    let _ = writeln!(result, "{} of {judged} doubtful{unjudged}", tokens(doubtful.len()));
    Report { result, notes: String::new() }
}

/// The repaired text; what was written anew, beside it.
pub(super) fn of_repair(repair: &Value, player: &Player) -> Report {
    Report { result: format!("{}\n", repair["text"].as_str().unwrap_or_default()), notes: rewritten(repair, player) }
}

/// The same with the marks of the last canvas.
pub(super) fn of_watched_repair(repair: &Value, player: &Player) -> Report {
    Report { result: player.end(), notes: rewritten(repair, player) }
}

fn rewritten(repair: &Value, player: &Player) -> String {
    let edits = array(&repair["edits"]);
    let index = |at: &Value| at.as_u64().and_then(|at| usize::try_from(at).ok());
    let mut notes = match edits.len() {
        0 => "nothing was written anew\n".to_owned(),
        count => format!("{} written anew:\n", tokens(count)),
    };
    for edit in edits {
        let erased = index(&edit["at"]).and_then(|at| player.erased_for(at)).map(f64::from);
        let (was, now) = (
            token(&edit["was_text"], &edit["was_bytes"], &edit["was"]),
            token(&edit["text"], &edit["bytes"], &edit["token"]),
        );
        let (quality, confidence) = (probability(erased), probability(edit["confidence"].as_f64()));
        let at = edit["at"].to_string(); // a value has no padding
        let _ = writeln!(notes, "{at:>7}  {was} (quality {quality}) -> {now} (confidence {confidence})");
    }
    let is_doubtful = |one: &&Value| one["quality"].as_f64().is_some_and(|quality| quality < f64::from(DOUBTFUL));
    for one in array(&repair["tokens"]).iter().filter(is_doubtful) {
        let (at, quality) = (one["at"].to_string(), probability(one["quality"].as_f64()));
        let _ = writeln!(
            notes,
            "{at:>7}  {} is doubtful still (quality {quality})",
            token(&one["text"], &one["bytes"], &one["token"])
        );
    }
    notes
}
