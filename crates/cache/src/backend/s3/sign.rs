//! Signature version 4, as S3 wants it: headers are signed, paths are escaped once.
//! Source: the AWS reference, "Authenticating requests (AWS Signature Version 4)".

use rbuild_digest::Digest;
use ring::hmac;

/// Who asks. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) access: String,
    pub(crate) secret: String,
    pub(crate) session: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// What is signed.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) method: &'a str,
    /// Escaped.
    pub(super) path: &'a str,
    /// In any order, not escaped.
    pub(super) query: &'a [(&'a str, String)],
    /// Lower-case names, trimmed values, in any order; all are signed.
    pub(super) headers: &'a [(&'a str, String)],
    /// Hex, or what S3 takes instead.
    pub(super) payload: &'a str,
    pub(super) region: &'a str,
    /// `20261125T074322Z`.
    pub(super) time: &'a str,
}

/// The `Authorization` header.
pub(super) fn authorization(keys: &Keys, question: &Question<'_>) -> String {
    let mut headers: Vec<_> = question.headers.iter().collect();
    headers.sort();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let Question { method, path, query, payload, region, time, .. } = question;
    let canonical = format!("{method}\n{path}\n{}\n{lines}\n{names}\n{payload}", query_text(query));
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", Digest::of(canonical).hex());
    let secret = format!("AWS4{}", keys.secret);
    let mut key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), day.as_bytes());
    for part in [region, "s3", "aws4_request", text.as_str()] {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), part.as_bytes());
    }
    let signature: String = key.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let access = &keys.access;
    format!("AWS4-HMAC-SHA256 Credential={access}/{scope},SignedHeaders={names},Signature={signature}")
}

/// A query in canonical order, escaped: it is sent as it is signed.
pub(super) fn query_text(query: &[(&str, String)]) -> String {
    let mut parts: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name, false), escape(value, false)))
        .collect();
    parts.sort();
    parts.join("&")
}

/// Percent escapes of all but letters, digits and `-._~`; slashes stay in paths.
pub(super) fn escape(text: &str, is_path: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            b'/' if is_path => escaped.push('/'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the AWS reference.
    fn signature(
        method: &str,
        path: &str,
        query: &[(&str, String)],
        headers: &[(&str, &str)],
        payload: &str,
    ) -> String {
        let keys = Keys {
            access: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session: None,
        };
        let mut headers: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        headers.push(("host", "examplebucket.s3.amazonaws.com".into()));
        headers.push(("x-amz-content-sha256", payload.into()));
        headers.push(("x-amz-date", "20130524T000000Z".into()));
        let (region, time) = ("us-east-1", "20130524T000000Z");
        let question = Question { method, path, query, headers: &headers, payload, region, time };
        authorization(&keys, &question).rsplit_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn the_references_examples_have_the_references_signatures() {
        let empty = Digest::of("").hex();
        assert_eq!(
            signature("GET", "/test.txt", &[], &[("range", "bytes=0-9")], &empty),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let headers =
            [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        let payload = Digest::of("Welcome to Amazon S3.").hex();
        assert_eq!(
            signature("PUT", &escape("/test$file.text", true), &[], &headers, &payload),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            signature("GET", "/", &[("lifecycle", String::new())], &[], &empty),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        let query = [("prefix", "J".to_owned()), ("max-keys", "2".to_owned())];
        assert_eq!(
            signature("GET", "/", &query, &[], &empty),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn keys_are_not_printed() {
        let keys = Keys { access: "AK".into(), secret: "SK".into(), session: Some("ST".into()) };
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }
}
