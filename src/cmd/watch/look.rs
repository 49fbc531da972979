//! How marks look: colours and attributes on a terminal, symbols below the text elsewhere. Each
//! mark can be told from the others without colour.

use super::canvas::Mark;
use std::ffi::OsStr;
use std::io::{IsTerminal, stdout};

/// What the output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Text only: a file, a pipe, or a terminal without control sequences.
    Plain,
    /// Bold, underlined and so on, but no colours: `NO_COLOR` is set.
    Attributes,
    /// The same, and the 8 colours of the terminal's theme.
    Colours,
}

impl Look {
    /// That of standard output.
    pub(super) fn of_stdout() -> Self {
        let variable = |name| std::env::var_os(name);
        Self::of(stdout().is_terminal(), variable("TERM").as_deref(), variable("NO_COLOR").as_deref())
    }

    /// With the variables TERM and NO_COLOR (<https://no-color.org>: any text but the empty one).
    fn of(is_terminal: bool, term: Option<&OsStr>, no_color: Option<&OsStr>) -> Self {
        let has_controls = term.map_or(cfg!(windows), |term| !term.is_empty() && term != "dumb");
        match (is_terminal && has_controls, no_color) {
            (false, _) => Self::Plain,
            (true, Some(word)) if !word.is_empty() => Self::Attributes,
            (true, _) => Self::Colours,
        }
    }

    /// Whether the canvas is redrawn in place.
    pub(super) const fn is_redrawn(self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// The parameters of the control sequence for a mark (SGR of ECMA-48), empty for none.
    const fn style(self, mark: Mark) -> &'static str {
        match (self, mark) {
            (Self::Plain, _) | (_, Mark::Kept) => "",
            (_, Mark::Given | Mark::Blank | Mark::End) => "2",
            (Self::Attributes, Mark::Filled) => "",
            (Self::Attributes, Mark::Erased | Mark::New) => "1",
            (Self::Attributes, Mark::Unsure) => "4",
            (Self::Attributes, Mark::NewUnsure | Mark::Doubtful) => "1;4",
            (Self::Attributes, Mark::Replaced) => "1;7",
            (Self::Colours, Mark::Filled) => "36",
            (Self::Colours, Mark::New) => "1;36",
            (Self::Colours, Mark::Erased) => "1;31",
            (Self::Colours, Mark::Unsure) => "4;33",
            (Self::Colours, Mark::NewUnsure | Mark::Doubtful) => "1;4;33",
            (Self::Colours, Mark::Replaced) => "1;7;35",
        }
    }

    /// The text as the mark has it.
    pub(super) fn paint(self, mark: Mark, text: &str) -> String {
        match self.style(mark) {
            "" => text.to_owned(),
            style => format!("\x1b[{style}m{text}\x1b[0m"),
        }
    }

    /// A text beside the canvas.
    pub(super) fn dim(self, text: &str) -> String {
        self.paint(Mark::Blank, text)
    }

    /// What the marks of a canvas look like, in as few words as possible.
    pub(super) fn legend(is_revision: bool, has_ends: bool) -> impl Iterator<Item = (Mark, &'static str)> {
        let all = [
            if is_revision { (Mark::Kept, "as given") } else { (Mark::Given, "given") },
            (Mark::Blank, "· blank"),
            (Mark::New, "new"),
            (Mark::Filled, "filled"),
            (Mark::Unsure, "low confidence"),
            (Mark::Erased, "× erased"),
            (Mark::Replaced, "replaced"),
        ];
        all.into_iter().chain(has_ends.then_some((Mark::End, "∎ end")))
    }
}

/// The legend of plain frames, whose symbols stand below the text.
pub(super) fn plain_legend(has_ends: bool) -> Vec<&'static str> {
    let below = ["below the text: + filled", "? filled with a low confidence (or doubtful)", "- erased", "~ replaced"];
    ["· blank", "× erased"].into_iter().chain(has_ends.then_some("∎ end")).chain(below).collect()
}

/// What stands below a cell in a plain frame.
pub(super) const fn symbol(mark: Mark) -> char {
    match mark {
        Mark::New => '+',
        Mark::NewUnsure | Mark::Doubtful => '?',
        Mark::Erased => '-',
        Mark::Replaced => '~',
        Mark::Given | Mark::Kept | Mark::Blank | Mark::Filled | Mark::Unsure | Mark::End => ' ',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_follows_from_the_terminal_and_the_variables() {
        for (is_terminal, term, no_color, look) in [
            (true, Some("xterm-256color"), None, Look::Colours),
            (true, Some("xterm"), Some(""), Look::Colours),
            (true, Some("xterm"), Some("1"), Look::Attributes),
            (true, Some("xterm"), Some("0"), Look::Attributes),
            (true, Some("dumb"), None, Look::Plain),
            (true, Some(""), None, Look::Plain),
            (true, None, None, if cfg!(windows) { Look::Colours } else { Look::Plain }),
            (false, Some("xterm"), None, Look::Plain),
            (false, Some("xterm"), Some("1"), Look::Plain),
        ] {
            let [term, no_color] = [term, no_color].map(|word| word.map(OsStr::new));
            assert_eq!(Look::of(is_terminal, term, no_color), look, "{is_terminal} {term:?} {no_color:?}");
        }
    }

    #[test]
    fn marks_of_a_legend_can_be_told_apart_without_colour() {
        let is_colour = |code: &str| code.len() == 2;
        for is_revision in [false, true] {
            let look = |(mark, words): (Mark, &'static str)| {
                let style = Look::Attributes.style(mark);
                assert!(!style.split(';').any(is_colour), "{mark:?} has a colour");
                (style, words.chars().next().filter(|symbol| !symbol.is_alphanumeric()))
            };
            let looks: Vec<_> = Look::legend(is_revision, true).map(look).collect();
            for (number, look) in looks.iter().enumerate() {
                // what was given and what is filled are text as any other in a revision
                let is_text = is_revision && *look == ("", None);
                assert!(is_text || !looks[..number].contains(look), "{looks:?}");
            }
        }
    }

    #[test]
    fn a_plain_look_has_no_control_sequences() {
        assert_eq!(Look::Plain.paint(Mark::Erased, "×"), "×");
        assert_eq!(Look::Attributes.paint(Mark::Erased, "×"), "\x1b[1m×\x1b[0m");
        assert_eq!(Look::Colours.paint(Mark::Erased, "×"), "\x1b[1;31m×\x1b[0m");
    }
}
