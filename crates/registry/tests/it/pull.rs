use std::time::Duration;

use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, Platform, PlatformMatcher, media};
use rbuild_registry::RegistryError;

use crate::hostile::{Answer, Hostile, ok, status};
use crate::real::{Blobs, all, noise, repository};

fn start_of(range: Option<&String>) -> usize {
    range.and_then(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().ok()).unwrap_or(0)
}

fn range_reply(body: &[u8], start: usize) -> (u16, Vec<(&'static str, String)>, Vec<u8>) {
    let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
    match start {
        0 => (200, vec![], body.to_vec()),
        _ => (206, vec![("content-range", range)], body[start..].to_vec()),
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused() {
    let wanted = Digest::of("wanted");
    let server = Hostile::start(move |asked, _| match asked.method.as_str() {
        "HEAD" => Answer::Reply(
            200,
            vec![
                ("docker-content-digest", wanted.to_string()),
                ("content-type", media::OCI_MANIFEST.into()),
                ("content-length", "15".into()),
            ],
            vec![],
        ),
        _ => ok(r#"{"other":"data"}"#),
    })
    .await;
    let name = server.name("app:latest");
    let repo = repository(&name);
    let desc = repo.resolve(&name).await.unwrap();
    let error = repo.manifest(&desc).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RegistryError::Digest { .. }), "{text}");
    assert!(
        text.contains(&wanted.to_string()) && text.contains(&Digest::of(r#"{"other":"data"}"#).to_string())
    );
    assert!(text.contains(&server.host), "{text}");
    let other = name.with_digest(Digest::of("other"));
    assert!(matches!(repo.resolve(&other).await.unwrap_err(), RegistryError::Digest { .. }));
}

#[tokio::test]
async fn registries_without_head_are_asked_by_get() {
    let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    for head in [405, 200] {
        let server = Hostile::start(move |asked, _| match asked.method.as_str() {
            "HEAD" => status(head),
            _ => ok(*manifest),
        })
        .await;
        let name = server.name("app");
        let desc = repository(&name).resolve(&name).await.unwrap();
        assert_eq!(desc, Descriptor::of(media::OCI_MANIFEST, manifest), "HEAD answers {head}");
    }
}

#[tokio::test]
async fn manifests_are_bounded() {
    let server = Hostile::start(|_, _| {
        Answer::Stall(200, vec![("content-length", (1u64 << 40).to_string())], vec![b' '; 9 << 20], 9 << 20)
    })
    .await;
    let desc = Descriptor::new(media::OCI_MANIFEST, Digest::of("x"), 0);
    let error = repository(&server.name("app")).manifest(&desc).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn indexes_within_indexes_end() {
    let mut documents = vec![br#"{"schemaVersion":2,"manifests":[]}"#.to_vec()];
    for _ in 0..6 {
        let entry = Descriptor::of(media::OCI_INDEX, documents.last().unwrap());
        let entry = serde_json::to_string(&entry).unwrap();
        documents.push(format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#).into_bytes());
    }
    let root = Descriptor::of(media::OCI_INDEX, documents.last().unwrap());
    let server = Hostile::start(move |asked, _| {
        let document =
            documents.iter().find(|document| asked.target.ends_with(&Digest::of(document).to_string()));
        ok(document.unwrap().clone())
    })
    .await;
    let matcher = PlatformMatcher::only(&Platform::host());
    let error = repository(&server.name("app")).select(&root, &matcher, "linux/amd64").await.unwrap_err();
    assert!(error.to_string().contains("nested more than 4 deep"), "{error}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stood() {
    let body = noise(500_000, 3);
    let served = body.clone();
    let server = Hostile::start(move |asked, before| {
        let start = start_of(asked.headers.get("range"));
        let (code, headers, rest) = range_reply(&served, start);
        match before {
            0 => Answer::Cut(code, headers, rest, 100_000),
            1 => status(503),
            2 => Answer::Stall(code, headers, rest, 50_000),
            3 => Answer::HangUp,
            _ => Answer::Reply(code, headers, rest),
        }
    })
    .await;
    let desc = Descriptor::of(media::OCI_LAYER, &body);
    let stream = repository(&server.name("app")).blob(&desc, 0).await.unwrap();
    assert_eq!(Digest::of(all(stream).await.unwrap()), desc.digest);
    let ranges: Vec<usize> =
        server.asked.lock().iter().map(|asked| start_of(asked.headers.get("range"))).collect();
    assert_eq!(ranges, [0, 100_000, 100_000, 150_000, 150_000]);
}

#[tokio::test]
async fn servers_without_ranges_are_read_again_from_the_start() {
    let body = noise(90_000, 4);
    let served = body.clone();
    let server = Hostile::start(move |_, before| match before {
        0 => Answer::Cut(200, vec![], served.clone(), 33_333),
        _ => ok(served.clone()),
    })
    .await;
    let desc = Descriptor::of(media::OCI_LAYER, &body);
    let repo = repository(&server.name("app"));
    assert_eq!(all(repo.blob(&desc, 0).await.unwrap()).await.unwrap(), body);
    assert_eq!(all(repo.blob(&desc, 80_000).await.unwrap()).await.unwrap(), body[80_000..]);
}

#[tokio::test]
async fn blobs_of_the_wrong_size_are_errors() {
    let desc = Descriptor::of(media::OCI_LAYER, &[7; 1000]);
    for length in [999, 1001, 0] {
        let server = Hostile::start(move |_, _| ok(vec![7; length])).await;
        let error = match repository(&server.name("app")).blob(&desc, 0).await {
            Err(error) => error.to_string(),
            Ok(stream) => all(stream).await.unwrap_err().to_string(),
        };
        assert!(error.contains("expected 1000"), "{length}: {error}");
    }
    let chunked = Hostile::start(|_, _| {
        let body = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001)).into_bytes();
        let length = body.len();
        Answer::Cut(
            200,
            vec![("transfer-encoding", "chunked".into()), ("content-length", String::new())],
            body,
            length,
        )
    })
    .await;
    let repo = repository(&chunked.name("app"));
    let result = match repo.blob(&desc, 0).await {
        Ok(stream) => all(stream).await.map(drop),
        Err(error) => Err(error.into()),
    };
    assert!(result.is_err(), "more bytes than announced");
}

#[tokio::test]
async fn a_wrong_range_is_an_error() {
    let server = Hostile::start(|_, _| {
        Answer::Reply(206, vec![("content-range", "bytes 0-99/100".into())], vec![0; 100])
    })
    .await;
    let desc = Descriptor::of(media::OCI_LAYER, &[0; 100]);
    let error = repository(&server.name("app")).blob(&desc, 50).await.err().unwrap();
    assert!(matches!(error, RegistryError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn failures_that_may_pass_are_tried_again_within_bounds() {
    for code in [429, 500, 502, 503, 504] {
        let manifest = br#"{"schemaVersion":2}"#;
        let server = Hostile::start(move |_, before| match before {
            // The wish is cut to the policy's longest wait, or this test would never end.
            0 | 1 => Answer::Reply(code, vec![("retry-after", "86400".into())], vec![]),
            _ => ok(*manifest),
        })
        .await;
        let desc = Descriptor::of(media::OCI_MANIFEST, manifest);
        assert_eq!(repository(&server.name("app")).manifest(&desc).await.unwrap(), manifest, "{code}");
        assert_eq!(server.asked.lock().len(), 3, "{code}");
    }
    let server = Hostile::start(|_, _| status(500)).await;
    let error = repository(&server.name("app")).resolve(&server.name("app")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 500, .. }), "{error}");
    assert_eq!(server.asked.lock().len(), 4, "attempts of the policy");
    let server = Hostile::start(|_, _| status(418)).await;
    assert!(repository(&server.name("app")).resolve(&server.name("app")).await.is_err());
    assert_eq!(server.asked.lock().len(), 1, "not tried again");
}

#[tokio::test]
async fn silent_servers_are_given_up() {
    let server = Hostile::start(|_, _| Answer::Stall(200, vec![], vec![b'x'; 100], 10)).await;
    let repo = repository(&server.name("app"));
    let desc = Descriptor::of(media::OCI_LAYER, &[b'x'; 100]);
    let work = async { all(repo.blob(&desc, 0).await.unwrap()).await };
    let error = tokio::time::timeout(Duration::from_secs(20), work).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("no data for"), "{error}");
}

#[tokio::test]
async fn the_registrys_own_words_are_told() {
    let server = Hostile::start(|asked, _| match asked.method.as_str() {
        "HEAD" => status(405),
        _ => Answer::Reply(
            403,
            vec![],
            br#"{"errors":[{"code":"DENIED","message":"not for you\u0007"}]}"#.to_vec(),
        ),
    })
    .await;
    let name = server.name("app:x");
    let error = repository(&name).resolve(&name).await.unwrap_err();
    assert!(error.is_denied());
    let expected = format!("{0}/app:x: {0} refused: denied: DENIED: not for you ", server.host);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn uploads_go_on_after_a_break_or_begin_anew() {
    let body = noise(400_000, 9);
    let blobs = Blobs::default();
    let desc = blobs.add(media::OCI_LAYER, body.clone());
    for resumes in [true, false] {
        let server = Hostile::start(move |asked, _| {
            let to = |path: &str| vec![("location", path.to_owned())];
            match (asked.method.as_str(), asked.target.as_str()) {
                ("HEAD", _) => status(404),
                ("POST", _) => Answer::Reply(202, to("/v2/app/blobs/uploads/1?state=a"), vec![]),
                ("PUT", target) if target.contains("state=a&digest") => Answer::DropBody(123_456),
                ("GET", _) if resumes => {
                    let mut headers = to("/v2/app/blobs/uploads/1?state=b");
                    headers.push(("range", "0-99999".into()));
                    Answer::Reply(204, headers, vec![])
                }
                ("GET", _) => status(404),
                ("PATCH", _) => Answer::Reply(202, to("/v2/app/blobs/uploads/1?state=c"), vec![]),
                ("PUT", _) => status(201),
                _ => status(400),
            }
        })
        .await;
        let result = repository(&server.name("app")).push_blob(&desc, &blobs, &[], None).await;
        let asked = server.asked.lock();
        if resumes {
            assert!(result.unwrap());
            let patch = asked.iter().find(|asked| asked.method == "PATCH").unwrap();
            assert!(patch.target.contains("state=b"));
            assert_eq!(patch.headers["content-range"], "100000-399999");
            assert!(patch.body == body[100_000..]);
            assert!(asked.last().unwrap().target.contains("state=c&digest="));
        } else {
            assert!(result.is_err(), "it breaks every time");
            assert_eq!(
                asked.iter().filter(|asked| asked.method == "POST").count(),
                4,
                "begun anew each time"
            );
        }
    }
}
