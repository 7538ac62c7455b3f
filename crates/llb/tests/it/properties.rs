use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use prost::Message as _;
use rbuild_api::pb;
use rbuild_digest::Digest;
use rbuild_llb::*;

fn text() -> impl Strategy<Value = String> + Clone {
    "[a-z/*é]{0,6}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

fn owner(reach: u32) -> impl Strategy<Value = Option<Chown>> {
    let who = move || {
        let input = of(0..reach.max(1)).prop_map(move |i| i.filter(|i| *i < reach));
        prop_oneof![
            any::<u32>().prop_map(UserRef::Id),
            (text(), input).prop_map(|(name, input)| UserRef::Name { name, input })
        ]
    };
    of((of(who()), of(who())).prop_map(|(user, group)| Chown { user, group }))
}

fn time() -> impl Strategy<Value = Option<i64>> {
    of(any::<i64>().prop_filter("-1 says none", |t| *t != -1))
}

fn chmod() -> impl Strategy<Value = Chmod> {
    prop_oneof![
        Just(Chmod::Keep),
        (0..0o10000_u32).prop_map(Chmod::Bits),
        "[ugo]=[rwx]{1,3}".prop_map(Chmod::Symbolic)
    ]
}

fn action(reach: u32) -> impl Strategy<Value = FileActionKind> {
    let mode = || 0..0o10000_u32;
    prop_oneof![
        (text(), mode(), vec(any::<u8>(), 0..9), owner(reach), time()).prop_map(
            |(path, mode, data, owner, timestamp_ns)| FileActionKind::Mkfile(MkfileAction {
                path,
                mode,
                data: data.into(),
                owner,
                timestamp_ns
            })
        ),
        (text(), mode(), any::<bool>(), owner(reach), time()).prop_map(
            |(path, mode, make_parents, owner, timestamp_ns)| FileActionKind::Mkdir(MkdirAction {
                path,
                mode,
                make_parents,
                owner,
                timestamp_ns
            })
        ),
        (text(), any::<bool>(), any::<bool>()).prop_map(|(path, allow_not_found, allow_wildcard)| {
            FileActionKind::Rm(RmAction { path, allow_not_found, allow_wildcard })
        }),
        (text(), text(), owner(reach), time()).prop_map(|(old_path, new_path, owner, timestamp_ns)| {
            FileActionKind::Symlink(SymlinkAction { old_path, new_path, owner, timestamp_ns })
        }),
        (text(), text(), owner(reach), chmod(), any::<[bool; 7]>(), time(), texts(), texts(), texts())
            .prop_map(|(src, dest, owner, mode, flags, timestamp_ns, include, exclude, required)| {
                let [a, b, c, d, e, f, g] = flags;
                FileActionKind::Copy(Box::new(CopyAction {
                    src,
                    dest,
                    owner,
                    mode,
                    follow_symlink: a,
                    dir_copy_contents: b,
                    attempt_unpack: c,
                    create_dest_path: d,
                    allow_wildcard: e,
                    allow_empty_wildcard: f,
                    timestamp_ns,
                    include_patterns: include,
                    exclude_patterns: exclude,
                    always_replace_existing: g,
                    required_paths: required,
                }))
            }),
    ]
}

fn file() -> impl Strategy<Value = OpKind> {
    vec(action(0), 1..4).prop_map(|kinds| {
        let last = kinds.len() - 1;
        let actions = kinds.into_iter().enumerate().map(|(position, kind)| FileAction {
            input: (position > 0).then(|| position as u32 - 1),
            secondary_input: None,
            output: (position == last).then_some(0),
            kind,
        });
        OpKind::File(FileOp { actions: actions.collect() })
    })
}

fn mount_kind() -> impl Strategy<Value = MountKind> {
    let sharing =
        prop_oneof![Just(CacheSharing::Shared), Just(CacheSharing::Private), Just(CacheSharing::Locked)];
    let ids = || (text(), any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>());
    prop_oneof![
        Just(MountKind::Bind),
        (text(), sharing).prop_map(|(id, sharing)| MountKind::Cache { id, sharing }),
        (0..i64::MAX).prop_map(|size_bytes| MountKind::Tmpfs { size_bytes }),
        ids().prop_map(|(id, uid, gid, mode, optional)| MountKind::Secret(SecretMount {
            id,
            uid,
            gid,
            mode,
            optional
        })),
        ids().prop_map(|(id, uid, gid, mode, optional)| MountKind::Ssh(SshMount {
            id,
            uid,
            gid,
            mode,
            optional
        })),
    ]
}

fn exec() -> impl Strategy<Value = OpKind> {
    let mount = (text(), text(), any::<bool>(), mount_kind(), text());
    let network = prop_oneof![Just(NetMode::Sandbox), Just(NetMode::Host), Just(NetMode::None)];
    (vec(text(), 1..3), texts(), text(), vec(mount, 0..4), network, vec(any::<i32>(), 0..3), text()).prop_map(
        |(args, env, cwd, mounts, network, valid_exit_codes, host)| {
            let mut all = vec![("/".to_owned(), String::new(), false, MountKind::Bind, String::new())];
            all.extend(mounts);
            let mounts =
                all.into_iter().zip(0..).map(|((dest, selector, readonly, kind, result_id), number)| Mount {
                    input: None,
                    selector,
                    dest,
                    output: (!readonly && kind == MountKind::Bind).then_some(number),
                    readonly,
                    kind,
                    result_id,
                    content_cache: ContentCache::Default,
                });
            let extra_hosts = vec![HostIp { host: host.clone(), ip: "::1".into() }];
            let meta =
                ExecMeta { args, env, cwd, valid_exit_codes, extra_hosts, user: host, ..ExecMeta::default() };
            OpKind::Exec(Box::new(ExecOp { meta, mounts: mounts.collect(), network, ..ExecOp::default() }))
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let source = ("[a-z]{1,8}", btree_map(text(), text(), 0..4))
        .prop_map(|(id, attrs)| OpKind::Source(SourceOp::new(id, attrs)));
    let diff = Just(OpKind::Diff(DiffOp { lower: None, upper: None }));
    let build = btree_map(text(), text(), 0..3).prop_map(|attrs| {
        OpKind::Build(Box::new(BuildOp { builder: None, inputs: [].into(), definition: None, attrs }))
    });
    (prop_oneof![source, exec(), file(), diff, build], of(texts()))
        .prop_map(|(kind, constraints)| Op { constraints, ..Op::new(kind, vec![]) })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ops_survive_the_wire(op in op()) {
        let bytes = op.encode();
        let wire = pb::Op::decode(bytes.clone()).unwrap();
        prop_assert_eq!(&wire, &op.to_wire());
        let again = Op::from_wire(wire).unwrap();
        prop_assert_eq!(&again.encode(), &bytes);
        prop_assert_eq!(again, op);
    }

    #[test]
    fn random_bytes_never_panic(ops in vec(vec(any::<u8>(), 0..60), 0..4)) {
        let wire = pb::Definition { def: ops, ..Default::default() };
        if let Ok(definition) = Definition::from_wire(wire) {
            Graph::from_definition(&definition).unwrap();
            definition_to_json_lines(&definition).unwrap();
            definition_to_dot(&definition).unwrap();
        }
    }

    /// Nearly right definitions get further than random bytes.
    #[test]
    fn damaged_definitions_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = super::GOLDEN.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(definition) = Definition::decode(&bytes) {
            Definition::from_wire(definition.to_wire()).unwrap();
            definition_to_json_lines(&definition).unwrap();
        }
    }
}

#[test]
fn a_hundred_thousand_steps_need_no_stack() {
    const STEPS: usize = 100_000;
    let mut state = State::scratch();
    for i in 0..STEPS {
        let mkdir = MkdirAction { path: format!("/{i}"), mode: 0o755, ..MkdirAction::default() };
        state = state.file(FileActions::new().mkdir(mkdir), Constraints::default());
    }
    let definition = state.marshal(&super::options()).unwrap();
    drop(state);
    let graph = Graph::from_definition(&Definition::from_wire(definition.to_wire()).unwrap()).unwrap();
    assert_eq!(graph.len(), STEPS);
    assert_eq!(graph.terminal().unwrap().vertex.index(), STEPS - 1);
}

#[test]
fn shared_vertices_are_listed_once() {
    let base = State::image("busybox", ImageOptions::default()).unwrap();
    let branch = |name: &str| {
        let mkdir = MkdirAction { path: name.into(), ..MkdirAction::default() };
        base.file(FileActions::new().mkdir(mkdir), Constraints::default())
    };
    let merged = State::merge(&[branch("a"), branch("b"), branch("a")], Constraints::default());
    let definition = merged.marshal(&super::options()).unwrap();
    // The image, two directories (the third equals the first), the merge, the terminal.
    assert_eq!(definition.ops.len(), 5);
    let unique: std::collections::BTreeSet<Digest> = definition.ops.iter().map(Digest::of).collect();
    assert_eq!(unique.len(), 5);
    Definition::from_wire(definition.to_wire()).unwrap();
}

#[test]
fn states_that_cannot_run_are_errors() {
    let options = super::options();
    let empty = State::scratch().run(ExecOptions::default()).root();
    assert_eq!(empty.marshal(&options), Err(LlbError::Build(BuildProblem::NoArgs)));
    let none = State::scratch().file(FileActions::new(), Constraints::default());
    assert_eq!(none.marshal(&options), Err(LlbError::Build(BuildProblem::NoAction)));
    assert!(State::image("UPPER CASE", ImageOptions::default()).is_err());
    let run = State::scratch().run(ExecOptions { args: vec!["x".into()], ..ExecOptions::default() });
    assert!(run.mount("/nowhere").is_err());
}
