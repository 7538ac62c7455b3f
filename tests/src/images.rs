use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rbuild_digest::Digest;
use serde_json::json;

use crate::space::{TestSpace, run};

/// What an image's config says beside its layer.
#[derive(Debug, Clone, Default)]
pub struct ImageSpec {
    /// `NAME=value`, after the usual PATH.
    pub env: Vec<String>,
    /// Default command.
    pub cmd: Vec<String>,
    /// ONBUILD triggers.
    pub onbuild: Vec<String>,
    /// `linux/<arch>`; empty is amd64.
    pub architecture: String,
    /// First words of the command.
    pub entrypoint: Vec<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
}

/// A root file system of a static busybox with the usual passwd and group.
pub fn busybox_root() -> TestSpace {
    let space = TestSpace::new();
    for dir in ["bin", "etc", "root", "usr/bin", "var", "home", "tmp"] {
        std::fs::create_dir_all(space.at(dir)).unwrap();
    }
    std::fs::set_permissions(space.at("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::copy("/bin/busybox", space.at("bin/busybox")).expect("the package busybox-static is missing");
    let applets = run("/bin/busybox", &["--list"]).success().stdout;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        symlink("busybox", space.at("bin").join(applet)).unwrap();
    }
    space.write(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nuser:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    space.write("etc/group", "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nstaff:x:50:user\nnogroup:x:65534:\n");
    space
}

/// Puts a program of ours into a root file system, with the libraries that it needs.
pub fn add_program(root: &Path, program: &Path, place: &str) {
    let copy = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, &to).unwrap();
    };
    copy(program, place);
    let needed = run("ldd", &[&program.to_string_lossy()]).success().stdout;
    for library in needed.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), library);
    }
}

/// A minimal Debian root file system made by mmdebstrap with the given packages, as a tar file's path below
/// the space. Uses the host's package sources.
pub fn debian_root(packages: &[&str]) -> TestSpace {
    let space = TestSpace::new();
    let root = space.at("root");
    let include = format!("--include={}", [&["ca-certificates"], packages].concat().join(","));
    run("mmdebstrap", &["--quiet", "--variant=minbase", &include, "bookworm", &root.to_string_lossy()])
        .success();
    let bundle = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if bundle.exists() {
        std::fs::copy(bundle, root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    }
    space
}

/// The files of Debian packages of any architecture, in `root` below the space; nothing is run to set them up. Uses the
/// host's package sources.
pub fn debian_files(architecture: &str, packages: &[&str]) -> TestSpace {
    let space = TestSpace::new();
    let root = space.at("root");
    let (include, architectures) =
        (format!("--include={}", packages.join(",")), format!("--architectures={architecture}"));
    // The suite's archive alone: the others do not have every architecture.
    let sources = ["indextargets", "--format", "$(RELEASE) $(REPO_URI)"];
    let sources = run("apt-get", &sources).success().stdout;
    let archive =
        sources.lines().find_map(|line| line.strip_prefix("bookworm ")).expect("apt knows an archive");
    let target = root.to_string_lossy();
    let args = ["--quiet", "--variant=extract", &architectures, &include, "bookworm", &target, archive];
    run("mmdebstrap", &args).success();
    space
}

fn blob(layout: &TestSpace, data: &[u8]) -> (String, usize) {
    let digest = Digest::of(data);
    layout.write(&format!("blobs/sha256/{}", digest.hex()), data);
    (digest.to_string(), data.len())
}

/// Makes a one-layer image of `root` and pushes it as `name` (`library/busybox:latest`) to `host`.
pub fn push_image(host: &str, name: &str, root: &Path, spec: &ImageSpec) {
    let layout = TestSpace::new();
    let tar = layout.at("layer.tar");
    let (tar_text, root_text) = (tar.to_string_lossy(), root.to_string_lossy());
    run(
        "tar",
        &["--numeric-owner", "--owner=0", "--group=0", "--xattrs", "-cf", &tar_text, "-C", &root_text, "."],
    )
    .success();
    let diff_id = Digest::of(std::fs::read(&tar).unwrap()).to_string();
    run("gzip", &["-n", "-1", &tar_text]).success();
    let packed = std::fs::read(layout.at("layer.tar.gz")).unwrap();
    let (layer, layer_size) = blob(&layout, &packed);
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    env.extend(spec.env.iter().cloned());
    let architecture = if spec.architecture.is_empty() { "amd64" } else { &spec.architecture };
    let mut config = json!({"Env": env});
    if !spec.cmd.is_empty() {
        config["Cmd"] = json!(spec.cmd);
    }
    if !spec.entrypoint.is_empty() {
        config["Entrypoint"] = json!(spec.entrypoint);
    }
    if !spec.labels.is_empty() {
        config["Labels"] =
            spec.labels.iter().cloned().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect();
    }
    if !spec.onbuild.is_empty() {
        config["OnBuild"] = json!(spec.onbuild);
    }
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2024-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "test base image"}],
    });
    let (config, config_size) = blob(&layout, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": layer_size}],
    });
    let (manifest, manifest_size) = blob(&layout, manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
        "platform": {"architecture": architecture, "os": "linux"},
    }]});
    layout.write("index.json", index.to_string());
    layout.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let source = format!("oci:{}", layout.path().display());
    run(
        "skopeo",
        &["copy", "--quiet", "--dest-tls-verify=false", &source, &format!("docker://{host}/{name}")],
    )
    .success();
}
