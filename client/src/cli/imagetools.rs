use std::path::PathBuf;

use clap::{ArgAction, Subcommand};

/// Images in registries; no daemon is needed.
#[derive(Debug, Subcommand)]
pub(crate) enum ImagetoolsCommand {
    /// Show an image of a registry
    Inspect(InspectArgs),
    /// Make an image in a registry from images that are in registries
    Create(CreateArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Go template for the output, for instance '{{json .Manifest}}'
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "raw")]
    pub(crate) format: Option<String>,
    /// The manifest as it is, byte for byte
    #[arg(long)]
    pub(crate) raw: bool,
    /// The image
    pub(crate) name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Annotation of the new image, [index|manifest-descriptor[PLATFORM]:]KEY=VALUE (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Add to what the tag has now
    #[arg(long)]
    pub(crate) append: bool,
    /// Print the new image instead of pushing it
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// File with a source: a descriptor (JSON), a name or a digest (repeatable)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// Write the result's descriptor to a file (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Only these platforms of the sources
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// Make an index of a single source too; if false a single image is copied as it is
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true",
          value_name = "BOOL", hide_possible_values = true, action = ArgAction::Set)]
    pub(crate) prefer_index: bool,
    /// How progress is shown: auto, plain, tty, quiet
    #[arg(long, value_name = "MODE", default_value = "auto", env = "BUILDKIT_PROGRESS",
          value_parser = ["auto", "plain", "tty", "quiet", "none"])]
    pub(crate) progress: String,
    /// Name of the new image (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Vec<String>,
    /// Images, digests in the repository of the tag, or descriptors (JSON)
    pub(crate) sources: Vec<String>,
}
