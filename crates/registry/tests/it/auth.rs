use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rbuild_oci::{Descriptor, media};
use rbuild_registry::{Credentials, Login, RegistryError, Token, TokenQuery};

use crate::hostile::{Answer, Hostile, ok, status};
use crate::real::{Blobs, RealRegistry, push_image, repository, repository_as};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

/// Credentials that remember who was asked for.
#[derive(Debug, Default)]
struct Keys {
    login: Option<Login>,
    token: Option<String>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Credentials for Keys {
    async fn login(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        self.asked.lock().push(format!("login {host}"));
        Ok(self.login.clone())
    }
    async fn token(&self, query: &TokenQuery<'_>) -> Result<Option<Token>, RegistryError> {
        self.asked.lock().push(format!("token {} {} {}", query.host, query.service, query.scopes.join(" ")));
        Ok(self.token.clone().map(|token| Token::new(token, 300)))
    }
}

fn keys(user: &str, secret: &str) -> Arc<Keys> {
    Arc::new(Keys { login: Some(Login::new(user, secret)), ..Keys::default() })
}

fn challenge(realm: &str) -> Answer {
    let header = format!(r#"Bearer realm="{realm}",service="svc",scope="repository:app:pull""#);
    Answer::Reply(401, vec![("www-authenticate", header)], vec![])
}

fn desc() -> Descriptor {
    Descriptor::of(media::OCI_MANIFEST, MANIFEST)
}

/// A registry and its token service on one port.
async fn bearer() -> Hostile {
    Hostile::start(|asked, _| {
        let host = &asked.headers["host"];
        match (asked.target.starts_with("/token"), asked.headers.get("authorization").map(String::as_str)) {
            (true, Some("Basic dXNlcjpwYXNz")) => ok(r#"{"token":"good","expires_in":300}"#),
            (true, Some(_)) => Answer::Reply(401, vec![], br#"{"details":"incorrect password"}"#.to_vec()),
            (true, None) if asked.method == "POST" => {
                let refresh = String::from_utf8_lossy(&asked.body).contains("refresh_token=refresh");
                if refresh { ok(r#"{"access_token":"good"}"#) } else { status(401) }
            }
            (true, None) => ok(r#"{"token":"anonymous"}"#),
            (false, Some("Bearer good")) => ok(MANIFEST),
            (false, Some("Bearer anonymous")) if asked.target.contains("/public/") => ok(MANIFEST),
            (false, _) => challenge(&format!("http://{host}/token")),
        }
    })
    .await
}

#[tokio::test]
async fn passwords_become_tokens_which_are_kept() {
    let server = bearer().await;
    let keys = keys("user", "pass");
    let repo = repository_as(&server.name("app"), keys.clone());
    for _ in 0..3 {
        assert_eq!(repo.manifest(&desc()).await.unwrap(), MANIFEST);
    }
    let targets = server.targets();
    assert_eq!(targets.iter().filter(|target| target.contains("/token")).count(), 1, "{targets:?}");
    assert!(targets[1].contains("service=svc") && targets[1].contains("scope=repository%3Aapp%3Apull"));
    assert!(targets[1].contains("account=user"), "{targets:?}");
    let scope = format!("token {} svc repository:app:pull", server.host);
    assert_eq!(*keys.asked.lock(), [scope, format!("login {}", server.host)]);
}

#[tokio::test]
async fn anonymous_pulls_get_anonymous_tokens() {
    let server = bearer().await;
    assert_eq!(repository(&server.name("public/app")).manifest(&desc()).await.unwrap(), MANIFEST);
    let error = repository(&server.name("private/app")).manifest(&desc()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn wrong_passwords_are_told_once() {
    let server = bearer().await;
    let error = repository_as(&server.name("app"), keys("user", "bad")).manifest(&desc()).await.unwrap_err();
    assert!(error.to_string().contains("incorrect password"), "{error}");
    assert!(!error.to_string().contains("bad"), "the secret is not told");
    assert_eq!(server.asked.lock().len(), 2);
}

#[tokio::test]
async fn refresh_tokens_are_posted() {
    let server = bearer().await;
    assert!(repository_as(&server.name("app"), keys("", "refresh")).manifest(&desc()).await.is_ok());
}

#[tokio::test]
async fn whoever_has_the_secret_may_fetch_the_token() {
    let server = bearer().await;
    let keys = Arc::new(Keys { token: Some("good".into()), ..Keys::default() });
    assert!(repository_as(&server.name("app"), keys.clone()).manifest(&desc()).await.is_ok());
    assert_eq!(server.asked.lock().len(), 2, "no token request of ours");
    assert_eq!(keys.asked.lock().len(), 1, "no password asked for");
}

#[tokio::test]
async fn tokens_that_expired_are_fetched_again() {
    let server = Hostile::start(|asked, before| {
        let host = &asked.headers["host"];
        match (asked.target.starts_with("/token"), asked.headers.get("authorization").map(String::as_str)) {
            (true, _) => ok(format!(r#"{{"token":"t{before}"}}"#)),
            (false, Some("Bearer t1")) if before == 2 => ok(MANIFEST),
            (false, Some("Bearer t4")) => ok(MANIFEST),
            _ => {
                let header = format!(r#"Bearer realm="http://{host}/token",error="invalid_token""#);
                Answer::Reply(401, vec![("www-authenticate", header)], vec![])
            }
        }
    })
    .await;
    let repo = repository(&server.name("app"));
    assert!(repo.manifest(&desc()).await.is_ok());
    assert!(repo.manifest(&desc()).await.is_ok());
    assert_eq!(server.asked.lock().len(), 6);
}

#[tokio::test]
async fn endless_challenges_end() {
    let server = Hostile::start(|asked, _| {
        let host = &asked.headers["host"];
        if asked.target.starts_with("/token") {
            return ok(r#"{"token":"t"}"#);
        }
        let header = format!(r#"Bearer realm="http://{host}/token",error="invalid_token""#);
        Answer::Reply(401, vec![("www-authenticate", header)], vec![])
    })
    .await;
    let error = repository(&server.name("app")).manifest(&desc()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
    assert!(server.asked.lock().len() < 10);
}

#[tokio::test]
async fn credentials_do_not_follow_redirects_to_other_hosts() {
    let elsewhere = Hostile::start(|_, _| ok(MANIFEST)).await;
    let target = format!("http://{}/stolen", elsewhere.host.replace("127.0.0.1", "localhost"));
    let server = Hostile::start(move |asked, _| match asked.headers.get("authorization") {
        Some(_) => Answer::Reply(307, vec![("location", target.clone())], vec![]),
        None => Answer::Reply(401, vec![("www-authenticate", "Basic realm=x".into())], vec![]),
    })
    .await;
    let keys = keys("user", "pass");
    assert!(repository_as(&server.name("app"), keys.clone()).manifest(&desc()).await.is_ok());
    let asked = elsewhere.asked.lock();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].headers.contains_key("authorization"), "{asked:?}");
    assert_eq!(*keys.asked.lock(), [format!("login {}", server.host)], "nobody else was asked for");
}

#[tokio::test]
async fn a_401_from_elsewhere_asks_for_nothing() {
    let elsewhere = Hostile::start(|_, _| challenge("http://127.0.0.1:1/token")).await;
    let target = format!("http://{}/x", elsewhere.host);
    let server =
        Hostile::start(move |_, _| Answer::Reply(307, vec![("location", target.clone())], vec![])).await;
    let keys = keys("user", "pass");
    let error = repository_as(&server.name("app"), keys.clone()).manifest(&desc()).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(keys.asked.lock().is_empty());
}

#[tokio::test]
async fn strange_token_services_are_refused() {
    for realm in [
        "file:///etc/passwd",
        "ftp://x/",
        "nonsense",
        "http://user:pw@127.0.0.1/token",
        "",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/latest",
        "http://[fe80::1]/token",
    ] {
        let server = Hostile::start(move |_, _| challenge(realm)).await;
        let keys = keys("user", "pass");
        let error = repository_as(&server.name("app"), keys.clone()).manifest(&desc()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Token { .. }), "{realm}: {error}");
        assert!(keys.asked.lock().is_empty(), "{realm}");
    }
}

#[tokio::test]
async fn redirects_end_and_stay_away_from_link_local_addresses() {
    let server =
        Hostile::start(|_, _| Answer::Reply(302, vec![("location", "/v2/again".into())], vec![])).await;
    let error = repository(&server.name("app")).manifest(&desc()).await.unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
    assert!(server.targets().len() < 20, "an endless redirect is followed once, not tried again and again");
    let server = Hostile::start(|_, _| {
        Answer::Reply(302, vec![("location", "http://169.254.169.254/latest".into())], vec![])
    })
    .await;
    let error = repository(&server.name("app")).manifest(&desc()).await.unwrap_err();
    assert!(error.to_string().contains("link-local"), "{error}");
}

#[tokio::test]
async fn a_real_registry_with_passwords_is_pushed_to_and_pulled_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("htpasswd");
    // user:pass, bcrypt.
    std::fs::write(&file, HTPASSWD).unwrap();
    let real = RealRegistry::start(&format!("auth:\n  htpasswd: {{realm: test, path: {}}}", file.display()));
    let name = real.name("app");
    let blobs = Blobs::default();
    let desc = blobs.add(media::OCI_LAYER, "x");
    let error = repository(&name).push_blob(&desc, &blobs, &[], None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
    let error =
        repository_as(&name, keys("user", "bad")).push_blob(&desc, &blobs, &[], None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
    let repo = repository_as(&name, keys("user", "pass"));
    let image = push_image(&repo, "linux/amd64", b"layer").await;
    assert!(repository_as(&name, keys("user", "pass")).manifest(&image).await.is_ok());
}

const HTPASSWD: &str = "user:$2y$04$yZYHJoSP/e.Cx32Ouwb1E.B.h7BHVuBYzuNuAhRtZo0zcVA191Ts6\n";

#[tokio::test]
async fn requests_that_are_challenged_at_the_same_time_are_all_answered() {
    let server = Hostile::start(|asked, _| match asked.headers.get("authorization").map(String::as_str) {
        Some("Basic dXNlcjpwYXNz") => ok(MANIFEST),
        _ => Answer::Reply(401, vec![("www-authenticate", "Basic realm=\"r\"".to_owned())], vec![]),
    })
    .await;
    let repo = repository_as(&server.name("app"), keys("user", "pass"));
    let desc = desc();
    let answers = futures::future::join_all((0..8).map(|_| repo.manifest(&desc))).await;
    for answer in answers {
        assert_eq!(answer.unwrap(), MANIFEST);
    }
}
