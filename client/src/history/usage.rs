//! What steps used of the machine, as the daemon has kept it.

use std::collections::HashMap;

use rbuild_api::containerd::services::content::v1::ReadContentRequest;
use rbuild_api::containerd::services::content::v1::content_client::ContentClient;
use rbuild_api::rbuild::v1::UsageRequest;
use rbuild_api::rbuild::v1::builds_client::BuildsClient;
use serde_json::Value;
use tonic::transport::Channel;

use crate::MAX_MESSAGE;
use crate::errors::CommandError;

/// More than a daemon keeps of one build (rbuildd: 8 MiB of samples, and the names of steps).
const MAX_BYTES: usize = 64 << 20;

/// Samples by vertex.
pub(super) type Usages = HashMap<String, Value>;

/// Asks the daemon what the steps of a build used; one that is no rbuildd has not kept it so.
pub(super) async fn ask(channel: Channel, id: &str) -> Result<Usages, CommandError> {
    let mut builds = BuildsClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let digest = match builds.usage(UsageRequest { r#ref: id.to_owned() }).await {
        Ok(answer) => answer.into_inner().digest,
        Err(status) if status.code() == tonic::Code::Unimplemented => String::new(),
        Err(status) => return Err(status.into()),
    };
    if digest.is_empty() {
        return Ok(Usages::new());
    }
    let mut content = ContentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let request = ReadContentRequest { digest, ..Default::default() };
    let mut pieces = content.read(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await? {
        if bytes.len() + piece.data.len() > MAX_BYTES {
            let message = format!("what the steps used is told in more than {MAX_BYTES} bytes");
            return Err(tonic::Status::resource_exhausted(message).into());
        }
        bytes.extend(piece.data);
    }
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Usages {
    let steps = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().map_while(Result::ok);
    let pair = |mut step: Value| Some((step["vertex"].as_str()?.to_owned(), step["resourceUsage"].take()));
    steps.filter_map(pair).collect()
}

/// Seconds of processors, and the most memory that was in use; empty where it is not known.
pub(super) fn shown(usage: Option<&Value>) -> [String; 2] {
    let last = usage.and_then(|usage| usage["samples"].as_array()?.last());
    let cpu = last.and_then(|sample| sample["cpuStat"]["usageNanos"].as_u64());
    let peak = last.and_then(|sample| sample["memoryStat"]["peak"].as_u64());
    #[allow(clippy::cast_precision_loss, reason = "it is shown with two digits")]
    let cpu = cpu.map(|nanos| format!("{:.2}s", nanos as f64 / 1e9));
    let peak = peak.map(|bytes| rbuild_progress::render::bytes(i64::try_from(bytes).unwrap_or(i64::MAX)));
    [cpu.unwrap_or_default(), peak.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sample_is_shown() {
        let text = br#"{"vertex":"sha256:a","resourceUsage":{"samples":[{"cpuStat":{"usageNanos":1}},{"cpuStat":{"usageNanos":1230000000},"memoryStat":{"peak":2000000}}]}}
{"vertex":"sha256:b","resourceUsage":{"samples":[]}}
"#;
        let usages = parse(text);
        assert_eq!(usages.len(), 2);
        let [cpu, memory] = shown(usages.get("sha256:a"));
        assert_eq!(cpu, "1.23s");
        assert!(memory.starts_with('2'), "{memory}");
        assert_eq!(shown(usages.get("sha256:b")), ["", ""]);
        assert_eq!(shown(None), ["", ""]);
    }
}
