//! Daemons that share a cache and nothing else: each has a network of its own, and one is killed again and again.

use std::path::Path;
use std::time::Duration;

use rbuild_tests::{
    DaemonOptions, Random, Relay, Running, TestDaemon, TestLan, TestOutput, TestRegistry, TestS3, TestSpace,
    registry, run,
};

/// Rounds for each kind of store.
const ROUNDS: u64 = 3;
/// A build takes about this time.
const BUILD_MS: u64 = 600;
/// Writing what it made takes about this time more.
const WRITE_MS: u64 = 200;
const STEPS: [&str; 5] = ["COPY x.txt", "RUN cat /x.txt", "RUN rm /etc", "RUN dd", "COPY --from=build"];

#[test]
fn root_daemons_on_two_networks_share_a_bucket_while_one_is_killed() {
    let lan = TestLan::start(2);
    let s3 = TestS3::start_on(&lan.address());
    shared_while_one_is_killed(&lan, &s3.settings());
}

#[test]
fn root_daemons_on_two_networks_share_a_repository_while_one_is_killed() {
    let lan = TestLan::start(2);
    let registry = TestRegistry::start_on(&lan.address());
    let host = &registry.host;
    let tier =
        format!("type = \"registry\"\nref = \"{host}/team/cache\"\n[registry.\"{host}\"]\nhttp = true\n");
    shared_while_one_is_killed(&lan, &tier);
}

fn shared_while_one_is_killed(lan: &TestLan, tier: &str) {
    let mut random = Random::seeded();
    let images = Relay::to(registry().host.rsplit_once(':').unwrap().1.parse().unwrap());
    let mut killed = daemon(lan, 0, &images, tier);
    let other = daemon(lan, 1, &images, tier);
    let without_tier = TestDaemon::start();
    let mut hits = 0;
    for round in 0..ROUNDS {
        let project = project(&format!("round {round}"));
        let (_, right) = without_tier.build_to_dir(project.path(), &[]);
        // Both build it when one is killed.
        let first = start(&killed, &project);
        wait(&mut random, BUILD_MS / 2);
        let second = start(&other, &project);
        wait(&mut random, BUILD_MS);
        killed.kill();
        // With an error, or finished before.
        drop(first.client.end());
        same(&second.end().1, &right);
        killed.restart();
        // What it left, written by either, is right for both.
        let (built, out) = killed.build_to_dir(project.path(), &[]);
        same(&out, &right);
        hits += STEPS.iter().filter(|step| built.cached(step)).count();

        // Killed while it writes what it has built, and nobody else has.
        let project = self::project(&format!("written in round {round}"));
        let (_, right) = without_tier.build_to_dir(project.path(), &[]);
        same(&killed.build_to_dir(project.path(), &[]).1, &right);
        wait(&mut random, WRITE_MS);
        killed.kill();
        let (built, out) = other.build_to_dir(project.path(), &[]);
        same(&out, &right);
        hits += STEPS.iter().filter(|step| built.cached(step)).count();
        killed.restart();

        // Not killed: it is all there.
        let project = self::project(&format!("finished in round {round}"));
        let (_, right) = without_tier.build_to_dir(project.path(), &[]);
        same(&killed.build_to_dir(project.path(), &[]).1, &right);
        killed.terminate();
        assert_eq!(killed.wait(Duration::from_secs(120)), Some(0), "{}", killed.log());
        let (built, out) = other.build_to_dir(project.path(), &[]);
        for step in STEPS {
            assert!(built.cached(step), "{step} ran: {}", built.all());
        }
        same(&out, &right);
        killed.restart();
    }
    eprintln!("{hits} of {} steps were cached after kills", ROUNDS * 2 * STEPS.len() as u64);
    for daemon in [&killed, &other] {
        assert!(!daemon.log().contains("the shared cache fails"), "{}", daemon.log());
    }
}

/// Until the moment of a kill, whatever goes on then.
fn wait(random: &mut Random, below: u64) {
    std::thread::sleep(Duration::from_millis(random.below(below)));
}

fn daemon(lan: &TestLan, machine: usize, images: &Relay, tier: &str) -> TestDaemon {
    let mirror = format!("{}:{}", lan.address(), images.port);
    let config = format!(
        "[cache.tier]\n{tier}\n[registry.\"docker.io\"]\nmirrors = [\"{mirror}\"]\n[registry.\"{mirror}\"]\nhttp = true\n"
    );
    let namespace = Some(lan.namespace(machine));
    TestDaemon::start_with(DaemonOptions { config, namespace, no_mirror: true, ..Default::default() })
}

/// Steps that tell one text from another, with files of some size, a link, and files of the base that go.
fn project(text: &str) -> TestSpace {
    let space = TestSpace::new();
    space.write("x.txt", text);
    space.write(
        "Dockerfile",
        "FROM busybox AS build\nCOPY x.txt /\nRUN cat /x.txt >/y && ln -s /y /link && chmod 4750 /y\n\
         RUN rm /etc/passwd /etc/group && mkdir /etc/new && cp /x.txt /etc/new\n\
         RUN dd if=/dev/zero bs=64k count=64 2>/dev/null | tr '\\0' x >/large && cat /x.txt >>/large\n\
         FROM busybox\nCOPY --from=build / /all\n",
    );
    space
}

/// A build that goes on beside the test.
struct Build {
    client: Running,
    out: TestSpace,
}

impl Build {
    fn end(self) -> (TestOutput, TestSpace) {
        (self.client.end().success(), self.out)
    }
}

fn start(daemon: &TestDaemon, project: &TestSpace) -> Build {
    let out = TestSpace::new();
    let output = format!("--output=type=local,dest={}", out.path().display());
    let client = daemon.client(project.path(), &["build", "--progress=plain", &output, "."]);
    Build { client: Running::start(client), out }
}

/// The same files with the same bytes, kinds, modes and targets.
#[track_caller]
fn same(out: &TestSpace, right: &TestSpace) {
    let list = |path: &Path| {
        let listed = run("find", &[path.to_str().unwrap(), "-mindepth", "1", "-printf", "%P %y %m %l\n"]);
        let mut lines: Vec<_> = listed.success().stdout.lines().map(str::to_owned).collect();
        lines.sort();
        assert!(lines.iter().any(|line| line.starts_with("all/etc/new/x.txt f")), "{lines:?}");
        lines
    };
    assert_eq!(list(out.path()), list(right.path()));
    let (out, right) = (out.path().to_str().unwrap(), right.path().to_str().unwrap());
    run("diff", &["-r", "--no-dereference", out, right]).success();
}
