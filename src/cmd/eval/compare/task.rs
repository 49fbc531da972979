//! What policies are compared on: Sudoku puzzles, or the lines of a file.

use super::check::{Check, Judged};
use crate::cmd::eval::input::read_lines;
use crate::cmd::eval::puzzles::{self, PuzzleArgs};
use crate::engine::{Answer, DEFAULT_BLANK, Handle, Length, Prompt, Start, Task};
use crate::train::sudoku::Grid;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Tasks, and what makes an answer right.
#[derive(Debug)]
pub(super) enum Tasks {
    /// A grid is right if all rules hold and no clue has changed.
    Puzzles(Vec<Grid>),
    /// A text is right if it is the expected one, or the user's command says so.
    Texts { file: PathBuf, cases: Vec<Case>, check: Option<Check>, max_tokens: Option<usize> },
}

/// A line of the data: a `prompt` to continue, or a `template` to fill. Other members are for the
/// user's command.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Case {
    prompt: Option<String>,
    template: Option<String>,
    #[serde(default = "default_blank")]
    blank: String,
    /// The expected text: of a template the whole, of a prompt what follows it.
    text: Option<String>,
    /// The line itself, and its number from 1.
    #[serde(skip)]
    line: String,
    #[serde(skip)]
    number: usize,
}

fn default_blank() -> String {
    DEFAULT_BLANK.to_owned()
}

/// Whether an answer is right, as far as that is known before the user's command has run.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    /// The whole text, prompt included; empty for a puzzle.
    pub(super) text: String,
    /// `None` is for the command to say.
    pub(super) is_right: Option<bool>,
}

impl Tasks {
    pub(super) fn puzzles(args: &PuzzleArgs) -> anyhow::Result<Self> {
        Ok(Self::Puzzles(args.read()?))
    }

    /// The lines of a file; at most `most` of them.
    ///
    /// # Errors
    /// When a line is malformed, or nothing says which answers are right.
    pub(super) fn texts(
        file: &Path,
        most: Option<usize>,
        check: Option<Check>,
        has_judge: bool,
        max_tokens: Option<usize>,
    ) -> anyhow::Result<Self> {
        let mut cases = read_lines(file, |number, line| Case::parse(number, line, check.is_some() || has_judge))?;
        cases.truncate(most.unwrap_or(usize::MAX));
        if cases.is_empty() {
            bail!("{} has no text", file.display());
        }
        Ok(Self::Texts { file: file.to_owned(), cases, check, max_tokens })
    }

    /// Checks that the tasks are some for this model.
    pub(super) fn check_model(&self, handle: &Handle) -> anyhow::Result<()> {
        if let Self::Puzzles(_) = self { puzzles::check_model(handle) } else { Ok(()) }
    }

    /// Where a task comes from, in words.
    pub(super) fn place(&self, number: usize) -> String {
        match self {
            Self::Puzzles(_) => format!("puzzle {}", number + 1),
            Self::Texts { file, cases, .. } => format!("{}, line {}", file.display(), cases[number].number),
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::Puzzles(puzzles) => puzzles.len(),
            Self::Texts { cases, .. } => cases.len(),
        }
    }

    /// What an answer is called that is right.
    pub(super) fn success(&self) -> &'static str {
        match self {
            Self::Puzzles(_) => "solved",
            Self::Texts { .. } => "right",
        }
    }

    /// Whether something says which answers are right.
    pub(super) fn has_success(&self) -> bool {
        match self {
            Self::Puzzles(_) => true,
            Self::Texts { cases, check, .. } => check.is_some() || cases.iter().all(|case| case.text.is_some()),
        }
    }

    /// What they are, in words.
    pub(super) fn title(&self) -> String {
        let count = self.count();
        match self {
            Self::Puzzles(_) => format!("{count} Sudoku puzzles"),
            Self::Texts { check: None, .. } => format!("{count} texts"),
            Self::Texts { check: Some(check), .. } => format!("{count} texts, judged by {}", check.command),
        }
    }

    pub(super) fn task(&self, number: usize) -> Task {
        match self {
            Self::Puzzles(puzzles) => puzzles::task(&puzzles[number]),
            Self::Texts { cases, max_tokens, .. } => cases[number].task(*max_tokens),
        }
    }

    pub(super) fn answered(&self, number: usize, start: &Start, answer: &Answer) -> Answered {
        match self {
            Self::Puzzles(puzzles) => {
                let is_right = puzzles::is_solved(&puzzles[number], start, answer);
                Answered { text: puzzles::final_grid(start, answer).to_string(), is_right: Some(is_right) }
            }
            Self::Texts { cases, check, .. } => {
                let (case, written) = (&cases[number], answer.output.text());
                let is_right = case.text.as_ref().filter(|_| check.is_none()).map(|text| text == written);
                Answered { text: format!("{}{written}", case.prompt.as_deref().unwrap_or_default()), is_right }
            }
        }
    }

    /// Which answers are right, in the order of the tasks; `None` if nothing says so.
    ///
    /// # Errors
    /// When the user's command cannot be run.
    pub(super) async fn right(&self, answers: &[Answered]) -> anyhow::Result<Option<Vec<bool>>> {
        match self {
            Self::Texts { cases, check: Some(check), .. } => {
                let texts = answers.iter().zip(cases);
                let texts = texts.map(|(answer, case)| Judged { text: answer.text.clone(), case: &case.line });
                Ok(Some(check.all(texts.collect()).await?))
            }
            _ => Ok(answers.iter().map(|answer| answer.is_right).collect()),
        }
    }

    /// Each answer after its prompt, which is empty for a template.
    pub(super) fn written<'a>(&'a self, answers: &'a [Answered]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let cases: &[Case] = if let Self::Texts { cases, .. } = self { cases } else { &[] };
        answers.iter().zip(cases).map(|(answer, case)| {
            let prompt = case.prompt.as_deref().unwrap_or_default();
            (prompt, answer.text.strip_prefix(prompt).unwrap_or(&answer.text))
        })
    }

    /// Runs the user's command once, so that a wrong one is an error before a measurement
    /// that may take hours.
    pub(super) async fn try_check(&self) -> anyhow::Result<()> {
        if let Self::Texts { cases, check: Some(check), .. } = self {
            check.all(vec![Judged { text: String::new(), case: &cases[0].line }]).await?;
        }
        Ok(())
    }
}

impl Case {
    fn parse(number: usize, line: &str, is_judged: bool) -> anyhow::Result<Self> {
        if !line.trim_start().starts_with('{') {
            bail!("give an object with prompt or template"); // serde reads a struct from an array, too
        }
        let case: Self = serde_json::from_str(line).context("give an object with prompt or template")?;
        match (&case.prompt, &case.template) {
            (Some(_), Some(_)) | (None, None) => bail!("give either a prompt or a template"),
            _ if case.text.is_none() && !is_judged => {
                bail!("has no text, which the answer is compared with; give it, a command with --check, or a --judge")
            }
            _ => Ok(Self { line: line.to_owned(), number, ..case }),
        }
    }

    fn task(&self, max_tokens: Option<usize>) -> Task {
        let length = max_tokens.map_or(Length::Default, Length::New);
        match (&self.template, &self.prompt) {
            (Some(template), _) => Task::Infill { template: template.clone(), blank: self.blank.clone() },
            (None, prompt) => Task::Continue { prompt: Prompt::Text(prompt.clone().unwrap_or_default()), length },
        }
    }
}
