//! `rbuildctl imagetools`: images in registries, spoken to from here with the user's own credentials.
//!
//! Central type: [`Image`], what a name points to. Nothing here needs a daemon, and no layer passes through memory.

mod attestations;
mod copy;
mod create;
mod inspect;
mod registries;
mod source;

use rbuild_oci::{Descriptor, ImageRef, Index, Manifest, media};

use crate::cli::ImagetoolsCommand;
use crate::errors::CommandError;

use registries::{Registries, failed};

/// Runs a subcommand.
pub(crate) async fn imagetools(command: ImagetoolsCommand) -> Result<(), CommandError> {
    match command {
        ImagetoolsCommand::Inspect(args) => inspect::inspect(&args).await,
        ImagetoolsCommand::Create(args) => create::create(&args).await,
    }
}

/// What a name in a registry points to.
#[derive(Debug)]
struct Image {
    /// With a tag or digest.
    name: ImageRef,
    desc: Descriptor,
    /// The manifest or index, byte for byte.
    bytes: Vec<u8>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Manifest(Box<Manifest>),
    Index(Index),
}

impl Image {
    async fn fetch(registries: &Registries, name: &ImageRef) -> Result<Self, CommandError> {
        let name = name.tag_or_latest();
        let repository = registries.repository(&name)?;
        let desc = repository.resolve(&name).await.map_err(|error| failed(&error))?;
        Self::fetch_at(registries, name, desc).await
    }

    /// As [`Image::fetch`], where it is known what the name points to.
    async fn fetch_at(
        registries: &Registries,
        name: ImageRef,
        desc: Descriptor,
    ) -> Result<Self, CommandError> {
        let bytes = registries.repository(&name)?.manifest(&desc).await.map_err(|error| failed(&error))?;
        let malformed = |error: rbuild_oci::ManifestError| registries::malformed(&name, &error.to_string());
        let content = match media::kind(&desc.media_type) {
            media::Kind::Index => Content::Index(Index::parse(&bytes).map_err(malformed)?),
            media::Kind::Manifest => Content::Manifest(Box::new(Manifest::parse(&bytes).map_err(malformed)?)),
            _ => {
                let text = format!("media type `{}` is neither an image nor an index", desc.media_type);
                return Err(registries::malformed(&name, &text));
            }
        };
        Ok(Self { name, desc, bytes, content })
    }
}
