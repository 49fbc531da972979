//! Where the cells of a canvas stand: rows that fit a width, and the rows that fit a height. Out of
//! scope: how marks look.

use super::canvas::Mark;
use super::glyphs::Glyph;
use console::measure_text_width;

/// Shows a line end that a step has written.
const LINE_END: char = '↵';
/// Columns of a tab.
const TAB: &str = "    ";

/// A part of a row with one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) mark: Mark,
    pub(super) text: String,
    pub(super) columns: usize,
}

/// One row of the drawing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) pieces: Vec<Piece>,
    columns: usize,
    /// Cells in it that the last step has changed.
    changed: usize,
}

impl Row {
    fn push(&mut self, mark: Mark, letter: char, columns: usize) {
        self.columns += columns;
        match self.pieces.last_mut() {
            Some(piece) if piece.mark == mark => {
                piece.text.push(letter);
                piece.columns += columns;
            }
            _ => self.pieces.push(Piece { mark, text: letter.into(), columns }),
        }
    }
}

/// The columns of a character; 0 for one that stands on the character before.
fn columns_of(letter: char) -> usize {
    if letter.is_ascii() { 1 } else { measure_text_width(letter.encode_utf8(&mut [0; 4])) }
}

/// What is drawn for a character: text of a model must not control the terminal.
fn harmless(letter: char) -> char {
    match letter {
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + u32::from(letter)).unwrap_or('\u{fffd}'), // its picture, as ␛
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        // those that turn the direction of writing, and line ends of Unicode
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        other => other,
    }
}

/// The rows of a canvas's glyphs, at most `width` columns wide.
pub(super) fn rows(glyphs: &[Glyph], width: usize) -> Vec<Row> {
    let (mut rows, mut row) = (Vec::new(), Row::default());
    let put = |rows: &mut Vec<Row>, row: &mut Row, mark, letter| {
        let letter = harmless(letter);
        let columns = columns_of(letter);
        if row.columns + columns > width && row.columns > 0 {
            rows.push(std::mem::take(row));
        }
        row.push(mark, letter, columns);
    };
    for Glyph { mark, text } in glyphs {
        let mark = *mark;
        let is_changed = matches!(mark, Mark::Erased | Mark::New | Mark::NewUnsure | Mark::Replaced);
        for letter in text.chars() {
            match letter {
                '\n' => {
                    if is_changed || mark == Mark::Doubtful {
                        put(&mut rows, &mut row, mark, LINE_END);
                    }
                    row.changed += usize::from(is_changed);
                    rows.push(std::mem::take(&mut row));
                }
                '\t' => TAB.chars().for_each(|blank| put(&mut rows, &mut row, mark, blank)),
                other => put(&mut rows, &mut row, mark, other),
            }
        }
        row.changed += usize::from(is_changed && !text.ends_with('\n'));
    }
    if !row.pieces.is_empty() || rows.is_empty() {
        rows.push(row);
    }
    rows
}

/// The first of the `height` rows that are drawn: those with the most changes, and where a step
/// changed none, those from the first blank on. The rows from `last` on, which are drawn now, stay
/// if they have at least half as many changes as the best ones.
pub(super) fn first_row(rows: &[Row], height: usize, last: usize) -> usize {
    let end = rows.len().saturating_sub(height);
    let last = last.min(end);
    let changes = |first: usize| rows[first..].iter().take(height).map(|row| row.changed).sum::<usize>();
    let (mut best, mut most, mut seen) = (last, changes(last), changes(0));
    let here = most;
    for first in 0..=end {
        if first > 0 {
            seen -= rows[first - 1].changed;
            seen += rows.get(first + height - 1).map_or(0, |row| row.changed);
        }
        if seen > most {
            (best, most) = (first, seen);
        }
    }
    if most == 0 {
        let is_blank = |row: &Row| row.pieces.iter().any(|piece| piece.mark == Mark::Blank);
        let is_seen = rows[last..].iter().take(height).any(is_blank);
        return if is_seen { last } else { rows.iter().position(is_blank).unwrap_or(last).min(end) };
    }
    if 2 * here >= most { last } else { best }
}

/// Words in lines of at most `width` columns, with `gap` between them. A word has its columns, as
/// control sequences have none; a wider one is left out.
pub(super) fn lines(words: &[(String, usize)], gap: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line, mut taken) = (Vec::new(), String::new(), 0);
    for (word, columns) in words.iter().filter(|(_, columns)| *columns <= width) {
        if taken > 0 && taken + gap.len() + columns > width {
            lines.push(std::mem::take(&mut line));
            taken = 0;
        }
        if taken > 0 {
            line.push_str(gap);
            taken += gap.len();
        }
        line.push_str(word);
        taken += columns;
    }
    if taken > 0 {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::canvas::Canvas;
    use super::super::glyphs::glyphs;
    use super::super::trajectory::{Event, GivenCell, Start, read_line};
    use super::*;
    use proptest::prelude::*;

    /// A canvas of these texts, each of a cell that is given.
    fn given(texts: &[&str]) -> Canvas {
        let cell = |(at, text): (usize, &&str)| GivenCell { at, token: 0, text: Some((*text).to_owned()), bytes: None };
        let pinned = texts.iter().enumerate().map(cell).collect();
        Canvas::new(Start { canvas_length: texts.len(), pinned, ..Start::default() })
    }

    fn drawn(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| row.pieces.iter().map(|piece| piece.text.as_str()).collect()).collect()
    }

    #[test]
    fn rows_end_at_line_ends_and_at_the_width() {
        for (texts, width, expected) in [
            (&["ab", "cd\n", "e"][..], 9, &["abcd", "e"][..]),
            (&["abcd", "efg\n"], 3, &["abc", "def", "g"]),
            (&["abc\n"], 3, &["abc"]),
            (&["\n", "\n", "a"], 3, &["", "", "a"]),
            (&["日本", "語a"], 3, &["日", "本", "語a"]),
            (&["e\u{301}e\u{301}"], 1, &["e\u{301}", "e\u{301}"]),
            (&["a\tb"], 9, &["a    b"]),
            (&["a\u{1b}[2J\u{7}\r\u{9b}\u{202e}"], 20, &["a␛[2J␇␍\u{fffd}\u{fffd}"]),
            (&["日"], 1, &["日"]), // wider than the window: nothing is
            (&[], 9, &[""]),
        ] {
            assert_eq!(drawn(&rows(&glyphs(&given(texts)), width)), expected, "{texts:?} in {width}");
        }
    }

    #[test]
    fn blanks_are_dots_and_a_line_end_that_is_written_is_seen() {
        let mut canvas = Canvas::new(Start { canvas_length: 3, ..Start::default() });
        assert_eq!(drawn(&rows(&glyphs(&canvas), 9)), ["···"]);
        for (edits, expected) in [
            (r#"{"kind":"fill","at":1,"token":1,"text":"\n"}"#, vec!["·↵", "·"]),
            ("", vec!["·", "·"]),
            (r#"{"kind":"erase","at":1,"was":1}"#, vec!["·×·"]),
        ] {
            let line = format!(r#"{{"step":0,"edits":[{edits}]}}"#);
            let Ok(Some(Event::Step(None, step))) = read_line(&line) else { panic!("{line}") };
            canvas.apply(&step).unwrap();
            assert_eq!(drawn(&rows(&glyphs(&canvas), 9)), expected);
        }
    }

    proptest! {
        #[test]
        fn no_row_is_wider_than_the_window_and_no_text_is_lost(
            texts in prop::collection::vec("[a-z日 é\u{301}\n]{0,5}", 0..20), width in 2usize..12
        ) {
            let rows = rows(&glyphs(&given(&texts.iter().map(String::as_str).collect::<Vec<_>>())), width);
            for row in &rows {
                let columns: usize = row.pieces.iter().map(|piece| measure_text_width(&piece.text)).sum();
                prop_assert!(columns <= width, "{row:?}");
            }
            prop_assert_eq!(drawn(&rows).concat(), texts.concat().replace('\n', ""));
        }
    }

    fn changed(counts: &[usize]) -> Vec<Row> {
        counts.iter().map(|changed| Row { changed: *changed, ..Row::default() }).collect()
    }

    #[test]
    fn the_rows_with_the_most_changes_are_drawn_and_do_not_move_without_need() {
        for (counts, height, last, expected) in [
            (&[1, 0, 0, 5, 0, 0][..], 2, 0, 2),
            (&[3, 0, 0, 5, 0, 0], 2, 0, 0), // at least half as many
            (&[0, 0, 0, 0, 1, 1], 2, 0, 4),
            (&[0, 0, 9], 3, 0, 0),
            (&[0, 0, 9], 5, 2, 0), // all fit
            (&[0, 0, 0, 0], 2, 9, 2),
            (&[0, 9, 0, 0], 1, 3, 1),
        ] {
            assert_eq!(first_row(&changed(counts), height, last), expected, "{counts:?} {height} {last}");
        }
    }

    #[test]
    fn without_changes_the_first_blank_is_drawn() {
        let row = |mark| Row { pieces: vec![Piece { mark, text: "a".into(), columns: 1 }], ..Row::default() };
        let rows: Vec<Row> = [Mark::Given, Mark::Given, Mark::Given, Mark::Blank, Mark::Given].map(row).into();
        assert_eq!([first_row(&rows, 2, 0), first_row(&rows, 2, 2), first_row(&rows, 1, 0)], [3, 2, 3]);
    }

    #[test]
    fn words_are_put_into_lines() {
        let words = |all: &[&str]| all.iter().map(|word| ((*word).to_owned(), word.len())).collect::<Vec<_>>();
        assert_eq!(lines(&words(&["ab", "cd", "e"]), "  ", 6), ["ab  cd", "e"]);
        assert_eq!(lines(&words(&["ab", "toolong", "e"]), "  ", 5), ["ab  e"]);
        assert!(lines(&words(&["toolong"]), "  ", 5).is_empty());
    }
}
