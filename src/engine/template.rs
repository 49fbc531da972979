//! Templates: texts with marks for blank cells. Out of scope: token ids.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Fixed text.
    Text(String),
    /// A run of blank cells: one gap.
    Blanks(usize),
}

/// The default mark of a blank cell.
pub const DEFAULT_BLANK: &str = "<blank>";

/// Splits `template` at every `blank`, which must not be empty. If that is `<blank>`, `<blank:12>`
/// stands for twelve cells; with a malformed count it is text. Adjacent blanks form one gap.
pub(super) fn parse(template: &str, blank: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut rest = template;
    while let Some((text, cells, after)) = next_blank(rest, blank) {
        push_text(&mut segments, text);
        match segments.last_mut() {
            Some(Segment::Blanks(before)) => *before = before.saturating_add(cells),
            Some(Segment::Text(_)) | None => segments.push(Segment::Blanks(cells)),
        }
        rest = after;
    }
    push_text(&mut segments, rest);
    segments
}

fn push_text(segments: &mut Vec<Segment>, text: &str) {
    if !text.is_empty() {
        segments.push(Segment::Text(text.to_owned()));
    }
}

/// The text before the first blank, its cells, and the text after it.
fn next_blank<'a>(text: &'a str, blank: &str) -> Option<(&'a str, usize, &'a str)> {
    let plain = text.find(blank).map(|at| (&text[..at], 1, &text[at + blank.len()..]));
    let counted = if blank == DEFAULT_BLANK { next_counted(text) } else { None };
    [plain, counted].into_iter().flatten().min_by_key(|(before, ..)| before.len())
}

fn next_counted(text: &str) -> Option<(&str, usize, &str)> {
    text.match_indices("<blank:").find_map(|(at, opening)| {
        let (count, after) = text[at + opening.len()..].split_once('>')?;
        let is_count = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        // a count that overflows is larger than any canvas, and is rejected as such later
        is_count.then(|| (&text[..at], count.parse().unwrap_or(usize::MAX), after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, blank: &str, drawn: &str) {
        let draw = |segment: &Segment| match segment {
            Segment::Text(text) => format!("'{text}'"),
            Segment::Blanks(cells) => cells.to_string(),
        };
        let segments = parse(template, blank);
        assert_eq!(segments.iter().map(draw).collect::<Vec<_>>().join(" "), drawn, "{template}");
    }

    #[test]
    fn a_template_is_cut_at_its_blanks() {
        check("53..7", ".", "'53' 2 '7'");
        check("..", ".", "2");
        check("no blank", ".", "'no blank'");
        check("", ".", "");
        check("a <blank> b<blank><blank>", "<blank>", "'a ' 1 ' b' 2");
        check("é__ü", "__", "'é' 1 'ü'");
    }

    #[test]
    fn the_default_blank_may_carry_a_count() {
        check("a<blank:12>b<blank>c", "<blank>", "'a' 12 'b' 1 'c'");
        check("<blank><blank:3>", "<blank>", "4");
        check("<blank:x> <blank:> <blank:3", "<blank>", "'<blank:x> <blank:> <blank:3'");
        check("<blank:x> <blank:2>", "<blank>", "'<blank:x> ' 2");
        check("<blank:99999999999999999999>", "<blank>", &usize::MAX.to_string());
        check("<blank:2>.", ".", "'<blank:2>' 1");
    }
}
