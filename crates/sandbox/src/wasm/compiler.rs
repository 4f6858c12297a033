//! Compiling, in a process of its own.
//!
//! How much work a module is to compile is for its author to say, and nothing stops a compiler within
//! the node. So it is this program once more, which limits its own time and memory before it reads the
//! module, comes after everything else on the machine, and can be given up at any moment: it ends with
//! the node's end of its input. The node takes what it writes for machine code, so the way between the
//! two is a pipe that nobody else has.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use wasmtime::Engine;

use super::code;
use super::engine;
use crate::CreateError;
use crate::types::FunctionError;

/// What a component has for its version, where a module has 1.
const COMPONENT_VERSION: [u8; 4] = [0x0d, 0, 1, 0];
/// Largest code that is made of a module, bytes: it is in the node's memory while it is used.
const COMPILED_BYTES_MAX: usize = 256 << 20;
/// How much is read of why a module can't be compiled, bytes.
const COMPLAINT_BYTES_MAX: usize = 4 << 10;
/// A compiler that comes after everything else may take so much longer than it computes.
const PATIENCE: u32 = 20;
/// How it ends if it is the module's fault.
const STATUS_MODULE: i32 = 10;
/// How it ends when the node is gone, which nobody sees.
const STATUS_GIVEN_UP: i32 = 11;
/// As `nice` has it, where 0 is usual and 19 is last: after the node, and not never.
const NICE: i32 = 5;

/// What compiling one module may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Time of one core. Default 300 s.
    pub time: Duration,
    /// Bytes of address space. Default 2 GiB.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        CompileLimits {
            time: Duration::from_secs(300),
            memory: 2 << 30,
        }
    }
}

/// Compiles modules.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    /// Runs [`main`].
    pub(super) command: Vec<OsString>,
    pub(super) limits: CompileLimits,
}

/// What came of it.
pub(super) enum Compiled {
    /// Code for [`wasmtime::Module::deserialize`] or its like for components.
    Code(Vec<u8>),
    /// The module's fault: it will be the same another time.
    Fault(FunctionError),
}

impl Compiler {
    /// Compiles a module. Dropping this ends it.
    pub(super) async fn compile(&self, module: &[u8]) -> Result<Compiled, CreateError> {
        let patience = self.limits.time * PATIENCE;
        match timeout(patience, self.run(module)).await {
            Ok(compiled) => compiled,
            Err(_) => {
                let slow = format!("the compiler did not end within {} s", patience.as_secs());
                Err(CreateError::Isolation(slow))
            }
        }
    }

    async fn run(&self, module: &[u8]) -> Result<Compiled, CreateError> {
        let failed = |source| CreateError::io("running the compiler of WebAssembly", source);
        let mut child = self.start().map_err(failed)?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed(io::Error::other("it has no pipes")));
        };
        let (input, code, complaint) = tokio::join!(
            send(stdin, module),
            receive(stdout, COMPILED_BYTES_MAX),
            receive(stderr, COMPLAINT_BYTES_MAX),
        );
        let (code, complaint) = (code.map_err(failed)?, complaint.map_err(failed)?);
        if code.len() > COMPILED_BYTES_MAX {
            let large = format!("it becomes more than {COMPILED_BYTES_MAX} bytes of machine code");
            return Ok(Compiled::Fault(code::load(&large)));
        }
        let status = child.wait().await.map_err(failed)?;
        // Its input is its life.
        drop(input);
        if status.success() {
            return Ok(Compiled::Code(code));
        }
        let complaint = String::from_utf8_lossy(&complaint);
        self.explained(status, complaint.trim())
    }

    fn start(&self) -> io::Result<Child> {
        let mut command = self.command.iter();
        let program = command.next().ok_or(io::ErrorKind::NotFound)?;
        Command::new(program)
            .args(command)
            .arg(self.limits.time.as_secs().max(1).to_string())
            .arg(self.limits.memory.to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }

    fn explained(&self, status: ExitStatus, complaint: &str) -> Result<Compiled, CreateError> {
        let CompileLimits { time, memory } = &self.limits;
        let fault = match status.signal() {
            _ if status.code() == Some(STATUS_MODULE) => complaint.to_owned(),
            Some(libc::SIGXCPU) => format!(
                "compiling it takes more than {} s of processor time (wasm.compile_time_max)",
                time.as_secs()
            ),
            // What the allocator does that gets nothing.
            Some(libc::SIGABRT) if complaint.contains("memory allocation") => format!(
                "compiling it takes more than {} MiB of memory (wasm.compile_memory_max)",
                memory >> 20
            ),
            Some(libc::SIGSEGV | libc::SIGBUS | libc::SIGABRT) => {
                format!("the compiler broke down over it ({status})")
            }
            _ => {
                let odd = format!("the compiler of WebAssembly failed ({status}): {complaint}");
                return Err(CreateError::Isolation(odd));
            }
        };
        Ok(Compiled::Fault(code::load(&fault)))
    }
}

/// Sends the module and gives back the pipe, which is to be closed when the end is known.
async fn send(mut stdin: ChildStdin, module: &[u8]) -> ChildStdin {
    // One that has ended already says why in another way.
    if stdin
        .write_all(&(module.len() as u64).to_le_bytes())
        .await
        .is_ok()
    {
        let _ = stdin.write_all(module).await;
    }
    stdin
}

/// All that comes, or more than `bytes_max` if that is too much; then nobody reads on.
async fn receive(pipe: impl AsyncRead + Unpin, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut pipe = pipe.take(bytes_max as u64 + 1);
    pipe.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The body of `serverledge wasm-compile SECONDS BYTES`, a hidden subcommand that the node starts:
/// a module comes on standard input, after its length, and machine code goes to standard output.
pub fn main() -> ! {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let limits = match &arguments[..] {
        [time, memory] => time.parse().ok().zip(memory.parse().ok()),
        _ => None,
    };
    let ended = match limits {
        Some((time, memory)) => limit(time, memory).and_then(|()| serve()),
        None => Err(io::Error::other(
            "not for people: it takes seconds and bytes",
        )),
    };
    std::process::exit(ended.unwrap_or_else(|error| {
        eprintln!("{error}");
        1
    }))
}

fn limit(time: u64, memory: u64) -> io::Result<()> {
    let to = |resource, bound| {
        let limit = Rlimit {
            current: Some(bound),
            maximum: Some(bound + u64::from(matches!(resource, Resource::Cpu))),
        };
        setrlimit(resource, limit)
    };
    to(Resource::Core, 0)?;
    // Of files, that is, of which it needs none.
    to(Resource::Fsize, 0)?;
    to(Resource::Cpu, time)?;
    to(Resource::As, memory)?;
    // Where that isn't allowed, all are equal.
    let _ = rustix::process::setpriority_process(None, NICE);
    Ok(())
}

fn serve() -> io::Result<i32> {
    let mut length = [0; 8];
    io::stdin().read_exact(&mut length)?;
    let length = usize::try_from(u64::from_le_bytes(length)).map_err(io::Error::other)?;
    if length as u64 > code::MODULE_BYTES_MAX {
        return Err(io::Error::other("it is longer than any module"));
    }
    let mut module = vec![0; length];
    io::stdin().read_exact(&mut module)?;
    std::thread::Builder::new().spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(STATUS_GIVEN_UP)
    })?;
    let engine = engine::for_compiling().map_err(|error| io::Error::other(format!("{error:#}")))?;
    match compile(&engine, &module) {
        Ok(code) => {
            let mut out = io::stdout().lock();
            out.write_all(&code)?;
            out.flush()?;
            Ok(0)
        }
        Err(error) => {
            eprintln!("{error:#}");
            Ok(STATUS_MODULE)
        }
    }
}

fn compile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
    match bytes.get(4..8) == Some(&COMPONENT_VERSION) {
        true => engine.precompile_component(bytes),
        false => engine.precompile_module(bytes),
    }
}
