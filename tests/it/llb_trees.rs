//! Merge, diff, build and passthrough ops.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use prost::Message as _;
use rbuild_api::pb;
use rbuild_digest::Digest;
use rbuild_llb::{FileActions, LocalOptions, MarshalOptions, MkfileAction, State};
use rbuild_tests::llb::{busybox, changed, listing, made, plain, shell};
use rbuild_tests::{TestDaemon, TestSpace};

fn merge(states: &[&State]) -> State {
    let states: Vec<State> = states.iter().map(|state| (*state).clone()).collect();
    State::merge(&states, plain())
}

fn diff(lower: &State, upper: &State) -> State {
    State::diff(lower, upper, plain())
}

fn show(daemon: &TestDaemon, state: &State) -> Vec<String> {
    listing(daemon.solve_to_dir(state, &[]).path())
}

#[test]
fn root_a_merge_puts_one_tree_over_the_other() {
    let daemon = TestDaemon::start();
    let one = made(
        "echo 1 >both; mkdir -m 700 d; echo 1 >d/one; echo 1 >was-file; mkdir was-dir; echo x >was-dir/x",
    );
    let two =
        made("echo 2 >both; mkdir -m 755 d; chown 7:8 d; echo 2 >d/two; mkdir was-file; ln -s both was-dir");
    assert_eq!(
        show(&daemon, &merge(&[&one, &two])),
        [
            "644 0:0 both 2",
            "755 7:8 d/",
            "644 0:0 d/one 1",
            "644 0:0 d/two 2",
            "777 0:0 was-dir -> both",
            "755 0:0 was-file/",
        ]
    );
    // The last one wins, also where it is there twice; nothing adds nothing.
    let twice = show(&daemon, &merge(&[&one, &two, &one]));
    assert!(twice.contains(&"644 0:0 both 1".to_owned()), "{twice:?}");
    assert!(twice.contains(&"644 0:0 d/two 2".to_owned()), "{twice:?}");
    assert_eq!(show(&daemon, &merge(&[&State::scratch(), &one])), show(&daemon, &one));
}

#[test]
fn root_a_diff_is_what_was_done_and_can_be_done_elsewhere() {
    let daemon = TestDaemon::start();
    let base = made("mkdir -p a/b e; echo 1 >a/1; echo 2 >a/b/2; echo 5 >e/5");
    let upper = changed(&base, "rm a/1; rm -r a/b; echo n >e/new; chmod 600 e/5");
    let done = diff(&base, &upper);
    assert_eq!(show(&daemon, &done), ["755 0:0 a/", "755 0:0 e/", "600 0:0 e/5 5", "644 0:0 e/new n"]);
    assert_eq!(show(&daemon, &merge(&[&base, &done])), show(&daemon, &upper));
    let other = made("mkdir -p a/b; echo o >a/1; echo o >a/o; echo o >a/b/o");
    assert_eq!(
        show(&daemon, &merge(&[&other, &done])),
        ["755 0:0 a/", "644 0:0 a/o o", "755 0:0 e/", "600 0:0 e/5 5", "644 0:0 e/new n"]
    );
    assert_eq!(show(&daemon, &diff(&State::scratch(), &base)), show(&daemon, &base));
    assert!(show(&daemon, &diff(&base, &State::scratch())).is_empty());
    assert!(show(&daemon, &diff(&base, &base)).is_empty());
}

#[test]
fn root_a_diff_of_trees_that_share_nothing_turns_one_into_the_other() {
    let daemon = TestDaemon::start();
    let one = made(
        "mkdir -p d/e; echo 1 >d/1; echo same >d/same; echo 1 >d/e/1; touch -d '2020-01-01 00:00:00' d/same",
    );
    let two = made(
        "mkdir -p d/f; echo 2 >d/2; echo same >d/same; ln -s x d/l; touch -d '2020-01-01 00:00:00' d/same",
    );
    let across = diff(&one, &two);
    assert_eq!(show(&daemon, &across), ["755 0:0 d/", "644 0:0 d/2 2", "755 0:0 d/f/", "777 0:0 d/l -> x"]);
    assert_eq!(show(&daemon, &merge(&[&one, &across])), show(&daemon, &two));
    // Over a tree without `d`, what it removes there is not seen by anybody.
    let beside = merge(&[&made("echo z >z"), &across]);
    let seen = busybox_list(&daemon, &beside);
    assert_eq!(seen, "./\n./d\n./d/2\n./d/f\n./d/l\n./z\n".replace("./\n", ".\n"));
}

/// As a step sees it.
fn busybox_list(daemon: &TestDaemon, state: &State) -> String {
    let list = changed(state, "find . | sort >/tmp/list; mv /tmp/list list; ls -laR >/dev/null");
    let dir = daemon.solve_to_dir(&list, &[]);
    dir.read("list")
}

#[test]
fn root_a_directory_that_was_replaced_takes_only_its_own_files_away() {
    let daemon = TestDaemon::start();
    let base = made("mkdir -p a/b; echo 1 >a/1; echo 2 >a/b/2");
    let replaced = changed(&base, "rm -r a; mkdir -p a/b; echo new >a/b/new");
    let other = made("mkdir -p a/b/q; echo o >a/o; echo o >a/1; echo o >a/b/2");
    let expected = ["755 0:0 a/", "755 0:0 a/b/", "644 0:0 a/b/new new", "755 0:0 a/b/q/", "644 0:0 a/o o"];
    assert_eq!(show(&daemon, &merge(&[&other, &diff(&base, &replaced)])), expected);
    // The same without a diff, but then the base is brought along, and taken away again.
    assert_eq!(show(&daemon, &merge(&[&other, &replaced])), expected);
}

#[test]
fn root_steps_run_over_merges_and_merges_take_no_space() {
    let daemon = TestDaemon::start();
    let one = made("head -c 3000000 /dev/urandom >big; echo 1 >f");
    let two = made("echo 2 >f; mkdir d");
    let both = merge(&[&one, &two]);
    let over = changed(&both, "rm f; mv d e; stat -c %s big >size");
    let dir = daemon.solve_to_dir(&over, &[]);
    assert_eq!(dir.read("size"), "3000000\n");
    assert!(!dir.at("f").exists() && dir.at("e").is_dir());
    // Exported as an image, the layers are those of the inputs.
    let blocks = || disk_blocks(&daemon.root().join("snapshots"));
    let before = blocks();
    let again = merge(&[&two, &one]);
    daemon.solve(&changed(&again, "test -s big"), &[]).success();
    assert!(blocks() - before < 2_000, "the merge was copied: {} blocks", blocks() - before);
}

fn disk_blocks(dir: &std::path::Path) -> u64 {
    let mut sum = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            sum += meta.blocks();
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    sum
}

#[test]
fn root_a_passthrough_waits_for_what_it_requires() {
    let daemon = TestDaemon::start();
    let wanted = made("echo wanted >f");
    let required = busybox().run(shell("echo was-run", vec![])).root();
    let both = wanted.requires("gate", &[required], plain());
    let output = daemon.solve(&both, &["--output=type=cacheonly"]);
    output.success().has("was-run");
    assert_eq!(show(&daemon, &both), ["644 0:0 f wanted"]);
    let failing = busybox().run(shell("exit 9", vec![])).root();
    daemon.solve(&wanted.requires("gate", &[failing], plain()), &[]).failure().has("exit code: 9");
}

/// A build op over a file of an input, made by hand: the builder has none.
fn build_op(input: &State, attrs: &[(&str, &str)], builder: i64) -> pb::Definition {
    let mut definition = input.marshal(&MarshalOptions::default()).unwrap().to_wire();
    let head = definition.def.pop().unwrap();
    let inputs = pb::Op::decode(&head[..]).unwrap().inputs;
    let named = ("buildkit.llb.definition".to_owned(), pb::BuildInput { input: 0 });
    let build = pb::BuildOp {
        builder,
        inputs: BTreeMap::from([named]),
        def: None,
        attrs: attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    let op = pb::Op { inputs, op: Some(pb::op::Op::Build(build)), ..pb::Op::default() }.encode_to_vec();
    let digest = Digest::of(&op).to_string();
    definition.def.push(op);
    let head = pb::Op { inputs: vec![pb::Input { digest, index: 0 }], ..pb::Op::default() };
    definition.def.push(head.encode_to_vec());
    definition
}

fn solve_wire(daemon: &TestDaemon, definition: &pb::Definition, args: &[&str]) -> rbuild_tests::TestOutput {
    let space = TestSpace::new();
    space.write("definition", definition.encode_to_vec());
    let mut all = vec!["solve", "--progress=plain"];
    all.extend(args);
    daemon.ctl_with(space.path(), &all, std::fs::File::open(space.at("definition")).unwrap())
}

/// A tree with a definition in it.
fn with_definition(name: &str, state: &State) -> State {
    let data = state.marshal(&MarshalOptions::default()).unwrap().encode().into();
    let file = MkfileAction { path: format!("/{name}"), mode: 0o644, data, ..MkfileAction::default() };
    State::scratch().file(FileActions::new().mkfile(file), plain())
}

#[test]
fn root_a_build_op_solves_the_definition_that_it_finds() {
    let daemon = TestDaemon::start();
    let inner = busybox().run(shell("echo inner-ran; echo result >/result", vec![])).root();
    for (name, attrs) in
        [("buildkit.llb.definition", vec![]), ("other", vec![("llbbuild.filename", "other")])]
    {
        let out = TestSpace::new();
        let output = format!("--output=type=local,dest={}", out.path().display());
        let outer = build_op(&with_definition(name, &inner), &attrs, -1);
        let done = solve_wire(&daemon, &outer, &[&output]).success();
        assert_eq!(out.read("result"), "result\n");
        assert_eq!(done.cached("inner-ran"), name == "other", "it is a step like any other");
    }
    // One within the other; files of the client; failures keep their words; rights are the build's.
    let local = State::local("files", LocalOptions::default());
    let space = TestSpace::new();
    space.write("x", "from the client");
    let mut middle = with_definition("buildkit.llb.definition", &local);
    let wire = build_op(&middle, &[], -1);
    let data = wire.encode_to_vec().into();
    let file = MkfileAction {
        path: "/buildkit.llb.definition".into(),
        mode: 0o644,
        data,
        ..MkfileAction::default()
    };
    middle = State::scratch().file(FileActions::new().mkfile(file), plain());
    let out = TestSpace::new();
    let (output, files) = (
        format!("--output=type=local,dest={}", out.path().display()),
        format!("--local=files={}", space.path().display()),
    );
    solve_wire(&daemon, &build_op(&middle, &[], -1), &[&output, &files]).success();
    assert_eq!(out.read("x"), "from the client");
}

#[test]
fn root_what_a_build_op_cannot_do_is_said() {
    let daemon = TestDaemon::start();
    let refused = |definition: &pb::Definition, text: &str| {
        solve_wire(&daemon, definition, &[]).failure().has(text);
    };
    let failing = busybox().run(shell("exit 5", vec![])).root();
    refused(&build_op(&with_definition("buildkit.llb.definition", &failing), &[], -1), "exit code: 5");
    let host = busybox().network(rbuild_llb::NetMode::Host).run(shell("true", vec![])).root();
    refused(
        &build_op(&with_definition("buildkit.llb.definition", &host), &[], -1),
        "network.host is not allowed",
    );
    refused(&build_op(&with_definition("elsewhere", &failing), &[], -1), "buildkit.llb.definition");
    refused(&build_op(&made("echo junk >buildkit.llb.definition"), &[], -1), "is not a build definition");
    refused(&build_op(&with_definition("buildkit.llb.definition", &failing), &[], 0), "builder of its own");
}
