//! What the run's token says of the branches whose entries it may read and write.

use base64::Engine as _;
use serde::Deserialize;

/// A branch and what may be done with its entries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Branch {
    pub(super) scope: String,
    permission: u32,
}

impl Branch {
    pub(super) fn readable(&self) -> bool {
        self.permission & 1 != 0
    }

    pub(super) fn writable(&self) -> bool {
        self.permission & 2 != 0
    }
}

/// The branches, the run's own first. The token is not verified: the service does that.
///
/// Errors: what is wrong with it, without a piece of it.
pub(super) fn branches(token: &str) -> Result<Vec<Branch>, &'static str> {
    #[derive(Deserialize)]
    struct Claims {
        ac: String,
    }
    let malformed = "expected a run's token, three parts of base64 with dots between them";
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed);
    };
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = engine.decode(claims.trim_end_matches('=')).map_err(|_| malformed)?;
    let claims: Claims =
        serde_json::from_slice(&claims).map_err(|_| "it does not say what caches it may use (`ac`)")?;
    let branches: Vec<Branch> =
        serde_json::from_str(&claims.ac).map_err(|_| "its list of caches (`ac`) makes no sense")?;
    if branches.is_empty() { Err("its list of caches (`ac`) is empty") } else { Ok(branches) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_which_branches_it_may_use() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let claims = r#"{"ac":"[{\"Scope\":\"refs/pull/1/merge\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"}"#;
        let found = branches(&format!("h.{}.s", encode(claims))).unwrap();
        assert_eq!(found[0].scope, "refs/pull/1/merge");
        assert!(found[0].writable() && found[1].readable() && !found[1].writable());
        for claims in ["{}", r#"{"ac":"[]"}"#, r#"{"ac":"x"}"#, "x"] {
            assert!(branches(&format!("h.{}.s", encode(claims))).is_err(), "{claims}");
        }
        assert!(branches("hush").is_err_and(|error| !error.contains("hush")));
    }
}
