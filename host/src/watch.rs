//! Watches directories. Events are only hints: whoever is called looks at the files for itself.

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Quiet time after the last event: a file that is being copied raises many.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Looks anyway after this long: network filesystems and overflowing queues lose events.
const POLL: Duration = Duration::from_secs(3);

/// A watching thread; ends when this is dropped.
pub struct Watch {
    stop: Option<SyncSender<Signal>>,
    thread: Option<JoinHandle<()>>,
}

enum Signal {
    Changed,
    Stop,
}

/// Calls `look` on a thread of its own after changes in `dirs()`, which is asked anew each time.
///
/// Errors when the thread cannot start; a directory that cannot be watched is polled.
pub fn watch(
    name: &str,
    dirs: impl Fn() -> Vec<PathBuf> + Send + 'static,
    mut look: impl FnMut() + Send + 'static,
) -> std::io::Result<Watch> {
    // A full channel already promises a look, so what does not fit may be dropped.
    let (sender, receiver) = sync_channel(16);
    let hint = sender.clone();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let on_event = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|e| !e.kind.is_access()) {
                let _full_is_fine = hint.try_send(Signal::Changed);
            }
        };
        let mut watcher = notify::recommended_watcher(on_event).ok();
        let mut watched = Vec::new();
        loop {
            follow(watcher.as_mut(), &mut watched, dirs());
            match next(&receiver) {
                Some(()) => look(),
                None => return,
            }
        }
    })?;
    Ok(Watch { stop: Some(sender), thread: Some(thread) })
}

/// Waits for a change and for the quiet after it; `None` when it is time to end.
fn next(receiver: &Receiver<Signal>) -> Option<()> {
    match receiver.recv_timeout(POLL) {
        Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
        Err(RecvTimeoutError::Timeout) => return Some(()),
        Ok(Signal::Changed) => {}
    }
    loop {
        match receiver.recv_timeout(DEBOUNCE) {
            Ok(Signal::Changed) => {}
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => return Some(()),
        }
    }
}

fn follow(watcher: Option<&mut RecommendedWatcher>, watched: &mut Vec<PathBuf>, dirs: Vec<PathBuf>) {
    let Some(watcher) = watcher else { return };
    for gone in watched.iter().filter(|dir| !dirs.contains(dir)) {
        let _already_gone = watcher.unwatch(gone);
    }
    watched.retain(|dir| dirs.contains(dir));
    for dir in dirs {
        if !watched.contains(&dir) && watcher.watch(&dir, RecursiveMode::NonRecursive).is_ok() {
            watched.push(dir);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _already_ended = stop.send(Signal::Stop);
        }
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
