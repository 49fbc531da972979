//! Patterns whose texts match several expressions. Out of scope: how one expression is read.

use super::pattern::{Characters, Pattern, Step, no_text, too_large};
use std::collections::BTreeMap;

/// Most comparisons of characters; a pattern that needs more is too large.
const WORK_MAX: usize = 1 << 18;
const ANYTHING: &str = "[\\s\\S]*";

impl Pattern {
    /// As [`Self::parse`], for an expression that may begin with positive look-aheads, as in
    /// `^(?=.*[0-9])[a-z0-9]+$`.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub fn parse_all(expression: &str) -> Result<Self, String> {
        let (heads, rest) = look_aheads(expression);
        heads.iter().try_fold(Self::parse(&rest)?, |pattern, head| pattern.and(&Self::parse(head)?))
    }

    /// As [`Self::parse_all`], but the texts also match where only a part of them does.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub fn parse_part(expression: &str) -> Result<Self, String> {
        let (start, rest) = expression.strip_prefix('^').map_or((ANYTHING, expression), |rest| ("", rest));
        let is_end = rest.ends_with('$') && !rest.ends_with("\\$");
        let (rest, end) = if is_end { (&rest[..rest.len() - 1], "") } else { (rest, ANYTHING) };
        let open = match (start, end) {
            ("", "") => None,
            _ => Self::parse_all(&format!("^{start}(?:{rest}){end}$")).ok(),
        };
        open.map_or_else(|| Self::parse_all(expression), Ok)
    }

    /// The texts that are in both sets.
    ///
    /// # Errors
    /// When there is none of up to [`LENGTH_MAX`](super::LENGTH_MAX) characters, or the pattern
    /// would be too large.
    pub fn and(&self, other: &Self) -> Result<Self, String> {
        self.shared(other)?.ok_or_else(no_text)
    }

    /// As [`Self::and`], but `None` when there is no text.
    pub(super) fn shared(&self, other: &Self) -> Result<Option<Self>, String> {
        let mut pairs = Pairs { of: (self, other), known: BTreeMap::new(), all: Vec::new(), work: 0 };
        let first = pairs.among(&self.first, &other.first)?;
        let mut steps: Vec<Step> = Vec::new();
        while let Some(Pair { places: (one, two), characters }) = pairs.all.get(steps.len()).cloned() {
            let (one, two) = (&self.steps[one], &other.steps[two]);
            let next = pairs.among(&one.next, &two.next)?;
            steps.push(Step { characters, next, may_end: one.may_end && two.may_end });
        }
        Self::of_steps(steps, first, self.may_be_empty && other.may_be_empty)
    }
}

/// A step of each of two patterns, and the characters that both take.
#[derive(Clone)]
struct Pair {
    places: (usize, usize),
    characters: Characters,
}

struct Pairs<'p> {
    of: (&'p Pattern, &'p Pattern),
    known: BTreeMap<(usize, usize), usize>,
    all: Vec<Pair>,
    work: usize,
}

impl Pairs<'_> {
    /// The pairs of some steps that can be taken together.
    fn among(&mut self, ones: &[usize], others: &[usize]) -> Result<Vec<usize>, String> {
        let mut found = Vec::new();
        for places in ones.iter().flat_map(|one| others.iter().map(|other| (*one, *other))) {
            let (one, other) = (&self.of.0.steps[places.0].characters, &self.of.1.steps[places.1].characters);
            self.work += one.len() + other.len();
            if self.work > WORK_MAX || self.all.len() > Pattern::STEPS_MAX {
                return Err(too_large());
            }
            if let Some(known) = self.known.get(&places) {
                found.push(*known);
                continue;
            }
            let characters = shared(one, other);
            if !characters.is_empty() {
                self.known.insert(places, self.all.len());
                found.push(self.all.len());
                self.all.push(Pair { places, characters });
            }
        }
        Ok(found)
    }
}

/// The characters of both lists, whose ranges are sorted.
fn shared(one: &Characters, other: &Characters) -> Characters {
    let (mut shared, mut at) = (Vec::new(), (0, 0));
    while let (Some(a), Some(b)) = (one.get(at.0), other.get(at.1)) {
        let (from, to) = (a.0.max(b.0), a.1.min(b.1));
        if from <= to {
            shared.push((from, to));
        }
        if a.1 <= b.1 {
            at.0 += 1;
        } else {
            at.1 += 1;
        }
    }
    shared
}

/// The positive look-aheads that an expression begins with, each as an expression of whole texts,
/// and the rest of it.
fn look_aheads(expression: &str) -> (Vec<String>, String) {
    let (mut heads, mut rest) = (Vec::new(), expression.strip_prefix('^').unwrap_or(expression));
    while let Some(inner) = rest.strip_prefix("(?=").and_then(|after| after.get(..group_end(after)?)) {
        let is_end = inner.ends_with('$') && !inner.ends_with("\\$");
        heads.push(if is_end { format!("^{inner}") } else { format!("^(?:{inner}){ANYTHING}$") });
        rest = &rest["(?=".len() + inner.len() + ")".len()..];
    }
    // pydantic's decimal: not only of some characters, which means that there is another
    while let Some((class, after)) = only_of_class(rest) {
        heads.push(format!("^{ANYTHING}[^{class}]{ANYTHING}$"));
        rest = after;
    }
    let is_anchored = expression.starts_with('^');
    (heads, if is_anchored { format!("^{rest}") } else { expression.to_owned() })
}

/// The class of a look-ahead that refuses texts of one class, as `(?!^[-+.]*$)`, and the rest.
fn only_of_class(expression: &str) -> Option<(&str, &str)> {
    let (class, after) = expression.strip_prefix("(?!^[")?.split_once("]*$)")?;
    let is_plain = !class.starts_with('^') && !class.contains(['[', ']', '\\']);
    is_plain.then_some((class, after))
}

/// Where the group ends whose opening stands before `text`.
fn group_end(text: &str) -> Option<usize> {
    let (mut depth, mut is_class, mut is_escaped) = (0_usize, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => is_class = false,
            '[' => is_class = true,
            '(' if !is_class => depth += 1,
            ')' if !is_class && depth == 0 => return Some(at),
            ')' if !is_class => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(pattern: &Pattern, text: &str) -> bool {
        let mut here: Vec<usize> = pattern.first.clone();
        let mut is_end = pattern.may_be_empty;
        for character in text.chars() {
            let takes = |step: &usize| {
                pattern.steps[*step].characters.iter().any(|(from, to)| (*from..=*to).contains(&character))
            };
            let taken: Vec<usize> = here.into_iter().filter(takes).collect();
            is_end = taken.iter().any(|step| pattern.steps[*step].may_end);
            here = taken.iter().flat_map(|step| pattern.steps[*step].next.clone()).collect();
        }
        is_end
    }

    proptest! {
        #[test]
        fn both_patterns_hold(text in "[ab1]{0,5}", one in 0usize..5, other in 0usize..5) {
            let expressions = ["^[ab]*$", "^a.*$", "^.*1$", "^(a|b1)+$", "^[a-z1]{2,4}$"];
            let [one, other] = [one, other].map(|at| Pattern::parse(expressions[at]).unwrap());
            let both = one.and(&other);
            let expected = holds(&one, &text) && holds(&other, &text);
            prop_assert_eq!(both.is_ok_and(|both| holds(&both, &text)), expected);
        }
    }

    #[test]
    fn look_aheads_at_the_beginning_are_kept() {
        let password = Pattern::parse_all("^(?=.*[A-Z])(?=.*\\d)[\\w)]{4,6}$").unwrap();
        for (text, is_in) in [("aB1c", true), ("abc1", false), ("ABcd", false), ("B1", false), ("A)1)", true)] {
            assert_eq!(holds(&password, text), is_in, "{text}");
        }
        let short = Pattern::parse_all("^(?=.{1,3}$)[a-z.]*$").unwrap();
        assert!(holds(&short, "a.b") && !holds(&short, "a.bc") && !holds(&short, ""));
        assert_eq!(short.lengths(), (1, 3));
        let decimal = Pattern::parse_all("^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$").unwrap();
        assert!(["1", "-.5", "0.", "12.50"].iter().all(|text| holds(&decimal, text)));
        assert!(["", ".", "-", "+.", "1.2.3"].iter().all(|text| !holds(&decimal, text)));
        let [start, end] = ["^ab", "c$"].map(|part| Pattern::parse_part(part).unwrap());
        let both = start.and(&end).unwrap();
        assert!(holds(&both, "abc") && holds(&both, "abxc") && !holds(&both, "ab") && !holds(&both, "xabc"));
        assert!(Pattern::parse_all("^(?!a)b$").unwrap_err().contains("not a regular expression"));
        assert!(Pattern::parse_all("^(?=b").is_err());
        assert!(Pattern::parse("^a$").unwrap().and(&Pattern::parse("^b$").unwrap()).is_err());
        let large = Pattern::parse("^(a?b?c?){25}$").unwrap();
        assert!(large.and(&Pattern::parse("^(c?b?a?){25}$").unwrap()).unwrap_err().contains("too large"));
    }
}
