//! Where servers are born, so that none outlives the process: one thread forks them all and lives as long.
//!
//! ```text
//!   any thread ── Command ──> nursery thread: fork, drop privileges, ask for the parent-death signal, exec
//!              <── Child ───┘
//! ```
//!
//! The kernel sends the parent-death signal when the *thread* that forked ends, not the process. A pool thread
//! that forks a server and is retired ten idle seconds later would take the server with it.

use crate::error::{PgError, Result, SqlState};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc;

/// The thread that forks servers; it ends when this is dropped, and takes what still runs with it.
pub struct Nursery {
    births: mpsc::Sender<Birth>,
}

struct Birth {
    command: Command,
    answer: mpsc::Sender<io::Result<Child>>,
}

impl Nursery {
    pub fn new() -> Result<Self> {
        let (births, queue) = mpsc::channel::<Birth>();
        std::thread::Builder::new()
            .name("dev-cluster-nursery".to_string())
            .spawn(move || {
                for Birth { mut command, answer } in queue {
                    // The asker waits for the answer; if it is gone, dropping the Child changes nothing.
                    let _ = answer.send(command.spawn());
                }
            })
            .map_err(|error| super::io_error("start a thread", error))?;
        Ok(Self { births })
    }

    /// Starts a command in a process group of its own (so the terminal's Ctrl-C reaches us only); it gets
    /// `death_signal` when this nursery or the whole process ends, SIGKILL of ours included.
    pub fn spawn(&self, mut command: Command, death_signal: Signal) -> io::Result<Child> {
        command.process_group(0);
        die_with_parent(&mut command, death_signal);
        let (answer, child) = mpsc::channel();
        let gone = |_| io::Error::other("the thread that starts servers is gone");
        self.births.send(Birth { command, answer }).map_err(|error| gone(error.to_string()))?;
        child.recv().map_err(|error| gone(error.to_string()))?
    }
}

/// The ways to end a Postgres server. Source: PostgreSQL manual, "Shutting Down the Server".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Sessions are cut off, transactions rolled back, data flushed: SIGINT.
    Fast,
    /// Everything ends at once, the next start recovers from the log: SIGQUIT.
    Immediate,
    /// The kernel ends the process: SIGKILL.
    Kill,
    /// The kernel stops running the process: SIGSTOP.
    Freeze,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Fast => libc::SIGINT,
            Signal::Immediate => libc::SIGQUIT,
            Signal::Kill => libc::SIGKILL,
            Signal::Freeze => libc::SIGSTOP,
        }
    }

    /// Sends this signal to a process. A process that is gone already is no error.
    #[expect(unsafe_code, reason = "std can only SIGKILL; kill(2) takes plain numbers and touches no memory")]
    pub fn send(self, pid: u32) -> Result<()> {
        // 0 and negative numbers would mean whole process groups.
        let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 1).ok_or_else(|| {
            PgError::new(SqlState::INTERNAL_ERROR, format!("{pid} is not the number of a server process"))
        })?;
        // SAFETY: kill has no memory arguments.
        match unsafe { libc::kill(pid, self.number()) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                error => Err(super::io_error(format_args!("signal process {pid}"), error)),
            },
        }
    }
}

#[expect(unsafe_code, reason = "code between fork and exec is unsafe to std; only a raw system call runs there")]
fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = std::process::id();
    let number = signal.number();
    let ask = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours.
        let (asked, parent_now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, number), libc::getppid()) };
        if asked != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the kernel knew our wish; then nobody would ever signal us.
        if u32::try_from(parent_now) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // std runs this after it has changed user and group, which matters: changing them clears the wish.
    // SAFETY: `ask` allocates nothing, takes no locks, and makes async-signal-safe calls only.
    unsafe { command.pre_exec(ask) };
}
