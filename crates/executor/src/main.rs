//! `serverledge-executor`: pid 1 of a sandbox, and with the argument `bridge` what runs programs
//! that have no shim. See `PROTOCOL.md`.
//!
//! Standard library only: it is compiled by a build script and embedded into the node. As pid 1 it
//! runs for every cold start, so it does little, and inside a sandbox, so it trusts nothing it could
//! be sent: its configuration comes from the node through the helper.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bridge;

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::FromRawFd as _;
use std::process::exit;

const CONFIG_FD: c_int = 3;
const STATUS_FD: c_int = 4;

// The first byte of the configuration; the library beside has the same.
const RUN: u8 = 0;
const STAY: u8 = 1;
const ADOPT: u8 = 2;

const EXITED: u8 = 1;
const SIGNALED: u8 = 2;
const NOT_STARTED: u8 = 3;

const PR_SET_PDEATHSIG: c_int = 1;
const PR_SET_DUMPABLE: c_int = 4;
const PR_SET_SECCOMP: c_int = 22;
const PR_SET_NO_NEW_PRIVS: c_int = 38;
const SECCOMP_MODE_FILTER: c_ulong = 2;
const SIGKILL: c_ulong = 9;
const EINTR: i32 = 4;
const EINVAL: i32 = 22;
const CLOSE_RANGE_CLOEXEC: c_int = 4;

unsafe extern "C" {
    fn prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char)
    -> c_int;
    fn close_range(first: u32, last: u32, flags: c_int) -> c_int;
    fn setsid() -> c_int;
    fn pause() -> c_int;
    fn _exit(status: c_int) -> !;
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    instructions: u16,
    filter: *const c_void,
}

/// What the node wants of this process.
enum Task {
    /// Starting an interpreter, and ending with it.
    Run(Config),
    /// The same, but staying when it ends: sandboxes that it has forked are below this process, which
    /// the node kills when the last of them has gone.
    Stay(Config),
    /// Ending with an interpreter that has joined this sandbox and is a child of this process.
    Adopt(c_int),
}

struct Config {
    argv: Vec<CString>,
    environment: Vec<CString>,
    seccomp: Vec<u8>,
}

fn main() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == "bridge")
    {
        bridge::main()
    }
    // SAFETY: plain system calls on values. JUSTIFICATION: the standard library has no prctl.
    unsafe {
        // Set again here because the change of user that came before has cleared it.
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        // The function has the same user: without this it could read this process's memory and
        // reopen its descriptors through /proc. Undone for the interpreter when it is executed.
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        // Whatever else came along is none of ours. An interpreter that joins waits for this: one of
        // these tells it that nothing of this process can be had any more.
        close_range(STATUS_FD as u32 + 1, u32::MAX, 0);
    }
    // SAFETY: whoever executes this program passes the two descriptors and nothing else uses them.
    // JUSTIFICATION: descriptors that were inherited by number have no safe way in.
    let (config, status) = unsafe { (File::from_raw_fd(CONFIG_FD), File::from_raw_fd(STATUS_FD)) };
    let (kind, value) = match read(config) {
        Some(Task::Run(config)) => run(&config),
        Some(Task::Stay(config)) => {
            let (kind, value) = run(&config);
            report(status, kind, value);
            stay()
        }
        Some(Task::Adopt(interpreter)) => wait(interpreter),
        None => (NOT_STARTED, EINVAL),
    };
    report(status, kind, value);
    exit(0)
}

fn report(mut status: File, kind: u8, value: i32) {
    let mut message = [kind; 5];
    message[1..].copy_from_slice(&value.to_be_bytes());
    // Nobody is left to tell if this fails.
    let _ = status.write_all(&message);
}

/// Reads until the end, which for [`Task::Adopt`] comes when the interpreter has this process as its
/// parent.
fn read(mut file: File) -> Option<Task> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let (task, mut rest) = bytes.split_first()?;
    match *task {
        RUN => command(&mut rest).map(Task::Run),
        STAY => command(&mut rest).map(Task::Stay),
        ADOPT => {
            let pid = c_int::try_from(number(&mut rest)?).ok()?;
            Some(Task::Adopt(pid)).filter(|_| pid > 1)
        }
        _ => None,
    }
}

fn command(rest: &mut &[u8]) -> Option<Config> {
    let argv = strings(rest)?;
    let environment = strings(rest)?;
    let length = number(rest)?;
    let seccomp = rest.get(..length)?.to_vec();
    Some(Config {
        argv,
        environment,
        seccomp,
    })
    .filter(|config| !config.argv.is_empty())
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

fn strings(rest: &mut &[u8]) -> Option<Vec<CString>> {
    let count = number(rest)?;
    let mut strings = Vec::new();
    for _ in 0..count {
        let length = number(rest)?;
        let text = rest.get(..length)?;
        strings.push(CString::new(text).ok()?);
        *rest = rest.get(length..)?;
    }
    Some(strings)
}

/// Runs the interpreter and waits for its end.
fn run(config: &Config) -> (u8, i32) {
    let (mut from_child, to_parent) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return (NOT_STARTED, error.raw_os_error().unwrap_or(EINVAL)),
    };
    // SAFETY: this process has one thread, so the child may do anything. JUSTIFICATION: `Command`
    // would work, but runs our seccomp filter before its own system calls, which would have to be
    // allowed to every function then.
    let pid = unsafe { fork() };
    if pid == 0 {
        drop(from_child);
        let errno = become_interpreter(config);
        let mut to_parent = to_parent;
        let _ = to_parent.write_all(&errno.to_be_bytes());
        // SAFETY: ends the process. JUSTIFICATION: `exit` would run the parent's handlers.
        unsafe { _exit(127) }
    }
    drop(to_parent);
    if pid < 0 {
        return (NOT_STARTED, last_errno());
    }
    // Closed by a successful exec; holds the reason of one that failed.
    let mut errno = [0; 4];
    if from_child.read_exact(&mut errno).is_ok() {
        return (NOT_STARTED, i32::from_be_bytes(errno));
    }
    drop(from_child);
    wait(pid)
}

/// In the child: returns only when it failed.
fn become_interpreter(config: &Config) -> i32 {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, environment) = (pointers(&config.argv), pointers(&config.environment));
    // SAFETY: all pointers are to live, NUL-terminated data, and the lists end with null.
    // JUSTIFICATION: these system calls have no equivalent in the standard library.
    unsafe {
        setsid();
        // Descriptors of the helper and of the executor are none of the function's business.
        close_range(3, u32::MAX, CLOSE_RANGE_CLOEXEC);
        if !config.seccomp.is_empty() {
            let instructions = u16::try_from(config.seccomp.len() / 8).unwrap_or(u16::MAX);
            let program = Program {
                instructions,
                filter: config.seccomp.as_ptr().cast(),
            };
            let address = &raw const program as c_ulong;
            if prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address, 0, 0) != 0 {
                return last_errno();
            }
        }
        execve(argv[0], argv.as_ptr(), environment.as_ptr());
    }
    last_errno()
}

/// Reaps everything, as the init of a pid namespace must, until the interpreter has ended.
fn wait(interpreter: c_int) -> (u8, i32) {
    loop {
        let mut status: c_int = 0;
        // SAFETY: `status` is valid for the call. JUSTIFICATION: waiting for any child is not in
        // the standard library.
        let pid = unsafe { waitpid(-1, &raw mut status, 0) };
        if pid == interpreter {
            let signal = status & 0x7f;
            return match signal {
                0 => (EXITED, (status >> 8) & 0xff),
                _ => (SIGNALED, signal),
            };
        }
        if pid < 0 && last_errno() != EINTR {
            return (NOT_STARTED, last_errno());
        }
    }
}

/// Reaps what is left to this process, for ever.
fn stay() -> ! {
    loop {
        // SAFETY: no status is asked for; and waiting for a signal has no preconditions.
        // JUSTIFICATION: neither is in the standard library.
        unsafe {
            while waitpid(-1, std::ptr::null_mut(), 0) > 0 {}
            // Without children. What is orphaned from here on stays a zombie, which is no harm.
            pause();
        }
    }
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(EINVAL)
}
