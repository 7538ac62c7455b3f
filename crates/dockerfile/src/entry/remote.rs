//! A build context that is not a directory of the client: a URL, or what a client uploads under one.

use rbuild_frontend::{Bridge, BuildError, ErrorCode, FileRange, ResultRefs, SolveRequest};
use rbuild_llb::{Constraints, CopyAction, Definition, FileActions, HttpOptions, MarshalOptions, State};
use rbuild_oci::layer::{LayerError, LayerReader};

/// The name that a fetched context has in its state; upstream's, so that caches agree.
const FILE: &str = "context";
/// The name of the step that fetches it.
const STEP: &str = "[internal] load remote build context";
/// How much is looked at to tell an archive from a Dockerfile: a tar header and what may precede it.
const HEAD_BYTES: u64 = 1024;
/// Bytes of a tar's header.
const TAR_HEADER: usize = 512;
/// First bytes of compressed archives: gzip, bzip2, xz, zstd.
const MAGIC: [&[u8]; 4] =
    [&[0x1f, 0x8b, 0x08], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd]];

/// A remote context.
#[derive(Debug)]
pub(super) struct Remote {
    /// What COPY and ADD see.
    pub(super) context: State,
    /// Where the Dockerfile is looked for unless the client sends one.
    pub(super) dockerfile: State,
    /// The context is the Dockerfile itself, under this name; the client's is not asked for.
    pub(super) sole_file: Option<&'static str>,
}

/// The remote context that a request's option names, if it names one.
///
/// `keep_git_dir`: a repository comes with its `.git`.
/// Errors: the context cannot be fetched; the option is neither a URL nor empty.
pub(super) async fn find(
    bridge: &dyn Bridge,
    context: &str,
    subdir: &str,
    keep_git_dir: bool,
) -> Result<Option<Remote>, BuildError> {
    if context.is_empty() {
        return Ok(None);
    }
    if is_git(context) {
        let files = super::git::state(context, keep_git_dir)?;
        return Ok(Some(Remote { context: below(&files, subdir), dockerfile: files, sole_file: None }));
    }
    if is_http(context) {
        return http(bridge, context, subdir).await.map(Some);
    }
    Err(BuildError::invalid(format!(
        "unsupported build context `{}`: expected a git repository, or an http or https URL",
        redacted(context)
    )))
}

/// Whether a context is a repository. A malformed one is, too: its mistakes are told where it is used.
pub(super) fn is_git(context: &str) -> bool {
    !matches!(rbuild_llb::git::GitUrl::parse(context), Ok(None))
}

/// Whether a context is a file behind a URL.
fn is_http(context: &str) -> bool {
    context.starts_with("http://") || context.starts_with("https://")
}

/// The file behind a URL, under the name that contexts have.
pub(super) fn fetched(url: &str, step: String) -> State {
    let constraints = Constraints::default().custom_name(step);
    State::http(url, HttpOptions { filename: FILE.to_owned(), constraints, ..HttpOptions::default() })
}

/// A URL as it may be shown: without user, password and query, which may be secret.
pub(super) fn redacted(url: &str) -> String {
    let bare = url.split('?').next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return bare.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// An archive is unpacked; anything else is a Dockerfile.
async fn http(bridge: &dyn Bridge, url: &str, subdir: &str) -> Result<Remote, BuildError> {
    let file = fetched(url, STEP.to_owned());
    let head = head(bridge, &file).await?;
    if !is_archive(&head) {
        let sole_file = Some(FILE);
        return Ok(Remote { context: file.clone(), dockerfile: file, sole_file });
    }
    let unpack = CopyAction {
        src: format!("/{FILE}"),
        dest: "/".to_owned(),
        attempt_unpack: true,
        ..CopyAction::default()
    };
    let unpacked = State::scratch().file(FileActions::new().copy(&file, unpack), Constraints::default());
    Ok(Remote { context: below(&unpacked, subdir), dockerfile: unpacked, sole_file: None })
}

/// A directory of a state as a state; an empty name is all of it.
pub(super) fn below(state: &State, subdir: &str) -> State {
    if subdir.is_empty() {
        return state.clone();
    }
    let copy = CopyAction {
        src: subdir.to_owned(),
        dest: "/".to_owned(),
        dir_copy_contents: true,
        ..CopyAction::default()
    };
    State::scratch().file(FileActions::new().copy(state, copy), Constraints::default())
}

/// A definition of a state of the frontend's own making.
pub(super) fn definition(state: &State) -> Result<Definition, BuildError> {
    state
        .marshal(&MarshalOptions::default())
        .map_err(|error| BuildError::new(ErrorCode::Internal, format!("build context: {error}")))
}

async fn head(bridge: &dyn Bridge, file: &State) -> Result<Vec<u8>, BuildError> {
    let request = SolveRequest { definition: Some(definition(file)?), ..SolveRequest::default() };
    let ResultRefs::Single(Some(reference)) = bridge.solve(request).await?.refs else {
        return Err(BuildError::new(ErrorCode::Internal, "a source was not solved to one reference"));
    };
    let read = reference.read_file(FILE, Some(FileRange { offset: 0, length: HEAD_BYTES })).await;
    read.map_err(|error| BuildError { message: format!("remote build context: {}", error.message), ..error })
}

/// Whether a file with these first bytes (a kilobyte of them) is an archive, packed or not; otherwise a context is a
/// Dockerfile.
pub fn is_archive(head: &[u8]) -> bool {
    if MAGIC.iter().any(|magic| head.starts_with(magic)) {
        return true;
    }
    // What goes wrong behind the first header (the rest is not here) does not matter.
    let is_tar = match LayerReader::new(head).next_entry() {
        Ok(entry) => entry.is_some(),
        Err(LayerError::Header { offset: 0, .. } | LayerError::Io(_)) => false,
        Err(_) => true,
    };
    is_tar && head.len() >= TAR_HEADER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut header = [0_u8; 512];
        header[..4].copy_from_slice(b"name");
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(b"00000000007");
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header[155] = b' ';
        assert!(is_archive(&header), "a plain tar");
        assert!(!is_archive(&header[..400]), "half a header");
        header[0] = b'N';
        assert!(!is_archive(&header), "a wrong sum");
        for packed in [&b"\x1f\x8b\x08rest"[..], b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"] {
            assert!(is_archive(packed), "{packed:?}");
        }
        for text in [&b""[..], b"FROM scratch\n", b"\x1f\x8bx", b"PK\x03\x04", &[0; 1024]] {
            assert!(!is_archive(text), "{text:?}");
        }
    }

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        for (url, shown) in [
            ("https://user:pw@h/a/b.tar?token=x", "https://h/a/b.tar"),
            ("https://h?x=y", "https://h"),
            ("http://h/a@b", "http://h/a@b"),
            ("word", "word"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }
}
