//! Images in archives: what `docker save` writes, in its old and new form, and OCI layouts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::manifest::{Descriptor, Manifest, Plan, check_module};
use super::reference::sha256_of;
use super::store::{Image, ImageStore, Temporary};
use super::transfer::decompressed;
use super::unpack::{Budget, walk};
use super::{ImageError, METADATA_MAX, Reference};

/// Files of an archive: some for each layer of some images.
const MEMBERS_MAX: u64 = 10_000;
/// Links from one file of an archive to another, in a row.
const LINKS_MAX: usize = 4;
/// Indexes within indexes.
const NESTING_MAX: usize = 4;

/// An archive's files, spooled.
struct Archive {
    dir: Temporary,
    members: HashMap<PathBuf, Member>,
}

enum Member {
    /// Under this name in `dir`.
    File(String),
    Link(PathBuf),
}

/// An entry of the `manifest.json` that Docker writes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Adds the images of an archive, compressed or not. Without a name of its own, an image gets
    /// `name`; the images are what is in the store then.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ImageError> {
        let _shared = self.lock(FlockOperation::LockShared)?;
        let archive = self.spool(archive)?;
        let mut images = Vec::new();
        if archive.members.contains_key(Path::new("manifest.json")) {
            let bytes = archive.read("manifest.json", None)?;
            let saved: Vec<Saved> = serde_json::from_slice(&bytes)
                .map_err(|error| ImageError::invalid(format!("its manifest.json: {error}")))?;
            for image in saved {
                let names = names(image.repo_tags.unwrap_or_default(), name)?;
                let configuration = archive.read(&image.config, digest_in(&image.config))?;
                images.extend(self.add(&archive, &names, &configuration, &image.layers)?);
            }
        } else if archive.members.contains_key(Path::new("index.json")) {
            let index = Manifest::parse(&archive.read("index.json", None)?)?;
            for descriptor in &index.manifests {
                images.extend(self.add_described(&archive, descriptor, name)?);
            }
        } else {
            let neither = "it has neither a manifest.json, as `docker save` writes, nor an \
                           index.json, as an OCI layout has";
            return Err(ImageError::invalid(neither));
        }
        match images.is_empty() {
            true => Err(ImageError::invalid("it has no image in it")),
            false => Ok(images),
        }
    }

    fn add_described(
        &self,
        archive: &Archive,
        descriptor: &Descriptor,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ImageError> {
        let annotations = descriptor.annotations.clone().unwrap_or_default();
        let annotated = [
            "io.containerd.image.name",
            "org.opencontainers.image.ref.name",
        ];
        let mut own = annotated.iter().filter_map(|key| annotations.get(*key));
        // The second may be a tag alone, which names nothing.
        let own = own.find(|name| name.contains(['/', ':']));
        let names = names(own.cloned().into_iter().collect(), name)?;
        let mut manifest = archive.manifest(descriptor)?;
        for _ in 0..NESTING_MAX {
            if manifest.manifests.is_empty() {
                break;
            }
            manifest = archive.manifest(manifest.choose()?)?;
        }
        let config = manifest.config.clone().unwrap_or_default();
        let configuration = archive.blob(&config.digest)?;
        if let Some(layer) = manifest.module()? {
            let digest = check_module(&config, &configuration, layer)?;
            let mut blob = archive.open(&blob_path(&layer.digest)?)?;
            self.add_module(&mut blob, digest, &mut self.budget()?)?;
            return self.record_module(&names, digest);
        }
        let blobs: Result<Vec<String>, ImageError> = manifest
            .layers
            .iter()
            .map(|it| blob_path(&it.digest))
            .collect();
        self.add(archive, &names, &configuration, &blobs?)
    }

    fn add(
        &self,
        archive: &Archive,
        names: &[String],
        configuration: &[u8],
        blobs: &[String],
    ) -> Result<Vec<Image>, ImageError> {
        let plan = Plan::parse(configuration, blobs.len())?;
        let mut budget = self.budget()?;
        for (layer, blob) in plan.layers.iter().zip(blobs) {
            self.add_layer(&mut archive.open(blob)?, layer, &mut budget)?;
        }
        self.record_image(names, configuration, plan)
    }

    /// Writes an archive's files to disk, under names of our own.
    fn spool(&self, reader: &mut dyn Read) -> Result<Archive, ImageError> {
        let spooling = || ImageError::io("spooling the archive");
        let mut archive = Archive {
            dir: self.temporary()?,
            members: HashMap::new(),
        };
        fs::create_dir(&archive.dir.0).map_err(spooling())?;
        let mut budget = Budget {
            bytes: self.config.limits.unpacked_max,
            entries: MEMBERS_MAX,
        };
        let mut reader = decompressed(reader)?;
        walk(&mut reader, &mut |entry| {
            budget.take(entry.size())?;
            let path = plain(Path::new(""), &entry.path().map_err(spooling())?);
            let target = entry.link_name().map_err(spooling())?.unwrap_or_default();
            let member = match entry.header().entry_type() {
                EntryType::Regular => {
                    let name = archive.members.len().to_string();
                    let mut file = File::create(archive.dir.0.join(&name)).map_err(spooling())?;
                    io::copy(entry, &mut file).map_err(spooling())?;
                    Member::File(name)
                }
                EntryType::Symlink => {
                    let parent = path.parent().unwrap_or(Path::new(""));
                    Member::Link(plain(parent, &target))
                }
                EntryType::Link => Member::Link(plain(Path::new(""), &target)),
                _ => return Ok(()),
            };
            archive.members.insert(path, member);
            Ok(())
        })?;
        Ok(archive)
    }
}

impl Archive {
    fn open(&self, path: &str) -> Result<File, ImageError> {
        let mut at = plain(Path::new(""), Path::new(path));
        for _ in 0..=LINKS_MAX {
            match self.members.get(&at) {
                Some(Member::File(name)) => {
                    let file = File::open(self.dir.0.join(name));
                    return file.map_err(ImageError::io("reading the archive"));
                }
                Some(Member::Link(target)) => at = target.clone(),
                None => break,
            }
        }
        Err(ImageError::invalid(format!("it lacks {path:?}")))
    }

    fn read(&self, path: &str, digest: Option<&str>) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.open(path)?
            .take(METADATA_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("reading the archive"))?;
        if bytes.len() as u64 > METADATA_MAX {
            return Err(ImageError::invalid(format!("{path} is too large")));
        }
        if digest.is_some_and(|digest| hex::encode(Sha256::digest(&bytes)) != digest) {
            return Err(ImageError::invalid(format!(
                "{path} differs from its digest"
            )));
        }
        Ok(bytes)
    }

    fn blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        self.read(&blob_path(digest)?, sha256_of(digest))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, ImageError> {
        Manifest::parse(&self.blob(&descriptor.digest)?)
    }
}

fn blob_path(digest: &str) -> Result<String, ImageError> {
    let hex = sha256_of(digest);
    let hex = hex.ok_or_else(|| ImageError::invalid(format!("{digest:?} is no sha256 digest")))?;
    Ok(format!("blobs/sha256/{hex}"))
}

/// Docker names a configuration by its digest, with or without an ending.
fn digest_in(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let name = name.strip_suffix(".json").unwrap_or(name);
    (name.len() == 64).then_some(name)
}

/// A path without its dots. It names something in an archive, nothing on the disk.
fn plain(base: &Path, path: &Path) -> PathBuf {
    let mut plain = base.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            _ => {}
        }
    }
    plain
}

/// An image's names, in full: its own, or the one that it is given.
fn names(own: Vec<String>, given: Option<&Reference>) -> Result<Vec<String>, ImageError> {
    let mut names = Vec::new();
    for name in own {
        names.push(name.parse::<Reference>()?.to_string());
    }
    if names.is_empty() {
        let given = given.ok_or_else(|| {
            ImageError::invalid("it has no name in the archive: give it one (--name)")
        })?;
        names.push(given.to_string());
    }
    Ok(names)
}
