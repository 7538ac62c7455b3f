//! Runs an empty step many times and prints the mean: `cargo run --example true_loop -- [count] [overlay|bind]`.
#![allow(clippy::print_stdout, reason = "a measuring tool")]

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use rbuild_exec::{NativeOptions, NativeRuntime, Output, ProcessIo, ProcessSpec, Runtime};
use rbuild_sys::Mount;
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn Error>> {
    rbuild_exec::init::maybe_run();
    let count: u32 = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    let overlay = std::env::args().nth(2).is_none_or(|kind| kind == "overlay");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(count, overlay))
}

async fn measure(count: u32, overlay: bool) -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("true-loop-{}", std::process::id()));
    let base = dir.join("base");
    std::fs::create_dir_all(base.join("bin"))?;
    std::fs::copy("/bin/busybox", base.join("bin/true"))?;
    std::fs::set_permissions(base.join("bin/true"), std::fs::Permissions::from_mode(0o755))?;
    for made in ["etc", "proc", "sys", "dev"] {
        std::fs::create_dir_all(base.join(made))?;
    }
    let native =
        NativeRuntime::new(NativeOptions { state_dir: dir.join("state"), helper: None, bridge: None })?;
    once(&native, root(&dir, 0, overlay)?).await?;
    let mut times = Vec::new();
    for i in 1..=count {
        let root = root(&dir, i, overlay)?;
        let begin = Instant::now();
        once(&native, root).await?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let mean = times.iter().sum::<f64>() / f64::from(count);
    let median = times[times.len() / 2];
    let last = times[times.len() - 1];
    println!("{count} steps: mean {mean:.2} ms, median {median:.2} ms, slowest {last:.2} ms");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A fresh upper directory for each step, as in a build.
fn root(dir: &Path, step: u32, overlay: bool) -> std::io::Result<Mount> {
    let base = dir.join("base");
    if !overlay {
        return Ok(Mount::Bind { source: base, readonly: false });
    }
    let (upper, work) = (dir.join(format!("{step}/fs")), dir.join(format!("{step}/work")));
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    Ok(Mount::Overlay { lower: vec![base], upper: Some(upper), work: Some(work), volatile: true })
}

async fn once(native: &NativeRuntime, root: Mount) -> Result<(), Box<dyn Error>> {
    let spec = ProcessSpec::new(root, ["/bin/true"]);
    let io = ProcessIo {
        stdout: Output::writer(tokio::io::sink()),
        stderr: Output::writer(tokio::io::sink()),
        ..ProcessIo::default()
    };
    let status = native.run(spec, io, CancellationToken::new()).await?;
    if !status.success() {
        return Err(format!("/bin/true ended with {}", status.exit_code()).into());
    }
    Ok(())
}
