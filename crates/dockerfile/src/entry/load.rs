use std::sync::Arc;

use rbuild_frontend::{Bridge, BuildError, ErrorCode, Fault, ResultRefs, SharedRef, SolveRequest};
use rbuild_llb::{Constraints, Definition, LocalDiffer, LocalOptions, MarshalOptions, SourceInfo, State};
use rbuild_patterns::{PatternSet, parse_dockerignore};

use super::git;
use super::remote::{self, Remote};
use super::request::BuildRequest;
use crate::context::{BuildContext, LocalContext};
use crate::source::Source;

/// The client's name for the build context.
const CONTEXT: &str = "context";
/// The file with patterns of what the context leaves out.
const IGNORE_FILE: &str = ".dockerignore";

/// Reads files of the client.
#[derive(Debug)]
pub(super) struct Loader {
    bridge: Arc<dyn Bridge>,
    file: FileRequest,
    remote: Option<Remote>,
}

#[derive(Debug)]
struct FileRequest {
    filename: String,
    given: bool,
    key: String,
    session: String,
    /// Where it is if it is not in a directory of the client.
    elsewhere: Option<Definition>,
}

/// A directory of the client of which single files are wanted.
struct Wanted<'a> {
    local: &'a str,
    session: String,
    shared_key_hint: String,
    step: String,
    files: Vec<String>,
}

impl Loader {
    /// Fetches the context if it is a remote one.
    pub(super) async fn new(bridge: Arc<dyn Bridge>, build: &BuildRequest) -> Result<Self, BuildError> {
        let keep_git_dir = git::keeps_git_dir(build.options.get("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR"));
        let remote = remote::find(&*bridge, &build.remote, &build.subdir, keep_git_dir).await?;
        let sole = remote.as_ref().and_then(|remote| remote.sole_file);
        let elsewhere = match (build.inputs.get("dockerfile"), &remote) {
            (Some(input), _) => Some(input.clone()),
            (None, Some(remote)) if sole.is_some() || !build.dockerfile_key_given => {
                Some(remote::definition(&remote.dockerfile)?)
            }
            (None, _) => None,
        };
        let file = FileRequest {
            filename: sole.map_or_else(|| build.filename.clone(), str::to_owned),
            given: build.filename_given || sole.is_some(),
            key: build.dockerfile_key.clone(),
            session: build.session_of(&build.dockerfile_key),
            elsewhere,
        };
        Ok(Self { bridge, file, remote })
    }

    /// The Dockerfile, and the patterns of the ignore file that belongs to it.
    pub(super) async fn dockerfile(&self) -> Result<(Source, Option<Vec<String>>), BuildError> {
        let file = &self.file;
        let ignore_name = format!("{}.dockerignore", file.filename);
        let mut files = vec![file.filename.clone(), ignore_name.clone()];
        if !file.given {
            files.push(file.filename.to_lowercase());
        }
        let definition = match &file.elsewhere {
            Some(definition) => definition.clone(),
            None => wanted(&Wanted {
                local: &file.key,
                session: file.session.clone(),
                shared_key_hint: file.key.clone(),
                step: format!("[internal] load build definition from {}", file.filename),
                files,
            })?,
        };
        let directory = self.solve(&definition).await?;
        let (filename, data) = self.read_dockerfile(directory.as_ref()).await?;
        if data.is_empty() {
            let error = BuildError::invalid("the Dockerfile cannot be empty").fault(Fault::NoStage);
            return Err(error.hint("a Dockerfile begins with FROM and the name of an image"));
        }
        let ignore = read_optional(directory.as_ref(), &ignore_name).await?;
        let info = SourceInfo {
            filename,
            data: data.into(),
            definition: Some(definition),
            language: "Dockerfile".to_owned(),
        };
        Ok((Source::new(info), ignore.map(|text| patterns(&ignore_name, &text)).transpose()?))
    }

    async fn read_dockerfile(&self, directory: Option<&SharedRef>) -> Result<(String, Vec<u8>), BuildError> {
        let name = &self.file.filename;
        if let Some(text) = read_optional(directory, name).await? {
            return Ok((name.clone(), text));
        }
        if !self.file.given
            && let Some(text) = read_optional(directory, &name.to_lowercase()).await?
        {
            return Ok((name.clone(), text));
        }
        let looked = if self.file.given { String::new() } else { format!(" or `{}`", name.to_lowercase()) };
        let place = match (&self.file.elsewhere, &self.remote) {
            (None, _) => format!("the directory that the client shares as `{}`", self.file.key),
            (Some(_), Some(_)) => "the remote build context".to_owned(),
            (Some(_), None) => "the request's input `dockerfile`".to_owned(),
        };
        Err(BuildError::new(
            ErrorCode::NotFound,
            format!(
                "failed to read dockerfile: open {name}: no such file or directory\n\
                 looked for `{name}`{looked} in {place}"
            ),
        )
        .fault(Fault::NoDockerfile)
        .hint("name the file with -f, or the directory that has it as the build context"))
    }

    /// The build context: an input of the request, what was fetched, or a directory of the client without what the
    /// ignore file names. As upstream, ignore files do not apply to what was fetched.
    pub(super) async fn context(
        &self,
        build: &BuildRequest,
        ignore: Option<Vec<String>>,
    ) -> Result<BuildContext, BuildError> {
        if let Some(definition) = build.inputs.get(CONTEXT) {
            return Ok(BuildContext::State(state_of(definition)?));
        }
        if let Some(remote) = &self.remote {
            return Ok(BuildContext::State(remote.context.clone()));
        }
        let session = build.session_of(CONTEXT);
        let excludes = match ignore {
            Some(patterns) => patterns,
            None => {
                let step = format!("[internal] load {IGNORE_FILE}");
                self.ignore_file(CONTEXT, &session, &format!("{CONTEXT}-{IGNORE_FILE}"), step).await?
            }
        };
        Ok(BuildContext::Local(LocalContext {
            name: CONTEXT.to_owned(),
            session,
            shared_key_hint: CONTEXT.to_owned(),
            step: "[internal] load build context".to_owned(),
            excludes,
        }))
    }

    /// The patterns of a directory's own ignore file; none if it has none.
    pub(super) async fn ignore_file(
        &self,
        local: &str,
        session: &str,
        shared_key_hint: &str,
        step: String,
    ) -> Result<Vec<String>, BuildError> {
        let definition = wanted(&Wanted {
            local,
            session: session.to_owned(),
            shared_key_hint: shared_key_hint.to_owned(),
            step,
            files: vec![IGNORE_FILE.to_owned()],
        })?;
        let directory = self.solve(&definition).await?;
        let text = read_optional(directory.as_ref(), IGNORE_FILE).await?;
        text.map_or(Ok(Vec::new()), |text| patterns(IGNORE_FILE, &text))
    }

    async fn solve(&self, definition: &Definition) -> Result<Option<SharedRef>, BuildError> {
        let request = SolveRequest { definition: Some(definition.clone()), ..SolveRequest::default() };
        match self.bridge.solve(request).await?.refs {
            ResultRefs::Single(reference) => Ok(reference),
            ResultRefs::Named(_) => {
                Err(BuildError::new(ErrorCode::Internal, "a definition was solved to several references"))
            }
        }
    }
}

/// The patterns of an ignore file, checked here so that the error names the file.
fn patterns(name: &str, text: &[u8]) -> Result<Vec<String>, BuildError> {
    let patterns = parse_dockerignore(text);
    PatternSet::parse(&patterns).map_err(|error| BuildError::invalid(format!("{name}: {error}")))?;
    Ok(patterns)
}

/// A definition's terminal as a state.
pub(super) fn state_of(definition: &Definition) -> Result<State, BuildError> {
    State::from_definition(definition).map_err(|error| BuildError::invalid(format!("invalid input: {error}")))
}

fn wanted(wanted: &Wanted<'_>) -> Result<Definition, BuildError> {
    let state = State::local(
        wanted.local,
        LocalOptions {
            session_id: wanted.session.clone(),
            follow_paths: wanted.files.clone(),
            shared_key_hint: wanted.shared_key_hint.clone(),
            differ: Some((LocalDiffer::None, false)),
            constraints: Constraints::default().custom_name(wanted.step.clone()),
            ..LocalOptions::default()
        },
    );
    state
        .marshal(&MarshalOptions::default())
        .map_err(|error| BuildError::new(ErrorCode::Internal, format!("local source: {error}")))
}

/// A file's bytes, or nothing if it does not exist.
async fn read_optional(directory: Option<&SharedRef>, path: &str) -> Result<Option<Vec<u8>>, BuildError> {
    let Some(directory) = directory else { return Ok(None) };
    // Also a source may be what is not found: that is another error than a missing file.
    directory.evaluate().await?;
    match directory.read_file(path, None).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
