use super::*;

fn layer(text: &str) -> ImageLayer {
    let desc = Descriptor::of(media::OCI_LAYER_GZIP, text.as_bytes());
    ImageLayer { diff_id: Digest::of(text), desc, created_by: String::new(), created_ms: None }
}

#[test]
fn a_chain_is_named_by_all_its_layers_in_order() {
    let (a, b) = (layer("a"), layer("b"));
    assert_eq!(chain_id(&[]), None);
    assert_eq!(chain_id(std::slice::from_ref(&a)), Some(a.diff_id));
    let ab = Digest::of(format!("{} {}", a.diff_id, b.diff_id));
    assert_eq!(chain_id(&[a.clone(), b.clone()]), Some(ab));
    assert_ne!(chain_id(&[b, a]), Some(ab));
}

#[test]
fn manifests_and_configs_must_agree() {
    let config = ImageConfig::parse(
        br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":
        ["sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]},
        "history":[{"empty_layer":true},{"created":"2024-01-01T00:00:00.5Z","created_by":"RUN x"}]}"#,
    )
    .unwrap();
    let mut manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::of(media::OCI_CONFIG, b"{}"),
        layers: vec![layer("a").desc],
        subject: None,
        annotations: Default::default(),
    };
    let layers = layers_of(&manifest, &config).unwrap();
    assert_eq!((layers[0].created_by.as_str(), layers[0].created_ms), ("RUN x", Some(1_704_067_200_500)));
    manifest.layers.push(layer("b").desc);
    assert!(layers_of(&manifest, &config).unwrap_err().contains("2 layers, the config 1"));
    manifest.layers = vec![Descriptor::of("text/plain", b"x")];
    assert!(layers_of(&manifest, &config).unwrap_err().contains("text/plain"));
}

#[test]
fn the_manifest_key_leaves_out_what_is_empty() {
    let digest = Digest::of("x");
    let amd64 = manifest_key(digest, &Platform::parse("linux/amd64").unwrap(), None);
    let json = format!(r#"{{"Digest":"{digest}","OS":"linux","Arch":"amd64"}}"#);
    assert_eq!(amd64, Digest::of(json).to_string());
    assert_ne!(amd64, manifest_key(digest, &Platform::parse("linux/arm").unwrap(), None));
    assert_ne!(amd64, manifest_key(digest, &Platform::parse("linux/amd64").unwrap(), Some(1)));
}
