use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use rbuild_api::otlp::trace_service_client::TraceServiceClient;
use rbuild_api::otlp::{ExportTraceServiceRequest, ResourceSpans};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::settings::{ExportSettings, Protocol, SettingsError};

/// Batches that wait for the collector; a batch is a build or a client's message.
const QUEUE: usize = 64;
/// Bytes of all of them.
const MAX_WAITING: usize = 16 << 20;
/// A collector that is restarted is back by then.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long the end of a daemon may wait for a collector.
const GOODBYE: Duration = Duration::from_secs(3);

/// Sends spans, one batch after the other. What a collector does not take in time is lost.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: Mutex<Option<mpsc::Sender<Vec<ResourceSpans>>>>,
    waiting: Arc<AtomicUsize>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Exporter {
    pub(crate) fn start(settings: ExportSettings) -> Result<Self, SettingsError> {
        let endpoint = settings.shown_endpoint();
        let mut collector = Collector::new(settings)?;
        let (queue, mut batches) = mpsc::channel::<Vec<ResourceSpans>>(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = waiting.clone();
        // Owned by this exporter: ends when the queue is closed, and is aborted with it at the latest.
        let task = tokio::spawn(async move {
            let mut down = false;
            while let Some(batch) = batches.recv().await {
                let bytes = size(&batch);
                let sent = collector.send(batch).await;
                left.fetch_sub(bytes, Ordering::Relaxed);
                match sent {
                    Ok(()) if std::mem::take(&mut down) => {
                        tracing::info!(endpoint, "traces are sent again");
                    }
                    Ok(()) => {}
                    Err(error) if std::mem::replace(&mut down, true) => {
                        tracing::debug!(endpoint, error, "traces are lost");
                    }
                    Err(error) => tracing::warn!(endpoint, error, "traces are lost"),
                }
            }
        });
        Ok(Self { queue: Mutex::new(Some(queue)), waiting, task: Mutex::new(Some(task)) })
    }

    /// Queues spans; never waits.
    pub(crate) fn send(&self, batch: Vec<ResourceSpans>) {
        let bytes = size(&batch);
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let queue = self.queue.lock();
        let fits = before + bytes <= MAX_WAITING;
        let queued = fits && queue.as_ref().is_some_and(|queue| queue.try_send(batch).is_ok());
        if !queued {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            tracing::debug!(bytes, "traces are lost: too many wait for the collector");
        }
    }

    /// Sends what waits, unless that takes too long.
    pub(crate) async fn close(&self) {
        drop(self.queue.lock().take());
        let Some(mut task) = self.task.lock().take() else { return };
        match tokio::time::timeout(GOODBYE, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "sending traces"),
            Err(_) => {
                tracing::warn!("the last traces are lost: the collector takes too long");
                task.abort();
            }
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

fn size(batch: &[ResourceSpans]) -> usize {
    batch.iter().map(ResourceSpans::encoded_len).sum()
}

/// The other end.
struct Collector {
    settings: ExportSettings,
    transport: Transport,
}

enum Transport {
    Grpc(Box<TraceServiceClient<Channel>>, MetadataMap),
    Http(reqwest::Client),
}

impl Collector {
    fn new(settings: ExportSettings) -> Result<Self, SettingsError> {
        // Whoever was first has chosen the provider.
        rustls::crypto::ring::default_provider().install_default().ok();
        let transport = match settings.protocol {
            Protocol::Grpc => grpc(&settings)?,
            Protocol::Http => http(&settings)?,
        };
        Ok(Self { settings, transport })
    }

    /// Sends a batch, a second time if the collector may only be away for a moment.
    async fn send(&mut self, batch: Vec<ResourceSpans>) -> Result<(), String> {
        let request = ExportTraceServiceRequest { resource_spans: batch };
        match self.attempt(request.clone()).await {
            Err(Refusal { passing: true, .. }) => {
                tokio::time::sleep(RETRY_AFTER).await;
                self.attempt(request).await.map_err(|refusal| refusal.message)
            }
            done => done.map_err(|refusal| refusal.message),
        }
    }

    async fn attempt(&mut self, request: ExportTraceServiceRequest) -> Result<(), Refusal> {
        let settings = &self.settings;
        match &mut self.transport {
            Transport::Grpc(client, headers) => {
                let mut request = tonic::Request::new(request);
                *request.metadata_mut() = headers.clone();
                request.set_timeout(settings.timeout);
                let sent = tokio::time::timeout(settings.timeout, client.export(request)).await;
                let sent = sent.map_err(|_| Refusal::passing("no answer in time"))?;
                sent.map(drop).map_err(|status| Refusal {
                    passing: status.code() == tonic::Code::Unavailable,
                    message: format!("{:?}: {}", status.code(), status.message()),
                })
            }
            Transport::Http(client) => {
                let mut body = request.encode_to_vec();
                let mut call = client.post(settings.endpoint.clone());
                if settings.gzip {
                    body = gzip(&body).map_err(|error| Refusal::final_(error.to_string()))?;
                    call = call.header("content-encoding", "gzip");
                }
                for (name, value) in &settings.headers {
                    call = call.header(name, value);
                }
                let call = call.header("content-type", "application/x-protobuf").body(body);
                // Addresses may hold credentials.
                let answer =
                    call.send().await.map_err(|error| Refusal::passing(error.without_url().to_string()))?;
                let status = answer.status();
                if status.is_success() {
                    return Ok(());
                }
                let passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
                Err(Refusal { passing, message: status.to_string() })
            }
        }
    }
}

/// Why a batch was not taken.
struct Refusal {
    /// Another try may help.
    passing: bool,
    message: String,
}

impl Refusal {
    fn passing(message: impl Into<String>) -> Self {
        Self { passing: true, message: message.into() }
    }

    fn final_(message: String) -> Self {
        Self { passing: false, message }
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, SettingsError> {
    let wrong =
        |error: std::io::Error| SettingsError::File { path: path.to_owned(), message: error.to_string() };
    std::fs::read(path).map_err(wrong)
}

fn client_error(settings: &ExportSettings, message: String) -> SettingsError {
    SettingsError::Client { endpoint: settings.shown_endpoint(), message }
}

fn grpc(settings: &ExportSettings) -> Result<Transport, SettingsError> {
    let wrong = |error: tonic::transport::Error| client_error(settings, error.to_string());
    let mut endpoint = Endpoint::from_shared(settings.endpoint.to_string()).map_err(wrong)?;
    endpoint = endpoint.connect_timeout(settings.timeout);
    if settings.endpoint.scheme() == "https" {
        let mut tls = ClientTlsConfig::new();
        tls = match &settings.authority {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &settings.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        endpoint = endpoint.tls_config(tls).map_err(wrong)?;
    }
    let mut headers = MetadataMap::new();
    for (name, value) in &settings.headers {
        let invalid = || SettingsError::Invalid {
            variable: "OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            expected: "names and values of headers",
        };
        let name = MetadataKey::from_bytes(name.to_lowercase().as_bytes()).map_err(|_| invalid())?;
        let mut value = MetadataValue::try_from(value.as_str()).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let mut client = TraceServiceClient::new(endpoint.connect_lazy());
    if settings.gzip {
        client = client.send_compressed(tonic::codec::CompressionEncoding::Gzip);
    }
    Ok(Transport::Grpc(Box::new(client), headers))
}

fn http(settings: &ExportSettings) -> Result<Transport, SettingsError> {
    let mut client = reqwest::Client::builder().timeout(settings.timeout);
    let not_pem = |path: &std::path::Path, error: reqwest::Error| SettingsError::File {
        path: path.to_owned(),
        message: error.to_string(),
    };
    if let Some(path) = &settings.authority {
        let authorities = reqwest::Certificate::from_pem_bundle(&read(path)?);
        client = client.tls_certs_only(authorities.map_err(|error| not_pem(path, error))?);
    }
    if let Some((certificate, key)) = &settings.identity {
        let pem = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
        client = client.identity(reqwest::Identity::from_pem(&pem).map_err(|e| not_pem(certificate, e))?);
    }
    let client = client.build().map_err(|error| client_error(settings, error.to_string()))?;
    Ok(Transport::Http(client))
}
