use std::io;

use rbuild_digest::Digest;
use rbuild_source::{AddressPolicy, HttpPin, Pin, PinDetail, Source, SourceError};

use crate::place::{Place, file, names};
use crate::web::{Page, Web, page, status};

fn http(pin: &Pin) -> &HttpPin {
    match &pin.detail {
        PinDetail::Http(http) => http,
        other => panic!("{other:?}"),
    }
}

const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[tokio::test]
async fn root_a_file_becomes_a_ref_with_the_asked_form() {
    let web = Web::start(|_, _| page("content", &[("last-modified", MODIFIED), ("etag", "\"1\"")])).await;
    let place = Place::new();
    let source = place.http();
    let request = place.ask(&format!("{}/dir/app.tar?secret=1", web.url), &[]);
    let pin = source.resolve(&request).await.unwrap();
    assert_eq!((http(&pin).digest, http(&pin).filename.as_str()), (Digest::of("content"), "app.tar"));
    assert_eq!(http(&pin).last_modified_s, Some(784_111_777));
    let found = source.fetch(&request, &pin).await.unwrap();
    assert_eq!(names(&found).await, ["app.tar"]);
    let expected = (b"content".to_vec(), 0o600, 0, 0, 784_111_777_000_000_000);
    assert_eq!(file(&found, "app.tar").await, expected);
    assert!(!found.description().contains("secret"), "{}", found.description());
    assert_eq!(web.asked.lock().len(), 1, "fetched once");

    let attrs = [("http.perm", "0755"), ("http.uid", "7"), ("http.gid", "8"), ("http.filename", "x")];
    let request = place.ask(&format!("{}/dir/app.tar?secret=1", web.url), &attrs);
    let other = source.resolve(&request).await.unwrap();
    assert_ne!(other.key, pin.key);
    let found = source.fetch(&request, &other).await.unwrap();
    assert_eq!(file(&found, "x").await, (b"content".to_vec(), 0o755, 7, 8, 784_111_777_000_000_000));
}

#[tokio::test]
async fn root_files_that_did_not_change_are_not_sent_again() {
    let web = Web::start(|head, _| match head.contains("if-none-match: \"one\"") {
        true => status(304),
        false => page("content", &[("etag", "\"one\"")]),
    })
    .await;
    let place = Place::new();
    let source = place.http();
    let url = format!("{}/f", web.url);
    let first = source.resolve(&place.ask(&url, &[])).await.unwrap();
    let second = source.resolve(&place.ask(&url, &[])).await.unwrap();
    assert_eq!((&first.key, first.cache_digest()), (&second.key, second.cache_digest()));
    let (a, b) = (http(&first).content.clone().unwrap(), http(&second).content.clone().unwrap());
    assert_eq!(a.id(), b.id());
    assert!(web.asked.lock()[1].contains("if-none-match"));
}

#[tokio::test]
async fn root_files_that_changed_are_fetched_whatever_the_server_says_of_versions() {
    let web = Web::start(|_, before| {
        let modified = [("last-modified", MODIFIED), ("etag", "W/\"weak\"")];
        page(&format!("content {before}"), &modified)
    })
    .await;
    let place = Place::new();
    let source = place.http();
    let url = format!("{}/f", web.url);
    for round in 0..2 {
        let request = place.ask(&url, &[]);
        let pin = source.resolve(&request).await.unwrap();
        assert_eq!(http(&pin).digest, Digest::of(format!("content {round}")));
        // Within one build the answer stays.
        assert_eq!(source.resolve(&request).await.unwrap().key, pin.key);
    }
    assert_eq!(web.asked.lock().len(), 2);
}

#[tokio::test]
async fn root_checksums_need_no_question_and_decide() {
    let web =
        Web::start(|_, _| page("content", &[("content-disposition", "attachment; filename=other")])).await;
    let place = Place::new();
    let source = place.http();
    let right = Digest::of("content").to_string();
    let request = place.ask(&format!("{}/f", web.url), &[("http.checksum", &right)]);
    let pin = source.resolve(&request).await.unwrap();
    assert!(web.asked.lock().is_empty());
    let found = source.fetch(&request, &pin).await.unwrap();
    assert_eq!(names(&found).await, ["f"]);
    let again = place.ask(&format!("{}/f", web.url), &[("http.checksum", &right)]);
    let pin = source.resolve(&again).await.unwrap();
    assert_eq!(source.fetch(&again, &pin).await.unwrap().id(), found.id());
    assert_eq!(web.asked.lock().len(), 1, "it is here already");

    let wrong = Digest::of("other");
    let request = place.ask(&format!("{}/f", web.url), &[("http.checksum", &wrong.to_string())]);
    let pin = source.resolve(&request).await.unwrap();
    let error = source.fetch(&request, &pin).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SourceError::Digest { .. }));
    assert!(text.contains(&wrong.to_string()) && text.contains(&right), "{text}");
}

#[tokio::test]
async fn root_broken_answers_are_errors_and_leave_nothing() {
    let web = Web::start(|_, _| Page { cut_at: Some(3), ..page("content", &[]) }).await;
    let place = Place::new();
    let error = place.http().resolve(&place.ask(&format!("{}/f", web.url), &[])).await.unwrap_err();
    assert!(matches!(error, SourceError::Http { .. }), "{error}");
    assert!(place.store.usage(&[]).await.unwrap().is_empty());
    let web = Web::start(|_, before| Page { cut_at: (before < 2).then_some(3), ..page("whole", &[]) }).await;
    let pin = place.http().resolve(&place.ask(&format!("{}/f", web.url), &[])).await.unwrap();
    assert_eq!((http(&pin).digest, web.asked.lock().len()), (Digest::of("whole"), 3));
    let web = Web::start(|_, before| if before < 2 { status(503) } else { page("late", &[]) }).await;
    let pin = place.http().resolve(&place.ask(&format!("{}/f", web.url), &[])).await.unwrap();
    assert_eq!(http(&pin).digest, Digest::of("late"));
    let web = Web::start(|_, _| status(404)).await;
    let error = place.http().resolve(&place.ask(&format!("{}/f?token=x", web.url), &[])).await.unwrap_err();
    assert!(error.is_not_found() && !error.to_string().contains("token"), "{error}");
}

#[tokio::test]
async fn root_files_that_break_off_are_asked_for_from_there_on() {
    let web = Web::start(|head, before| match before {
        0 => Page { cut_at: Some(3), ..page("content", &[("etag", "\"1\"")]) },
        _ if head.contains("range: bytes=3-") && head.contains("if-range: \"1\"") => {
            Page { status: 206, ..page("tent", &[("content-range", "bytes 3-6/7"), ("etag", "\"1\"")]) }
        }
        _ => status(400),
    })
    .await;
    let place = Place::new();
    let pin = place.http().resolve(&place.ask(&format!("{}/f", web.url), &[])).await.unwrap();
    assert_eq!((http(&pin).digest, web.asked.lock().len()), (Digest::of("content"), 2));
    // Another version, or parts that do not fit, are no continuation.
    for odd in [
        page("changed", &[("etag", "\"2\"")]),
        Page { status: 206, ..page("tent", &[("content-range", "bytes 2-6/7")]) },
    ] {
        let odd = parking_lot::Mutex::new(Some(odd));
        let web = Web::start(move |head, before| match before {
            0 => Page { cut_at: Some(3), ..page("content", &[("etag", "\"1\"")]) },
            1 => odd.lock().take().unwrap(),
            _ if head.contains("range:") => status(400),
            _ => page("changed", &[("etag", "\"2\"")]),
        })
        .await;
        let pin = place.http().resolve(&place.ask(&format!("{}/f", web.url), &[])).await.unwrap();
        assert_eq!((http(&pin).digest, web.asked.lock().len()), (Digest::of("changed"), 3));
    }
    let web = Web::start(|_, _| Page { status: 206, ..page("tent", &[]) }).await;
    let error = place.http().resolve(&place.ask(&format!("{}/f", web.url), &[])).await.unwrap_err();
    assert!(matches!(error, SourceError::HttpStatus { status: 206, .. }), "a part nobody asked for: {error}");
}

#[tokio::test]
async fn root_silent_servers_are_given_up_without_another_try() {
    let place = Place::new();
    for stalled in [0, 200] {
        let web = Web::start(move |_, _| Page {
            status: stalled,
            stalls: true,
            cut_at: Some(3),
            ..page("content", &[])
        })
        .await;
        let asked = place.ask(&format!("{}/f?token=x", web.url), &[]);
        let error = place.impatient_http().resolve(&asked).await.unwrap_err();
        assert!(matches!(error, SourceError::Stalled { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("sent nothing for 0.5 s") && !text.contains("token"), "{text}");
        assert_eq!(web.asked.lock().len(), 1);
    }
}

#[tokio::test]
async fn root_passwords_in_urls_are_sent_and_never_shown() {
    let web = Web::start(|head, _| match head.contains("authorization: basic dxnlcjpzzwnyzxq=") {
        true => page("content", &[]),
        false => status(401),
    })
    .await;
    let place = Place::new();
    let url = web.url.replace("http://", "http://user:secret@") + "/f";
    let pin = place.http().resolve(&place.ask(&url, &[])).await.unwrap();
    let content = http(&pin).content.clone().unwrap();
    assert!(!content.description().contains("secret"), "{}", content.description());
    let url = web.url.replace("http://", "http://user:other@") + "/f";
    let error = place.http().resolve(&place.ask(&url, &[])).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("other"), "{error}");
}

#[tokio::test]
async fn root_closed_addresses_are_not_connected() {
    let place = Place::new();
    let refused = |error: SourceError| match error {
        SourceError::Address { .. } => true,
        SourceError::Http { reason, .. } => reason.contains("not allowed"),
        _ => false,
    };
    for url in ["http://169.254.169.254/x", "http://[::ffff:a9fe:a9fe]/x", "http://2852039166/x"] {
        assert!(refused(place.http().resolve(&place.ask(url, &[])).await.unwrap_err()), "{url}");
    }
    let web = Web::start(|_, _| Page {
        status: 302,
        ..page("", &[("location", "http://169.254.169.254/latest/meta-data")])
    })
    .await;
    assert!(refused(place.http().resolve(&place.ask(&web.url, &[])).await.unwrap_err()));
    let own = Web::start(|_, _| page("daemon", &[])).await;
    let address = own.url.trim_start_matches("http://").parse().unwrap();
    let policy = AddressPolicy::default();
    policy.denied.close(address);
    let source = place.http_with(policy);
    assert!(refused(source.resolve(&place.ask(&own.url, &[])).await.unwrap_err()));
    let by_name = own.url.replace("127.0.0.1", "localhost");
    assert!(refused(source.resolve(&place.ask(&by_name, &[])).await.unwrap_err()), "by name");
}

#[tokio::test]
async fn root_only_harmless_headers_can_be_set() {
    let web =
        Web::start(|head, _| match head.contains("accept: text/x") && head.contains("user-agent: me") {
            true => page("x", &[]),
            false => status(400),
        })
        .await;
    let place = Place::new();
    let attrs = [("http.header.accept", "text/x"), ("http.header.user-agent", "me")];
    assert!(place.http().resolve(&place.ask(&web.url, &attrs)).await.is_ok());
    for bad in [
        ("http.header.host", "x"),
        ("http.header.authorization", "x"),
        ("http.perm", "0999"),
        ("http.uid", "-1"),
    ] {
        let error = place.http().resolve(&place.ask(&web.url, &[bad])).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid { .. }), "{bad:?}: {error}");
    }
    for bad in ["http://", "ftp://x/y", "http:///x"] {
        let error = place.http().resolve(&place.ask(bad, &[])).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid { .. } | SourceError::Http { .. }), "{bad}: {error}");
    }
    let error: io::Error = io::ErrorKind::Other.into();
    assert!(SourceError::io("x", error).to_string().starts_with("x: "));
}
