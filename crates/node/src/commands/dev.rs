//! `serverledge dev FILE`: from a file to a running function in one command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use serverledge::config::{Config, Files};
use serverledge_api::{Client, Problem};
use tokio::net::TcpListener;

use super::serve;

/// Arguments of `serverledge dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The function: a .py, .js, .mjs or .wasm file.
    file: PathBuf,
    /// A parameter, `name:text` or `name:=json`; may be repeated.
    #[arg(short, long = "param", value_name = "NAME:VALUE")]
    params: Vec<String>,
    /// Handler, in the runtime's notation (default: `handler` in the file).
    #[arg(long)]
    handler: Option<String>,
    /// Memory of a sandbox, MiB.
    #[arg(long, default_value_t = 128)]
    memory: u32,
    /// Port of the API (default: 1323 if it is free).
    #[arg(long)]
    port: Option<u16>,
    /// Stop after the first invocation instead of serving on.
    #[arg(long)]
    once: bool,
}

/// Deploys, invokes, tells how to go on, serves.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let function = Deployment::of(arguments)?;
    let storage = Storage::new()?;
    let mut environment: Vec<(String, String)> = serve::environment().collect();
    let path = storage.0.to_string_lossy().into_owned();
    environment.push(("SERVERLEDGE_STORAGE_PATH".into(), path));
    let (config, _) = Config::load(Files::default(), environment.into_iter(), &[])?;
    serve::init_logging(config.log_format);
    serve::runtime()?.block_on(async {
        let (end, stop) = serve::stop_signals()?;
        let listener = listen(arguments.port, &config).await?;
        let port = listener.local_addr()?.port();
        let demonstration = async {
            let result = demonstrate(&function, port).await;
            // A demonstration that failed leaves nothing to serve.
            if arguments.once || result.is_err() {
                let _ = end.send(()).await;
            }
            result
        };
        let (served, shown) = tokio::join!(serve::serve(config, listener, stop), demonstration);
        served.and(shown)
    })
}

/// What to deploy, found out from the file.
struct Deployment {
    name: String,
    runtime: &'static str,
    handler: String,
    memory: u32,
    tar: Vec<u8>,
    params: Map<String, Value>,
}

impl Deployment {
    fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        let file = &arguments.file;
        let text = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let name = text(file.file_stem());
        let (runtime, handler) = match text(file.extension()).as_str() {
            "py" => ("python314", format!("{name}.handler")),
            "js" | "mjs" | "cjs" => ("nodejs17ng", text(file.file_name())),
            "wasm" => ("wasm", text(file.file_name())),
            _ => bail!(
                "{}: the file's ending must be .py, .js, .mjs or .wasm",
                file.display()
            ),
        };
        Ok(Self {
            runtime,
            handler: arguments.handler.clone().unwrap_or(handler),
            memory: arguments.memory,
            tar: pack(file)?,
            params: arguments
                .params
                .iter()
                .map(|param| parse(param))
                .collect::<Result<_, _>>()?,
            name,
        })
    }
}

fn parse(param: &str) -> anyhow::Result<(String, Value)> {
    let Some((name, value)) = param.split_once(':') else {
        bail!("parameter '{param}': write NAME:TEXT or NAME:=JSON");
    };
    let value = match value.strip_prefix('=') {
        Some(text) => serde_json::from_str(text).with_context(|| format!("parameter '{param}'"))?,
        None => Value::from(value),
    };
    Ok((name.to_owned(), value))
}

fn pack(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let name = file.file_name().context("the path of a file is needed")?;
    archive
        .append_path_with_name(file, name)
        .with_context(|| format!("reading {}", file.display()))?;
    Ok(archive.into_inner()?)
}

async fn listen(port: Option<u16>, config: &Config) -> anyhow::Result<TcpListener> {
    match port {
        Some(port) => Ok(TcpListener::bind(("127.0.0.1", port)).await?),
        None => match TcpListener::bind(("127.0.0.1", config.api.port)).await {
            Ok(listener) => Ok(listener),
            // Taken, probably by a real node: any port will do.
            Err(_) => Ok(TcpListener::bind(("127.0.0.1", 0)).await?),
        },
    }
}

#[expect(clippy::print_stdout, reason = "the command's product")]
async fn demonstrate(function: &Deployment, port: u16) -> anyhow::Result<()> {
    let client = Client::new("127.0.0.1", port);
    let create = json!({
        "Name": function.name,
        "Runtime": function.runtime,
        "MemoryMB": function.memory,
        "Handler": function.handler,
        "TarFunctionCode": base64::engine::general_purpose::STANDARD.encode(&function.tar),
    });
    call(&client, "/create", &create).await?;
    println!(
        "deployed  {} ({}, {} MB)",
        function.name, function.runtime, function.memory
    );
    let path = format!("/invoke/{}", encode(&function.name));
    let request = json!({ "Params": function.params, "ReturnOutput": true });
    let reply = call(&client, &path, &request).await?;
    let seconds = |key: &str| reply[key].as_f64().unwrap_or_default();
    let start = if reply["IsWarmStart"] == Value::Bool(true) {
        "warm"
    } else {
        "cold"
    };
    println!(
        "invoked   {}({})",
        function.name,
        Value::from(function.params.clone())
    );
    println!("result    {}", reply["Result"].as_str().unwrap_or_default());
    if let Some(output) = reply["Output"]
        .as_str()
        .filter(|output| !output.trim().is_empty())
    {
        println!(
            "printed   {}",
            output.trim_end().replace('\n', "\n          ")
        );
    }
    println!(
        "took      {:.1} ms: {start} start {:.1} ms, function {:.1} ms",
        seconds("ResponseTime") * 1e3,
        seconds("InitTime") * 1e3,
        seconds("Duration") * 1e3,
    );
    println!("\nThe node serves on; call it again (Ctrl-C stops it):\n");
    println!(
        "  curl -s http://127.0.0.1:{port}{path} -d '{}'",
        json!({ "Params": function.params })
            .to_string()
            .replace('\'', "'\\''")
    );
    Ok(())
}

async fn call(client: &Client, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = body.to_string().into_bytes();
    let response = client.request("POST", path, body).await?;
    let text = String::from_utf8_lossy(&response.body);
    if response.status == 200 {
        return Ok(serde_json::from_str(&text)?);
    }
    match serde_json::from_str::<Problem>(&text) {
        Ok(problem) => bail!("{problem}"),
        Err(_) => bail!("{path} was answered {}: {}", response.status, text.trim()),
    }
}

fn encode(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A directory for this run only.
struct Storage(PathBuf);

impl Storage {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("serverledge-dev-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // The node has stopped and everything in here was its own.
        for _ in 0..3 {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
