//! SIGTERM and Ctrl-C. The first one asks for a regular end, once there is something to end. One
//! before that, or a second one, ends the program at once. Signals within a second count as one.

use super::print::say_in_passing;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Signals that follow the last counted one within this time are the same request to stop.
/// `timeout` signals both its child and its process group, and a terminal's Ctrl-C reaches a child
/// also through a parent that passes it on.
const SAME: Duration = Duration::from_secs(1);

/// The signals that have arrived since this was made.
pub(super) struct Signals {
    /// When the last signal that counts arrived.
    counted: Option<Instant>,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// To be called inside a runtime.
    pub(super) fn new() -> anyhow::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                counted: None,
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self { counted: None })
    }

    /// The exit code for the next signal that counts: 130 after Ctrl-C, 143 after SIGTERM.
    pub(super) async fn next(&mut self) -> u8 {
        loop {
            let code = self.any().await;
            if self.counted.is_none_or(|counted| counted.elapsed() >= SAME) {
                self.counted = Some(Instant::now());
                return code;
            }
        }
    }

    async fn any(&mut self) -> u8 {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await; // after an error no signal can arrive
            128 + 2
        }
    }
}

/// What happens to a program that draws on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TerminalEvent {
    /// The program is to end, with this exit code.
    End(u8),
    /// Ctrl-Z: the program is to stop until it is continued.
    Suspend,
    /// The window has another size.
    Resized,
}

/// The signals that a terminal sends, and those that end a program, since this was made.
pub(super) struct TerminalSignals {
    #[cfg(unix)]
    all: Vec<(tokio::signal::unix::Signal, TerminalEvent)>,
}

impl TerminalSignals {
    /// To be called inside a runtime. From now on the signals do nothing by themselves.
    pub(super) fn new() -> anyhow::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
            let code = |kind: SignalKind| u8::try_from(128 + kind.as_raw_value()).unwrap_or(1);
            let ends = ends.map(|kind| (kind, TerminalEvent::End(code(kind))));
            let suspend = SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw());
            let others = [(suspend, TerminalEvent::Suspend), (SignalKind::window_change(), TerminalEvent::Resized)];
            let all = ends.into_iter().chain(others).map(|(kind, event)| Ok((signal(kind)?, event)));
            Ok(Self { all: all.collect::<std::io::Result<_>>()? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    pub(super) async fn next(&mut self) -> TerminalEvent {
        #[cfg(unix)]
        {
            std::future::poll_fn(|context| {
                let mut events = self.all.iter_mut();
                let arrived = events.find_map(|(signal, event)| signal.poll_recv(context).is_ready().then_some(*event));
                arrived.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
            })
            .await
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await; // after an error no signal can arrive
            TerminalEvent::End(128 + 2)
        }
    }
}

/// Stops the program until it is continued.
pub(super) fn stop_here() {
    #[cfg(unix)]
    {
        use rustix::process::{Signal, getpid, kill_process};
        let _ = kill_process(getpid(), Signal::STOP); // a program may always stop itself
    }
}

/// Ends the program at once, whatever its threads are doing.
pub(super) fn exit(code: u8, why: &str) -> ! {
    say_in_passing(format_args!("remask: {why}"));
    std::process::exit(code.into())
}

/// A flag that becomes true on SIGTERM or on Ctrl-C; a second signal ends the program. To be called
/// outside a runtime.
pub(super) fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        runtime.block_on(signals.next());
        flag.store(true, Ordering::Relaxed);
        let code = runtime.block_on(signals.next());
        exit(code, "stopped at once, without a checkpoint of the last steps")
    });
    Ok(stop)
}
