//! Runs one build at a daemon: session, progress and request side by side.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::{Exporter, SolveRequest, SolveResponse, StatusRequest, StatusResponse};
use rbuild_digest::random_id;
use rbuild_frontend::Fault;
use rbuild_progress::render::{Mode, RenderOptions, Renderer};
use rbuild_session::client::{
    ClientSession, ContentStores, DockerAuth, DockerConfig, ExportDestination, ExportTargets, LocalDir,
    LocalDirs, SecretSource, Secrets, SshAgents, Uploads,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::cache::Caches;
use crate::connect::Connection;
use crate::errors::{CommandError, os_text};
use crate::load::Loader;
use crate::log_file::{self, LogFile};
use crate::spec::{self, Destination, Output};
use crate::{MAX_MESSAGE, signals, ui};

/// Events between the network and the terminal.
const EVENTS: usize = 256;
/// How long the answer to a build may come after the end of its session.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(2);
/// How long the events of a build that failed at once may take to begin.
const REFUSED: std::time::Duration = std::time::Duration::from_millis(500);
/// How long a cancelled build may take to say goodbye before the client leaves.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(10);

/// What a build gets from this side.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    /// Directories by name.
    pub(crate) dirs: Vec<(String, PathBuf)>,
    /// Streams of this process.
    pub(crate) uploads: Uploads,
    /// Directories in OCI layout.
    pub(crate) stores: ContentStores,
    /// `--secret` arguments.
    pub(crate) secrets: Vec<String>,
    /// `--ssh` arguments.
    pub(crate) ssh: Vec<String>,
    /// Outputs in the order of the request's exporters.
    pub(crate) outputs: Vec<Output>,
    /// Keeps the plain output.
    pub(crate) log_file: Option<PathBuf>,
    /// Takes the outputs that are for a container engine.
    pub(crate) loader: Option<Loader>,
    /// Identifies the directories over many builds.
    pub(crate) shared_key: String,
    /// Caches elsewhere.
    pub(crate) caches: Caches,
}

impl Offer {
    /// The outputs that a daemon hears of: without an exporter the result stays in its cache, and upstream's daemon
    /// knows no exporter of the name `cacheonly`.
    fn exported(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().filter(|output| output.kind != "cacheonly")
    }
}

/// How a build is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) mode: Mode,
    /// Warnings are explained.
    pub(crate) details: bool,
    /// How to have them explained.
    pub(crate) hint: Option<&'static str>,
    /// A line with totals ends it.
    pub(crate) totals: bool,
}

impl Look {
    /// With totals and without explanations.
    pub(crate) fn of(mode: Mode) -> Self {
        Self { mode, details: false, hint: None, totals: true }
    }
}

/// What drives a build from this side, and what it adds to the daemon's response.
pub(crate) type Drive<'a> =
    Pin<Box<dyn Future<Output = Result<BTreeMap<String, String>, tonic::Status>> + Send + 'a>>;

/// A finished build.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) response: BTreeMap<String, String>,
    pub(crate) id: String,
}

/// Reads a progress mode; `none` is upstream's other word for `quiet`.
pub(crate) fn mode(text: &str) -> Result<Mode, CommandError> {
    let text = if text == "none" { "quiet" } else { text };
    text.parse::<Mode>().map_err(|error| CommandError::usage(error.to_string()))
}

fn failed(error: rbuild_session::SessionError) -> CommandError {
    CommandError::new(error.to_string()).fault(Fault::LocalFile)
}

/// What the docker command line knows of registries.
pub(crate) fn docker_config() -> Result<DockerConfig, CommandError> {
    match DockerConfig::default_path() {
        Some(path) => DockerConfig::load(&path).map_err(failed),
        None => Ok(DockerConfig::default()),
    }
}

/// Where outputs go that come to this side.
fn targets(offer: &Offer) -> Result<ExportTargets, CommandError> {
    let mut targets = ExportTargets::new();
    for (index, output) in offer.exported().enumerate() {
        match &output.destination {
            Destination::Daemon => {}
            Destination::Directory(path) => targets.add(index, ExportDestination::Directory(path.clone())),
            Destination::File(path) => targets.add(index, ExportDestination::File(path.clone())),
            Destination::Stdout => targets.add(
                index,
                ExportDestination::Stream(Arc::new(|_| {
                    Ok(Some(Box::new(std::io::stdout()) as Box<dyn Write + Send>))
                })),
            ),
            Destination::Engine => {
                let loader =
                    offer.loader.clone().ok_or_else(|| CommandError::new("no engine to load into"))?;
                let open = move |_: &BTreeMap<String, String>| Ok(Some(loader.open()?));
                targets.add(index, ExportDestination::Stream(Arc::new(open)));
            }
        }
    }
    Ok(targets)
}

fn session(offer: &Offer, is_far: bool) -> Result<ClientSession, CommandError> {
    let mut dirs = LocalDirs::new();
    dirs.compress(is_far);
    for (name, path) in &offer.dirs {
        dirs.add(name, LocalDir::new(path)).map_err(failed)?;
    }
    let targets = targets(offer)?;
    let config = docker_config()?;
    let mut builder = ClientSession::builder()
        .name("rbuildctl")
        .shared_key(offer.shared_key.clone())
        .dirs(dirs)
        .targets(targets)
        .auth(Arc::new(DockerAuth::new(config)));
    let mut stores = offer.stores.clone();
    stores.extend(&offer.caches.stores);
    if !stores.is_empty() {
        builder = builder.stores(stores);
    }
    if !offer.uploads.is_empty() {
        builder = builder.uploads(offer.uploads.clone());
    }
    if !offer.secrets.is_empty() {
        let mut secrets = Secrets::new();
        for text in &offer.secrets {
            let (id, source) = spec::secret(text)?;
            let source = match source {
                spec::SecretSource::File(path) => SecretSource::File(path),
                spec::SecretSource::Env(name) => SecretSource::Env(name),
            };
            secrets.add(id, source).map_err(|error| failed(error).context(format!("--secret {text}")))?;
        }
        builder = builder.secrets(secrets);
    }
    if !offer.ssh.is_empty() {
        let mut agents = SshAgents::new();
        for text in &offer.ssh {
            let (id, socket) = spec::ssh(text)?;
            agents
                .add(&id, socket.as_deref())
                .map_err(|error| failed(error).context(format!("--ssh {text}")))?;
        }
        builder = builder.ssh(agents);
    }
    Ok(builder.build())
}

/// An archive on a terminal helps nobody.
fn refuse_terminal(outputs: &[Output]) -> Result<(), CommandError> {
    for output in outputs {
        if output.destination == Destination::Stdout && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            return Err(CommandError::usage("the output is an archive: refusing to write it to a terminal")
                .hint("redirect standard output, or name a file with dest="));
        }
    }
    Ok(())
}

/// As [`run_driven`], with all of it at the daemon.
pub(crate) async fn run(
    connected: &Connection,
    offer: &Offer,
    look: Look,
    request: SolveRequest,
) -> Result<Finished, CommandError> {
    run_driven(connected, offer, look, request, None).await
}

/// Builds. Ctrl-C cancels the build at the daemon and waits a moment for its clean-up; a second one leaves at once.
/// `drive`: what makes the calls of a build that names neither definition nor frontend, under the request's id.
pub(crate) async fn run_driven(
    connected: &Connection,
    offer: &Offer,
    look: Look,
    mut request: SolveRequest,
    drive: Option<Drive<'_>>,
) -> Result<Finished, CommandError> {
    let channel = &connected.channel;
    refuse_terminal(&offer.outputs)?;
    let session = session(offer, connected.is_far)?;
    if request.r#ref.is_empty() {
        request.r#ref = random_id();
    }
    request.session = session.id().to_owned();
    request.exporters = offer.exported().map(exporter).collect();
    request.cache = Some(offer.caches.options.clone());
    if let Some(first) = request.exporters.first() {
        request.exporter_deprecated = first.r#type.clone();
        request.exporter_attrs_deprecated = first.attrs.clone();
    }
    let id = request.r#ref.clone();
    let options = RenderOptions {
        summary: false,
        details: look.details,
        details_hint: look.hint,
        ..RenderOptions::default()
    };
    let renderer = Renderer::new(look.mode, Box::new(std::io::stderr()), options);
    let begun = std::time::Instant::now();
    let mut control = ControlClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let (events, shown) = tokio::sync::mpsc::channel(EVENTS);
    let refused = CancellationToken::new();
    let following = follow(control.clone(), id.clone(), events, refused.clone());
    let status = async {
        tokio::select! {
            () = following => {}
            () = interrupted() => {}
        }
    };
    let log = offer.log_file.as_deref().map(LogFile::create).transpose()?;
    let show = log_file::show(renderer, log, shown);
    let solving = async {
        let solved = tokio::select! {
            solved = driven(control.solve(in_trace(request)), drive) => solved,
            ended = lost(&session, channel) => Err(ended),
            () = signals::stop() => Err(tonic::Status::cancelled("interrupted")),
        };
        session.close();
        if solved.is_err() {
            refused.cancel();
        }
        solved
    };
    let (solved, (summary, logged), ()) = tokio::join!(solving, show, status);
    let SolveResponse { exporter_response } = solved.map_err(|status| CommandError::from_status(&status))?;
    offer.caches.finish(&exporter_response)?;
    logged?;
    if look.totals && !matches!(look.mode, Mode::Quiet | Mode::RawJson) {
        ui::note(&format!("\n{}", summary.line(begun.elapsed())));
    }
    Ok(Finished { response: exporter_response, id })
}

/// Waits for the build and for what drives it. A build that ends without being told to has failed; then its driver is
/// left where it stands.
async fn driven(
    solve: impl Future<Output = Result<tonic::Response<SolveResponse>, tonic::Status>>,
    drive: Option<Drive<'_>>,
) -> Result<SolveResponse, tonic::Status> {
    let Some(mut drive) = drive else { return solve.await.map(tonic::Response::into_inner) };
    tokio::pin!(solve);
    let said = tokio::select! {
        // A build that ended may have taken the driver's last call along: its own word counts.
        biased;
        said = &mut drive => said,
        solved = &mut solve => {
            let response = solved?.into_inner();
            let said = drive.await?;
            return Ok(with(response, said));
        }
    };
    let response = solve.await?.into_inner();
    said.map(|said| with(response, said))
}

fn with(mut response: SolveResponse, said: BTreeMap<String, String>) -> SolveResponse {
    response.exporter_response.extend(said);
    response
}

/// As part of the trace that this program was started in, for instance by a pipeline.
fn in_trace(request: SolveRequest) -> tonic::Request<SolveRequest> {
    let mut request = tonic::Request::new(request);
    let parent = std::env::var("TRACEPARENT").ok().and_then(|parent| parent.parse().ok());
    if let Some(parent) = parent {
        request.metadata_mut().insert("traceparent", parent);
    }
    request
}

/// Serves the session. Its end is a failure only if the build's answer does not follow at once: a daemon that shuts
/// down closes sessions when the builds are over.
async fn lost(session: &ClientSession, channel: &Channel) -> tonic::Status {
    let ended = session.run(channel.clone()).await;
    tokio::time::sleep(ANSWER).await;
    let reason = ended.err().map_or_else(|| "the daemon closed it".to_owned(), |error| error.to_string());
    tonic::Status::unavailable(format!("the session with the daemon ended: {reason}"))
}

/// Passes a build's events on until they end. A daemon that never starts the build says why in Solve's answer; it may
/// hold the question for events for much longer.
async fn follow(
    mut control: ControlClient<Channel>,
    id: String,
    events: tokio::sync::mpsc::Sender<StatusResponse>,
    refused: CancellationToken,
) {
    let unheard = async {
        refused.cancelled().await;
        tokio::time::sleep(REFUSED).await;
    };
    let asked = tokio::select! {
        asked = control.status(StatusRequest { r#ref: id }) => asked,
        () = unheard => return,
    };
    let stream = match asked {
        Ok(stream) => stream,
        Err(status) => {
            tracing::debug!(%status, "following the build");
            return;
        }
    };
    let mut stream = stream.into_inner();
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                // The view is gone only when this function's caller is.
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "following the build");
                return;
            }
        }
    }
}

/// After Ctrl-C the daemon gets a moment to end the build in order.
async fn interrupted() {
    signals::stop().await;
    tokio::select! {
        () = tokio::time::sleep(GOODBYE) => {}
        () = signals::stop() => {}
    }
}

fn exporter(output: &Output) -> Exporter {
    let mut exporter = Exporter { r#type: output.kind.clone(), ..Default::default() };
    exporter.attrs = output.attrs.clone();
    exporter
}

/// Identifies a directory of this machine's user, so that the daemon finds its earlier copy.
pub(crate) fn shared_key(dir: &Path) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let absolute = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let text = format!("{}\0{}\0{}", machine.trim(), nix::unistd::getuid(), absolute.display());
    rbuild_digest::Digest::of(text).hex()
}

/// Writes the response as JSON: values that are JSON themselves stay so, base64 descriptors are unpacked.
pub(crate) fn write_metadata(path: &Path, finished: &Finished) -> Result<(), CommandError> {
    use base64::Engine as _;
    let mut object = serde_json::Map::new();
    for (name, value) in &finished.response {
        let decoded = match name.as_str() {
            "result.json" => Some(value.clone().into_bytes()),
            _ => base64::engine::general_purpose::STANDARD.decode(value).ok(),
        };
        let json = decoded.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let json = json.filter(serde_json::Value::is_object);
        object.insert(name.clone(), json.unwrap_or_else(|| value.clone().into()));
    }
    object.insert("buildx.build.ref".into(), finished.id.clone().into());
    let text = serde_json::to_string_pretty(&object).unwrap_or_default();
    write_file(path, text.as_bytes())
}

/// Writes a small result file so that it is whole or not there.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::new(format!("{}: {}", path.display(), os_text(&error))).fault(Fault::LocalFile)
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", random_id()));
    std::fs::write(&aside, bytes).map_err(failed)?;
    std::fs::rename(&aside, path).map_err(failed)
}
