//! Package URLs of images, as provenance names them.

use std::fmt::Write as _;

use crate::{ImageRef, Platform};

/// `pkg:docker/busybox@latest?platform=linux%2Famd64`; of a name without a tag the digest is a qualifier.
///
/// `kind` is `docker` for images of registries, `oci` for those of layouts. Source: the purl specification (types
/// `docker` and `oci`); which parts are given is what upstream's provenance shows.
pub fn purl(kind: &str, name: &ImageRef, platform: Option<&Platform>) -> String {
    let mut text = format!("pkg:{kind}/{}", encoded(&name.name_only().familiar(), "/"));
    if let Some(tag) = name.tag() {
        text.push('@');
        text.push_str(&encoded(tag, ""));
    }
    let mut qualifiers = Vec::new();
    if let (None, Some(digest)) = (name.tag(), name.digest()) {
        qualifiers.push(format!("digest={}", encoded(&digest.to_string(), ":")));
    }
    if let Some(platform) = platform {
        qualifiers.push(format!("platform={}", encoded(&platform.clone().normalize().to_string(), ":")));
    }
    if !qualifiers.is_empty() {
        text.push('?');
        text.push_str(&qualifiers.join("&"));
    }
    text
}

fn encoded(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain =
            byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
        match plain {
            true => out.push(char::from(byte)),
            // Writing to a string does not fail.
            false => write!(out, "%{byte:02X}").unwrap_or_default(),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_upstreams_provenance() {
        const DIGEST: &str = "sha256:24dd7b11a3f1c85aae671cec281ec6b742764c5f65c05dd89340acc2b08f4057";
        let amd64 = Platform::parse("linux/amd64").unwrap();
        let arm = Platform::parse("linux/arm/v7").unwrap();
        for (kind, name, platform, expected) in [
            (
                "docker",
                "busybox:latest".to_owned(),
                Some(&amd64),
                "pkg:docker/busybox@latest?platform=linux%2Famd64".to_owned(),
            ),
            (
                "docker",
                format!("busybox:1.3@{DIGEST}"),
                Some(&arm),
                "pkg:docker/busybox@1.3?platform=linux%2Farm%2Fv7".into(),
            ),
            (
                "docker",
                "127.0.0.1:5000/x/y:z".into(),
                Some(&amd64),
                "pkg:docker/127.0.0.1%3A5000/x/y@z?platform=linux%2Famd64".into(),
            ),
            (
                "oci",
                format!("lay@{DIGEST}"),
                Some(&amd64),
                format!("pkg:oci/lay?digest={DIGEST}&platform=linux%2Famd64"),
            ),
            ("docker", "docker.io/a/b:c".into(), None, "pkg:docker/a/b@c".into()),
        ] {
            assert_eq!(purl(kind, &ImageRef::parse(&name).unwrap(), platform), expected);
        }
    }
}
