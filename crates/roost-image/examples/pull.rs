//! Pulls one image into a store of its own and unpacks it: the program that
//! `make bench` sets beside `skopeo copy` and `umoci unpack`.
//!
//! ```text
//! pull ROOT REFERENCE TOKEN
//! ```

use roost_image::{Credentials, Images, ImagesConfig, NoProgress};
use roost_model::image_ref::ImageRef;
use std::error::Error;
use std::path::PathBuf;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let [root, reference, token] =
        <[String; 3]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
            .map_err(|_| "usage: pull ROOT REFERENCE TOKEN")?;
    let reference = ImageRef::parse(&reference)?;
    let mut config = ImagesConfig::new(PathBuf::from(root));
    if let Some(registry) = reference.registry.clone() {
        let credentials = Credentials {
            username: "roost".to_owned(),
            password: token,
        };
        config.credentials.insert(registry, credentials);
    }
    let images = Images::open(config).await?;
    let image = images.pull(&reference, &NoProgress).await?;
    images.rootfs_layers(&image).await?;
    Ok(())
}
