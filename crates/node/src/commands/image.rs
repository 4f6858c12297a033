//! `serverledge image`: the images of the built-in sandbox.
//!
//! They are files in the node's directory, so this works whether or not the node runs; a node that
//! runs takes a changed image into use within `janitor.interval`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;
use serverledge::config::Config;
use serverledge_sandbox::image::{Collected, Image, ImageStore, Reference};

use super::serve;

/// Arguments of `serverledge image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Configuration file of the node (default: as for the node).
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add the images of an archive: from `docker save`, or an OCI layout.
    Load {
        /// The archive, compressed with gzip or not; `-` is standard input.
        file: PathBuf,
        /// Name for an image that has none in the archive.
        #[arg(long)]
        name: Option<Reference>,
    },
    /// Get an image from its registry, again if it is here.
    Pull {
        /// Its name, such as python:3.14-slim or registry.example/team/image@sha256:...
        image: Reference,
    },
    /// List the images, with their sizes and identities.
    List,
    /// Remove an image, and the layers that no other has.
    Remove {
        /// Its name.
        image: Reference,
    },
}

/// Does it, and prints what was done.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let explicit = arguments.config.as_deref();
    let (config, _) = Config::load(explicit.into(), serve::environment(), &serve::search_dirs())?;
    serve::init_logging(config.log_format);
    let store = ImageStore::open(config.image.store(&config.storage.path))?;
    let printed = match &arguments.command {
        Command::Load { file, name } => print_images(&load(&store, file, name.as_ref())?),
        Command::Pull { image } => {
            let pulling = async { Arc::new(store).pull(image).await };
            print_images(&[serve::runtime()?.block_on(pulling)?])
        }
        Command::List => print_images(&store.list()?),
        Command::Remove { image } => print_collected(&store.remove(image)?),
    };
    match printed {
        // Whoever has seen enough (`| head`) makes no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn load(store: &ImageStore, file: &Path, name: Option<&Reference>) -> anyhow::Result<Vec<Image>> {
    let mut archive: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => {
            let opened = File::open(file);
            Box::new(opened.with_context(|| format!("opening {}", file.display()))?)
        }
    };
    let loaded = store.load(&mut archive, name);
    loaded.with_context(|| format!("loading {}", file.display()))
}

/// One a line: name, MiB, identity.
fn print_images(images: &[Image]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for image in images {
        let id = image.id.get(..12).unwrap_or(&image.id);
        writeln!(
            out,
            "{}  {} MiB  {id}",
            image.name,
            image.bytes.div_ceil(1 << 20)
        )?;
    }
    out.flush()
}

fn print_collected(collected: &Collected) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let (names, layers) = (collected.images.join(", "), collected.layers);
    writeln!(
        out,
        "removed {names}: {layers} layers, {} MiB",
        collected.bytes.div_ceil(1 << 20)
    )?;
    out.flush()
}
