use std::path::PathBuf;

use rbuild_api::pb;
use rbuild_llb::{ImageOptions, ImageResolveMode, LlbError, LocalOptions, MarshalOptions, State};
use rbuild_oci::ImageRef;
use tonic::Status;

use crate::errors::CommandError;
use crate::gateway::Gateway;

/// `--volume` arguments.
#[derive(Debug, Default)]
pub(super) struct Volumes(Vec<Volume>);

#[derive(Debug)]
struct Volume {
    source: Source,
    dest: String,
    readonly: bool,
}

#[derive(Debug)]
enum Source {
    /// Kept by the daemon under a name.
    Named(String),
    /// A copy of a directory of this machine.
    Directory(PathBuf),
}

impl Volumes {
    /// Errors: a form that is not understood, or a promise that cannot be kept.
    pub(super) fn parse(texts: &[String]) -> Result<Self, CommandError> {
        texts.iter().map(|text| Volume::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// The directories, by the names under which the daemon asks for them.
    pub(super) fn dirs(&self) -> Vec<(String, PathBuf)> {
        let dirs = self.0.iter().enumerate().filter_map(|(index, volume)| match &volume.source {
            Source::Directory(path) => Some((name(index), path.clone())),
            Source::Named(_) => None,
        });
        dirs.collect()
    }

    /// As mounts of a container; directories are sent now.
    pub(super) async fn mounts(&self, gateway: &mut Gateway) -> Result<Vec<pb::Mount>, Status> {
        let mut mounts = Vec::with_capacity(self.0.len());
        for (index, volume) in self.0.iter().enumerate() {
            let mut mount =
                pb::Mount { dest: volume.dest.clone(), readonly: volume.readonly, ..pb::Mount::default() };
            match &volume.source {
                Source::Named(name) => {
                    mount.mount_type = pb::MountType::Cache.into();
                    mount.cache_opt =
                        Some(pb::CacheOpt { id: name.clone(), sharing: pb::CacheSharingOpt::Shared.into() });
                }
                Source::Directory(_) => {
                    let state = State::local(&name(index), LocalOptions::default());
                    let definition = state.marshal(&MarshalOptions::default());
                    let definition = definition.map_err(|error| Status::unknown(error.to_string()))?;
                    mount.result_id = gateway.solve(definition.to_wire()).await?;
                }
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }
}

fn name(index: usize) -> String {
    format!("volume{index}")
}

impl Volume {
    fn parse(text: &str) -> Result<Self, CommandError> {
        let wrong = |why: &str| CommandError::usage(format!("--volume {text}: {why}"));
        let mut fields = text.split(':');
        let (Some(source), Some(dest)) = (fields.next(), fields.next()) else {
            return Err(wrong("expected NAME:PATH or DIR:PATH:ro"));
        };
        let readonly = match (fields.next(), fields.next()) {
            (None | Some("rw"), None) => false,
            (Some("ro"), None) => true,
            _ => return Err(wrong("the only options are ro and rw")),
        };
        if !dest.starts_with('/') || dest == "/" || source.is_empty() {
            return Err(wrong("expected an absolute path below / in the container"));
        }
        let source = match source.contains('/') || source == "." || source == ".." {
            true if !readonly => {
                return Err(wrong("the container gets a copy of a directory, so it cannot write to it")
                    .hint("add :ro, or name a volume that the daemon keeps"));
            }
            true => Source::Directory(PathBuf::from(source)),
            false => Source::Named(source.to_owned()),
        };
        Ok(Self { source, dest: dest.to_owned(), readonly })
    }
}

/// The definition of an image's file system.
pub(super) fn image(image: &ImageRef, mode: &str) -> Result<pb::Definition, LlbError> {
    let resolve_mode = match mode {
        "pull" => ImageResolveMode::ForcePull,
        _ => ImageResolveMode::PreferLocal,
    };
    let state = State::image(&image.to_string(), ImageOptions { resolve_mode, ..ImageOptions::default() })?;
    Ok(state.marshal(&MarshalOptions::default())?.to_wire())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_names_or_copies() {
        let parse = |text: &str| Volumes::parse(&[text.to_owned()]);
        assert!(parse("data:/var/data").unwrap().dirs().is_empty());
        assert_eq!(parse("./x:/x:ro").unwrap().dirs(), [("volume0".to_owned(), PathBuf::from("./x"))]);
        for wrong in ["./x:/x", "data", "data:rel", "data:/", ":/x", "data:/x:z", "data:/x:ro:rw"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
