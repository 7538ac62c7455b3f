use std::time::{Duration, Instant};

use rbuild_tests::{TestDaemon, TestSpace, run};

/// A small generator, so that a failure's seed can be replayed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn twenty_kills_at_random_moments_lose_nothing_that_was_finished() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("f", "context");
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    space.write("base/Dockerfile", "FROM busybox\nRUN echo finished > /finished\n");
    daemon.build(&space.at("base"), &["-t", "kept"]).success();
    for round in 0..20 {
        let steps: String = (0..6)
            .map(|i| {
                format!(
                    "RUN echo {round}-{i} > /s{i} && dd if=/dev/urandom of=/d{i} bs=64k count=8 2>/dev/null\n"
                )
            })
            .collect();
        space.write("Dockerfile", format!("FROM busybox\nCOPY f /f\n{steps}"));
        let mut client =
            daemon.client(space.path(), &["build", "--progress=plain", "-t", "r", "."]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.below(400)));
        daemon.kill();
        client.kill().unwrap();
        client.wait().unwrap();
        let start = Instant::now();
        daemon.restart();
        assert!(start.elapsed() < Duration::from_secs(60), "round {round}: the restart hangs");
        let again = daemon.build(&space.at("base"), &["-t", "kept"]).success();
        assert!(again.cached("RUN echo finished"), "round {round}: {}", again.all());
        daemon.build(space.path(), &["-t", "r", "-o", "type=oci,dest=out.tar"]).success();
    }
    every_blob_has_its_name(&daemon);
    nothing_is_mounted_below(&daemon.root().to_string_lossy());
}

fn every_blob_has_its_name(daemon: &TestDaemon) {
    let blobs = daemon.root().join("content/blobs/sha256");
    let mut seen = 0;
    for entry in std::fs::read_dir(blobs).unwrap() {
        let path = entry.unwrap().path();
        let digest = rbuild_digest::Digest::of(std::fs::read(&path).unwrap());
        assert_eq!(digest.hex(), path.file_name().unwrap().to_str().unwrap());
        seen += 1;
    }
    assert!(seen > 0);
}

fn nothing_is_mounted_below(root: &str) {
    let mounts = run("cat", &["/proc/self/mounts"]).success().stdout;
    assert!(!mounts.contains(root), "{mounts}");
}
