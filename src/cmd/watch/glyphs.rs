//! What is drawn of each cell: the text of its token, a letter whose bytes are spread over several
//! cells, a blank, or the end of the answer. Out of scope: where it stands.

use super::canvas::{Canvas, Cell, Mark};

/// What a blank looks like, and one that was erased in this step.
const BLANK: &str = "·";
const ERASED: &str = "×";
/// Stands for a part of a letter whose other bytes are not there.
const PART: char = '◌';
/// Stands for a token that ends the answer.
const END: &str = "∎";

/// What is drawn of a cell; no text where a cell before it draws its letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glyph {
    pub(super) mark: Mark,
    pub(super) text: String,
}

/// The glyphs of a canvas, one for each cell. Once it is finished, cells behind the end of the
/// answer draw nothing.
pub(super) fn glyphs(canvas: &Canvas) -> Vec<Glyph> {
    let glyph = |cell: &Cell| {
        let text = match cell.mark {
            Mark::Erased => ERASED,
            _ if cell.is_blank() => BLANK,
            _ if canvas.is_end(cell) => END,
            _ => cell.text.as_str(),
        };
        Glyph { mark: cell.mark, text: text.to_owned() }
    };
    let mut glyphs: Vec<Glyph> = canvas.cells.iter().map(glyph).collect();
    let mut start = 0;
    for run in canvas.cells.chunk_by(|one, next| one.bytes.is_some() == next.bytes.is_some()) {
        let end = start + run.len();
        if run[0].bytes.is_some() {
            spell(run, &mut glyphs[start..end]);
        }
        start = end;
    }
    for at in canvas.behind_end() {
        glyphs[at].text.clear();
    }
    glyphs
}

/// Spells neighbouring cells of bytes. The cell of a letter's first byte draws it, with the most
/// telling mark of all its cells. Each cell that has bytes of no letter draws a placeholder.
fn spell(cells: &[Cell], glyphs: &mut [Glyph]) {
    let bytes_of = |(at, cell): (usize, &Cell)| cell.bytes.iter().flatten().map(move |byte| (at, *byte)).collect();
    let bytes: Vec<(usize, u8)> = cells.iter().enumerate().flat_map::<Vec<_>, _>(bytes_of).collect();
    let (owners, bytes): (Vec<usize>, Vec<u8>) = bytes.into_iter().unzip();
    glyphs.iter_mut().for_each(|glyph| glyph.text.clear());
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            let own = &mut glyphs[owners[at]..=owners[at + letter.len_utf8() - 1]];
            own[0].text.push(letter);
            let mark = own.iter().map(|glyph| glyph.mark).max_by_key(|mark| weight(*mark));
            own.iter_mut().for_each(|glyph| glyph.mark = mark.unwrap_or(glyph.mark));
            at += letter.len_utf8();
        }
        for owner in &owners[at..at + chunk.invalid().len()] {
            if !glyphs[*owner].text.ends_with(PART) {
                glyphs[*owner].text.push(PART);
            }
        }
        at += chunk.invalid().len();
    }
}

/// How much a mark tells about a letter.
const fn weight(mark: Mark) -> u8 {
    match mark {
        Mark::Blank | Mark::Given => 0,
        Mark::Kept => 1,
        Mark::End => 2,
        Mark::Filled => 3,
        Mark::Unsure => 4,
        Mark::New => 5,
        Mark::Replaced => 6,
        Mark::NewUnsure => 7,
        Mark::Erased => 8,
        Mark::Doubtful => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::tests::{start, step};
    use super::super::trajectory::Done;
    use super::*;

    fn texts(canvas: &Canvas) -> Vec<String> {
        glyphs(canvas).into_iter().map(|glyph| glyph.text).collect()
    }

    /// A fill of a cell with a part of a letter.
    fn part(at: usize, bytes: &[u8], confidence: f32) -> String {
        let token = bytes[0];
        format!(
            r#"{{"kind":"fill","at":{at},"token":{token},"text":"\ufffd","bytes":{bytes:?},"confidence":{confidence}}}"#
        )
    }

    #[test]
    fn a_letter_is_drawn_once_all_its_bytes_are_there() {
        let mut canvas = start(r#"{"canvas_length":5,"pinned":[{"at":0,"token":97,"text":"a"}]}"#);
        for (edits, expected) in [
            (part(1, &[0xe6], 0.9), ["a", "◌", "·", "·", "·"]),
            (part(3, &[0xa5, 0x20], 0.9), ["a", "◌", "·", "◌ ", "·"]),
            (part(2, &[0x97], 0.1), ["a", "日", "", " ", "·"]),
            (part(4, &[0xc3], 0.9), ["a", "日", "", " ", "◌"]), // never completed
            (r#"{"kind":"erase","at":2,"was":151,"quality":0.1}"#.to_owned(), ["a", "◌", "×", "◌ ", "◌"]),
        ] {
            canvas.apply(&step(&edits)).unwrap();
            assert_eq!(texts(&canvas), expected, "{edits}");
        }
        let given = r#"{"canvas_length":3,"given":[{"at":0,"token":195,"text":"\ufffd","bytes":[195]},
                        {"at":1,"token":169,"text":"\ufffd","bytes":[169]},{"at":2,"token":8,"text":"\ufffd"}]}"#;
        assert_eq!(texts(&start(&given.replace('\n', ""))), ["é", "", "\u{fffd}"], "one without bytes");
    }

    #[test]
    fn a_letter_has_the_mark_that_tells_the_most_of_its_cells() {
        let mut canvas = start(r#"{"canvas_length":2}"#);
        canvas.apply(&step(&part(0, &[0xc3], 0.9))).unwrap();
        canvas.apply(&step(&part(1, &[0xa9], 0.1))).unwrap();
        let marks = |canvas: &Canvas| glyphs(canvas).into_iter().map(|glyph| glyph.mark).collect::<Vec<_>>();
        assert_eq!(marks(&canvas), [Mark::NewUnsure; 2]);
        canvas.settle();
        assert_eq!(marks(&canvas), [Mark::Unsure; 2]);
    }

    #[test]
    fn the_end_of_the_answer_is_quiet_and_what_is_behind_it_is_left_out() {
        let suffix = r#"{"at":5,"token":9,"text":"z"}"#;
        let mut canvas = start(&format!(r#"{{"canvas_length":6,"ends":[7],"pinned":[{suffix}]}}"#));
        let fill = |at, token, text| {
            format!(r#"{{"kind":"fill","at":{at},"token":{token},"text":"{text}","confidence":0.9}}"#)
        };
        canvas.apply(&step(&[fill(1, 7, "<|end|>"), fill(3, 7, "<|end|>")].join(","))).unwrap();
        assert_eq!(texts(&canvas), ["·", "∎", "·", "∎", "·", "z"]);
        assert_eq!(glyphs(&canvas)[1].mark, Mark::New);
        canvas.apply(&step(&[fill(0, 1, "a"), fill(2, 2, "b")].join(","))).unwrap();
        assert_eq!(glyphs(&canvas)[1].mark, Mark::End);
        assert_eq!(texts(&canvas), ["a", "∎", "b", "∎", "·", "z"]);
        canvas.end(&Done::default()).unwrap();
        assert_eq!(texts(&canvas), ["a", "∎", "", "", "", "z"]);
    }
}
