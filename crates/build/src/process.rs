//! Frontends that are programs: run beside the steps of their build, what they say is shown to the user.

use rbuild_exec::{Chunk, Input, Output, ProcessIo};
use rbuild_frontend::{BuildError, ErrorCode, FrontendProcess, SharedRef};
use rbuild_progress::Reporter;
use rbuild_worker::HelperProcess;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bridge::BuildContext;
use crate::error::from_op;

/// Chunks of standard error on their way; a frontend that writes faster than the disk takes is slowed down.
const CHUNKS: usize = 4;
const STDERR: i64 = 2;

/// Runs the process to its end and returns its exit code.
pub(crate) async fn run(
    context: &BuildContext,
    root: &SharedRef,
    process: FrontendProcess,
) -> Result<u32, BuildError> {
    let files = context.solve_definition(&root.definition()).await?;
    let files = files.ok_or_else(|| {
        BuildError::new(ErrorCode::NotFound, "the frontend's image is empty: it has no layers")
    })?;
    let FrontendProcess { args, env, cwd, network, log_name, stdin, stdout } = process;
    let (to, chunks) = mpsc::channel(CHUNKS);
    let io = ProcessIo {
        stdin: Input::Reader(stdin),
        stdout: Output::Writer(stdout),
        stderr: Output::Channel { to, tag: STDERR },
        ..ProcessIo::default()
    };
    let helper = HelperProcess { args, env, cwd, network, description: log_name.clone() };
    // Dropped with this future: a build that ends takes its frontends along.
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let running = context.worker.run_helper(&files, helper, io, cancel);
    let (status, step) = tokio::join!(running, show(context, &log_name, chunks));
    let outcome = status.map(|status| status.exit_code()).map_err(|error| from_op(&error));
    if let Some(step) = step {
        step.completed(match &outcome {
            Ok(0) => None,
            Ok(code) => Some(format!("exit code: {code}")),
            Err(error) => Some(error.to_string()),
        });
    }
    outcome
}

/// Shows what comes in a step that is only there if something does.
async fn show(context: &BuildContext, name: &str, mut chunks: mpsc::Receiver<Chunk>) -> Option<Reporter> {
    let mut step: Option<Reporter> = None;
    while let Some(chunk) = chunks.recv().await {
        let step = step.get_or_insert_with(|| {
            let step = context.step(name);
            step.started();
            step
        });
        step.log_paced(chunk.tag, &chunk.bytes).await;
    }
    step
}
