//! SIGTERM and Ctrl-C, as a future and as a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Completes on SIGTERM or on Ctrl-C. To be called inside a runtime.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await; // after an error no signal can arrive
    })
}

/// A flag that becomes true on SIGTERM or on Ctrl-C. To be called outside a runtime.
pub(super) fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signalled = {
        let _inside = runtime.enter();
        stop_signal()?
    };
    let flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        runtime.block_on(signalled);
        flag.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}
