//! Whether two patterns have no text in common. Out of scope: which texts they have.

use super::pattern::{Pattern, with_classes};
use regex_syntax::hir::{Hir, HirKind, Look};

impl Pattern {
    /// The texts of which at least a part matches `expression`; `None` if they are not known.
    pub(crate) fn of_matches(expression: &str) -> Option<Self> {
        let hir: Hir =
            regex_syntax::ParserBuilder::new().nest_limit(32).build().parse(&with_classes(expression)).ok()?;
        let (looks, is_choice) = (hir.properties(), matches!(hir.kind(), HirKind::Alternation(_)));
        let is_start = looks.look_set_prefix().contains(Look::Start);
        let is_end = looks.look_set_suffix().contains(Look::End);
        if is_start && is_end {
            return Self::parse(expression).ok();
        }
        let bare = if is_choice { None } else { expression.strip_prefix('^') }.filter(|_| is_start);
        let (start, rest) = bare.map_or(("[\\s\\S]*", expression), |rest| ("", rest));
        let bare = if is_choice { None } else { rest.strip_suffix('$') }.filter(|_| is_end);
        let (rest, end) = bare.map_or((rest, "[\\s\\S]*"), |rest| (rest, ""));
        Self::parse(&format!("^{start}(?:{rest}){end}$")).ok()
    }

    /// Whether it is certain that no text is in both sets.
    pub(crate) fn is_disjoint(&self, other: &Self) -> bool {
        let (one, two) = (self.lengths(), other.lengths());
        one.1 < two.0 || two.1 < one.0 || matches!(self.shared(other), Ok(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_disjoint_where_no_text_matches_both() {
        let written = |expression| Pattern::parse(expression).unwrap();
        for (one, other, is_disjoint) in [
            ("^[a-z]+$", "^[0-9]+$", true),
            ("^[a-z]+$", "[0-9]", true),
            ("^[a-z]*$", "^[0-9]*$", false), // both have the empty text
            ("^[a-z]{3}$", "b", false),
            ("^[a-z]{3}$", "^B|c$", false),
            ("^[a-z]{3}$", "^B|C$", false), // not known
            ("^[a-z]{3}$", "^[a-y]", false),
            ("^[a-z]{3}$", "^[0-9]", true),
            ("^[a-z]{3}$", "[0-9]$", true),
            ("^[a-z]{3}$", "^\\$$", true),
            ("^[a-z]{3}$", "^[a-z]{4}$", true),
            ("^(cat|dog)$", "^(bird|fish)$", true),
            ("^(a?b?c?){25}$", "^(c?b?a?){25}$", false), // too large to tell
        ] {
            let found = Pattern::of_matches(other).is_some_and(|other| written(one).is_disjoint(&other));
            assert_eq!(found, is_disjoint, "{one} {other}");
        }
        assert!(Pattern::of_matches("^(?=a)").is_none() && Pattern::of_matches("a\\b").is_none());
    }
}
