//! Forking from a thread that lasts.

use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock, mpsc};

type SpawnJob = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The kernel's parent-death signal is sent when the *thread* that forked ends, so children are forked by a thread that
/// lives as long as the process.
pub(super) fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<SpawnJob>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<SpawnJob>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let ended = || io::Error::other("the thread that starts children has ended");
    let (answer, spawned) = mpsc::sync_channel(1);
    let jobs = spawner.lock().map_err(|_| ended())?.clone();
    jobs.send((command, answer)).map_err(|_| ended())?;
    spawned.recv().map_err(|_| ended())?
}
