use std::time::Duration;

use reqwest::Url;

use super::sign::Keys;
use crate::attrs::Attrs;
use crate::error::{CacheError, Result};

/// Upstream's defaults.
const DEFAULT_NAME: &str = "buildkit";
const DEFAULT_PARALLELISM: usize = 4;
const DEFAULT_TOUCH: Duration = Duration::from_secs(24 * 60 * 60);
/// Connections of one export.
const MAX_PARALLELISM: usize = 64;

/// A bucket and how it is used.
#[derive(Debug, Clone)]
pub(crate) struct S3Options {
    pub(super) bucket: String,
    pub(super) region: String,
    /// Where the store is; the bucket is in the host or in the path of its URLs.
    pub(super) endpoint: Url,
    pub(super) in_path: bool,
    pub(super) keys: Option<Keys>,
    pub(super) blobs: String,
    pub(super) manifests: String,
    pub(super) names: Vec<String>,
    pub(super) touch_refresh: Duration,
    pub(crate) parallelism: usize,
}

impl S3Options {
    /// Takes the attributes of a bucket. What is not given comes from the daemon's environment, as its operator set it.
    pub(crate) fn take(attrs: &mut Attrs) -> Result<Self> {
        let given = |attrs: &mut Attrs, name: &'static str, variables: &[&str]| {
            let set = || variables.iter().find_map(|name| variable(name));
            attrs.take(name).or_else(set).ok_or(CacheError::Missing { kind: "s3", name })
        };
        let bucket = given(attrs, "bucket", &["AWS_BUCKET"])?;
        if !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
            return Err(attrs.bad("bucket", &bucket, "expected letters, digits, `-`, `.` and `_`"));
        }
        let region = given(attrs, "region", &["AWS_REGION", "AWS_DEFAULT_REGION"])?;
        if !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(attrs.bad("region", &region, "expected letters, digits and `-`"));
        }
        let endpoint = endpoint(attrs, &region)?;
        let in_path = attrs.flag("use_path_style", false)? || !fits_host(&bucket, &endpoint);
        let mut prefix = |name: &str, default: &str| {
            let text = attrs.take(name).unwrap_or_else(|| default.to_owned());
            match text.split('/').any(|part| matches!(part, "." | "..")) {
                true => Err(attrs.bad(name, &text, "`.` and `..` are no parts of keys")),
                false => Ok(text),
            }
        };
        let all = prefix("prefix", "")?;
        let blobs = format!("{all}{}", prefix("blobs_prefix", "blobs/")?);
        let manifests = format!("{all}{}", prefix("manifests_prefix", "manifests/")?);
        let names = prefix("name", DEFAULT_NAME)?;
        let names = names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Self {
            bucket,
            region,
            endpoint,
            in_path,
            keys: keys(attrs)?,
            blobs,
            manifests,
            names,
            touch_refresh: attrs.duration("touch_refresh")?.unwrap_or(DEFAULT_TOUCH),
            parallelism: parallelism(attrs)?,
        })
    }

    /// What an export is told and an import has no use for.
    pub(crate) const FOR_EXPORTS: [&str; 2] = ["touch_refresh", "upload_parallelism"];

    /// How people know it.
    pub(crate) fn shown(&self) -> String {
        format!("s3:{}/{}{}", self.bucket, self.manifests, self.names.join(";"))
    }
}

fn endpoint(attrs: &mut Attrs, region: &str) -> Result<Url> {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let text = attrs.take("endpoint_url").unwrap_or_else(|| format!("https://s3.{region}.{domain}"));
    let shown = text.split_once('@').map_or(text.as_str(), |(_, rest)| rest).to_owned();
    let bad = |attrs: &Attrs, expected: &str| attrs.bad("endpoint_url", &shown, expected);
    let url = Url::parse(&text).map_err(|error| bad(attrs, &error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad(attrs, "expected http:// or https:// and a host"));
    }
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(bad(attrs, "expected a host and perhaps a path, nothing else"));
    }
    Ok(url)
}

/// Whether the bucket's name can stand before the host's.
fn fits_host(bucket: &str, endpoint: &Url) -> bool {
    let named = endpoint.domain().is_some_and(|domain| domain != "localhost");
    let plain = bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    // With a dot in it, certificates for `*.host` do not fit.
    named && plain
}

/// The keys of the client, else those of the daemon, else none: some buckets can be read by all.
fn keys(attrs: &mut Attrs) -> Result<Option<Keys>> {
    let (access, secret) = (attrs.take("access_key_id"), attrs.take("secret_access_key"));
    let session = attrs.take("session_token");
    match (access, secret) {
        (Some(access), Some(secret)) => Ok(Some(Keys { access, secret, session })),
        (Some(_), None) => Err(CacheError::Missing { kind: "s3", name: "secret_access_key" }),
        (None, Some(_)) => Err(CacheError::Missing { kind: "s3", name: "access_key_id" }),
        (None, None) if session.is_some() => Err(CacheError::Missing { kind: "s3", name: "access_key_id" }),
        (None, None) => {
            let keys = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
            let session = variable("AWS_SESSION_TOKEN");
            Ok(keys.map(|(access, secret)| Keys { access, secret, session }))
        }
    }
}

fn parallelism(attrs: &mut Attrs) -> Result<usize> {
    let Some(text) = attrs.take("upload_parallelism") else { return Ok(DEFAULT_PARALLELISM) };
    match text.parse() {
        Ok(number) if (1..=MAX_PARALLELISM).contains(&number) => Ok(number),
        _ => Err(attrs.bad("upload_parallelism", &text, "expected a number from 1 to 64")),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn options(text: &str) -> Result<S3Options> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        let map: BTreeMap<_, _> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut attrs = Attrs::new("s3", &map);
        S3Options::take(&mut attrs).and_then(|options| attrs.finish().map(|()| options))
    }

    #[test]
    fn buckets_are_in_hosts_where_they_fit() {
        let at = |text: &str| {
            let options = options(text).unwrap();
            (options.endpoint.to_string(), options.in_path)
        };
        assert_eq!(at("bucket=b,region=eu-west-1"), ("https://s3.eu-west-1.amazonaws.com/".into(), false));
        assert_eq!(at("bucket=b,region=cn-north-1").0, "https://s3.cn-north-1.amazonaws.com.cn/");
        assert!(at("bucket=b.c,region=r").1);
        assert!(at("bucket=b,region=r,use_path_style=true").1);
        assert!(at("bucket=b,region=r,endpoint_url=http://127.0.0.1:9000").1);
        assert!(!at("bucket=b,region=r,endpoint_url=https://minio.test/x").1);
    }

    #[test]
    fn what_makes_no_sense_is_named_and_secrets_are_not() {
        for (text, word) in [
            ("region=r", "bucket"),
            ("bucket=b", "region"),
            ("bucket=a/b,region=r", "bucket"),
            ("bucket=b,region=r,access_key_id=AK", "secret_access_key"),
            ("bucket=b,region=r,secret_access_key=hush", "access_key_id"),
            ("bucket=b,region=r,session_token=hush", "access_key_id"),
            ("bucket=b,region=r,endpoint_url=ftp://x", "endpoint_url"),
            ("bucket=b,region=r,endpoint_url=http://u:hush@x", "endpoint_url"),
            ("bucket=b,region=r,upload_parallelism=0", "upload_parallelism"),
            ("bucket=b,region=r,touch_refresh=soon", "touch_refresh"),
            ("bucket=b,region=r,prefix=a/../", "prefix"),
            ("bucket=b,region=r,what=1", "what"),
        ] {
            let error = options(text).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("hush"), "{text}: {error}");
        }
        let options = options("bucket=b,region=r,access_key_id=AK,secret_access_key=hush,name=a;b").unwrap();
        assert!(!format!("{options:?}").contains("hush"));
        assert_eq!(options.shown(), "s3:b/manifests/a;b");
    }
}
