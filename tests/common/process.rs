//! The server as a process of its own, with flags, a standard error and a process id.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a test waits for an event before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is killed when it is dropped.
pub struct Process {
    child: Child,
    /// As `http://127.0.0.1:1234`.
    pub base: String,
    /// Lines of standard error after the greeting, sent by a thread. Lines that the test does not
    /// take stay in the pipe until it is full.
    pub lines: mpsc::Receiver<String>,
}

impl Process {
    /// `remask serve` on a free port.
    pub fn serve(flags: &[&str]) -> Self {
        Self::of(serve_at(0).args(flags))
    }

    /// The same on a given port, as soon as nothing else has it.
    pub fn at(port: u16, flags: &[&str]) -> Self {
        let begun = Instant::now();
        loop {
            if let Some(server) = Self::greeted_by(serve_at(port).args(flags)) {
                return server;
            }
            assert!(begun.elapsed() < PATIENCE, "port {port} stays taken");
        }
    }

    /// A command that starts a server and prints its greeting on standard error.
    pub fn of(command: &mut Command) -> Self {
        Self::greeted_by(command).unwrap_or_else(|| panic!("{command:?} does not serve"))
    }

    /// None if it ends without a greeting.
    fn greeted_by(command: &mut Command) -> Option<Self> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (say, lines) = mpsc::sync_channel(64);
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut greeting = std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok());
        let base =
            greeting.find_map(|line| Some(line.strip_prefix("serving ")?.rsplit_once(" on http://")?.1.to_owned()));
        let mut server = Self { child, base: String::new(), lines };
        server.base = format!("http://{}", base?);
        Some(server)
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The address it listens on.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits until it ends.
    pub fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its resident set in MiB, on systems that report it.
    pub fn resident(&self) -> Option<f64> {
        self.status("VmRSS:")
    }

    /// The largest its resident set has been, in MiB, on systems that report it.
    pub fn peak(&self) -> Option<f64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
    }

    /// Hands over the reading end of standard error. Later lines are lost unless the caller reads
    /// them.
    pub fn take_lines(&mut self) -> mpsc::Receiver<String> {
        std::mem::replace(&mut self.lines, mpsc::sync_channel(0).1)
    }

    /// Its lines since the greeting, up to one with these words.
    pub fn until_said(&self, words: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{words:?} is not in {said:#?}"));
            let is_last = line.contains(words);
            said.push(line);
            if is_last {
                return said;
            }
        }
    }
}

fn serve_at(port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    command.args(["serve", "--port", &port.to_string()]);
    command
}

/// Sends a signal to a process.
pub fn signal(id: u32, name: &str) {
    // the shell's own `kill`: some systems have no such program
    let told = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id.to_string()]).status().unwrap();
    assert!(told.success());
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
