use std::path::PathBuf;

use async_trait::async_trait;
use rbuild_registry::{Credentials, Login, RegistryError};

use crate::attrs::Attrs;
use crate::error::{CacheError, Result};

/// Who the daemon itself is to the registry of its shared cache. Never printed.
#[derive(Clone)]
pub(super) enum LoginOptions {
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// Read whenever somebody asks, so that a password can be changed in place.
    File {
        user: String,
        path: PathBuf,
    },
}

impl std::fmt::Debug for LoginOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoginOptions(..)")
    }
}

impl LoginOptions {
    pub(super) fn take(attrs: &mut Attrs) -> Result<Self> {
        let missing = |name| CacheError::Missing { kind: "tier", name };
        let user = attrs.take("username");
        match (user, attrs.take("password"), attrs.take("password_file")) {
            (None, None, None) => Ok(Self::Anonymous),
            (Some(user), Some(password), None) => Ok(Self::Password { user, password }),
            (Some(user), None, Some(path)) => Ok(Self::File { user, path: path.into() }),
            (Some(_), None, None) => Err(missing("password or password_file")),
            (_, Some(_), Some(path)) => Err(attrs.bad("password_file", &path, "there is a password already")),
            (None, ..) => Err(missing("username")),
        }
    }
}

/// The login for one registry; others (mirrors) are asked by nobody in particular.
#[derive(Debug)]
pub(super) struct OwnLogin {
    domain: String,
    options: LoginOptions,
}

impl OwnLogin {
    pub(super) fn new(domain: &str, options: LoginOptions) -> Self {
        Self { domain: domain.to_owned(), options }
    }

    fn is_for(&self, host: &str) -> bool {
        // Docker Hub is spoken to by another name than its images have.
        host == self.domain || (self.domain == "docker.io" && host == "registry-1.docker.io")
    }
}

#[async_trait]
impl Credentials for OwnLogin {
    async fn login(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        if !self.is_for(host) {
            return Ok(None);
        }
        match &self.options {
            LoginOptions::Anonymous => Ok(None),
            LoginOptions::Password { user, password } => Ok(Some(Login::new(user, password))),
            LoginOptions::File { user, path } => {
                let file = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
                let failed = |reason: String| RegistryError::Credentials { host: host.to_owned(), reason };
                let secret = read.map_err(|error| failed(error.to_string()))?;
                let secret =
                    secret.map_err(|error| failed(format!("reading {}: {error}", path.display())))?;
                Ok(Some(Login::new(user, secret.trim_end_matches(['\r', '\n']))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<LoginOptions> {
        let map: BTreeMap<_, _> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        LoginOptions::take(&mut Attrs::new("tier", &map))
    }

    #[tokio::test]
    async fn a_password_goes_to_its_registry_only_and_may_change_in_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let login =
            OwnLogin::new("docker.io", options(&[("username", "u"), ("password_file", path)]).unwrap());
        for password in ["one", "two"] {
            std::fs::write(path, format!("{password}\n")).unwrap();
            let found = login.login("registry-1.docker.io").await.unwrap();
            assert_eq!(found, Some(Login::new("u", password)));
        }
        assert_eq!(login.login("mirror.test").await.unwrap(), None);
        std::fs::remove_file(path).unwrap();
        assert!(login.login("docker.io").await.unwrap_err().to_string().contains(path));
    }

    #[test]
    fn halves_of_a_login_are_refused_and_secrets_are_not_printed() {
        for (pairs, word) in [
            (&[("username", "u")][..], "password"),
            (&[("password", "hush")], "username"),
            (&[("username", "u"), ("password", "hush"), ("password_file", "f")], "password_file"),
        ] {
            let error = options(pairs).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("hush"), "{error}");
        }
        let login = options(&[("username", "u"), ("password", "hush")]).unwrap();
        assert!(!format!("{:?}", OwnLogin::new("r.test", login)).contains("hush"));
    }
}
