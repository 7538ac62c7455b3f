//! Mounts into steps.

use rbuild_exec::{ContainerMount, MountSource};
use rbuild_sys::Mount;

use crate::{Place, bind};

#[tokio::test]
async fn root_binds_are_read_only_or_not() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::write(place.path("data/f"), "content").unwrap();
    let mut spec = place.script("cat /in/f && echo more > /rw/g && ! echo x > /in/h");
    spec.mounts = vec![bind("/in", place.path("data"), true), bind("/rw", place.path("data"), false)];
    assert_eq!(place.run(spec).await.unwrap().ok(), "content");
    assert!(place.path("data/g").exists() && !place.path("data/h").exists());
}

#[tokio::test]
async fn root_a_tmpfs_has_its_size() {
    let place = Place::new();
    let mut spec = place.script("df -k /mem | tail -n 1; stat -c %a /mem; echo x > /mem/f; ! dd if=/dev/zero of=/mem/big bs=1M count=2");
    std::os::unix::fs::symlink("busybox", place.path("base/bin/tail")).unwrap();
    spec.mounts = vec![ContainerMount {
        dest: "/mem".into(),
        source: MountSource::Mount(Mount::Tmpfs { size: Some(1 << 20), mode: 0o1777 }),
        subpath: String::new(),
        readonly: false,
    }];
    let out = place.run(spec).await.unwrap().ok();
    assert!(out.contains(" 1024 ") && out.contains("\n1777\n"), "{out}");
}

#[tokio::test]
async fn root_a_secret_is_a_file_in_memory() {
    let place = Place::new();
    let secret = |dest: &str, text: &str| ContainerMount {
        dest: dest.into(),
        source: MountSource::Data { bytes: text.into(), mode: 0o400, uid: 1000, gid: 7 },
        subpath: String::new(),
        readonly: true,
    };
    let mut spec = place.script("cat /run/secrets/a /run/secrets/b; stat -c %a:%u:%g /run/secrets/a; ! echo x > /run/secrets/a; grep '/run/secrets/a ' /proc/self/mountinfo | grep -c ' - tmpfs '");
    spec.mounts = vec![secret("/run/secrets/a", "hunter2 "), secret("/run/secrets/b", "other\n")];
    assert_eq!(place.run(spec).await.unwrap().ok(), "hunter2 other\n400:1000:7\n1\n");
    assert!(place.changes().iter().all(|name| !name.contains("secrets/")), "{:?}", place.changes());
}

#[tokio::test]
async fn root_a_subpath_stays_inside_its_source() {
    let place = Place::new();
    for (layer, file) in [("l1", "sub/one"), ("l2", "sub/two")] {
        std::fs::create_dir_all(place.path(layer).join("sub")).unwrap();
        std::fs::write(place.path(layer).join(file), layer).unwrap();
    }
    std::fs::write(place.path("canary"), "host").unwrap();
    for (link, target) in
        [("abs", place.path("canary")), ("up", "../../canary".into()), ("root", "/proc/1/root".into())]
    {
        std::os::unix::fs::symlink(target, place.path("l1").join(link)).unwrap();
    }
    std::os::unix::fs::symlink("/sub", place.path("l1/good")).unwrap();
    let image = Mount::Overlay {
        lower: vec![place.path("l2"), place.path("l1")],
        upper: None,
        work: None,
        volatile: false,
    };
    let layer = Mount::Bind { source: place.path("l1"), readonly: false };
    let run = async |source: &Mount, subpath: &str, script: &str| {
        let mut spec = place.script(script);
        spec.mounts = vec![ContainerMount {
            dest: "/from".into(),
            source: MountSource::Mount(source.clone()),
            subpath: subpath.into(),
            readonly: true,
        }];
        place.run(spec).await
    };
    for source in [&image, &layer] {
        let one = run(source, "sub/one", "cat /from").await.unwrap().ok();
        assert_eq!(one, "l1");
        assert_eq!(run(source, "/good/../good", "cat /from/one").await.unwrap().ok(), "l1");
        for escape in ["abs", "up", "root", "root/etc", "missing"] {
            let err = run(source, escape, "cat /from").await.unwrap_err().to_string();
            assert!(err.contains("mount `/from`"), "{escape}: {err}");
        }
        // `..` ends at the source's own root.
        assert_eq!(run(source, "../../..", "cat /from/sub/one").await.unwrap().ok(), "l1");
    }
    assert_eq!(run(&image, "sub", "cat /from/one /from/two").await.unwrap().ok(), "l1l2");
}

#[tokio::test]
async fn root_a_destination_behind_a_link_stays_inside() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("outside")).unwrap();
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::write(place.path("data/f"), "1").unwrap();
    std::os::unix::fs::symlink(place.path("outside"), place.path("base/link")).unwrap();
    let inside = place.path("outside").display().to_string();
    let mut spec = place.script(&format!("cat {inside}/x/f /link/x/f"));
    spec.mounts = vec![bind("/link/x", place.path("data"), true)];
    assert_eq!(place.run(spec).await.unwrap().ok(), "11");
    assert_eq!(std::fs::read_dir(place.path("outside")).unwrap().count(), 0);
}

#[tokio::test]
async fn root_parents_are_mounted_before_children_and_later_wins() {
    let place = Place::new();
    for dir in ["outer/inner", "inner", "other"] {
        std::fs::create_dir_all(place.path(dir)).unwrap();
        std::fs::write(place.path(dir).join("name"), dir).unwrap();
    }
    let mut spec = place.script("cat /a/inner/name /b/name; ls /dev/shm");
    spec.mounts = vec![
        bind("/a/inner", place.path("inner"), true),
        bind("/a", place.path("outer"), true),
        bind("/b", place.path("inner"), true),
        bind("/b/.", place.path("other"), true),
        bind("/dev/shm", place.path("other"), true),
    ];
    assert_eq!(place.run(spec).await.unwrap().ok(), "innerothername\n");
}

#[tokio::test]
async fn root_a_read_only_root_still_has_writable_mounts() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    let mut spec = place.script("touch /data/x /dev/shm/y && ! touch /z && ! touch /etc/w");
    spec.readonly_root = true;
    spec.mounts = vec![bind("/data", place.path("data"), false)];
    place.run(spec).await.unwrap().ok();
    assert!(place.path("data/x").exists());
    assert_eq!(place.changes(), ["etc"]);
}

#[tokio::test]
async fn root_a_socket_can_be_bound() {
    let place = Place::new();
    let path = place.path("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut spec = place.script("[ -S /run/agent ] && echo socket");
    spec.mounts = vec![bind("/run/agent", path, false)];
    assert_eq!(place.run(spec).await.unwrap().ok(), "socket\n");
}
