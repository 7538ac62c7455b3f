use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

/// Where spans go, from the variables that all OpenTelemetry programs know.
/// Source: opentelemetry.io/docs/specs/otel, "Environment Variables" and "Protocol Exporter".
#[derive(Clone)]
pub struct ExportSettings {
    /// Attributes of everything that is sent; `service.name` at least.
    pub resource: BTreeMap<String, String>,
    pub(crate) protocol: Protocol,
    pub(crate) endpoint: Url,
    /// Often credentials: not to be shown.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) timeout: Duration,
    pub(crate) gzip: bool,
    pub(crate) authority: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value that is not known.
    #[error("{variable}: `{value}` is not supported: expected {expected}")]
    Unsupported {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A value that does not parse. It is not shown: it may be a credential.
    #[error("{variable}: expected {expected}")]
    Invalid {
        /// The variable.
        variable: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A certificate or a key.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The client for the collector.
    #[error("sending traces to {endpoint}: {message}")]
    Client {
        /// The collector.
        endpoint: String,
        /// Why there is none.
        message: String,
    },
}

impl std::fmt::Debug for ExportSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportSettings")
            .field("protocol", &self.protocol)
            .field("endpoint", &self.shown_endpoint())
            .finish_non_exhaustive()
    }
}

/// The values of variables for traces, which win over those for everything.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        // An empty variable is one that is not set.
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The variable that is set, and its value.
    fn otlp(&self, name: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| Some((name.clone(), self.get(&name)?)))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.otlp(name).map(|(_, path)| path.into())
    }
}

fn unsupported(variable: &str, value: String, expected: &'static str) -> SettingsError {
    SettingsError::Unsupported { variable: variable.to_owned(), value, expected }
}

fn invalid(variable: &str, expected: &'static str) -> SettingsError {
    SettingsError::Invalid { variable: variable.to_owned(), expected }
}

impl ExportSettings {
    /// Reads the variables; `None`: nobody wants traces. `service` is the name of the program unless they say another.
    pub fn from_env(
        lookup: &dyn Fn(&str) -> Option<String>,
        service: &str,
    ) -> Result<Option<Self>, SettingsError> {
        let variables = Variables(lookup);
        if !is_wanted(&variables)? {
            return Ok(None);
        }
        let protocol = match variables.otlp("PROTOCOL") {
            None => Protocol::Grpc,
            Some((_, value)) if value == "grpc" => Protocol::Grpc,
            Some((_, value)) if value == "http/protobuf" => Protocol::Http,
            Some((variable, value)) => {
                return Err(unsupported(&variable, value, "`grpc` or `http/protobuf`"));
            }
        };
        let (certificate, key) = (variables.path("CLIENT_CERTIFICATE"), variables.path("CLIENT_KEY"));
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(invalid("OTEL_EXPORTER_OTLP_CLIENT_KEY", "a key together with a certificate")),
        };
        Ok(Some(Self {
            resource: resource(&variables, service)?,
            protocol,
            endpoint: endpoint(&variables, protocol)?,
            headers: headers(&variables)?,
            timeout: timeout(&variables)?,
            gzip: match variables.otlp("COMPRESSION") {
                None => false,
                Some((_, value)) if value == "none" => false,
                Some((_, value)) if value == "gzip" => true,
                Some((variable, value)) => return Err(unsupported(&variable, value, "`gzip` or `none`")),
            },
            authority: variables.path("CERTIFICATE"),
            identity,
        }))
    }

    /// The endpoint without what may be a credential.
    pub fn shown_endpoint(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        match self.endpoint.port_or_known_default() {
            Some(port) => format!("{}://{host}:{port}", self.endpoint.scheme()),
            None => format!("{}://{host}", self.endpoint.scheme()),
        }
    }
}

fn is_wanted(variables: &Variables<'_>) -> Result<bool, SettingsError> {
    if variables.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    match variables.get(SAMPLER).as_deref() {
        None | Some("parentbased_always_on") => {}
        Some("always_off") => return Ok(false),
        Some(other) => {
            return Err(unsupported(SAMPLER, other.to_owned(), "`parentbased_always_on` or `always_off`"));
        }
    }
    const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
    match variables.get(EXPORTER).as_deref() {
        None => Ok(variables.otlp("ENDPOINT").is_some()),
        Some("none") => Ok(false),
        Some("otlp") => Ok(true),
        Some(other) => Err(unsupported(EXPORTER, other.to_owned(), "`otlp` or `none`")),
    }
}

fn endpoint(variables: &Variables<'_>, protocol: Protocol) -> Result<Url, SettingsError> {
    const EXPECTED: &str = "an address such as http://collector:4317";
    let Some((variable, text)) = variables.otlp("ENDPOINT") else {
        let default = match protocol {
            Protocol::Grpc => "http://localhost:4317",
            Protocol::Http => "http://localhost:4318/v1/traces",
        };
        return Ok(Url::parse(default).expect("a constant address"));
    };
    let text = match (text.contains("://"), protocol) {
        (true, _) => text,
        (false, Protocol::Http) => return Err(invalid(&variable, EXPECTED)),
        (false, Protocol::Grpc) => {
            let insecure = variables.otlp("INSECURE").is_some_and(|(_, value)| value == "true");
            format!("{}://{text}", if insecure { "http" } else { "https" })
        }
    };
    let mut url = Url::parse(&text).map_err(|_| invalid(&variable, EXPECTED))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(invalid(&variable, EXPECTED));
    }
    // The general address is a base, the one for traces is the whole.
    if protocol == Protocol::Http && !variable.contains("TRACES") {
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

fn headers(variables: &Variables<'_>) -> Result<BTreeMap<String, String>, SettingsError> {
    let Some((variable, text)) = variables.otlp("HEADERS") else { return Ok(BTreeMap::new()) };
    pairs(&variable, &text)
}

fn timeout(variables: &Variables<'_>) -> Result<Duration, SettingsError> {
    let Some((variable, text)) = variables.otlp("TIMEOUT") else { return Ok(Duration::from_secs(10)) };
    let millis = text.parse().map_err(|_| invalid(&variable, "milliseconds"))?;
    Ok(Duration::from_millis(millis))
}

fn resource(variables: &Variables<'_>, service: &str) -> Result<BTreeMap<String, String>, SettingsError> {
    const VARIABLE: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let mut resource = BTreeMap::from([("service.name".to_owned(), service.to_owned())]);
    if let Some(text) = variables.get(VARIABLE) {
        resource.extend(pairs(VARIABLE, &text)?);
    }
    resource.extend(variables.get("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
    Ok(resource)
}

/// `a=1,b=2` with escapes as in URLs.
fn pairs(variable: &str, text: &str) -> Result<BTreeMap<String, String>, SettingsError> {
    const EXPECTED: &str = "key=value pairs, separated by commas";
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| invalid(variable, EXPECTED))?;
        let value =
            percent_decode_str(value.trim()).decode_utf8().map_err(|_| invalid(variable, EXPECTED))?;
        Ok((key.trim().to_owned(), value.into_owned()))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<ExportSettings>, SettingsError> {
        let lookup =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ExportSettings::from_env(&lookup, "rbuildd")
    }

    #[test]
    fn without_an_address_or_an_exporter_nothing_is_sent() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).unwrap().is_none());
        let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for off in [
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
        ] {
            assert!(read(&[on, off]).unwrap().is_none(), "{off:?}");
        }
        let default = read(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().unwrap();
        assert_eq!(default.endpoint.as_str(), "http://localhost:4317/");
    }

    #[test]
    fn addresses_are_read_as_everywhere() {
        for (protocol, variable, value, want) in [
            ("grpc", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317", "http://c:4317/"),
            ("grpc", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "c:4317", "https://c:4317/"),
            ("http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318", "http://c:4318/v1/traces"),
            ("http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otel/", "https://c/otel/v1/traces"),
            ("http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/t", "http://c/t"),
        ] {
            let settings = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), (variable, value)]);
            assert_eq!(settings.unwrap().unwrap().endpoint.as_str(), want);
        }
    }

    #[test]
    fn names_headers_and_times_are_read() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@c:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary, x = y"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ignored,host.name=h"),
            ("OTEL_SERVICE_NAME", "builder"),
        ]);
        let settings = settings.unwrap().unwrap();
        assert_eq!(settings.headers["authorization"], "Bearer canary");
        assert_eq!(settings.headers["x"], "y");
        assert_eq!(settings.timeout, Duration::from_millis(1500));
        assert!(settings.gzip);
        assert_eq!(settings.resource["service.name"], "builder");
        assert_eq!(settings.resource["host.name"], "h");
        let shown = format!("{settings:?}");
        assert!(!shown.contains("canary") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "nonsense"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/x"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ] {
            let error = read(&[on, (variable, value)]).unwrap_err().to_string();
            assert!(error.contains(variable), "{error}");
        }
    }
}
