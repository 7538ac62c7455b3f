use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::pb;
use rbuild_digest::random_id;
use rbuild_oci::ImageConfig;
use tonic::Status;

use super::step::{self, Step};
use super::{EXIT, process};
use crate::errors::CommandError;
use crate::gateway::Gateway;
use crate::{spec, ui};

/// What runs where nothing else is said.
const SHELL: &str = "/bin/sh";
/// The config of a result.
const CONFIG: &str = "containerimage.config";

/// `--invoke`: what to enter when, and as whom.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Invoke {
    place: Place,
    command: Command,
    user: Option<String>,
    cwd: Option<String>,
    env: Vec<String>,
    tty: Option<bool>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    /// The step that failed.
    #[default]
    Failed,
    /// What was built.
    Result,
    /// Before a step.
    Step(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Command {
    /// The shell of the step, or what the image runs.
    #[default]
    Default,
    /// A text for a shell.
    Text(String),
    /// A program.
    Program(String),
}

impl Invoke {
    /// Errors: a word that is not known.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let wrong = |why: String| CommandError::usage(format!("--invoke {text}: {why}"));
        let mut invoke = Self::default();
        let mut place = None;
        for field in spec::csv(text)? {
            match field.split_once('=') {
                None if field == "on-error" => place = Some(Place::Failed),
                None if field == "default" => place = Some(Place::Result),
                None if field.is_empty() => return Err(wrong("a word is empty".into())),
                None => invoke.command = Command::Program(field),
                Some(("on", "error")) => place = Some(Place::Failed),
                Some(("on", "success")) => place = Some(Place::Result),
                Some(("step", name)) => place = Some(Place::Step(name.to_owned())),
                Some(("command", text)) => invoke.command = Command::Text(text.to_owned()),
                Some(("entrypoint" | "args", program)) => {
                    invoke.command = Command::Program(program.to_owned());
                }
                Some(("user", user)) => invoke.user = Some(user.to_owned()),
                Some(("cwd", cwd)) => invoke.cwd = Some(cwd.to_owned()),
                Some(("env", variable)) => invoke.env.push(variable.to_owned()),
                Some(("tty", value)) => {
                    invoke.tty = Some(value.parse().map_err(|_| wrong("tty is true or false".into()))?);
                }
                Some((name, _)) => return Err(wrong(format!("`{name}` is not known"))),
            }
        }
        // As buildx has it: who names a program wants to see the result.
        let named = !matches!(invoke.command, Command::Default);
        invoke.place = place.unwrap_or(if named { Place::Result } else { Place::Failed });
        Ok(invoke)
    }

    /// Whether the build is left off before a step, so that there is nothing to write anywhere.
    pub(crate) fn is_before_a_step(&self) -> bool {
        matches!(self.place, Place::Step(_))
    }

    /// Drives the build, and enters what is to be entered.
    pub(crate) async fn drive(
        &self,
        mut gateway: Gateway,
        frontend: String,
        options: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Status> {
        let driven = match gateway.frontend(&frontend, options).await {
            Ok(result) => self.enter(&mut gateway, result).await,
            Err(status) => Err(status),
        };
        let returned = driven.as_ref().map(|(result, _)| result.clone()).map_err(Clone::clone);
        gateway.finish(returned).await?;
        let code = driven?.1;
        Ok(code.map(|code| (EXIT.to_owned(), code.to_string())).into_iter().collect())
    }

    /// What the build returns, and how the process ended, if one ran.
    async fn enter(
        &self,
        gateway: &mut Gateway,
        result: wire::Result,
    ) -> Result<(wire::Result, Option<u32>), Status> {
        let refs = refs(&result);
        if let Place::Step(name) = &self.place {
            let (definition, step) = find(&refs, name)?;
            let ids = step.begun(gateway, &definition).await?;
            ui::note(&format!("before {}", ui::plain(&step.name)));
            let code = self.in_step(gateway, &step, &ids).await?;
            return Ok((wire::Result::default(), Some(code)));
        }
        let all = refs.iter().filter(|reference| !reference.id.is_empty()).map(|reference| {
            let mut gateway = gateway.clone();
            async move { gateway.evaluate(&reference.id).await }
        });
        let built = futures::future::try_join_all(all).await;
        match (built, &self.place) {
            (Ok(_), Place::Result) => {
                let code = self.in_result(gateway, &result, &refs).await?;
                Ok((result, Some(code)))
            }
            (Ok(_), _) => Ok((result, None)),
            (Err(status), Place::Failed) => {
                self.in_failed(gateway, &refs, &status).await?;
                Err(status)
            }
            (Err(status), _) => Err(status),
        }
    }

    /// Enters the step that an error is about. Whatever the process does, the build has failed.
    async fn in_failed(
        &self,
        gateway: &mut Gateway,
        refs: &[wire::Ref],
        status: &Status,
    ) -> Result<(), Status> {
        let Some((digest, ids)) = step::failed(status) else {
            ui::note("what failed left nothing to be entered");
            return Ok(());
        };
        let steps = refs.iter().filter_map(|reference| reference.def.as_ref()).flat_map(step::steps);
        let Some((_, step)) = steps.into_iter().find(|(known, _)| *known == digest) else {
            ui::note("what failed is no step of the result: it cannot be entered");
            return Ok(());
        };
        ui::note(&format!("in the failed step {}", ui::plain(&step.name)));
        self.in_step(gateway, &step, &ids).await.map(drop)
    }

    async fn in_step(&self, gateway: &mut Gateway, step: &Step, ids: &[String]) -> Result<u32, Status> {
        let mut meta = step.exec.meta.clone().unwrap_or_default();
        // Hosts are the container's already.
        meta.extra_hosts.clear();
        meta.valid_exit_codes.clear();
        let shell = meta.args.first().filter(|_| meta.args.len() > 2 && meta.args[1] == "-c");
        let shell = shell.cloned().unwrap_or_else(|| SHELL.to_owned());
        meta.args = self.args(vec![shell.clone()], &shell);
        let init = wire::InitMessage {
            meta: Some(meta),
            security: step.exec.security,
            secretenv: step.exec.secretenv.clone(),
            ..wire::InitMessage::default()
        };
        self.in_container(gateway, step.container(ids), init).await
    }

    async fn in_result(
        &self,
        gateway: &mut Gateway,
        result: &wire::Result,
        refs: &[wire::Ref],
    ) -> Result<u32, Status> {
        let [only] = refs else {
            return Err(Status::invalid_argument("--invoke: the result is for several platforms: build one"));
        };
        let config = result.metadata.get(CONFIG).map(|json| ImageConfig::parse(json)).transpose();
        let config = config.map_err(|error| Status::unknown(format!("config of the result: {error}")))?;
        let image = config.unwrap_or_default().config;
        let own: Vec<String> = image.entrypoint.into_iter().chain(image.cmd).collect();
        let own = if own.is_empty() { vec![SHELL.to_owned()] } else { own };
        let meta = pb::Meta {
            args: self.args(own, SHELL),
            env: image.env,
            cwd: image.working_dir,
            user: image.user,
            ..pb::Meta::default()
        };
        let root = pb::Mount {
            dest: "/".into(),
            result_id: only.id.clone(),
            input: -1,
            output: -1,
            ..pb::Mount::default()
        };
        let container = wire::NewContainerRequest {
            container_id: random_id(),
            mounts: vec![root],
            ..wire::NewContainerRequest::default()
        };
        ui::note("in the result");
        let init = wire::InitMessage { meta: Some(meta), ..wire::InitMessage::default() };
        self.in_container(gateway, container, init).await
    }

    async fn in_container(
        &self,
        gateway: &mut Gateway,
        container: wire::NewContainerRequest,
        mut init: wire::InitMessage,
    ) -> Result<u32, Status> {
        let id = container.container_id.clone();
        gateway.new_container(container).await?;
        let meta = init.meta.get_or_insert_default();
        meta.user = self.user.clone().unwrap_or(std::mem::take(&mut meta.user));
        meta.cwd = self.cwd.clone().unwrap_or(std::mem::take(&mut meta.cwd));
        meta.env.extend(self.env.iter().cloned());
        init.container_id.clone_from(&id);
        init.tty = self.tty.unwrap_or_else(|| std::io::stdin().is_terminal());
        init.fds = vec![0, 1, 2];
        let ran = process::run(gateway, init, true).await;
        gateway.release_container(&id).await?;
        ran
    }

    fn args(&self, default: Vec<String>, shell: &str) -> Vec<String> {
        match &self.command {
            Command::Default => default,
            Command::Text(text) => vec![shell.to_owned(), "-c".to_owned(), text.clone()],
            Command::Program(program) => vec![program.clone()],
        }
    }
}

/// The parts of a result.
fn refs(result: &wire::Result) -> Vec<wire::Ref> {
    match &result.result {
        Some(wire::result::Result::Ref(one)) => vec![one.clone()],
        Some(wire::result::Result::Refs(all)) => all.refs.values().cloned().collect(),
        _ => Vec::new(),
    }
}

/// The step of that name: all of it, or a part that no other step's name has.
fn find(refs: &[wire::Ref], name: &str) -> Result<(pb::Definition, Step), Status> {
    let mut found = BTreeMap::new();
    let mut all = Vec::new();
    for definition in refs.iter().filter_map(|reference| reference.def.as_ref()) {
        for (digest, step) in step::steps(definition) {
            if !all.contains(&step.name) {
                all.push(step.name.clone());
            }
            if step.name == name {
                return Ok((definition.clone(), step));
            }
            if step.name.contains(name) {
                found.insert(digest, (definition.clone(), step));
            }
        }
    }
    match (found.len(), found.pop_first()) {
        (1, Some((_, only))) => Ok(only),
        (0, _) => Err(Status::invalid_argument(format!(
            "--invoke: no step that runs something is called `{name}`; there are: {}",
            all.join("; ")
        ))),
        (count, _) => {
            Err(Status::invalid_argument(format!("--invoke: `{name}` is in the names of {count} steps")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_entered_when_is_said_in_words() {
        let parse = |text: &str| Invoke::parse(text).unwrap();
        assert_eq!(parse("on-error").place, Place::Failed);
        assert_eq!(parse("default").place, Place::Result);
        let program = parse("/bin/ash");
        assert_eq!((program.place, program.command), (Place::Result, Command::Program("/bin/ash".into())));
        let step = parse("step=build 2/4,command=\"ls -l, pwd\",user=me,cwd=/x,env=A=b,tty=false");
        assert_eq!(step.place, Place::Step("build 2/4".into()));
        assert_eq!(step.command, Command::Text("ls -l".to_owned() + ", pwd"));
        assert_eq!((step.tty, step.env), (Some(false), vec!["A=b".to_owned()]));
        for wrong in ["", "on=never", "tty=maybe", "x=y"] {
            assert!(Invoke::parse(wrong).is_err(), "{wrong}");
        }
    }
}
