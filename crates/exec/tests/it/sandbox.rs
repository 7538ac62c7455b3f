//! What a step may and may not do.

use rbuild_exec::{NetMode, Resources, SecurityMode};

use crate::Place;

#[tokio::test]
async fn root_capabilities_are_the_usual_few() {
    let place = Place::new();
    let status = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status | tr -d '\\t'; true";
    std::os::unix::fs::symlink("busybox", place.path("base/bin/tr")).unwrap();
    let out = place.sh(status).await.ok();
    let want = "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n\
                CapBnd:00000000a80425fb\nCapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2\n";
    assert_eq!(out, want);
    let mut spec = place.script(status);
    spec.user = "app".into();
    let out = place.run(spec).await.unwrap().ok();
    assert!(out.contains("CapEff:0000000000000000\nCapBnd:00000000a80425fb"), "{out}");
}

#[tokio::test]
async fn root_an_insecure_step_has_what_the_daemon_has() {
    let place = Place::new();
    let mut spec = place.script("grep -E '^(CapEff|CapAmb|Seccomp:)' /proc/self/status; mount -t tmpfs none /tmp && echo mounted; ls /dev/loop-control; echo 1 > /proc/sys/net/ipv4/ip_forward && echo wrote");
    spec.security = SecurityMode::Insecure;
    spec.network = NetMode::None;
    spec.user = "app".into();
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    let eff = ours.lines().find(|line| line.starts_with("CapEff")).unwrap().to_owned();
    let out = place.run(spec).await.unwrap().out;
    assert!(out.contains(&eff) && out.contains("Seccomp:\t0"), "{out}");
    assert!(out.contains("/dev/loop-control"), "{out}");
    let mut spec = place
        .script("mount -t tmpfs none /tmp && echo mounted; touch /proc/sys/kernel/domainname && echo wrote");
    spec.security = SecurityMode::Insecure;
    assert_eq!(place.run(spec).await.unwrap().ok(), "mounted\nwrote\n");
}

#[tokio::test]
async fn root_kernel_files_are_hidden_or_read_only() {
    let place = Place::new();
    for file in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"] {
        let done = place.sh(&format!("[ ! -e {file} ] || cat {file} | wc -c")).await.ok();
        let want = if std::path::Path::new(file).exists() { "0\n" } else { "" };
        assert_eq!(done, want, "{file}");
    }
    for dir in ["/sys/firmware", "/proc/acpi", "/proc/scsi"] {
        assert_eq!(place.sh(&format!("ls {dir} 2>/dev/null | wc -l")).await.ok(), "0\n", "{dir}");
    }
    for file in [
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/mm/ksm/run",
    ] {
        let done = place.sh(&format!("[ ! -e {file} ] || echo 0 > {file}")).await;
        let absent = !std::path::Path::new(file).exists();
        assert!(absent || done.err.contains("Read-only"), "{file}: {done:?}");
    }
}

#[tokio::test]
async fn root_dangerous_calls_are_refused() {
    let place = Place::new();
    for script in [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /sys",
        "unshare -U true",
        "unshare -m true",
        "hostname other",
        "mknod /tmp/disk b 8 0 && cat /tmp/disk",
    ] {
        let done = place.sh(script).await;
        // A device can be made (upstream allows it) but, the cgroup aside, there is none of that number to read here.
        assert_ne!(done.code(), 0, "{script}: {done:?}");
    }
    let done = place.sh("date -s 2001-01-01").await;
    assert!(done.err.contains("not permitted"), "{done:?}");
    place.sh("chroot / true").await.ok();
}

#[tokio::test]
async fn root_processes_names_and_memory_are_the_steps_own() {
    let place = Place::new();
    let out = place.sh("echo $$; ls -d /proc/[0-9]* | wc -l; hostname; ls /dev/mqueue /dev/shm").await.ok();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("1"));
    assert!(lines.next().unwrap().parse::<u32>().unwrap() <= 3, "{out}");
    assert_eq!(lines.next(), Some("buildkitsandbox"));
    let mut spec = place.script("hostname; cat /etc/hosts");
    spec.hostname = "mine".into();
    spec.extra_hosts = vec![("db".into(), [10, 1, 2, 3].into())];
    let out = place.run(spec).await.unwrap().ok();
    assert!(out.starts_with("mine\n127.0.0.1\tlocalhost mine\n"), "{out}");
    assert!(out.ends_with("10.1.2.3\tdb\n"), "{out}");
    assert_ne!(std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim(), "mine");
}

#[tokio::test]
async fn root_no_descriptor_of_the_host_is_open() {
    let place = Place::new();
    let out = place.sh("ls /proc/self/fd | wc -l; readlink /proc/self/fd/0").await.ok();
    // 0, 1, 2 and the directory being listed.
    assert_eq!(out, "4\n/dev/null\n");
    let out = place.sh("cat /proc/self/mountinfo").await.ok();
    let outside = place.dir.path().display().to_string();
    let leaks: Vec<&str> = out
        .lines()
        .filter(|line| line.contains(&outside) && !line.contains(" / / ") && !line.contains("/etc/"))
        .collect();
    assert!(leaks.is_empty(), "{leaks:?}");
}

#[tokio::test]
async fn root_no_network_means_loopback_only() {
    let place = Place::new();
    let mut spec = place.script("ls /sys/class/net; ip -o addr show lo | grep -c 127.0.0.1");
    spec.network = NetMode::None;
    assert_eq!(place.run(spec).await.unwrap().ok(), "lo\n1\n");
    let host = place.sh("ls /sys/class/net | wc -l").await.ok();
    let ours = std::fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(host.trim(), ours.to_string());
}

#[tokio::test]
async fn root_devices_work_as_expected() {
    let place = Place::new();
    let out = place
        .sh("head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 4 /dev/urandom | wc -c; ls -l /dev/null | head -c 10; echo; echo hi > /dev/stdout; ls /dev/pts")
        .await
        .ok();
    assert_eq!(out, "3\n4\ncrw-rw-rw-\nhi\nptmx\n");
}

#[tokio::test]
async fn root_a_proc_that_is_a_link_is_refused() {
    let place = Place::new();
    std::fs::remove_dir(place.path("base/proc")).unwrap();
    std::os::unix::fs::symlink("etc", place.path("base/proc")).unwrap();
    let err = place.run(place.script("true")).await.unwrap_err().to_string();
    assert!(err.contains("/proc") && err.contains("ordinary directory"), "{err}");
}

#[tokio::test]
async fn root_a_step_with_a_cgroup_of_its_own_sees_it_and_cannot_change_it() {
    let place = Place::new();
    let mut spec = place.script(
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null
         echo 1 2>/dev/null >memory/memory.limit_in_bytes && echo changed
         echo 1 2>/dev/null >memory.max && echo changed
         echo 1 2>/dev/null >new && echo made; true",
    );
    spec.resources = Resources { memory: 32 << 20, ..Resources::default() };
    match place.run(spec).await {
        Ok(done) => assert_eq!(done.out, "33554432\n", "{done:?}"),
        // No such controller here.
        Err(err) => assert!(err.to_string().contains("memory"), "{err}"),
    }
}

#[tokio::test]
async fn root_a_memory_limit_is_kept_and_told() {
    let place = Place::new();
    let mut spec =
        place.script("cat /proc/self/cgroup; head -c 300000000 /dev/zero | tail -c 290000000 | wc -c");
    std::os::unix::fs::symlink("busybox", place.path("base/bin/tail")).unwrap();
    spec.resources = Resources { memory: 32 << 20, memory_swap: 32 << 20, ..Resources::default() };
    let limited = place.run(spec.clone()).await;
    let done = match limited {
        Ok(done) => done,
        // No swap accounting, or no controller: the error must say so, and memory alone may still work.
        Err(err) => {
            assert!(err.to_string().contains("memory"), "{err}");
            spec.resources.memory_swap = 0;
            match place.run(spec).await {
                Ok(done) => done,
                Err(err) => {
                    assert!(err.to_string().contains("memory"), "{err}");
                    return;
                }
            }
        }
    };
    assert!(done.out.contains("/rbuild/"), "{done:?}");
    assert!(done.status.oom_killed, "{done:?}");
    let left = std::path::Path::new("/sys/fs/cgroup/memory/rbuild");
    if left.exists() {
        let name = format!("{}-", std::process::id());
        let mine = std::fs::read_dir(left)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(&name));
        assert_eq!(mine.count(), 0);
    }
}
