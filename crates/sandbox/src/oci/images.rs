//! The node's part of running from images: which are prepared, and what is in them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use tokio::task::spawn_blocking;

use super::link::Link;
use super::message::{Forget, Prepare, Request};
use crate::executor::{ENVIRONMENT, image_command};
use crate::image::{Image, ImageError, ImageStore, LayerUse, Reference, User, user};
use crate::{CreateError, Pull, lock};

/// Where programs are looked for if an image doesn't say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The first number of a root: far from those of sandboxes.
const FIRST_ROOT: u64 = 1 << 63;

/// The images that sandboxes are made from.
pub(super) struct Images {
    pub(super) store: Arc<ImageStore>,
    next: AtomicU64,
    /// By full name.
    prepared: Mutex<HashMap<String, Arc<Prepared>>>,
    /// Held while an image is got or given up: one at a time, and once for many who want it.
    changing: tokio::sync::Mutex<()>,
}

/// An image whose root the helper has.
pub(super) struct Prepared {
    pub(super) id: u64,
    pub(super) image: Image,
    /// Who its programs are; if it names nobody, a user of each sandbox's own.
    pub(super) user: Option<User>,
    /// Its root, to look into.
    root: OwnedFd,
    /// Whose root it is: another helper has none.
    link: Weak<Link>,
    _layers: LayerUse,
}

impl Images {
    pub(super) fn new(store: Arc<ImageStore>) -> Self {
        Images {
            store,
            next: AtomicU64::new(FIRST_ROOT),
            prepared: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Makes sure that the image is here, from its registry if need be.
    pub(super) async fn provide(&self, name: &str, pull: Pull) -> Result<(), ImageError> {
        let name: Reference = name.parse()?;
        let _changing = self.changing.lock().await;
        self.get(&name, pull).await.map(drop)
    }

    async fn get(&self, name: &Reference, pull: Pull) -> Result<Image, ImageError> {
        let (store, wanted) = (Arc::clone(&self.store), name.clone());
        let found = spawn_blocking(move || store.find(&wanted)).await;
        let found = found.unwrap_or_else(|error| {
            let doing = "looking for an image".to_owned();
            let source = error.into();
            Err(ImageError::Io { doing, source })
        })?;
        let image = match found {
            Some(image) => image,
            None if pull == Pull::Never => return Err(ImageError::Missing(name.to_string())),
            None => self.store.pull(name).await?,
        };
        match image.module {
            true => Err(ImageError::Invalid(
                "it is WebAssembly, which the runtime `wasm` runs".to_owned(),
            )),
            false => Ok(image),
        }
    }

    /// The image's root with this helper.
    pub(super) async fn prepare(
        &self,
        name: &str,
        link: &Arc<Link>,
        pull: Pull,
    ) -> Result<Arc<Prepared>, CreateError> {
        let failed = |error: ImageError| unusable(name, &error);
        let reference: Reference = name.parse().map_err(failed)?;
        let key = reference.to_string();
        if let Some(known) = self.known(&key, link) {
            return Ok(known);
        }
        let _changing = self.changing.lock().await;
        if let Some(known) = self.known(&key, link) {
            return Ok(known);
        }
        let image = self.get(&reference, pull).await.map_err(failed)?;
        let layers = self.store.use_layers(&image).map_err(failed)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = Request::Prepare(Prepare {
            id,
            layers_dir: self.store.layers_dir(),
            layers: image.layers.clone(),
        });
        link.request(&request, &[]).await?.done()?;
        let root = File::open(link.image_root(id))
            .map_err(|source| CreateError::io("looking into the image", source))?;
        let user = user(&image.user, root.as_fd()).map_err(|problem| CreateError::Image {
            image: image.name.clone(),
            problem,
        })?;
        let new = Arc::new(Prepared {
            id,
            image,
            user,
            root: root.into(),
            link: Arc::downgrade(link),
            _layers: layers,
        });
        lock(&self.prepared).insert(key, Arc::clone(&new));
        Ok(new)
    }

    fn known(&self, name: &str, link: &Arc<Link>) -> Option<Arc<Prepared>> {
        let known = lock(&self.prepared).get(name).cloned()?;
        known.link.ptr_eq(&Arc::downgrade(link)).then_some(known)
    }

    /// Gives up what isn't in `keep`, and what has changed since, and has the store make room.
    pub(super) async fn collect(&self, keep: HashSet<String>) {
        let full = |name: &String| Some(name.parse::<Reference>().ok()?.to_string());
        let keep: HashSet<String> = keep.iter().filter_map(full).collect();
        let Ok(_changing) = self.changing.try_lock() else {
            return; // The next time will do.
        };
        let prepared: Vec<_> = lock(&self.prepared).values().cloned().collect();
        for known in prepared {
            let name = &known.image.name;
            if keep.contains(name) && !self.has_changed(&known.image).await {
                continue;
            }
            lock(&self.prepared).remove(name);
            if let Some(link) = known.link.upgrade() {
                let request = Request::Forget(Forget { id: known.id });
                if let Err(error) = link.request(&request, &[]).await {
                    tracing::warn!(%error, "an image's root could not be given up");
                }
            }
        }
        let store = Arc::clone(&self.store);
        match spawn_blocking(move || store.collect(&keep)).await {
            Ok(Ok(collected)) if collected.layers > 0 => tracing::info!(
                images = collected.images.join(", "),
                layers = collected.layers,
                bytes = collected.bytes,
                "removed images that nothing uses"
            ),
            Ok(Err(error)) => {
                tracing::warn!(error = error.chain(), "images could not be collected");
            }
            _ => {}
        }
    }

    /// Whether the name means another image now: one that was loaded or pulled by a command.
    async fn has_changed(&self, image: &Image) -> bool {
        let (store, name) = (Arc::clone(&self.store), image.name.parse());
        let find = move || name.and_then(|name| store.find(&name));
        match spawn_blocking(find).await {
            Ok(Ok(found)) => found.is_none_or(|found| found.id != image.id),
            _ => false,
        }
    }
}

impl Prepared {
    /// The environment of its programs: the image's variables, and ours that it lacks.
    pub(super) fn environment(&self) -> Vec<String> {
        let ours = ENVIRONMENT.iter().filter(|ours| {
            let name = ours.split('=').next().unwrap_or_default();
            // The home is where the function may write, whatever the image thinks.
            name == "HOME" || self.image.variable(name).is_none()
        });
        let theirs = self.image.environment.iter();
        let theirs = theirs.filter(|it| it.contains('=') && !it.starts_with("HOME="));
        ours.map(|it| (*it).to_owned())
            .chain(theirs.cloned())
            .collect()
    }

    /// What tells the bridge to run the image's own command.
    pub(super) fn command(&self) -> Result<[String; 2], CreateError> {
        let image = &self.image;
        image_command(&image.entrypoint, &image.command, &image.working_dir)
            .ok_or_else(|| CreateError::no_command(&image.name))
    }

    /// The path of a program in the image: as given if it is one, else the first in its `PATH`.
    pub(super) fn find(&self, program: &Path) -> Result<PathBuf, CreateError> {
        let path = self.image.variable("PATH").unwrap_or(PATH);
        let candidates: Vec<PathBuf> = match program.is_absolute() {
            true => vec![program.to_owned()],
            false => path
                .split(':')
                .map(|dir| Path::new("/").join(dir).join(program))
                .collect(),
        };
        let found = candidates.into_iter().find(|path| self.has_program(path));
        found.ok_or_else(|| CreateError::Image {
            image: self.image.name.clone(),
            problem: format!(
                "has no program {} in {path}: use another image, or say where it is \
                 (runtime.<name>.path)",
                program.display()
            ),
        })
    }

    fn has_program(&self, path: &Path) -> bool {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve);
        let Ok(found) = opened.and_then(fstat) else {
            return false;
        };
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && found.st_mode & 0o111 != 0
    }
}

/// The image's part of a failed start.
fn unusable(name: &str, error: &ImageError) -> CreateError {
    let problem = match error {
        ImageError::Registry { .. } => format!(
            "is not here, and {}; get it here with `serverledge image pull` or `image load`",
            error.chain()
        ),
        error => format!("can't be used: {}", error.chain()),
    };
    CreateError::Image {
        image: name.to_owned(),
        problem,
    }
}
