//! The user's command that says which texts are right: a text is its standard input, and it exits
//! with 0 if the text is right.

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The variable of the environment that has the line of the data which the text answers.
const CASE: &str = "REMASK_CASE";
/// Exit codes of a shell that cannot run a command.
const NOT_RUN: [i32; 2] = [126, 127];

/// A command line for the shell, and how long it may take.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) command: String,
    pub(super) limit: Duration,
}

/// A text, and the line of the data that it answers.
#[derive(Clone, Debug)]
pub(super) struct Judged<'a> {
    pub(super) text: String,
    pub(super) case: &'a str,
}

impl Check {
    /// Whether each text is right, in their order. As many commands run at once as there are cores.
    ///
    /// # Errors
    /// When the command cannot be run.
    pub(super) async fn all(&self, texts: Vec<Judged<'_>>) -> anyhow::Result<Vec<bool>> {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        stream::iter(texts).map(|text| self.is_right(text)).buffered(at_once).try_collect().await
    }

    /// Whether a text is right. One that takes too long to judge is not.
    async fn is_right(&self, Judged { text, case }: Judged<'_>) -> anyhow::Result<bool> {
        let mut command = Command::new("sh");
        command.args(["-c", &self.command]).env(CASE, case).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot run the --check, for which a shell (sh) is needed")?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let mut input = child.stdin.take().context("the --check has no standard input")?;
        let judge = async {
            let _ = input.write_all(text.as_bytes()).await; // a command need not read it
            drop(input);
            child.wait().await
        };
        let status = tokio::time::timeout(self.limit, judge).await;
        if let (Err(_), Some(group)) = (&status, group) {
            let _ = kill_process_group(group, Signal::KILL); // fails if it has just ended
        }
        let Ok(status) = status else { return Ok(false) };
        let status = status.context("cannot wait for the --check")?;
        if status.code().is_some_and(|code| NOT_RUN.contains(&code)) {
            bail!("the shell cannot run the --check ({status}); give a command that it finds: {}", self.command);
        }
        Ok(ExitStatus::success(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_judges_each_text_with_its_case_and_in_time() {
        let check = |command: &str| Check { command: command.to_owned(), limit: Duration::from_secs(60) };
        let texts = |texts: &[&str]| -> Vec<Judged<'_>> {
            texts.iter().map(|text| Judged { text: (*text).to_owned(), case: "{\"n\":1}" }).collect()
        };
        let found = check("grep -q right").all(texts(&["wrong", "all right", "rong"])).await.unwrap();
        assert_eq!(found, [false, true, false]);
        let found = check("test \"$REMASK_CASE\" = '{\"n\":1}'").all(texts(&["a"])).await.unwrap();
        assert_eq!(found, [true], "the case is in the environment");
        let long = "x".repeat(1 << 20);
        assert_eq!(check("exit 0").all(texts(&[&long])).await.unwrap(), [true], "the text need not be read");

        let slow = Check { command: "sleep 600; exit 0".to_owned(), limit: Duration::from_millis(50) };
        assert_eq!(slow.all(texts(&["a"])).await.unwrap(), [false]);
        let error = check("no-such-command").all(texts(&["a"])).await.unwrap_err();
        assert!(error.to_string().contains("the shell cannot run the --check"), "{error}");
    }
}
