//! The budget of an empty step. Prints, and fails only if it is missed grossly: a debug build on a busy machine.

use std::time::{Duration, Instant};

use crate::fixture::{Fixture, busybox, sh};

const STEPS: u32 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn root_fifty_empty_steps_take_little_time() {
    let fixture = Fixture::new();
    let mut state = busybox().run(sh("true")).root();
    fixture.read(&state, "etc/group").await;
    for step in 0..STEPS {
        state = state.run(sh(&format!("true {step}"))).root();
    }
    let build = fixture.build();
    let start = Instant::now();
    build.solve(&state).await.unwrap();
    let took = start.elapsed();
    build.end().await;
    println!("{:?} a step", took / STEPS);
    assert!(took < Duration::from_millis(100) * STEPS, "{took:?}");
}
