//! The registry: every rule by its kind and name. JSON, OpenAPI, command line flags, metric labels,
//! `/v1/models` and the tables of the documentation are made from it.

use super::cache::{DUAL, NO_CACHE, PREFIX};
use super::confidence;
use super::knob::{KNOBS_MAX, Knob, KnobError, Settings};
use super::lock::LOCK;
use super::order;
use super::pace::{ANCESTRAL, ENTROPY_BOUND, FACTOR, HIERARCHICAL, KLASS, LEAP, THRESHOLD};
use super::present::{P2, PRESENT, RUNNING, T2M};
use super::proseco::PROSECO;
use super::quality::{EXACT, QUALITY};
use super::random;
use super::remask::{BUDGET, OFF, WINDOW};
use super::remdm::{CAP, REMDM, RESCALE};
use super::remedi::{REMEDI, REMEDI_LOGIT};
use super::rule::{Choice, Count, Kind, Rule};
use super::saber;
use super::token_editing::TOKEN_EDITING;
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

/// The rules that every program has, in the order in which they are listed.
static BUILT_IN: [&Rule; 34] = [
    &order::CONFIDENCE,
    &order::MARGIN,
    &order::ENTROPY,
    &order::RANDOM,
    &order::LEFTMOST,
    &THRESHOLD,
    &FACTOR,
    &ENTROPY_BOUND,
    &LEAP,
    &HIERARCHICAL,
    &saber::PACE,
    &KLASS,
    &ANCESTRAL,
    &OFF,
    &QUALITY,
    &EXACT,
    &confidence::CONFIDENCE,
    &PRESENT,
    &RUNNING,
    &T2M,
    &P2,
    &saber::SABER,
    &TOKEN_EDITING,
    &PROSECO,
    &REMDM,
    &CAP,
    &RESCALE,
    &REMEDI,
    &REMEDI_LOGIT,
    &random::RANDOM,
    &NO_CACHE,
    &PREFIX,
    &DUAL,
    &LOCK,
];

/// Rules that a program brought.
static ADDED: RwLock<Vec<&'static Rule>> = RwLock::new(Vec::new());

/// Why a rule was not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// There is a rule of this kind and name.
    #[error("there is a rule {0:?} already; give another name")]
    Taken(&'static str),
    /// It has more knobs than a request can set.
    #[error("the rule {0:?} has {1} knobs; {KNOBS_MAX} are the most")]
    TooManyKnobs(&'static str, usize),
    /// A remasking without a bound.
    #[error("the remasking {0:?} has no knob `budget`, which bounds the erasures of a block")]
    Unbounded(&'static str),
    /// A pace that no request could ask for.
    #[error("the pace {0:?} has no knob of its own name, by which requests ask for it")]
    Nameless(&'static str),
}

/// Adds a rule to those that requests can ask for. Call it before a server or a command line is
/// made: their documents and metrics list the rules once.
///
/// # Errors
/// When its name is taken, it has more than six knobs, a remasking lacks the knob `budget`, or a
/// pace lacks a knob of its own name.
pub fn register(rule: &'static Rule) -> Result<(), RegistryError> {
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    if BUILT_IN.iter().chain(added.iter()).any(|other| **other == *rule) {
        return Err(RegistryError::Taken(rule.name));
    }
    if rule.knobs.len() > KNOBS_MAX {
        return Err(RegistryError::TooManyKnobs(rule.name, rule.knobs.len()));
    }
    let is_bounded = matches!(rule.count, Count::Replacements | Count::Ranked) || rule.knob(BUDGET.name).is_some();
    if rule.kind == Kind::Remasking && !is_bounded {
        return Err(RegistryError::Unbounded(rule.name));
    }
    if rule.kind == Kind::Pace && rule.knob(rule.name).is_none() {
        return Err(RegistryError::Nameless(rule.name));
    }
    added.push(rule);
    Ok(())
}

/// All rules of a kind, built-in ones first.
pub fn rules(kind: Kind) -> Vec<&'static Rule> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    BUILT_IN.iter().chain(added.iter()).copied().filter(|rule| rule.kind == kind).collect()
}

/// The rule of this name.
pub fn find(kind: Kind, name: &str) -> Option<&'static Rule> {
    rules(kind).into_iter().find(|rule| rule.name == name)
}

/// The knobs that the rules of a kind have, each name once, in the order of the rules.
pub fn knobs(kind: Kind) -> Vec<&'static Knob> {
    let mut names = BTreeSet::new();
    let all = rules(kind).into_iter().flat_map(|rule| rule.knobs).copied();
    all.filter(|knob| names.insert(knob.name)).collect()
}

/// The pace that some knobs ask for: the one that has its own name among them. `None` where no knob
/// is set.
///
/// # Errors
/// When knobs of several paces are set.
pub fn pace(settings: &Settings) -> Result<Option<Choice>, KnobError> {
    let Some((first, _)) = settings.iter().next() else { return Ok(None) };
    let rules = rules(Kind::Pace);
    let Some(rule) = rules.iter().find(|rule| settings.get(rule.name).is_some()) else {
        let owners = rules.iter().filter(|rule| rule.knob(first).is_some()).map(|rule| rule.name);
        let message = format!("{first} goes with {}; give that too", listed(&owners.collect::<Vec<_>>(), "or"));
        return Err(KnobError { knob: first, message });
    };
    match settings.iter().find(|(name, _)| rule.knob(name).is_none()) {
        None => Ok(Some(Choice { rule, settings: *settings })),
        Some((other, _)) => {
            let message = format!("{other} does not go with {}; give one of them", rule.name);
            Err(KnobError { knob: other, message })
        }
    }
}

impl Choice {
    /// Checks every setting.
    ///
    /// # Errors
    /// When the rule has no such knob, the value is outside the knob's range, or the knob does
    /// nothing without another one.
    pub fn check(&self) -> Result<(), KnobError> {
        self.settings.iter().try_for_each(|(name, value)| match self.rule.knob(name) {
            Some(knob) => knob.check(value),
            None => Err(foreign(self.rule, name)),
        })?;
        if self.hold().is_some_and(|hold| !hold.overlaps(&self.window())) {
            let message = "window and hold do not overlap, and a hold only writes anew what is erased in it; \
                           let them overlap, or leave out window";
            return Err(KnobError { knob: WINDOW.name, message: message.to_owned() });
        }
        match order::without_credit(&self.settings).filter(|_| self.rule.kind == Kind::Order) {
            None => Ok(()),
            Some(knob) => {
                let message = format!("{knob} goes with {}; give that too", order::CREDIT.name);
                Err(KnobError { knob, message })
            }
        }
    }
}

/// The error for a knob that the rule does not have.
fn foreign(rule: &'static Rule, knob: &'static str) -> KnobError {
    let rules = rules(rule.kind);
    let knob_names = |rule: &Rule| rule.knobs.iter().map(|knob| knob.name).collect::<Vec<_>>();
    let owners = rules.iter().filter(|other| other.knob(knob).is_some());
    let owners: Vec<_> = owners.map(|owner| format!("{:?}", owner.name)).collect();
    let policies = if owners.len() == 1 { "policy" } else { "policies" };
    let name = rule.name;
    let advice = match knob_names(rule).as_slice() {
        [] => format!("{name:?} takes no knobs"),
        own => format!("with {name:?} give {}", listed(own, "and")),
    };
    let belongs = match owners.is_empty() {
        true => format!("goes with no {}", rule.kind), // a knob of another kind of rule
        false => format!("goes with the {policies} {}", listed(&owners, "and")),
    };
    KnobError { knob, message: format!("{knob} {belongs}; {advice}") }
}

/// `a, b and c`.
fn listed(words: &[impl AsRef<str>], joint: &str) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} {joint} {last}", first.join(", ")),
    }
}

/// The rules of a kind as a table in Markdown, with a second table of their knobs if they have any.
pub fn table(kind: Kind) -> String {
    let mut table = String::from("| name | what it does | knobs | source |\n|---|---|---|---|\n");
    for rule in rules(kind) {
        let names: Vec<_> = rule.knobs.iter().map(|knob| format!("`{}`", knob.name)).collect();
        let source = match rule.source.strip_prefix("arXiv ") {
            Some(number) => format!("[{}](https://arxiv.org/abs/{number})", rule.source),
            None => rule.source.to_owned(),
        };
        table += &format!("| `{}` | {} | {} | {source} |\n", rule.name, rule.help, names.join(", "));
    }
    let knobs = knobs(kind);
    if !knobs.is_empty() {
        table += "\n| knob | values | meaning |\n|---|---|---|\n";
    }
    for knob in knobs {
        table += &format!("| `{}` | {} | {} |\n", knob.name, knob.range, knob.help);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::remask::BELOW;
    use super::*;
    use std::path::Path;

    /// `REMASK_WRITE_CASES=1` writes the tables anew.
    #[test]
    fn the_documentation_has_the_tables() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policies.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let mut wanted = page.clone();
        for (mark, kind) in
            [("unmasking", Kind::Order), ("paces", Kind::Pace), ("remasking", Kind::Remasking), ("caches", Kind::Cache)]
        {
            let (start, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
            let (before, rest) = wanted.split_once(&start).unwrap();
            let (_, after) = rest.split_once(&end).unwrap();
            wanted = format!("{before}{start}{}{end}{after}", table(kind));
        }
        if std::env::var_os("REMASK_WRITE_CASES").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        } else {
            assert!(page == wanted, "write the tables of docs/policies.md anew with REMASK_WRITE_CASES=1");
        }
    }

    #[test]
    fn a_rule_is_added_only_under_a_name_of_its_own_and_if_it_bounds_a_run() {
        const BARE: Rule = Rule { name: "bare", ..Rule::NONE };
        static TAKEN: Rule = Rule { name: "off", ..BARE };
        static UNBOUNDED: Rule = Rule { knobs: &[&BELOW; KNOBS_MAX], ..BARE };
        static CROWDED: Rule = Rule { knobs: &[&BUDGET; KNOBS_MAX + 1], ..BARE };
        static NAMELESS: Rule = Rule { kind: Kind::Pace, ..BARE };
        assert_eq!(register(&TAKEN), Err(RegistryError::Taken("off")));
        assert_eq!(register(&UNBOUNDED), Err(RegistryError::Unbounded("bare")));
        assert_eq!(register(&NAMELESS), Err(RegistryError::Nameless("bare")));
        assert_eq!(register(&CROWDED), Err(RegistryError::TooManyKnobs("bare", 7)));
        assert_eq!(RegistryError::TooManyKnobs("bare", 7).to_string(), "the rule \"bare\" has 7 knobs; 6 are the most");
    }

    #[test]
    fn knobs_of_another_rule_and_values_outside_a_range_are_refused() {
        let message = |choice: Choice| choice.check().unwrap_err().message;
        assert_eq!(message(Choice::of(&QUALITY).with("budget", 65_537)), "budget is 65537; give 0 to 65536");
        assert_eq!(message(Choice::of(&QUALITY).with("below", f32::NAN)), "below is NaN; give a number from 0 to 1");
        assert_eq!(
            message(Choice::of(&QUALITY).with("window", [0.5, 0.25])),
            "window is [0.5, 0.25]; its end must lie after its start"
        );
        assert_eq!(message(Choice::of(&QUALITY).with("budget", 0.5)), "budget is 0.5; give 0 to 65536");
        assert_eq!(
            message(Choice::of(&REMDM).with("below", 0.5)),
            "below goes with the policies \"quality\", \"exact\", \"confidence\", \"present\", \"running\" and \"t2m\"; \
             with \"remdm\" give budget, window and hold"
        );
        assert_eq!(
            message(Choice::of(&OFF).with("weight", 1.0)),
            "weight goes with the policy \"p2\"; \"off\" takes no knobs"
        );
        let fading = Choice::of(&order::ENTROPY).with("credit_decay", 0.5);
        assert_eq!(message(fading), "credit_decay goes with credit; give that too");
        assert_eq!(fading.with("credit", 0.7).check(), Ok(()));
        let held = Choice::of(&QUALITY).with("hold", [0.5, 0.75]);
        assert!(message(held.with("window", [0.0, 0.5])).starts_with("window and hold do not overlap"));
        assert_eq!((held.check(), held.with("window", [0.0, 0.75]).check()), (Ok(()), Ok(())));
        assert_eq!(pace(&Settings::EMPTY), Ok(None));
        let threshold = Choice::of(&THRESHOLD).with("threshold", 0.9);
        assert_eq!(pace(&threshold.settings), Ok(Some(threshold)));
        let both = threshold.with("budget", 3).settings;
        assert_eq!(pace(&both).unwrap_err().message, "budget does not go with threshold; give one of them");
    }
}
