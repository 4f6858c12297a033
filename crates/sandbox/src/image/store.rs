//! What is in the directory of images: records, layers, and who may touch them when.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::Plan;
use super::unpack::Budget;
use super::{ImageConfig, ImageError, Reference};

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its whole name.
    pub name: String,
    /// Digest of its configuration, which tells one version from another.
    pub id: String,
    /// Digests of its layers, the lowest first.
    pub layers: Vec<String>,
    /// Bytes of its layers, unpacked; shared ones too.
    pub bytes: u64,
    /// Variables of its environment, as `NAME=value`.
    pub environment: Vec<String>,
    /// Its entry point.
    pub entrypoint: Vec<String>,
    /// Its command.
    pub command: Vec<String>,
    /// Directory in which its command is to run.
    pub working_dir: String,
    /// The user it wants.
    pub user: String,
    /// Whether it is no image but WebAssembly, as a file in its one layer.
    #[serde(default)]
    pub module: bool,
}

impl Image {
    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.environment.iter().rev();
        variables.find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Names of images.
    pub images: Vec<String>,
    /// How many layers.
    pub layers: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Keeps layers from being removed while something runs from them.
#[derive(Debug)]
pub struct LayerUse {
    _locked: Vec<File>,
}

/// The images of a node.
#[derive(Debug)]
pub struct ImageStore {
    pub(super) config: ImageConfig,
    next_temporary: AtomicU64,
}

/// Something under `tmp/`, removed when dropped.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It was renamed, or it is of no use; what stays is removed at the next start.
        let _ = match fs::symlink_metadata(&self.0) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&self.0),
            Ok(_) => fs::remove_file(&self.0),
            Err(_) => Ok(()),
        };
    }
}

impl ImageStore {
    /// Opens the store, and removes what was left half-done if nobody is at work in it.
    pub fn open(config: ImageConfig) -> Result<Self, ImageError> {
        let opening = || format!("opening the images in {}", config.dir.display());
        for dir in ["layers", "records", "tmp"] {
            DirBuilder::new()
                .recursive(true)
                // Files in images are nobody's business but the sandboxes'.
                .mode(0o700)
                .create(config.dir.join(dir))
                .map_err(ImageError::io(opening()))?;
        }
        let store = Self {
            // Somebody else of this process may have the same store open.
            next_temporary: AtomicU64::new(RandomState::new().hash_one(0)),
            config,
        };
        if let Some(_alone) = store.lock(FlockOperation::NonBlockingLockExclusive)? {
            let listed = fs::read_dir(store.config.dir.join("tmp"));
            for entry in listed.map_err(ImageError::io("removing what was left half-done"))? {
                let entry = entry.map_err(ImageError::io("removing what was left half-done"))?;
                drop(Temporary(entry.path()));
            }
        }
        Ok(store)
    }

    /// Directory with the layers, each under its digest.
    pub fn layers_dir(&self) -> PathBuf {
        self.config.dir.join("layers")
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let records = self.records()?;
        let mut images: Vec<Image> = records.into_iter().map(|(_, image, _)| image).collect();
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// The image of this name, if it is here with all its layers. Counts as use.
    pub fn find(&self, name: &Reference) -> Result<Option<Image>, ImageError> {
        let path = self.record(&name.to_string());
        let Some(image) = read_record(&path)? else {
            return Ok(None);
        };
        if !image.layers.iter().all(|layer| self.size(layer).is_some()) {
            return Ok(None);
        }
        // Who was used last is removed last; if it can't be noted, that is all that is lost.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(image))
    }

    /// Keeps the image's layers for as long as the result lives.
    pub fn use_layers(&self, image: &Image) -> Result<LayerUse, ImageError> {
        let using = || format!("opening the layers of {}", image.name);
        let lock = |layer: &String| {
            let dir = File::open(self.layers_dir().join(layer))?;
            flock(&dir, FlockOperation::LockShared)?;
            Ok(dir)
        };
        let locked: io::Result<Vec<File>> = image.layers.iter().map(lock).collect();
        Ok(LayerUse {
            _locked: locked.map_err(ImageError::io(using()))?,
        })
    }

    /// Forgets an image, and removes the layers that no other has and nothing runs from.
    pub fn remove(&self, name: &Reference) -> Result<Collected, ImageError> {
        let _alone = self.lock(FlockOperation::LockExclusive)?;
        let name = name.to_string();
        match fs::remove_file(self.record(&name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::Missing(name));
            }
            Err(error) => return Err(ImageError::io(format!("removing {name}"))(error)),
        }
        let mut collected = Collected::default();
        collected.images.push(name);
        self.sweep(&mut collected)?;
        Ok(collected)
    }

    /// Removes images that `keep` doesn't have, those used longest ago first, until the store is
    /// three quarters full at most, so that there is room for the next. Does nothing while an
    /// image is being added.
    pub fn collect(&self, keep: &HashSet<String>) -> Result<Collected, ImageError> {
        let mut collected = Collected::default();
        let Some(_alone) = self.lock(FlockOperation::NonBlockingLockExclusive)? else {
            return Ok(collected);
        };
        let room = self.config.limits.store_max / 4 * 3;
        self.sweep(&mut collected)?;
        let mut records = self.records()?;
        records.retain(|(_, image, _)| !keep.contains(&image.name));
        records.sort_by_key(|(_, _, used)| *used);
        for (path, image, _) in records {
            if self.total()? <= room {
                break;
            }
            fs::remove_file(path).map_err(ImageError::io(format!("removing {}", image.name)))?;
            collected.images.push(image.name);
            self.sweep(&mut collected)?;
        }
        Ok(collected)
    }

    /// Removes layers that no record has and nothing runs from.
    fn sweep(&self, collected: &mut Collected) -> Result<(), ImageError> {
        let records = self.records()?;
        let wanted: HashSet<&String> = records.iter().flat_map(|(_, it, _)| &it.layers).collect();
        for (layer, bytes) in self.sizes()? {
            let dir = self.layers_dir().join(&layer);
            if wanted.contains(&layer) || is_used(&dir) {
                continue;
            }
            // Without its size it counts as absent, so that half of one is never used.
            let removing = || format!("removing the layer {layer}");
            fs::remove_file(self.size_file(&layer)).map_err(ImageError::io(removing()))?;
            let away = self.temporary()?;
            match fs::rename(&dir, &away.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ImageError::io(removing())(error));
                }
                _ => {}
            }
            collected.layers += 1;
            collected.bytes += bytes;
        }
        Ok(())
    }

    /// What may be added: one image's worth, or what is left of the whole.
    pub(super) fn budget(&self) -> Result<Budget, ImageError> {
        let limits = &self.config.limits;
        let left = limits.store_max.saturating_sub(self.total()?);
        Ok(Budget {
            bytes: limits.unpacked_max.min(left),
            entries: limits.entries_max,
        })
    }

    /// Writes an image's record under each of these names. Its layers are all here.
    pub(super) fn record_image(
        &self,
        names: &[String],
        configuration: &[u8],
        plan: Plan,
    ) -> Result<Vec<Image>, ImageError> {
        let sizes = plan
            .layers
            .iter()
            .map(|layer| self.size(layer).unwrap_or(0));
        let bytes = sizes.sum();
        let image = Image {
            name: String::new(),
            id: hex::encode(Sha256::digest(configuration)),
            bytes,
            layers: plan.layers,
            environment: plan.process.env.unwrap_or_default(),
            entrypoint: plan.process.entrypoint.unwrap_or_default(),
            command: plan.process.cmd.unwrap_or_default(),
            working_dir: plan.process.working_dir.unwrap_or_default(),
            user: plan.process.user.unwrap_or_default(),
            module: false,
        };
        self.record_named(names, &image)
    }

    /// The same for a module, which is here.
    pub(super) fn record_module(
        &self,
        names: &[String],
        digest: &str,
    ) -> Result<Vec<Image>, ImageError> {
        let image = Image {
            name: String::new(),
            // Configurations of modules may be alike.
            id: digest.to_owned(),
            bytes: self.size(digest).unwrap_or(0),
            layers: vec![digest.to_owned()],
            environment: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            module: true,
        };
        self.record_named(names, &image)
    }

    fn record_named(&self, names: &[String], image: &Image) -> Result<Vec<Image>, ImageError> {
        let named = |name: &String| Image {
            name: name.clone(),
            ..image.clone()
        };
        let images: Vec<Image> = names.iter().map(named).collect();
        for image in &images {
            let doing = || format!("recording the image {}", image.name);
            let bytes = serde_json::to_vec(image).map_err(ImageError::io(doing()))?;
            self.write(&self.record(&image.name), &bytes)
                .map_err(ImageError::io(doing()))?;
        }
        Ok(images)
    }

    /// Bytes of a layer, if it is here.
    pub(super) fn size(&self, layer: &str) -> Option<u64> {
        if !self.layers_dir().join(layer).is_dir() {
            return None;
        }
        let text = fs::read_to_string(self.size_file(layer)).ok()?;
        text.trim().parse().ok()
    }

    /// Makes an unpacked layer one of the store's.
    pub(super) fn keep_layer(
        &self,
        layer: &str,
        unpacked: &Temporary,
        bytes: u64,
    ) -> io::Result<()> {
        let kept = self.layers_dir().join(layer);
        match fs::rename(&unpacked.0, &kept) {
            Ok(()) => {}
            // Another one was faster, or a former one lost its size in a crash; they are the same.
            Err(_) if kept.is_dir() => {}
            Err(error) => return Err(error),
        }
        self.write(&self.size_file(layer), format!("{bytes}\n").as_bytes())
    }

    /// A name under `tmp/` that nobody else uses.
    pub(super) fn temporary(&self) -> Result<Temporary, ImageError> {
        let tmp = self.config.dir.join("tmp");
        loop {
            let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
            let path = tmp.join(format!("{}-{number}", std::process::id()));
            if fs::symlink_metadata(&path).is_err() {
                return Ok(Temporary(path));
            }
        }
    }

    /// The lock of the whole store; `None` if it isn't free and that is no reason to wait.
    pub(super) fn lock(&self, operation: FlockOperation) -> Result<Option<File>, ImageError> {
        let locking = || format!("locking the images in {}", self.config.dir.display());
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.config.dir.join("lock"))
            .map_err(ImageError::io(locking()))?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(ImageError::io(locking())(error)),
        }
    }

    fn total(&self) -> Result<u64, ImageError> {
        Ok(self.sizes()?.values().sum())
    }

    /// Layers with their sizes. Those without one, from before a crash, count as nothing.
    fn sizes(&self) -> Result<BTreeMap<String, u64>, ImageError> {
        let names = names(&self.layers_dir()).map_err(ImageError::io("listing the layers"))?;
        let layers = names.into_iter().filter(|name| !name.contains('.'));
        Ok(layers
            .map(|layer| {
                let bytes = self.size(&layer).unwrap_or(0);
                (layer, bytes)
            })
            .collect())
    }

    fn records(&self) -> Result<Vec<(PathBuf, Image, SystemTime)>, ImageError> {
        let dir = self.config.dir.join("records");
        let mut records = Vec::new();
        for name in names(&dir).map_err(ImageError::io("listing the images"))? {
            let path = dir.join(name);
            let used = fs::metadata(&path).and_then(|found| found.modified());
            if let (Some(image), Ok(used)) = (read_record(&path)?, used) {
                records.push((path, image, used));
            }
        }
        Ok(records)
    }

    fn record(&self, name: &str) -> PathBuf {
        let hash = hex::encode(Sha256::digest(name));
        self.config.dir.join("records").join(hash)
    }

    fn size_file(&self, layer: &str) -> PathBuf {
        self.layers_dir().join(format!("{layer}.size"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temporary().map_err(io::Error::other)?;
        let mut file = File::create_new(&temporary.0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary.0, path)
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// `None` if there is none, or none that this version understands.
fn read_record(path: &Path) -> Result<Option<Image>, ImageError> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("reading an image's record")(error)),
    }
}

fn is_used(layer: &Path) -> bool {
    match File::open(layer) {
        Ok(dir) => flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err(),
        Err(_) => false,
    }
}
