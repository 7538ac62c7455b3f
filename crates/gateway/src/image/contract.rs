//! What a frontend's container is told: program, environment, network. Source: protocol notes, "Gateway", and what
//! upstream's daemon gives to an image that prints it.

use std::collections::BTreeSet;

use rbuild_frontend::{BuildError, Detail, ErrorCode, FrontendRequest};
use rbuild_llb::NetMode;
use rbuild_oci::ImageConfig;
use serde_json::json;

use crate::WorkerInfo;

/// Label: the frontend needs no network.
const NO_NETWORK: &str = "moby.buildkit.frontend.network.none";
/// Label: what the frontend can do, separated by commas.
const CAPS: &str = "moby.buildkit.frontend.caps";
/// Capability of frontends that ask for the inputs of their build.
const INPUTS: &str = "moby.buildkit.frontend.inputs";
/// Option: what the client needs of the frontend, separated by commas.
const NEEDED: &str = "frontend.caps";
/// What a frontend runs if its image does not say.
const DEFAULT_PROGRAM: &str = "/run";
/// The kernel's bound on one string of a process's environment, the NUL at its end included.
const MAX_STRING: usize = 128 << 10;

/// How a frontend's process is started.
#[derive(Debug)]
pub(super) struct Contract {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) network: NetMode,
}

impl Contract {
    /// Errors: the build needs what the image does not say it can do; an option is too long to be passed on.
    pub(super) fn new(
        config: &ImageConfig,
        request: &FrontendRequest,
        workers: &WorkerInfo,
    ) -> Result<Self, BuildError> {
        let config = &config.config;
        let label = |name: &str| config.labels.get(name).map(String::as_str).unwrap_or_default();
        check_caps(label(CAPS), request)?;
        let quiet = matches!(label(NO_NETWORK), "1" | "t" | "T" | "true" | "TRUE" | "True");
        let args = match config.entrypoint.is_empty() {
            true => vec![DEFAULT_PROGRAM.to_owned()],
            false => config.entrypoint.clone(),
        };
        let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
        let mut env = config.env.clone();
        env.extend(environment(request, workers)?);
        Ok(Self {
            args,
            env,
            cwd: cwd.to_owned(),
            network: if quiet { NetMode::None } else { NetMode::Sandbox },
        })
    }
}

fn words(list: &str) -> BTreeSet<&str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn check_caps(offered: &str, request: &FrontendRequest) -> Result<(), BuildError> {
    let offered = words(offered);
    let mut needed = words(request.options.get(NEEDED).map(String::as_str).unwrap_or_default());
    if !request.inputs.is_empty() {
        needed.insert(INPUTS);
    }
    match needed.into_iter().find(|cap| !offered.contains(cap)) {
        None => Ok(()),
        Some(cap) => {
            Err(BuildError::new(ErrorCode::Unimplemented, format!("unsupported frontend capability {cap}"))
                .with(Detail::FrontendCap(cap.to_owned())))
        }
    }
}

fn environment(request: &FrontendRequest, workers: &WorkerInfo) -> Result<Vec<String>, BuildError> {
    let mut env = Vec::with_capacity(request.options.len() + 3);
    for (index, (name, value)) in request.options.iter().enumerate() {
        let variable = format!("BUILDKIT_FRONTEND_OPT_{index}={name}={value}");
        if variable.len() >= MAX_STRING {
            let text = format!(
                "the option `{name}` is {} bytes: too long for a frontend's environment",
                value.len()
            );
            return Err(BuildError::invalid(text));
        }
        env.push(variable);
    }
    env.push(format!("BUILDKIT_SESSION_ID={}", request.session_id));
    env.push(format!("BUILDKIT_WORKERS={}", workers_json(workers)));
    env.push("BUILDKIT_EXPORTEDPRODUCT=buildkit".to_owned());
    Ok(env)
}

fn workers_json(workers: &WorkerInfo) -> String {
    let workers: Vec<_> = (workers.iter())
        .map(|worker| {
            let platforms: Vec<_> = worker.platforms.iter().map(rbuild_llb::platform_from_wire).collect();
            json!({"id": worker.id, "labels": worker.labels, "platforms": platforms})
        })
        .collect();
    json!(workers).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rbuild_llb::Definition;

    use super::*;

    fn request(options: &[(&str, &str)]) -> FrontendRequest {
        FrontendRequest {
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            session_id: "s1".into(),
            ..FrontendRequest::default()
        }
    }

    fn config(labels: &[(&str, &str)]) -> ImageConfig {
        let mut config = ImageConfig::default();
        config.config.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        config
    }

    #[test]
    fn options_session_and_workers_are_in_the_environment() {
        let mut image = config(&[(NO_NETWORK, "true")]);
        image.config.env = vec!["A=b".into()];
        let contract =
            Contract::new(&image, &request(&[("target", "x=y"), ("build-arg:A", "")]), &Vec::new());
        let contract = contract.unwrap();
        assert_eq!(
            contract.env,
            [
                "A=b",
                "BUILDKIT_FRONTEND_OPT_0=build-arg:A=",
                "BUILDKIT_FRONTEND_OPT_1=target=x=y",
                "BUILDKIT_SESSION_ID=s1",
                "BUILDKIT_WORKERS=[]",
                "BUILDKIT_EXPORTEDPRODUCT=buildkit"
            ]
        );
        assert_eq!((contract.args, contract.cwd), (vec!["/run".to_owned()], "/".to_owned()));
        assert_eq!(contract.network, NetMode::None);
    }

    #[test]
    fn a_frontend_without_a_needed_capability_is_not_run() {
        let offered = config(&[(CAPS, "moby.buildkit.frontend.subrequests, x")]);
        let refused = |image: &ImageConfig, request: &FrontendRequest| {
            Contract::new(image, request, &Vec::new()).err().map(|error| error.to_string())
        };
        assert_eq!(refused(&offered, &request(&[(NEEDED, "x")])), None);
        let missing = refused(&offered, &request(&[(NEEDED, "x,y+forward")]));
        assert_eq!(missing.as_deref(), Some("unsupported frontend capability y+forward"));
        let mut with_inputs = request(&[]);
        with_inputs.inputs = BTreeMap::from([(
            "a".to_owned(),
            Definition { ops: Vec::new(), metadata: BTreeMap::new(), source: None },
        )]);
        assert!(refused(&offered, &with_inputs).unwrap().ends_with(INPUTS));
    }

    #[test]
    fn an_option_that_no_process_could_be_given_is_named() {
        let long = "x".repeat(MAX_STRING);
        let error = Contract::new(&config(&[]), &request(&[("big", &long)]), &Vec::new()).unwrap_err();
        assert!(error.to_string().contains("`big`"), "{error}");
    }
}
