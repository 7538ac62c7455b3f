//! Statements that go with results: laid out as upstream lays them out, and telling what was built from what.

use std::path::{Path, PathBuf};

use rbuild_api::containerd::services::content::v1::ReadContentRequest;
use rbuild_api::containerd::services::content::v1::content_client::ContentClient;
use rbuild_api::moby::buildkit::v1::BuildHistoryRequest;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_tests::{ImageSpec, TestDaemon, TestSpace, busybox_root, push_image, registry, run};
use serde_json::{Value, json};

use crate::wire::{block_on, channel};

const V1: &str = "https://slsa.dev/provenance/v1";
const V02: &str = "https://slsa.dev/provenance/v0.2";

fn space() -> TestSpace {
    let space = TestSpace::new();
    space.write("f", "data").write("token", "hunter2");
    space.write(
        "Dockerfile",
        "FROM busybox AS base\nARG A\nRUN --mount=type=secret,id=token echo $A > /r\nFROM base\nCOPY f /f\n",
    );
    space
}

/// An OCI layout, unpacked by a foreign tool.
struct Layout(PathBuf);

impl Layout {
    fn build(daemon: &TestDaemon, space: &TestSpace, args: &[&str]) -> Self {
        Self::build_from(daemon, space, space.path(), args)
    }

    fn build_from(daemon: &TestDaemon, space: &TestSpace, context: &Path, args: &[&str]) -> Self {
        let name = space.path().join(format!("out{}", args.len()));
        let archive = name.with_extension("tar").to_string_lossy().into_owned();
        let output = format!("type=oci,dest={archive}");
        daemon.build(context, &[args, &["-o", &output]].concat()).success();
        std::fs::create_dir(&name).unwrap();
        run("tar", &["xf", &archive, "-C", &name.to_string_lossy()]).success();
        Self(name)
    }

    fn read(&self, descriptor: &Value) -> Value {
        let path = descriptor["digest"].as_str().unwrap().replace(':', "/");
        serde_json::from_slice(&std::fs::read(self.0.join("blobs").join(path)).unwrap()).unwrap()
    }

    fn image(&self) -> Value {
        let index = std::fs::read(self.0.join("index.json")).unwrap();
        serde_json::from_slice::<Value>(&index).unwrap()["manifests"][0].clone()
    }
}

#[test]
fn provenance_stands_in_the_index_as_upstream_has_it() {
    let (daemon, space) = (TestDaemon::start(), space());
    let args = [
        "--provenance=mode=max,builder-id=https://example.org/b",
        "--build-arg",
        "A=https://u:hunter2@host/x",
        "--secret",
        "id=token,src=token",
        "-t",
        "example.org/a/b:c",
    ];
    let layout = Layout::build(&daemon, &space, &args);
    let index = layout.read(&layout.image());
    let [image, said] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
    assert_eq!(said["platform"], json!({"architecture": "unknown", "os": "unknown"}));
    let expected = json!({
        "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"],
    });
    assert_eq!(said["annotations"], expected);
    let manifest = layout.read(said);
    assert_eq!(manifest["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    assert_eq!(manifest["config"]["data"], "e30=");
    assert_eq!(layout.read(&manifest["config"]), json!({}));
    let [layer] = manifest["layers"].as_array().unwrap().as_slice() else { panic!("{manifest}") };
    assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
    assert_eq!(layer["annotations"], json!({"in-toto.io/predicate-type": V1}));

    let statement = layout.read(layer);
    assert!(!statement.to_string().contains("hunter2"), "{statement}");
    assert_eq!(statement["predicateType"], V1);
    assert_eq!(statement["subject"][0]["name"], "pkg:docker/example.org/a/b@c?platform=linux%2Famd64");
    let digest = image["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    assert_eq!(statement["subject"][0]["digest"], json!({"sha256": digest}));
    let build = &statement["predicate"]["buildDefinition"];
    assert_eq!(build["resolvedDependencies"][0]["uri"], "pkg:docker/busybox@latest?platform=linux%2Famd64");
    let request = &build["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    assert_eq!(request["args"]["build-arg:A"], "https://xxxxx:xxxxx@host/x");
    assert_eq!(request["secrets"], json!([{"id": "token", "optional": true}]));
    assert_eq!(request["locals"], json!([{"name": "context"}, {"name": "dockerfile"}]));
    // Steps: base, RUN, context, COPY, end.
    let steps = build["internalParameters"]["buildConfig"]["llbDefinition"].as_array().unwrap();
    assert_eq!(steps.len(), 5);
    assert_eq!(steps[3]["inputs"], json!(["step1:0", "step2:0"]));
    let run = &statement["predicate"]["runDetails"];
    assert_eq!(run["builder"]["id"], "https://example.org/b");
    assert_eq!(
        run["metadata"]["buildkit_completeness"],
        json!({"request": true, "resolvedDependencies": false})
    );
    let own = &run["metadata"]["buildkit_metadata"];
    assert_eq!(own["source"]["locations"]["step1"]["locations"][0]["ranges"][0]["start"]["line"], 3);
    let layers = layout.read(image)["layers"].as_array().unwrap().len();
    assert_eq!(own["layers"]["step3:0"][0].as_array().unwrap().len(), layers);
    assert_eq!(own["layers"]["step0:0"][0].as_array().unwrap().len(), layers - 2);
}

#[test]
fn the_default_tells_images_the_essentials_and_nothing_else() {
    let (daemon, space) = (TestDaemon::start(), space());
    // An archive carries nothing unless asked; a pushed image has the short form.
    let plain = Layout::build(&daemon, &space, &["--build-arg", "A=secretive"]);
    assert_eq!(plain.image()["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let host = &registry().host;
    let name = format!("{host}/attested/default:1");
    daemon.build(space.path(), &["-t", &name, "--push", "--build-arg", "A=secretive"]).success();
    let layout = space.at("pulled").to_string_lossy().into_owned();
    let (from, to) = (format!("docker://{name}"), format!("oci:{layout}:x"));
    run("skopeo", &["copy", "--quiet", "--all", "--src-tls-verify=false", &from, &to]).success();
    let pulled = Layout(layout.into());
    let index = pulled.read(&pulled.image());
    let said = pulled.read(&index["manifests"][1]);
    let statement = pulled.read(&said["layers"][0]);
    assert!(!statement.to_string().contains("secretive"), "{statement}");
    let completeness = &statement["predicate"]["runDetails"]["metadata"]["buildkit_completeness"];
    assert_eq!(completeness["request"], false);
    daemon.build(space.path(), &["-t", &name, "--push", "--provenance=false"]).success();
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &from]).success().stdout;
    assert!(raw.contains("\"config\""), "{raw}");
}

#[test]
fn attestations_can_have_the_shape_of_images_and_the_older_predicate() {
    let (daemon, space) = (TestDaemon::start(), space());
    let file = space.at("old.tar").to_string_lossy().into_owned();
    let output = format!("type=oci,dest={file},oci-artifact=false");
    let old = "--attest=type=provenance,mode=min,version=v0.2,reproducible=true";
    daemon.build(space.path(), &[old, "-o", &output]).success();
    let dir = space.at("old");
    std::fs::create_dir(&dir).unwrap();
    run("tar", &["xf", &file, "-C", &dir.to_string_lossy()]).success();
    let layout = Layout(dir);
    let index = layout.read(&layout.image());
    let said = layout.read(&index["manifests"][1]);
    assert!(said["artifactType"].is_null() && said["subject"].is_null(), "{said}");
    let config = layout.read(&said["config"]);
    assert_eq!(config["architecture"], "unknown");
    assert_eq!(config["rootfs"]["diff_ids"][0], said["layers"][0]["digest"]);
    let statement = layout.read(&said["layers"][0]);
    assert_eq!(statement["predicateType"], V02);
    assert_eq!(statement["predicate"]["metadata"]["reproducible"], true);
    assert!(statement["predicate"]["buildConfig"].is_null());
    let refused = format!("{output},oci-mediatypes=false");
    daemon.build(space.path(), &[old, "-o", &refused]).failure().has("cannot export attestations with");
}

#[test]
fn each_platform_has_its_own_and_the_history_keeps_them() {
    let (daemon, space) = (TestDaemon::start(), TestSpace::new());
    space.write("f", "data").write("Dockerfile", "FROM scratch\nCOPY f /\n");
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let layout = Layout::build(&daemon, &space, &[&["--provenance=mode=min"], &platforms[..]].concat());
    let index = layout.read(&layout.image());
    let entries = index["manifests"].as_array().unwrap();
    let architectures: Vec<_> =
        entries.iter().map(|e| e["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(architectures, ["amd64", "arm64", "unknown", "unknown"]);
    for (image, said) in entries[..2].iter().zip(&entries[2..]) {
        assert_eq!(said["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    }
    block_on(async {
        let channel = channel(&daemon).await;
        let request = BuildHistoryRequest { early_exit: true, ..Default::default() };
        let mut events =
            ControlClient::new(channel.clone()).listen_build_history(request).await.unwrap().into_inner();
        let record = events.message().await.unwrap().unwrap().record.unwrap();
        assert_eq!(record.results.len(), 2);
        let kept = &record.results["linux/arm64"].attestations[0];
        assert_eq!(kept.annotations["in-toto.io/predicate-type"], V1);
        let request = ReadContentRequest { digest: kept.digest.clone(), ..Default::default() };
        let mut pieces = ContentClient::new(channel).read(request).await.unwrap().into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.message().await.unwrap() {
            bytes.extend(piece.data);
        }
        let predicate: Value = serde_json::from_slice(&bytes).unwrap();
        // The history has everything, whatever the image is told.
        assert!(predicate["buildDefinition"]["internalParameters"]["buildConfig"].is_object(), "{predicate}");
    });
}

/// A scanner in a shell: it says what it sees, of everything that it is given.
fn push_scanner() -> String {
    let root = busybox_root();
    root.write(
        "scan.sh",
        concat!(
            "#!/bin/sh\nset -e\n",
            "say() {\n  files=$(cd $2; find . -type f | sort | head -5 | tr '\\n' ' ')\n",
            "  printf '{\"_type\":\"https://in-toto.io/Statement/v0.1\",\"predicateType\":\"https://spdx.dev/Document\",",
            "\"subject\":[],\"predicate\":{\"name\":\"%s\",\"files\":\"%s\",\"setting\":\"%s\"}}' ",
            "\"$1\" \"$files\" \"$BUILDKIT_SCAN_colour\" > $BUILDKIT_SCAN_DESTINATION/$1.spdx.json\n}\n",
            "say core $BUILDKIT_SCAN_SOURCE\n",
            "for extra in $BUILDKIT_SCAN_SOURCE_EXTRAS/*; do\n  [ ! -e $extra ] || say $(basename $extra) $extra\ndone\n",
        ),
    );
    run("chmod", &["755", &root.at("scan.sh").to_string_lossy()]).success();
    let spec = ImageSpec { entrypoint: vec!["/scan.sh".into()], ..ImageSpec::default() };
    let name = format!("{}/tools/scanner:1", registry().host);
    push_image(&registry().host, "tools/scanner:1", root.path(), &spec);
    name
}

#[test]
fn a_scanner_lists_the_result_and_what_asks_to_be_listed() {
    let scanner = push_scanner();
    let (daemon, space) = (TestDaemon::start(), TestSpace::new());
    let context = space.at("context");
    std::fs::create_dir(&context).unwrap();
    space.write("context/f", "data").write("context/unused", "data").write(
        "context/Dockerfile",
        "FROM scratch AS kept\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY f /in-stage\nFROM scratch AS not\nCOPY f /x\n\
         FROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=kept /in-stage /r\nCOPY --from=not /x /x\n",
    );
    let sbom = format!("--sbom=generator={scanner},colour=red");
    let layout = Layout::build_from(
        &daemon,
        &space,
        &context,
        &[&sbom, "--provenance=mode=max", "-t", "example.org/l:1"],
    );
    let index = layout.read(&layout.image());
    let said = layout.read(&index["manifests"][1]);
    let said: Vec<_> = said["layers"].as_array().unwrap().iter().map(|layer| layout.read(layer)).collect();
    let [core, of_context, stage, provenance] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(core["predicateType"], "https://spdx.dev/Document");
    assert_eq!(core["predicate"], json!({"name": "core", "files": "./r ./x ", "setting": "red"}));
    assert_eq!(core["subject"][0]["name"], "pkg:docker/example.org/l@1?platform=linux%2Famd64");
    assert_eq!(
        (&stage["predicate"]["name"], &stage["predicate"]["files"]),
        (&json!("sbom-kept"), &json!("./in-stage "))
    );
    // The whole context, not only what COPY takes.
    assert_eq!(of_context["predicate"]["files"], "./Dockerfile ./f ./unused ");
    let materials = provenance["predicate"]["buildDefinition"]["resolvedDependencies"].to_string();
    assert!(materials.contains("tools/scanner@1"), "{materials}");
    // It is a step like others: nothing changed, nothing runs.
    let again = daemon.build(&context, &[&sbom]).success();
    assert!(again.cached("generating sbom using"), "{}", again.all());
    // Beside files, too.
    let output = format!("type=local,dest={}", space.at("files").display());
    daemon.build(&context, &[&sbom, "-o", &output]).success();
    assert!(space.read("files/sbom-kept.spdx.json").contains("in-stage"));
    daemon.build(&context, &["--sbom=generator=busybox"]).failure().has("does not have cmd");
}

#[test]
fn files_have_their_provenance_beside_them() {
    let (daemon, space) = (TestDaemon::start(), TestSpace::new());
    space.write("f", "data").write("Dockerfile", "FROM scratch\nCOPY f /dir/f\n");
    let out = space.at("out");
    let output = format!("type=local,dest={}", out.display());
    daemon.build(space.path(), &["--provenance=mode=min", "-o", &output]).success();
    let text = std::fs::read_to_string(out.join("provenance.json")).unwrap();
    let statement: Value = serde_json::from_str(&text).unwrap();
    let digest = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";
    assert_eq!(statement["subject"], json!([{"name": "dir/f", "digest": {"sha256": digest}}]));
    let tar = space.at("o.tar").to_string_lossy().into_owned();
    let output = format!("type=tar,dest={tar},attestation-prefix=my-");
    daemon.build(space.path(), &["--provenance=mode=min,filename=p.json", "-o", &output]).success();
    assert!(run("tar", &["tf", &tar]).success().stdout.lines().any(|line| line == "my-p.json"));
    // Directories get nothing unasked.
    let output = format!("type=local,dest={}", space.at("plain").display());
    daemon.build(space.path(), &["-o", &output]).success();
    assert!(!space.at("plain/provenance.json").exists());
}

#[test]
fn attestations_that_make_no_sense_cost_no_build() {
    let (daemon, space) = (TestDaemon::start(), space());
    for (flag, text) in [
        ("--provenance=mode=most", "invalid mode \"most\""),
        ("--provenance=version=v9", "invalid provenance SLSA version: v9"),
        ("--attest=type=poem", "unknown attestation type \"poem\""),
        ("--attest=mode=max", "type is missing"),
    ] {
        daemon.build(space.path(), &[flag]).failure().has(text).lacks("RUN");
    }
}
