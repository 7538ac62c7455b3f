//! Media types of images, and what they mean.

use crate::Compression;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, plain tar.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// OCI empty value, `{}`.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, plain tar.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker foreign layer, gzip.
pub const DOCKER_FOREIGN_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// Docker image manifest, schema 1 (not supported; named to say so).
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Signed form of [`DOCKER_SCHEMA1`].
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// in-toto statement (attestation layers).
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Build cache config.
pub const BUILDKIT_CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Annotation of a layer descriptor: digest of the uncompressed tar.
pub const ANNOTATION_UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Annotation of a layer descriptor in cache manifests: when it was made.
pub const ANNOTATION_CREATED_AT: &str = "buildkit/createdat";
/// Annotation of a manifest descriptor in an index: what it is about (`attestation-manifest`).
pub const ANNOTATION_REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Annotation of a manifest descriptor in an index: the manifest it is about.
pub const ANNOTATION_REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// Annotation that names an image's tag in an OCI layout.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What a blob of some media type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image manifest.
    Manifest,
    /// An index or manifest list.
    Index,
    /// An image config.
    Config,
    /// A file system layer.
    Layer,
    /// Anything else.
    Other,
}

/// What a blob of `media_type` is.
pub fn kind(media_type: &str) -> Kind {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Kind::Manifest,
        OCI_INDEX | DOCKER_INDEX => Kind::Index,
        OCI_CONFIG | DOCKER_CONFIG => Kind::Config,
        _ if is_layer(media_type) => Kind::Layer,
        _ => Kind::Other,
    }
}

/// Whether `media_type` is an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    kind(media_type) == Kind::Manifest
}

/// Whether `media_type` is an index or manifest list.
pub fn is_index(media_type: &str) -> bool {
    kind(media_type) == Kind::Index
}

/// Whether `media_type` is a file system layer, in any form.
pub fn is_layer(media_type: &str) -> bool {
    let base = media_type.split(['+', ';']).next().unwrap_or_default();
    base == OCI_LAYER
        || base == "application/vnd.oci.image.layer.nondistributable.v1.tar"
        || media_type.starts_with("application/vnd.docker.image.rootfs.diff.tar")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
}

/// Whether a layer must not be pushed (it is fetched from its `urls`).
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

/// How a layer of `media_type` is compressed; `None` if the type is no layer or says nothing known.
pub fn compression_of(media_type: &str) -> Option<Compression> {
    if !is_layer(media_type) {
        return None;
    }
    match media_type.rsplit(['+', '.']).next()? {
        "tar" => Some(Compression::Uncompressed),
        "gzip" => Some(Compression::Gzip),
        "zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// The layer media type for a compression.
pub fn layer_type(compression: Compression, oci: bool) -> &'static str {
    match (compression, oci) {
        (Compression::Uncompressed, true) => OCI_LAYER,
        (Compression::Gzip, true) => OCI_LAYER_GZIP,
        (Compression::Zstd, true) => OCI_LAYER_ZSTD,
        (Compression::Uncompressed, false) => DOCKER_LAYER,
        (Compression::Gzip, false) => DOCKER_LAYER_GZIP,
        (Compression::Zstd, false) => DOCKER_LAYER_ZSTD,
    }
}

const PAIRS: [(&str, &str); 7] = [
    (DOCKER_MANIFEST, OCI_MANIFEST),
    (DOCKER_INDEX, OCI_INDEX),
    (DOCKER_CONFIG, OCI_CONFIG),
    (DOCKER_LAYER, OCI_LAYER),
    (DOCKER_LAYER_GZIP, OCI_LAYER_GZIP),
    (DOCKER_LAYER_ZSTD, OCI_LAYER_ZSTD),
    (DOCKER_FOREIGN_LAYER_GZIP, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
];

/// The OCI type that means the same, or `media_type` itself.
pub fn to_oci(media_type: &str) -> &str {
    PAIRS.iter().find(|(docker, _)| *docker == media_type).map_or(media_type, |(_, oci)| oci)
}

/// The Docker type that means the same, or `media_type` itself.
pub fn to_docker(media_type: &str) -> &str {
    PAIRS.iter().find(|(_, oci)| *oci == media_type).map_or(media_type, |(docker, _)| docker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_say_their_compression() {
        let cases = [
            (OCI_LAYER, Some(Compression::Uncompressed)),
            (OCI_LAYER_GZIP, Some(Compression::Gzip)),
            (OCI_LAYER_ZSTD, Some(Compression::Zstd)),
            (DOCKER_LAYER, Some(Compression::Uncompressed)),
            (DOCKER_LAYER_GZIP, Some(Compression::Gzip)),
            (DOCKER_LAYER_ZSTD, Some(Compression::Zstd)),
            (DOCKER_FOREIGN_LAYER_GZIP, Some(Compression::Gzip)),
            (OCI_MANIFEST, None),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", None),
            ("", None),
        ];
        for (media_type, expected) in cases {
            assert_eq!(compression_of(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn docker_and_oci_types_map_onto_each_other() {
        for (docker, oci) in PAIRS {
            assert_eq!((to_oci(docker), to_docker(oci)), (oci, docker));
            assert_eq!(kind(docker), kind(oci));
        }
        assert_eq!(to_oci("x/y"), "x/y");
    }

    #[test]
    fn layer_type_round_trips() {
        for compression in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
            for oci in [true, false] {
                assert_eq!(compression_of(layer_type(compression, oci)), Some(compression));
            }
        }
    }
}
