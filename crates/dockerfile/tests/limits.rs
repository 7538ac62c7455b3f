//! What a hostile or a very large Dockerfile may cost.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics has failed")]

mod fake;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use fake::{Case, FakeBridge};
use rbuild_dockerfile::{DockerfileFrontend, compile_offline};
use rbuild_frontend::{Frontend, FrontendRequest};

fn refused(text: &str) -> String {
    compile_offline("Dockerfile", text.as_bytes(), &BTreeMap::new()).unwrap_err().to_string()
}

fn compiled(text: &str) {
    compile_offline("Dockerfile", text.as_bytes(), &BTreeMap::new()).unwrap();
}

#[test]
fn an_expose_names_no_more_ports_than_there_are() {
    compiled("FROM scratch\nEXPOSE 0-65535 0-65535/udp 0-65535/sctp\n");
    let all = "0-65535 ".repeat(4_000);
    assert_eq!(refused(&format!("FROM scratch\nEXPOSE {all}\n")), "EXPOSE names more than 196608 ports");
    let error = refused(&format!("FROM scratch\n{}", "EXPOSE 0-65535\n".repeat(4_000)));
    assert!(error.contains("expand to more than"), "{error}");
}

#[test]
fn images_that_are_copied_from_count_as_stages() {
    let copies = |count: usize| format!("FROM scratch\n{}", "COPY --from=alpine a b\n".repeat(count));
    compiled(&copies(500));
    let error = refused(&copies(10_000));
    assert_eq!(error, "dockerfile copies and mounts from more than 10000 stages and images");
    assert_eq!(refused(&"FROM scratch\n".repeat(10_001)), "dockerfile has more than 10000 stages");
}

fn bridge(text: &str) -> (tempfile::TempDir, Arc<FakeBridge>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
    let bridge = Arc::new(FakeBridge::new(Case::load(dir.path())));
    (dir, bridge)
}

#[tokio::test]
async fn only_some_images_are_resolved_at_a_time() {
    let mut text = String::new();
    for number in 0..200 {
        writeln!(text, "FROM image{number}").unwrap();
    }
    for number in 0..200 {
        writeln!(text, "COPY --from={number} a b").unwrap();
        if number == 198 {
            break;
        }
    }
    let (_dir, bridge) = bridge(&text);
    DockerfileFrontend::default().solve(bridge.clone(), FrontendRequest::default()).await.unwrap();
    let peak = bridge.most_resolved_at_once();
    assert!((2..=16).contains(&peak), "{peak} at once");
}

#[tokio::test]
async fn a_large_file_does_not_hold_up_its_thread() {
    let (_dir, bridge) = bridge(&format!("FROM scratch\n{}", "ENV A=b\n".repeat(20_000)));
    let frontend = DockerfileFrontend::default();
    let mut solving = frontend.solve(bridge, FrontendRequest::default());
    // The runtime has one thread: what else it does is done only while the frontend waits.
    let mut turns = 0;
    loop {
        tokio::select! {
            biased;
            solved = &mut solving => {
                solved.unwrap();
                break;
            }
            () = tokio::task::yield_now() => turns += 1,
        }
    }
    assert!(turns >= 3, "parsed, planned and lowered with {turns} turns for others");
}
