//! Patterns of short texts, character by character: an automaton whose steps take one character
//! each. Out of scope: tokens, and which text is the likeliest.

use regex_syntax::hir::{Class, Hir, HirKind, Look};
use std::collections::BTreeMap;

/// Most steps of a pattern, and most arrows between them; each is looked at for every cell.
const STEPS_MAX: usize = 512;
const ARROWS_MAX: usize = 8192;
/// Longest text that a pattern is asked for, in characters.
pub const LENGTH_MAX: usize = 128;
/// What `\d`, `\w` and `\s` mean in ECMA-262, whose patterns JSON Schema uses.
const CLASSES: [(char, &str); 6] = [
    ('d', "[0-9]"),
    ('D', "[^0-9]"),
    ('w', "[A-Za-z0-9_]"),
    ('W', "[^A-Za-z0-9_]"),
    ('s', r"[\t\n\v\f\r \u{a0}\u{feff}\u{2028}\u{2029}\p{Zs}]"),
    ('S', r"[^\t\n\v\f\r \u{a0}\u{feff}\u{2028}\u{2029}\p{Zs}]"),
];

/// The characters that a step takes, as ranges with both ends included.
pub type Characters = Vec<(char, char)>;

/// A set of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(crate) steps: Vec<Step>,
    /// The steps that may come first.
    pub(crate) first: Vec<usize>,
    /// Whether the empty text is one of the set.
    pub(crate) may_be_empty: bool,
    /// The fewest and the most characters of a text, of those up to [`LENGTH_MAX`].
    lengths: (usize, usize),
}

/// One character of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub(crate) characters: Characters,
    /// The steps that may follow.
    pub(crate) next: Vec<usize>,
    /// Whether the text may end here.
    pub(crate) may_end: bool,
}

impl Pattern {
    pub(super) const STEPS_MAX: usize = STEPS_MAX;

    /// The texts that match a regular expression of ECMA-262 as a whole, which also match it where
    /// a part would do.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub fn parse(expression: &str) -> Result<Self, String> {
        let hir = regex_syntax::ParserBuilder::new().nest_limit(32).build().parse(&with_classes(expression));
        let hir = hir.map_err(|_| "it is not a regular expression without look-around and references".to_owned())?;
        let mut graph = Graph { nodes: vec![Node::End] };
        let start = graph.add(&hir, END, true)?;
        graph.pattern(start)
    }

    /// A pattern of these steps. At least one text must be in it.
    pub(crate) fn new(steps: Vec<Step>, first: Vec<usize>, may_be_empty: bool) -> Result<Self, String> {
        Self::of_steps(steps, first, may_be_empty)?.ok_or_else(no_text)
    }

    /// A pattern of these steps; `None` if no text is in it.
    pub(super) fn of_steps(steps: Vec<Step>, first: Vec<usize>, may_be_empty: bool) -> Result<Option<Self>, String> {
        if steps.iter().map(|step| step.next.len()).sum::<usize>() > ARROWS_MAX {
            return Err(too_large());
        }
        let pattern = Self { steps, first, may_be_empty, lengths: (0, 0) };
        Ok(pattern.count().map(|lengths| Self { lengths, ..pattern }))
    }

    /// The fewest and the most characters of a text, of those up to [`LENGTH_MAX`].
    #[must_use]
    pub const fn lengths(&self) -> (usize, usize) {
        self.lengths
    }

    /// Whether a text is in the set.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let mut here: Option<Vec<usize>> = None;
        for character in text.chars() {
            let open = match &here {
                None => self.first.clone(),
                Some(here) => here.iter().flat_map(|step| self.steps[*step].next.clone()).collect(),
            };
            let takes =
                |step: &usize| self.steps[*step].characters.iter().any(|(from, to)| (*from..=*to).contains(&character));
            let mut next: Vec<usize> = open.into_iter().filter(takes).collect();
            next.sort_unstable();
            next.dedup();
            here = Some(next);
        }
        here.map_or(self.may_be_empty, |here| here.iter().any(|step| self.steps[*step].may_end))
    }

    fn count(&self) -> Option<(usize, usize)> {
        let mut lengths = self.may_be_empty.then_some((0, 0));
        let mut here = vec![false; self.steps.len()];
        self.first.iter().for_each(|step| here[*step] = true);
        for length in 1..=LENGTH_MAX {
            let mut next = vec![false; self.steps.len()];
            for step in here.iter().zip(&self.steps).filter_map(|(is_here, step)| is_here.then_some(step)) {
                if step.may_end {
                    lengths = Some((lengths.map_or(length, |(fewest, _)| fewest), length));
                }
                step.next.iter().for_each(|step| next[*step] = true);
            }
            here = next;
        }
        lengths
    }
}

pub(super) fn no_text() -> String {
    format!("no text of up to {LENGTH_MAX} characters matches")
}

pub(super) fn too_large() -> String {
    format!("it is too large: it has more than {STEPS_MAX} characters or classes, repetitions written out")
}

/// The expression with ECMA-262's classes written out.
pub(super) fn with_classes(expression: &str) -> String {
    let (mut written, mut characters) = (String::new(), expression.chars());
    while let Some(character) = characters.next() {
        if character != '\\' {
            written.push(character);
            continue;
        }
        match characters.next() {
            Some('/') => written.push('/'), // escaped in JavaScript's literals
            Some(escaped) => match CLASSES.iter().find(|(name, _)| *name == escaped) {
                Some((_, class)) => written.push_str(class),
                None => written.extend(['\\', escaped]),
            },
            None => written.push('\\'),
        }
    }
    written
}

const END: usize = 0;

enum Node {
    End,
    Take { characters: Characters, next: usize },
    Either(Vec<usize>),
}

/// Nodes with arrows that take no character, as a regular expression gives them.
struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// Adds the nodes of `hir`, behind which `next` follows, and returns the first one.
    fn add(&mut self, hir: &Hir, next: usize, is_first: bool) -> Result<usize, String> {
        match hir.kind() {
            HirKind::Empty => Ok(next),
            HirKind::Look(Look::Start) if is_first => Ok(next),
            HirKind::Look(Look::End) if next == END => Ok(next),
            HirKind::Look(_) => Err("it looks around in the middle of a text".to_owned()),
            HirKind::Literal(literal) => {
                let text = String::from_utf8_lossy(&literal.0).into_owned();
                text.chars().rev().try_fold(next, |next, c| self.node(Node::Take { characters: vec![(c, c)], next }))
            }
            HirKind::Class(Class::Unicode(class)) => {
                let characters = class.iter().map(|range| (range.start(), range.end())).collect();
                self.node(Node::Take { characters, next })
            }
            HirKind::Class(Class::Bytes(_)) => Err("it speaks of bytes".to_owned()),
            HirKind::Capture(capture) => self.add(&capture.sub, next, is_first),
            HirKind::Concat(parts) => parts.iter().enumerate().rev().try_fold(next, |next, (index, part)| {
                let before = &parts[..index];
                let is_first = is_first && before.iter().all(|part| matches!(part.kind(), HirKind::Look(_)));
                self.add(part, next, is_first)
            }),
            HirKind::Alternation(parts) => {
                let starts = parts.iter().map(|part| self.add(part, next, is_first)).collect::<Result<_, _>>()?;
                self.node(Node::Either(starts))
            }
            HirKind::Repetition(repetition) => {
                let (sub, least) = (&*repetition.sub, repetition.min as usize);
                let mut after = next;
                match repetition.max {
                    None => {
                        after = self.node(Node::Either(Vec::new()))?;
                        let again = self.add(sub, after, false)?;
                        self.nodes[after] = Node::Either(vec![again, next]);
                    }
                    Some(most) => {
                        for _ in least..most as usize {
                            let once_more = self.add(sub, after, false)?;
                            after = self.node(Node::Either(vec![once_more, next]))?;
                        }
                    }
                }
                (0..least).try_fold(after, |after, _| self.add(sub, after, false))
            }
        }
    }

    fn node(&mut self, node: Node) -> Result<usize, String> {
        if self.nodes.len() > 4 * STEPS_MAX {
            return Err(too_large());
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// The nodes that take a character and are reached from `node` without taking one, and whether
    /// the end is.
    fn reached(&self, node: usize) -> (Vec<usize>, bool) {
        let (mut seen, mut open) = (vec![false; self.nodes.len()], vec![node]);
        let (mut takes, mut is_end) = (Vec::new(), false);
        while let Some(node) = open.pop() {
            if std::mem::replace(&mut seen[node], true) {
                continue;
            }
            match &self.nodes[node] {
                Node::End => is_end = true,
                Node::Take { .. } => takes.push(node),
                Node::Either(nodes) => open.extend(nodes),
            }
        }
        takes.sort_unstable();
        (takes, is_end)
    }

    fn pattern(&self, start: usize) -> Result<Pattern, String> {
        let takes = self.nodes.iter().enumerate().filter(|(_, node)| matches!(node, Node::Take { .. }));
        let steps: BTreeMap<usize, usize> = takes.enumerate().map(|(step, (node, _))| (node, step)).collect();
        if steps.len() > STEPS_MAX {
            return Err(too_large());
        }
        let of = |nodes: Vec<usize>| nodes.iter().filter_map(|node| steps.get(node).copied()).collect::<Vec<_>>();
        let mut all = Vec::new();
        for node in &self.nodes {
            if let Node::Take { characters, next } = node {
                let (next, may_end) = self.reached(*next);
                all.push(Step { characters: characters.clone(), next: of(next), may_end });
            }
        }
        let (first, may_be_empty) = self.reached(start);
        Pattern::new(all, of(first), may_be_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_becomes_the_texts_that_match_it() {
        let cases: [(&str, &[&str], &[&str]); 8] = [
            ("^[A-Z]{3}-\\d{4}$", &["ABC-0123"], &["AB-0123", "ABC-01234", "abc-0123", "ABC-٠123"]),
            ("^(a|bc)*$", &["", "a", "bca"], &["b", "ac b"]),
            ("^a+b?$", &["a", "aaab"], &["", "ab b", "b"]),
            ("colou?r", &["color", "colour"], &["colouur"]),
            ("^a$|^b$", &["a", "b"], &["ab"]),
            ("^\\w[\\w.]*$", &["a.b_1"], &[".a", "é"]),
            ("^[a-z]{2,4}$", &["ab", "abcd"], &["a", "abcde"]),
            ("^(a*)*$", &["", "aa"], &["b"]),
        ];
        for (expression, inside, outside) in cases {
            let pattern = Pattern::parse(expression).unwrap();
            for text in inside {
                assert!(pattern.holds(text), "{expression} {text:?}");
            }
            for text in outside {
                assert!(!pattern.holds(text), "{expression} {text:?}");
            }
        }
        assert_eq!(Pattern::parse("^[a-z]{2,4}$").unwrap().lengths(), (2, 4));
        assert_eq!(Pattern::parse("^x+$").unwrap().lengths(), (1, LENGTH_MAX));
    }

    #[test]
    fn what_cannot_be_kept_says_why() {
        for (expression, why) in [
            ("(", "not a regular expression"),
            ("(?=a)b", "not a regular expression"),
            (r"(a)\1", "not a regular expression"),
            ("a^b", "looks around"),
            (r"\bfoo\b", "looks around"),
            ("a{5000}", "too large"),
            ("(a{40}){40}", "too large"),
            ("a{200}", "no text of up to 128 characters"),
            ("((a?){20}){20}", "too large"),
        ] {
            let error = Pattern::parse(expression).unwrap_err();
            assert!(error.contains(why), "{expression}: {error}");
        }
    }
}
