//! Functions to register: source text in, the body of `/create` out.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use serde_json::{Value, json};

/// A function and its code.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    runtime: &'static str,
    memory_mb: i64,
    concurrency: i16,
    timeout: Option<f64>,
    preload: Vec<String>,
    network: Option<Value>,
    handler: String,
    files: Vec<(String, String)>,
}

/// A Python function in `f.py`, whose handler is called `handler`.
pub(crate) fn python(name: &str, source: &str) -> Function {
    Function::new(name, "python314", "f.handler").file("f.py", source)
}

/// A Node.js function in `f.js`.
pub(crate) fn javascript(name: &str, source: &str) -> Function {
    Function::new(name, "nodejs17ng", "f.js").file("f.js", source)
}

/// A Python function that returns its parameters.
pub(crate) fn echo(name: &str) -> Function {
    python(name, "def handler(params, context):\n    return params\n")
}

impl Function {
    fn new(name: &str, runtime: &'static str, handler: &str) -> Self {
        Self {
            name: name.into(),
            runtime,
            memory_mb: 128,
            concurrency: 1,
            timeout: None,
            preload: Vec::new(),
            network: None,
            handler: handler.into(),
            files: Vec::new(),
        }
    }

    pub(crate) fn file(mut self, path: &str, source: &str) -> Self {
        self.files.push((path.into(), source.into()));
        self
    }

    pub(crate) fn runtime(mut self, runtime: &'static str) -> Self {
        self.runtime = runtime;
        self
    }

    pub(crate) fn handler(mut self, handler: &str) -> Self {
        self.handler = handler.into();
        self
    }

    pub(crate) fn memory(mut self, megabytes: i64) -> Self {
        self.memory_mb = megabytes;
        self
    }

    pub(crate) fn concurrency(mut self, calls: i16) -> Self {
        self.concurrency = calls;
        self
    }

    pub(crate) fn timeout(mut self, seconds: f64) -> Self {
        self.timeout = Some(seconds);
        self
    }

    pub(crate) fn preload(mut self, modules: &[&str]) -> Self {
        self.preload = modules.iter().map(|&module| module.into()).collect();
        self
    }

    pub(crate) fn network(mut self, network: Value) -> Self {
        self.network = Some(network);
        self
    }

    /// As [`Function::body`], with other bytes for the code: an archive, or its URL.
    pub(crate) fn body_with(&self, code: impl AsRef<[u8]>) -> Value {
        let mut body = self.body();
        body["TarFunctionCode"] = json!(BASE64.encode(code));
        body
    }

    /// The function's files as a tar.
    pub(crate) fn tar(&self) -> Vec<u8> {
        tar(&self.files)
    }

    /// The same as a tar.gz.
    pub(crate) fn tar_gz(&self) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.tar()).expect("writing to memory");
        encoder.finish().expect("writing to memory")
    }

    /// The same as a zip.
    pub(crate) fn zip(&self) -> Vec<u8> {
        let files: Vec<_> = self
            .files
            .iter()
            .map(|(p, s)| (&**p, s.as_bytes()))
            .collect();
        zip(&files).expect("writing to memory")
    }

    /// The body of `/create` or `/update`.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "Name": self.name,
            "Runtime": self.runtime,
            "MemoryMB": self.memory_mb,
            "CPUDemand": 0.0,
            "MaxConcurrency": self.concurrency,
            "Handler": self.handler,
            "TarFunctionCode": BASE64.encode(tar(&self.files)),
        });
        if let Some(seconds) = self.timeout {
            body["TimeoutSeconds"] = json!(seconds);
        }
        if !self.preload.is_empty() {
            body["Preload"] = json!(self.preload);
        }
        if let Some(network) = &self.network {
            body["Network"] = network.clone();
        }
        body
    }
}

/// A tar of regular files.
pub(crate) fn tar(files: &[(String, String)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, source) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(source.len() as u64);
        archive
            .append_data(&mut header, path, source.as_bytes())
            .expect("writing to memory");
    }
    archive.into_inner().expect("writing to memory")
}

/// A zip of files.
pub(crate) fn zip(files: &[(&str, &[u8])]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut bytes);
    for (path, source) in files {
        let (mut entry, config) = archive
            .new_file(path)
            .compression_method(rawzip::CompressionMethod::DEFLATE)
            .start()?;
        let encoder = DeflateEncoder::new(&mut entry, Compression::fast());
        let mut writer = config.wrap(encoder);
        writer.write_all(source)?;
        let (encoder, descriptor) = writer.finish()?;
        encoder.finish()?;
        entry.finish(descriptor)?;
    }
    archive.finish()?;
    Ok(bytes)
}
