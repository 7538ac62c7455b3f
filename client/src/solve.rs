//! `rbuildctl solve`: a definition from standard input, or a frontend with raw options.

use std::collections::BTreeMap;
use std::io::Read as _;

use prost::Message as _;
use rbuild_api::moby::buildkit::v1::SolveRequest;
use rbuild_api::pb;

use crate::cache::Caches;
use crate::cli::{ConnectionArgs, SolveArgs};
use crate::errors::CommandError;
use crate::run::{self, Look, Offer};
use crate::spec::{self, Output};
use crate::{connect, policy};

/// Solves.
pub(crate) async fn solve(connection: &ConnectionArgs, args: SolveArgs) -> Result<(), CommandError> {
    let mode = run::mode(&args.progress)?;
    let mut frontend_attrs = BTreeMap::new();
    for text in &args.opt {
        let (name, value) = spec::pair("--opt", text)?;
        frontend_attrs.insert(name.to_owned(), value.to_owned());
    }
    if args.no_cache {
        frontend_attrs.insert("no-cache".into(), String::new());
    }
    let mut dirs = Vec::new();
    for text in &args.local {
        let (name, path) = spec::pair("--local", text)?;
        dirs.push((name.to_owned(), path.into()));
    }
    let definition = match args.frontend.is_empty() {
        false => None,
        true => Some(definition(args.no_cache)?),
    };
    let shared = args.local.first().and_then(|text| text.split_once('='));
    let caches = Caches::parse(&args.import_cache, &args.export_cache)?;
    if !args.frontend.is_empty() {
        frontend_attrs.extend(caches.frontend_attribute());
    }
    let offer = Offer {
        dirs,
        secrets: args.secret.clone(),
        ssh: args.ssh.clone(),
        outputs: args.output.iter().map(|text| Output::parse(text)).collect::<Result<_, _>>()?,
        caches,
        shared_key: shared.map(|(_, path)| run::shared_key(path.as_ref())).unwrap_or_default(),
        ..Offer::default()
    };
    let request = SolveRequest {
        frontend: args.frontend.clone(),
        frontend_attrs,
        definition,
        entitlements: args.allow.clone(),
        source_policy: args.source_policy_file.as_deref().map(policy::read).transpose()?,
        ..Default::default()
    };
    let connected = connect::connect(connection, false).await?;
    let finished = run::run(&connected, &offer, Look::of(mode), request).await;
    let outcome = finished.and_then(|finished| match &args.metadata_file {
        Some(path) => run::write_metadata(path, &finished),
        None => Ok(()),
    });
    connected.close().await;
    outcome
}

fn definition(no_cache: bool) -> Result<pb::Definition, CommandError> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(
            CommandError::usage("no definition on standard input").hint("pipe one in, or name a --frontend")
        );
    }
    let mut definition = pb::Definition::decode(&bytes[..])
        .map_err(|error| CommandError::new(format!("standard input is not a definition: {error}")))?;
    if no_cache {
        for op in &definition.def {
            let digest = rbuild_digest::Digest::of(op).to_string();
            definition.metadata.entry(digest).or_default().ignore_cache = true;
        }
    }
    Ok(definition)
}
