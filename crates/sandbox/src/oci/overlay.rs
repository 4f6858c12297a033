//! Roots of images, in the helper's mount namespace: overlays of their layers, read-only, with a
//! layer of our own on top that has what every sandbox needs, whatever an image has in its place.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::chdir;

use super::Step;
use super::message::Prepare;
use super::root::{bind_devices, fill_image};

/// The layer of our own.
const TOP: &str = "top";

/// The roots that were prepared.
pub(super) struct Roots {
    /// A tmpfs, once there is a root.
    dir: PathBuf,
    paths: BTreeMap<u64, PathBuf>,
    is_mounted: bool,
    /// Whether the layers were unpacked by somebody who isn't root, and are mounted by such.
    rootless: bool,
}

impl Roots {
    pub(super) fn new(dir: PathBuf, rootless: bool) -> Self {
        Roots {
            dir,
            rootless,
            paths: BTreeMap::new(),
            is_mounted: false,
        }
    }

    pub(super) fn path(&self, id: u64) -> Result<PathBuf, Step> {
        let path = self.paths.get(&id).cloned();
        path.ok_or_else(|| Step::at("finding the image's root")(io::ErrorKind::NotFound))
    }

    pub(super) fn add(&mut self, prepare: &Prepare) -> Result<(), Step> {
        self.set_up()?;
        let root = self.dir.join(prepare.id.to_string());
        fs::create_dir(&root).map_err(Step::at("making a directory for an image"))?;
        // Relative to the layers' directory, so that the names of many fit.
        chdir(&prepare.layers_dir).map_err(Step::at("entering the directory of layers"))?;
        let overlaid = self.overlay(&root, &prepare.layers);
        chdir("/").map_err(Step::at("leaving the directory of layers"))?;
        let made = overlaid.and_then(|()| bind_devices(&root));
        match made {
            Ok(()) => drop(self.paths.insert(prepare.id, root)),
            Err(_) => take_down(&root),
        }
        made
    }

    pub(super) fn remove(&mut self, id: u64) -> Result<(), Step> {
        if let Some(root) = self.paths.remove(&id) {
            take_down(&root);
        }
        Ok(())
    }

    fn set_up(&mut self) -> Result<(), Step> {
        if self.is_mounted {
            return Ok(());
        }
        let (flags, options) = (MountFlags::NOSUID, c"size=64m,mode=755");
        mount("tmpfs", &self.dir, "tmpfs", flags, options)
            .map_err(Step::at("mounting a tmpfs for the roots of images"))?;
        self.is_mounted = true;
        let top = self.dir.join(TOP);
        fs::create_dir(&top)
            .and_then(|()| fill_image(&top))
            .map_err(Step::at("filling the top layer of images"))
    }

    fn overlay(&self, root: &Path, layers: &[String]) -> Result<(), Step> {
        let mut options = match self.rootless {
            true => b"userxattr,lowerdir=".to_vec(),
            false => b"lowerdir=".to_vec(),
        };
        for byte in self.dir.join(TOP).as_os_str().as_bytes() {
            if b":,\\".contains(byte) {
                options.push(b'\\');
            }
            options.push(*byte);
        }
        for layer in layers.iter().rev() {
            options.push(b':');
            options.extend_from_slice(layer.as_bytes());
        }
        let options = CString::new(options).map_err(Step::at("composing mount options"))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount("overlay", root, "overlay", flags, options.as_c_str())
            .map_err(Step::at("mounting the image's layers (overlayfs)"))
    }
}

/// As far as it goes: what stays is out of everybody's sight, and gone with the helper.
fn take_down(root: &Path) {
    let _ = unmount(root, UnmountFlags::DETACH);
    let _ = fs::remove_dir(root);
}
