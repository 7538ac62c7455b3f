//! What is in the archives: layout, times, annotations, attributes, as upstream's archives have it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rbuild_tests::{TestDaemon, TestSpace, run};
use serde_json::Value;

const EPOCH: &str = "1500000000";

fn space() -> TestSpace {
    let space = TestSpace::new();
    space.write("f", "data");
    space.write(
        "Dockerfile",
        "FROM busybox\nENV A=1\nRUN rm /etc/group && echo 1 > /new\nCOPY f /dir/f\nCMD [\"sh\"]\n",
    );
    space
}

/// An archive, unpacked by a foreign tool.
struct Archive {
    dir: PathBuf,
}

impl Archive {
    fn build(daemon: &TestDaemon, space: &TestSpace, name: &str, args: &[&str]) -> Self {
        let dir = space.at(name);
        let file = space.at(&format!("{name}.tar")).to_string_lossy().into_owned();
        daemon.build(space.path(), args).success();
        std::fs::create_dir(&dir).unwrap();
        run("tar", &["xf", &file, "-C", &dir.to_string_lossy()]).success();
        Self { dir }
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_str(&self.text(&self.blob(descriptor))).unwrap()
    }

    fn blob(&self, descriptor: &Value) -> String {
        format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))
    }

    fn index(&self) -> Value {
        serde_json::from_str(&self.text("index.json")).unwrap()
    }

    fn manifest(&self) -> Value {
        self.json(&self.index()["manifests"][0])
    }

    /// Names and times of a layer's entries.
    fn layer(&self, descriptor: &Value) -> BTreeMap<String, String> {
        let path = self.dir.join(self.blob(descriptor));
        let listing = run("tar", &["tvf", &path.to_string_lossy(), "--full-time", "--utc"]).success();
        let line = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            (fields[5].to_owned(), format!("{} {}", fields[3], fields[4]))
        };
        listing.stdout.lines().map(line).collect()
    }
}

#[test]
fn estargz_is_gzip_to_those_who_do_not_know_it() {
    let (daemon, space) = (TestDaemon::start(), space());
    let output = "type=oci,dest=e.tar,compression=estargz,name=x/y:z";
    let archive = Archive::build(&daemon, &space, "e", &["-o", output]);
    let layers = archive.manifest()["layers"].as_array().unwrap().clone();
    let (base, new) = layers.split_first().unwrap();
    assert!(base["annotations"].is_null(), "a base image's layer is its maker's: {base}");
    for layer in new {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        assert!(layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string(), "{layer}");
        let path = archive.dir.join(archive.blob(layer)).to_string_lossy().into_owned();
        run("sh", &["-c", "gzip -t < \"$0\"", &path]).success();
        assert!(archive.layer(layer).contains_key("stargz.index.json"));
    }
    let forced = format!("{output},force-compression=true").replace("e.tar", "forced.tar");
    let archive = Archive::build(&daemon, &space, "forced", &["-o", &forced]);
    for layer in archive.manifest()["layers"].as_array().unwrap() {
        assert!(archive.layer(layer).contains_key("stargz.index.json"), "{layer}");
    }
    // The image says the truth about its layers: those who check it unpack it.
    let (from, bundle) = (format!("{}:z", archive.dir.display()), space.at("bundle"));
    run("umoci", &["unpack", "--image", &from, &bundle.to_string_lossy()]).success();
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/dir/f")).unwrap(), "data");
    assert!(!bundle.join("rootfs/etc/group").exists());
}

fn keys_in_order(json: &str, keys: &[&str]) -> bool {
    let places: Option<Vec<_>> = keys.iter().map(|key| json.find(&format!("\"{key}\""))).collect();
    places.is_some_and(|places| places.is_sorted())
}

#[test]
fn archives_are_laid_out_as_tools_expect() {
    let daemon = TestDaemon::start();
    let space = space();
    let archive = Archive::build(&daemon, &space, "o", &["-t", "a/b:c", "-o", "type=docker,dest=o.tar"]);
    assert!(keys_in_order(&archive.text("index.json"), &["schemaVersion", "mediaType", "manifests"]));
    assert!(keys_in_order(&archive.text("manifest.json"), &["Config", "RepoTags", "Layers"]));
    let entry = &archive.index()["manifests"][0];
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/a/b:c");
    assert!(entry["annotations"]["org.opencontainers.image.created"].is_string());
    // Docker's archives have OCI media types too, unless told otherwise.
    assert_eq!(archive.manifest()["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let mode = |name: &str| {
        let tar = space.at("o.tar").to_string_lossy().into_owned();
        run("tar", &["tvf", &tar, name]).success().stdout[..10].to_owned()
    };
    assert_eq!((mode("index.json"), mode("oci-layout")), ("-rw-r--r--".into(), "-r--r--r--".into()));
    let config = archive.json(&archive.manifest()["config"]);
    let history = config["history"].as_array().unwrap();
    assert!(history.iter().all(|entry| entry["created"].is_string()), "{config}");
}

#[test]
fn an_epoch_makes_images_that_do_not_depend_on_the_day() {
    let space = space();
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let build = |name: &str| {
        let output = format!("type=oci,dest={name}.tar,rewrite-timestamp=true");
        Archive::build(&TestDaemon::start(), &space, name, &["--build-arg", &epoch, "-o", &output])
    };
    let one = build("one");
    let (base, new) = match one.manifest()["layers"].as_array().unwrap().as_slice() {
        [base, new @ ..] => (base.clone(), new.to_vec()),
        [] => panic!("no layers"),
    };
    for layer in &new {
        assert_eq!(layer["annotations"]["buildkit/rewritten-timestamp"], EPOCH);
        let entries = one.layer(layer);
        let early = entries.values().all(|time| time.as_str() <= "2017-07-14 02:40:00");
        assert!(early && !entries.is_empty(), "{entries:?}");
    }
    assert!(base["annotations"].is_null(), "the base image's layer is left alone: {base}");
    let config = one.json(&one.manifest()["config"]);
    assert_eq!(config["created"], "2017-07-14T02:40:00Z");
    assert!(one.layer(&new[0]).contains_key("etc/.wh.group"));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    // Another daemon, another second: the same bytes.
    assert_eq!(one.text("index.json"), build("two").text("index.json"));
}

#[test]
fn annotations_reach_their_places() {
    let daemon = TestDaemon::start();
    let space = space();
    space.write("Dockerfile", "FROM scratch\nCOPY f /\n");
    let output = "type=oci,dest=o.tar,annotation.m=1,annotation-manifest-descriptor[linux/arm64].d=2,\
                  annotation-index.i=3,annotation-index-descriptor.e=4";
    let archive =
        Archive::build(&daemon, &space, "o", &["--platform", "linux/amd64,linux/arm64", "-o", output]);
    let top = &archive.index()["manifests"][0];
    assert_eq!(top["annotations"]["e"], "4");
    let index = archive.json(top);
    assert_eq!(index["annotations"]["i"], "3");
    assert!(index["manifests"][0]["annotations"].is_null());
    assert_eq!(index["manifests"][1]["annotations"]["d"], "2");
    assert_eq!(archive.json(&index["manifests"][1])["annotations"]["m"], "1");
    let single = "type=oci,dest=s.tar,annotation-index.i=3";
    let refused = daemon.build(space.path(), &["-o", single]).failure();
    refused.has("index annotations not supported for single platform export");
}

#[test]
fn a_tar_of_several_platforms_has_a_directory_for_each() {
    let daemon = TestDaemon::start();
    let space = space();
    space.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n");
    let platforms = "linux/amd64,linux/arm/v7";
    daemon.build(space.path(), &["--platform", platforms, "-o", "type=tar,dest=t.tar"]).success();
    let listing = run("tar", &["tf", &space.at("t.tar").to_string_lossy()]).success();
    let expected = "linux_amd64/\nlinux_amd64/amd64\nlinux_arm_v7/\nlinux_arm_v7/arm\n";
    assert_eq!(listing.stdout, expected);
}

fn set_attribute(path: &Path, name: &str, value: &str) {
    run("setfattr", &["-n", name, "-v", value, &path.to_string_lossy()]).success();
}

#[test]
fn layers_do_not_depend_on_attributes_of_the_context() {
    let daemon = TestDaemon::start();
    let space = space();
    space.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    set_attribute(&space.at("f"), "user.note", "mine");
    let output = "type=oci,dest=o.tar,compression=uncompressed";
    let archive = Archive::build(&daemon, &space, "o", &["-o", output]);
    let layer = archive.dir.join(archive.blob(&archive.manifest()["layers"][0]));
    let bytes = std::fs::read(layer).unwrap();
    assert!(!bytes.windows(9).any(|window| window == b"user.note"), "the attribute is in the layer");
    // Files for the user keep them.
    daemon.build(space.path(), &["-o", "type=tar,dest=t.tar"]).success();
    let bytes = std::fs::read(space.at("t.tar")).unwrap();
    assert!(bytes.windows(9).any(|window| window == b"user.note"), "the attribute is lost");
}
