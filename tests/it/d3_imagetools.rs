use std::path::Path;
use std::process::Command;

use rbuild_tests::{ImageSpec, TestOutput, TestRegistry, TestSpace, binary, push_image, run};
use serde_json::Value;

/// `rbuildctl imagetools`, without a daemon and without a docker configuration but that in `config/`.
fn tools(space: &TestSpace, args: &[&str]) -> TestOutput {
    let mut command = Command::new(binary("rbuildctl"));
    command.arg("imagetools").args(args).current_dir(space.path()).env("DOCKER_CONFIG", space.at("config"));
    let output = command.output().unwrap();
    TestOutput::new(format!("rbuildctl imagetools {}", args.join(" ")), &output)
}

fn push(registry: &TestRegistry, name: &str, architecture: &str) {
    let root = TestSpace::new();
    root.write("arch", architecture);
    let labels = vec![("l".to_owned(), "1".to_owned())];
    let spec = ImageSpec { architecture: architecture.to_owned(), labels, ..ImageSpec::default() };
    push_image(&registry.host, name, root.path(), &spec);
}

fn raw(name: &str) -> Value {
    let text =
        run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).success();
    serde_json::from_str(&text.stdout).unwrap()
}

/// The one file of the image that skopeo gets for a platform: everything that the image needs is there.
fn fetched(name: &str, architecture: &str) -> String {
    let out = TestSpace::new();
    let layout = out.at("layout").to_string_lossy().into_owned();
    let source = format!("docker://{name}");
    let target = format!("oci:{layout}:x");
    run(
        "skopeo",
        &["copy", "-q", "--src-tls-verify=false", "--override-arch", architecture, &source, &target],
    )
    .success();
    let bundle = out.at("bundle").to_string_lossy().into_owned();
    run("umoci", &["unpack", "--image", &format!("{layout}:x"), &bundle]).success();
    std::fs::read_to_string(Path::new(&bundle).join("rootfs/arch")).unwrap()
}

fn platforms(index: &Value) -> Vec<String> {
    let entries = index["manifests"].as_array().unwrap();
    let architecture = |entry: &Value| entry["platform"]["architecture"].as_str().unwrap().to_owned();
    entries.iter().map(architecture).collect()
}

#[test]
fn inspect_shows_what_a_name_points_to() {
    let registry = TestRegistry::start();
    let space = TestSpace::new();
    push(&registry, "a:1", "amd64");
    push(&registry, "b:1", "arm64");
    let (a, b, both) = (
        format!("{}/a:1", registry.host),
        format!("{}/b:1", registry.host),
        format!("{}/both:1", registry.host),
    );
    let digest = tools(&space, &["inspect", "--format", "{{.Manifest.Digest}}", &a]).success().stdout;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    assert_eq!(
        tools(&space, &["inspect", &a]).success().stdout,
        format!("Name:      {a}\nMediaType: {kind}\nDigest:    {digest}\n")
    );
    let shown = tools(&space, &["inspect", "--raw", &a]).success().stdout;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), raw(&a));
    assert_eq!(format!("{}", rbuild_digest::Digest::of(&shown)), digest, "not byte for byte");

    tools(&space, &["create", "-t", &both, "--annotation", "manifest-descriptor:k=v", &a, &b]).success();
    let index = tools(&space, &["inspect", &both]).success().stdout;
    assert!(index.contains(&format!(
        "\nManifests: \n  Name:        {both}@{digest}\n  MediaType:   {kind}\n  Platform:    linux/amd64\n  \
         Annotations: \n    k: v\n               \n  Name:        {both}@"
    )), "{index}");
    let format = |template: &str| tools(&space, &["inspect", "--format", template, &both]).success().stdout;
    assert_eq!(format("{{.Name}}"), both);
    assert_eq!(format("{{.Manifest}}"), index);
    assert_eq!(format("{{range .Manifest.Manifests}}{{.Platform.Architecture}},{{end}}"), "amd64,arm64,");
    assert_eq!(
        format("{{range $p, $i := .Image}}{{$p}}={{$i.Config.Labels.l}} {{end}}"),
        "linux/amd64=1 linux/arm64=1 "
    );
    assert_eq!(format("{{json .Provenance}}{{json .SBOM}}"), "{}{}");
    let all: Value = serde_json::from_str(&format("{{json .}}")).unwrap();
    assert_eq!(all["image"]["linux/arm64"]["architecture"], "arm64");
    assert_eq!(all["manifest"]["manifests"], raw(&both)["manifests"]);
}

#[test]
fn create_joins_images_and_brings_what_they_need() {
    let (registry, other) = (TestRegistry::start(), TestRegistry::start());
    let space = TestSpace::new();
    push(&registry, "a:1", "amd64");
    push(&registry, "b:1", "arm64");
    push(&registry, "c:1", "s390x");
    let name = |name: &str| format!("{}/{name}", registry.host);
    let (a, b, c) = (name("a:1"), name("b:1"), name("c:1"));

    // Two tags of one repository and one of another registry.
    let (one, two, far) = (name("x:1"), name("x:2"), format!("{}/far/x:1", other.host));
    let sources = ["create", "--metadata-file", "md.json", "-t", &one, "-t", &two, "-t", &far, &a, &b];
    tools(&space, &sources).success().has("copying sha256:").has(&format!("to {far}"));
    for made in [&one, &two, &far] {
        assert_eq!(platforms(&raw(made)), ["amd64", "arm64"]);
        assert_eq!((fetched(made, "amd64"), fetched(made, "arm64")), ("amd64".into(), "arm64".into()));
    }
    let metadata: Value = serde_json::from_str(&space.read("md.json")).unwrap();
    let digest = tools(&space, &["inspect", "--format", "{{.Manifest.Digest}}", &far]).success().stdout;
    assert_eq!(metadata["containerimage.descriptor"]["digest"], digest.as_str());

    // What is shown is what would be pushed; nothing is.
    let dry = tools(&space, &["create", "--dry-run", "-t", &name("dry:1"), &a, &b]).success().stdout;
    assert_eq!(serde_json::from_str::<Value>(&dry).unwrap(), raw(&one));
    tools(&space, &["inspect", &name("dry:1")]).failure().has("error[R001]").has("not found");

    // Appended to what is there; what is there already is not listed twice.
    tools(&space, &["create", "--append", "-t", &one, &c, &a]).success();
    assert_eq!(platforms(&raw(&one)), ["amd64", "arm64", "s390x"]);
    assert_eq!(fetched(&one, "s390x"), "s390x");

    // A single source of which nothing is changed keeps its digest, be it index or image.
    tools(&space, &["create", "-t", &name("copy:1"), &far]).success();
    tools(&space, &["create", "--prefer-index=false", "-t", &name("copy:2"), &a]).success();
    for (source, copy) in [(&far, "copy:1"), (&a, "copy:2")] {
        assert_eq!(raw(source), raw(&name(copy)));
    }

    // By digest, by descriptor in a file, by platform.
    let dry = |args: &[&str]| tools(&space, &[&["create", "--dry-run"], args].concat());
    let of = |output: TestOutput| serde_json::from_str::<Value>(&output.success().stdout).unwrap();
    let digest = tools(&space, &["inspect", "--format", "{{.Manifest.Digest}}", &a]).success().stdout;
    assert_eq!(platforms(&of(dry(&["-t", &name("a:9"), &digest]))), ["amd64"]);
    space.write("desc.json", format!("{{\"digest\": \"{digest}\", \"annotations\": {{\"a\": \"b\"}}}}"));
    let described = of(dry(&["-t", &name("a:9"), "-f", "desc.json", "--annotation", "index:i=j"]));
    assert_eq!(described["manifests"][0]["annotations"]["a"], "b");
    assert_eq!(described["annotations"]["i"], "j");
    assert_eq!(platforms(&of(dry(&["-p", "linux/s390x,linux/amd64", &one]))), ["amd64", "s390x"]);
    dry(&["-p", "linux/riscv64", &one]).failure().has("none of the manifests match");
}

#[test]
fn create_refuses_what_makes_no_sense() {
    let registry = TestRegistry::start();
    let space = TestSpace::new();
    push(&registry, "a:1", "amd64");
    let a = format!("{}/a:1", registry.host);
    let digest = format!("sha256:{}", "0".repeat(64));
    for (args, code, text) in [
        (&["create"][..], "U001", "no sources specified"),
        (&["create", &a], "U001", "no tags specified"),
        (&["create", "--append", &a], "U001", "--append: to which --tag?"),
        (&["create", "--dry-run", &digest], "U001", "in which repository is the digest?"),
        (&["create", "--dry-run", "-t", &a, &digest], "R001", "not found"),
        (
            &["create", "--dry-run", "-t", &format!("{a}@{digest}"), &a],
            "U001",
            "cannot have its digest chosen",
        ),
        (&["create", "--dry-run", "--annotation", "a=b", &a], "U001", "manifest-descriptor:KEY=VALUE"),
        (&["create", "--dry-run", "--annotation", "manifest:a=b", &a], "U001", "not supported here"),
        (&["create", "--dry-run", "-f", "nosuch", &a], "U001", "--file nosuch: no such file"),
        (&["inspect", "A!"], "U001", "must be lowercase"),
        (&["inspect", "--format", "{{.Nmae}}", &a], "U001", "no field `Nmae`"),
        (&["inspect", "127.0.0.1:1/a"], "R005", "cannot reach 127.0.0.1:1"),
    ] {
        tools(&space, args).failure().has(&format!("error[{code}]")).has(text);
    }
}

#[test]
fn credentials_are_those_of_the_docker_configuration() {
    let open = TestRegistry::start();
    push(&open, "a:1", "amd64");
    // someone:geheim
    let login = "someone:$2y$05$abcdefghijklmnopqrstuuVWu8RjbNovPZWAMRdd7iqaaG0mI53Uu\n";
    let closed = TestRegistry::start_with_login(login);
    let space = TestSpace::new();
    let (from, to) = (format!("{}/a:1", open.host), format!("{}/a:1", closed.host));
    let refused = tools(&space, &["create", "-t", &to, &from]).failure();
    refused.has("error[R002]").has(&format!("hint: docker login {}", closed.host));
    // "someone:geheim" in base64.
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "c29tZW9uZTpnZWhlaW0="}}}}}}"#, closed.host);
    space.write("config/config.json", config);
    tools(&space, &["create", "-t", &to, &from]).success().lacks("geheim");
    tools(&space, &["inspect", "--format", "{{.Image.Architecture}}", &to]).success().has("amd64");
}
