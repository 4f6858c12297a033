//! From a layer's bytes to a layer of the store. A module is a layer with one file.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::ImageError;
use super::store::ImageStore;
use super::unpack::{Budget, unpack};
use super::zstd::{Zstd, is_zstd};

/// A hash of all that is read.
struct Hashing<R> {
    reader: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// What is behind the compression that the first bytes tell of.
pub(super) fn decompressed<'a>(
    mut reader: impl Read + 'a,
) -> Result<Box<dyn Read + 'a>, ImageError> {
    let mut start = Vec::with_capacity(4);
    let read = (&mut reader).take(4).read_to_end(&mut start);
    read.map_err(ImageError::io("reading an archive"))?;
    let is_zstd = is_zstd(&start);
    let is_gzip = start.starts_with(&[0x1f, 0x8b]);
    let whole = io::BufReader::new(io::Cursor::new(start).chain(reader));
    Ok(match (is_gzip, is_zstd) {
        (true, _) => Box::new(MultiGzDecoder::new(whole)),
        (_, true) => Box::new(Zstd::new(whole)),
        _ => Box::new(whole),
    })
}

/// What a module's file is called in its layer.
const MODULE: &str = "module.wasm";

impl ImageStore {
    /// Keeps a module, unless it is here already, and checks that it is what its digest says.
    pub(super) fn add_module(
        &self,
        blob: &mut File,
        digest: &str,
        budget: &mut Budget,
    ) -> Result<(), ImageError> {
        let keeping = || ImageError::io(format!("keeping the module {digest}"));
        if self.size(digest).is_some() {
            return Ok(());
        }
        let before = budget.bytes;
        budget.take(blob.metadata().map_err(keeping())?.len())?;
        let dir = self.temporary()?;
        fs::create_dir(&dir.0).map_err(keeping())?;
        let path = dir.0.join(MODULE);
        let mut file = File::create(&path).map_err(keeping())?;
        blob.seek(SeekFrom::Start(0)).map_err(keeping())?;
        let mut reader = Hashing {
            reader: blob,
            hash: Sha256::new(),
        };
        io::copy(&mut reader, &mut file).map_err(keeping())?;
        let found = hex::encode(reader.hash.finalize());
        if found != digest {
            let differs = format!("a layer has the digest {found}, and {digest} was announced");
            return Err(ImageError::invalid(differs));
        }
        crate::wasm::check(&dir.0, MODULE).map_err(|error| ImageError::invalid(error.message))?;
        // What is renamed must be whole after a power failure too.
        rustix::fs::syncfs(&file).map_err(|error| keeping()(error.into()))?;
        self.keep_layer(digest, &dir, before - budget.bytes)
            .map_err(keeping())
    }

    /// Unpacks a layer, unless it is here already, and checks that it is what its digest says.
    pub(super) fn add_layer(
        &self,
        blob: &mut File,
        layer: &str,
        budget: &mut Budget,
    ) -> Result<(), ImageError> {
        let unpacking = || format!("unpacking the layer {layer}");
        if self.size(layer).is_some() {
            return Ok(());
        }
        let dir = self.temporary()?;
        fs::create_dir(&dir.0).map_err(ImageError::io(unpacking()))?;
        let root = File::open(&dir.0).map_err(ImageError::io(unpacking()))?;
        blob.seek(SeekFrom::Start(0))
            .map_err(ImageError::io(unpacking()))?;
        let mut reader = Hashing {
            reader: decompressed(io::BufReader::new(blob))?,
            hash: Sha256::new(),
        };
        let before = budget.bytes;
        unpack(&mut reader, root.as_fd(), budget)?;
        let found = hex::encode(reader.hash.finalize());
        if found != layer {
            let differs = format!("a layer has the digest {found}, and {layer} was announced");
            return Err(ImageError::invalid(differs));
        }
        // What is renamed must be whole after a power failure too.
        rustix::fs::syncfs(&root).map_err(ImageError::io(unpacking()))?;
        self.keep_layer(layer, &dir, before - budget.bytes)
            .map_err(ImageError::io(unpacking()))
    }
}
