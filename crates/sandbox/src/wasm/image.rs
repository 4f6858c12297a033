//! Functions whose code is an artifact of a registry: modules in the store of images.
//!
//! A module is kept and named like an image, and found by its digest: the compiler's cache and the
//! running programs know it as they know any other module.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::WasmBackend;
use crate::image::{Image, ImageError, ImageStore, LayerUse, Reference};
use crate::{CreateError, Pull};

impl WasmBackend {
    /// The artifact of this name, from its registry if need be.
    pub(super) async fn image(&self, name: &str, pull: Pull) -> Result<Image, ImageError> {
        let name: Reference = name.parse()?;
        let Some(store) = &self.config.images else {
            return Err(ImageError::Missing(name.to_string()));
        };
        let found = {
            let name = name.clone();
            blocking(store, move |store| store.find(&name)).await?
        };
        let image = match found {
            Some(image) => image,
            None if pull == Pull::Never => return Err(ImageError::Missing(name.to_string())),
            None => store.pull(&name).await?,
        };
        match image.module {
            true => Ok(image),
            false => Err(ImageError::Invalid(
                "it is an image, and not a WebAssembly module or component".to_owned(),
            )),
        }
    }

    /// The directory with the module of an artifact that is here, for as long as the other is held.
    pub(super) async fn open_image(&self, name: &str) -> Result<(PathBuf, LayerUse), CreateError> {
        let failed = |error: ImageError| CreateError::Image {
            image: name.to_owned(),
            problem: format!("can't be used: {}", error.chain()),
        };
        let image = self.image(name, Pull::Never).await.map_err(failed)?;
        let (Some(store), Some(layer)) = (&self.config.images, image.layers.first()) else {
            return Err(failed(ImageError::Missing(name.to_owned())));
        };
        let dir = store.layers_dir().join(layer);
        let used = blocking(store, move |store| store.use_layers(&image)).await;
        Ok((dir, used.map_err(failed)?))
    }

    /// Has the store make room, without what is in `keep`.
    pub(super) async fn collect(&self, keep: HashSet<String>) {
        let Some(store) = &self.config.images else {
            return;
        };
        let full = |name: &String| Some(name.parse::<Reference>().ok()?.to_string());
        let keep: HashSet<String> = keep.iter().filter_map(full).collect();
        match blocking(store, move |store| store.collect(&keep)).await {
            Ok(collected) if collected.layers > 0 => {
                let images = collected.images.join(", ");
                tracing::info!(
                    images,
                    layers = collected.layers,
                    "removed what nothing uses"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = error.chain(), "images could not be collected");
            }
        }
    }
}

/// Files, and locks that may have to be waited for.
async fn blocking<T: Send + 'static>(
    store: &Arc<ImageStore>,
    work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let store = Arc::clone(store);
    let done = spawn_blocking(move || work(&store)).await;
    done.unwrap_or_else(|error| {
        Err(ImageError::Io {
            doing: "looking for a module".to_owned(),
            source: error.into(),
        })
    })
}
