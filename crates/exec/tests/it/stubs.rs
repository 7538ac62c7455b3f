//! What mounts leave behind in the layer: nothing.

use std::os::unix::fs::MetadataExt;

use crate::{Place, bind};

#[tokio::test]
async fn root_mount_points_do_not_show_in_the_layer() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::write(place.path("file"), "x").unwrap();
    let before = std::fs::metadata(place.path("base/etc")).unwrap();
    let mut spec = place.script("cat /etc/hosts /etc/resolv.conf >/dev/null; touch /kept");
    spec.mounts = vec![bind("/made/deep", place.path("data"), true), bind("/f", place.path("file"), true)];
    spec.remove_stubs_recursive = true;
    place.run(spec.clone()).await.unwrap().ok();
    assert_eq!(place.changes(), ["etc", "kept"]);
    let after = std::fs::metadata(place.path("upper/etc")).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    // Without the option the parents stay, as upstream has it.
    spec.remove_stubs_recursive = false;
    place.run(spec).await.unwrap().ok();
    assert_eq!(place.changes(), ["etc", "kept", "made"]);
}

#[tokio::test]
async fn root_what_the_step_wrote_stays() {
    let place = Place::new();
    std::fs::write(place.path("base/etc/hosts"), "image's own").unwrap();
    place.sh("cat /etc/hosts | grep -q buildkitsandbox; echo > /tmp/empty; touch /etc/new").await.ok();
    assert_eq!(place.changes(), ["etc", "etc/new", "tmp", "tmp/empty"]);
    assert_eq!(std::fs::read_to_string(place.path("base/etc/hosts")).unwrap(), "image's own");
}

#[tokio::test]
async fn root_a_parent_swapped_for_a_link_leads_nowhere() {
    let place = Place::new();
    let outside = place.path("outside");
    std::fs::create_dir_all(outside.join("b/c")).unwrap();
    for file in ["hosts", "resolv.conf", "b/c/stub"] {
        std::fs::write(outside.join(file), "").unwrap();
    }
    std::fs::write(place.path("file"), "x").unwrap();
    let target = outside.display();
    let mut spec = place.script(&format!(
        "mv /etc /etc-old && ln -s {target} /etc; mkdir /new; mv /new /a/gone 2>/dev/null; ln -s {target} /link; \
         mv /a /a-old && ln -s {target} /a; true"
    ));
    spec.mounts = vec![bind("/a/b/c/stub", place.path("file"), true)];
    spec.remove_stubs_recursive = true;
    place.run(spec).await.unwrap();
    for file in ["hosts", "resolv.conf", "b/c/stub"] {
        assert!(outside.join(file).exists(), "{file}");
    }
}

#[tokio::test]
async fn root_an_image_of_nothing_but_a_program_runs() {
    let place = Place::new();
    let bare = place.path("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy("/bin/busybox", bare.join("busybox")).unwrap();
    let mut spec = rbuild_exec::ProcessSpec::new(
        rbuild_sys::Mount::Bind { source: bare.clone(), readonly: false },
        ["/busybox", "id", "-u"],
    );
    spec.cwd = "/work".into();
    assert_eq!(place.run(spec).await.unwrap().ok(), "0\n");
    let mut names: Vec<String> =
        std::fs::read_dir(&bare).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    // As with upstream's runtime, the places of kernel file systems stay.
    assert_eq!(names, ["busybox", "dev", "etc", "proc", "sys", "work"]);
}
