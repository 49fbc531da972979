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
const OPENING: &str = "<blank";

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

/// The text before the first blank, its cells, and the text after it. Looks at no character behind
/// that blank, so that a template with many blanks is read in linear time.
fn next_blank<'a>(text: &'a str, blank: &str) -> Option<(&'a str, usize, &'a str)> {
    if blank != DEFAULT_BLANK {
        return text.split_once(blank).map(|(before, after)| (before, 1, after));
    }
    text.match_indices(OPENING).find_map(|(at, _)| {
        let (cells, after) = cells(&text[at + OPENING.len()..])?;
        Some((&text[..at], cells, after))
    })
}

/// The cells of a blank, by what follows its opening: `>` or `:12>`; and the text after it.
fn cells(text: &str) -> Option<(usize, &str)> {
    if let Some(after) = text.strip_prefix('>') {
        return Some((1, after));
    }
    let counted = text.strip_prefix(':')?;
    let (count, after) = counted.split_at(counted.bytes().take_while(u8::is_ascii_digit).count());
    let after = after.strip_prefix('>').filter(|_| !count.is_empty())?;
    // a count that overflows is larger than any canvas, and is rejected as such later
    Some((count.parse().unwrap_or(usize::MAX), after))
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
        check("<blank<blank>> <blank:4 <blank:5>", "<blank>", "'<blank' 1 '> <blank:4 ' 5");
    }

    #[test]
    fn many_blanks_are_read_in_linear_time() {
        // if each blank looked at all that follows, this would take minutes
        const MANY: usize = 250_000;
        for mark in ["<blank:1>", "<blank>", "<blank:1><blank:x "] {
            let blanks =
                parse(&mark.repeat(MANY), DEFAULT_BLANK).iter().filter(|s| matches!(s, Segment::Blanks(_))).count();
            assert_eq!(blanks, if mark.contains('x') { MANY } else { 1 });
        }
    }
}
