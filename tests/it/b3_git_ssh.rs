//! Repositories over ssh: the client's agent, and hosts that are not who they should be.
use std::collections::BTreeMap;

use prost::Message as _;
use rbuild_api::pb;
use rbuild_digest::Digest;
use rbuild_tests::{TestDaemon, TestOutput, TestSpace, TestSsh};

use crate::b3_git::{build, sample, try_build};

#[test]
fn repositories_are_reached_over_ssh_with_the_clients_agent() {
    let daemon = TestDaemon::start();
    let ssh = TestSsh::start();
    let (repo, first, _) = sample();
    let url = ssh.url(&repo.space.at(".git"));
    let agent = format!("default={}", ssh.agent());
    let (_, out) = build(&daemon, &format!("{url}#{first}"), &["--ssh", &agent]);
    assert_eq!(out.read("who"), "one");
    let (refused, _) = try_build(&daemon, &format!("{url}#main"), &[]);
    refused.failure().has("build with --ssh default");
}

#[test]
fn the_agent_of_the_clients_environment_is_the_default() {
    let daemon = TestDaemon::start();
    let ssh = TestSsh::start();
    let (repo, ..) = sample();
    let url = ssh.url(&repo.space.at(".git"));
    let (here, out) = (TestSpace::new(), TestSpace::new());
    let dest = format!("type=local,dest={}", out.path().display());
    let args = ["build", "--progress=plain", "--ssh", "default", "-o", &dest, &url];
    let output = daemon.client(here.path(), &args).env("SSH_AUTH_SOCK", ssh.agent()).output().unwrap();
    TestOutput::new(args.join(" "), &output).success();
    assert_eq!(out.read("who"), "two");
}

/// A build of just a repository, with the hosts that it is believed to be at.
fn solve(daemon: &TestDaemon, ssh: &TestSsh, url: &str, known_hosts: &str) -> (TestOutput, TestSpace) {
    let attrs = [("git.fullurl", url), ("git.mountsshsock", "default"), ("git.knownsshhosts", known_hosts)];
    let attrs: BTreeMap<String, String> =
        attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (_, place) = url.split_once("://").expect("an address");
    let (_, place) = place.split_once('@').expect("a user");
    let source = pb::SourceOp { identifier: format!("git://{place}"), attrs: attrs.into_iter().collect() };
    let source = pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }.encode_to_vec();
    let input = pb::Input { digest: Digest::of(&source).to_string(), index: 0 };
    let terminal = pb::Op { inputs: vec![input], ..Default::default() }.encode_to_vec();
    let definition = pb::Definition { def: vec![source, terminal], ..Default::default() };
    let (here, out) = (TestSpace::new(), TestSpace::new());
    here.write("definition", definition.encode_to_vec());
    let dest = format!("--output=type=local,dest={}", out.path().display());
    let agent = format!("--ssh=default={}", ssh.agent());
    let args = ["solve", "--progress=plain", &agent, &dest];
    let input = std::fs::File::open(here.at("definition")).unwrap();
    (daemon.ctl_with(here.path(), &args, input), out)
}

#[test]
fn a_host_with_another_key_than_the_known_one_is_refused() {
    let daemon = TestDaemon::start();
    let ssh = TestSsh::start();
    let (repo, ..) = sample();
    let url = ssh.url(&repo.space.at(".git"));
    let (own, other) = ssh.keys();
    let (wrong, _) = solve(&daemon, &ssh, &url, &ssh.known_host(&other));
    wrong.failure().has("Host key verification failed").has("not among the known hosts of this source");
    let (unknown, _) = solve(&daemon, &ssh, &url, "elsewhere.example ssh-ed25519 AAAA\n");
    unknown.failure().has("not among the known hosts of this source");
    let (output, out) = solve(&daemon, &ssh, &url, &ssh.known_host(&own));
    output.success();
    assert_eq!(out.read("who"), "two");
}
