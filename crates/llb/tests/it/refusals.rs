//! What a definition from outside must not get past the decoder with.

use prost::Message as _;
use rbuild_api::pb;
use rbuild_digest::Digest;
use rbuild_llb::{Definition, LlbError, Op, OpError};

fn source(name: &str) -> pb::Op {
    let source = pb::SourceOp { identifier: name.into(), ..Default::default() };
    pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }
}

fn input(op: &pb::Op, index: i64) -> pb::Input {
    pb::Input { digest: Digest::of(op.encode_to_vec()).to_string(), index }
}

fn definition(ops: &[pb::Op]) -> pb::Definition {
    pb::Definition { def: ops.iter().map(|op| op.encode_to_vec()).collect(), ..Default::default() }
}

/// The ops and a terminal on the last of them.
fn closed(mut ops: Vec<pb::Op>) -> pb::Definition {
    let terminal = pb::Op { inputs: vec![input(ops.last().unwrap(), 0)], ..Default::default() };
    ops.push(terminal);
    definition(&ops)
}

fn refuse(wire: pb::Definition) -> LlbError {
    Definition::from_wire(wire).unwrap_err()
}

fn refuse_op(op: pb::Op) -> OpError {
    match refuse(closed(vec![op])) {
        LlbError::Op { source, .. } => source,
        other => panic!("{other}"),
    }
}

fn mount(dest: &str) -> pb::Mount {
    pb::Mount { dest: dest.into(), input: -1, output: -1, ..Default::default() }
}

fn exec(change: impl FnOnce(&mut pb::ExecOp)) -> pb::Op {
    let meta = pb::Meta { args: vec!["true".into()], cwd: "/".into(), ..Default::default() };
    let mut exec = pb::ExecOp { meta: Some(meta), mounts: vec![mount("/")], ..Default::default() };
    exec.mounts[0].output = 0;
    change(&mut exec);
    pb::Op { op: Some(pb::op::Op::Exec(exec)), ..Default::default() }
}

fn file(change: impl FnOnce(&mut pb::FileAction)) -> pb::Op {
    let rm = pb::FileActionRm { path: "/x".into(), ..Default::default() };
    let mut action = pb::FileAction {
        input: -1,
        secondary_input: -1,
        output: 0,
        action: Some(pb::file_action::Action::Rm(rm)),
    };
    change(&mut action);
    pb::Op { op: Some(pb::op::Op::File(pb::FileOp { actions: vec![action] })), ..Default::default() }
}

fn of(kind: pb::op::Op) -> pb::Op {
    pb::Op { op: Some(kind), ..Default::default() }
}

#[test]
fn legal_ops_pass() {
    for op in [source("x"), exec(|_| {}), file(|_| {})] {
        Definition::from_wire(closed(vec![op])).unwrap();
    }
    assert!(Definition::from_wire(pb::Definition::default()).unwrap().is_scratch());
}

#[test]
fn indices_out_of_range_are_refused() {
    for bad in [-2, 1, i64::MAX, i64::MIN, 1 << 32] {
        let cases = [
            exec(|e| e.mounts[0].input = bad),
            exec(|e| e.mounts[0].output = bad),
            file(|f| f.input = bad),
            file(|f| f.secondary_input = bad),
            file(|f| f.output = bad),
            of(pb::op::Op::Merge(pb::MergeOp { inputs: vec![pb::MergeInput { input: bad }] })),
            of(pb::op::Op::Diff(pb::DiffOp {
                lower: Some(pb::LowerDiffInput { input: bad }),
                upper: Some(pb::UpperDiffInput { input: -1 }),
            })),
            of(pb::op::Op::Build(pb::BuildOp { builder: bad, ..Default::default() })),
            of(pb::op::Op::Passthrough(pb::PassthroughOp { id: "x".into(), outputs: vec![bad] })),
        ];
        for op in cases {
            assert!(matches!(refuse_op(op), OpError::Index { index, .. } if index == bad));
        }
    }
}

#[test]
fn unknown_enums_are_refused() {
    for bad in [-1, 9, i32::MAX] {
        let cases = [
            exec(|e| e.network = bad),
            exec(|e| e.security = bad),
            exec(|e| e.mounts[0].mount_type = bad),
            exec(|e| e.mounts[0].content_cache = bad),
            exec(|e| {
                let mut cache = mount("/c");
                cache.mount_type = pb::MountType::Cache.into();
                cache.cache_opt = Some(pb::CacheOpt { id: "c".into(), sharing: bad });
                e.mounts.push(cache);
            }),
        ];
        for op in cases {
            assert!(matches!(refuse_op(op), OpError::UnknownEnum { value, .. } if value == bad));
        }
    }
}

#[test]
fn missing_parts_are_refused() {
    let cases = [
        exec(|e| e.meta = None),
        exec(|e| e.meta.as_mut().unwrap().args.clear()),
        exec(|e| e.mounts.clear()),
        exec(|e| e.mounts[0].dest = "/x".into()),
        exec(|e| e.mounts.push(pb::Mount { mount_type: pb::MountType::Secret.into(), ..mount("/s") })),
        file(|f| f.action = None),
        of(pb::op::Op::File(pb::FileOp::default())),
        of(pb::op::Op::Source(pb::SourceOp::default())),
        of(pb::op::Op::Merge(pb::MergeOp::default())),
        of(pb::op::Op::Diff(pb::DiffOp { lower: None, upper: None })),
        of(pb::op::Op::Passthrough(pb::PassthroughOp::default())),
    ];
    for op in cases {
        assert!(matches!(refuse_op(op), OpError::Missing(_)));
    }
    assert_eq!(refuse_op(pb::Op::default()), OpError::UnknownKind);
}

#[test]
fn outputs_are_given_once() {
    let twice = exec(|e| e.mounts.push(pb::Mount { output: 0, ..mount("/x") }));
    assert_eq!(refuse_op(twice), OpError::DuplicateOutput(0));
}

#[test]
fn graphs_that_do_not_hold_together_are_refused() {
    let (a, b) = (source("a"), source("b"));
    let user = |input: pb::Input| pb::Op { inputs: vec![input], ..exec(|e| e.mounts[0].input = 0) };
    assert!(matches!(refuse(closed(vec![user(input(&b, 0))])), LlbError::MissingInput { .. }));
    assert!(matches!(refuse(closed(vec![a.clone(), a.clone()])), LlbError::DuplicateOp(_)));
    let beyond = refuse(closed(vec![a.clone(), user(input(&a, 1))]));
    assert!(matches!(beyond, LlbError::NoSuchOutput { index: 1, outputs: 1, .. }));
    assert_eq!(refuse(definition(std::slice::from_ref(&a))), LlbError::NoTerminal);
    assert_eq!(refuse(definition(&[a.clone(), pb::Op::default()])), LlbError::NoTerminal);
    let negative = user(pb::Input { index: -1, ..input(&a, 0) });
    let refused = refuse(closed(vec![a.clone(), negative]));
    assert!(matches!(refused, LlbError::Op { source: OpError::Range { .. }, .. }));
    let nameless = user(pb::Input { digest: "sha256:x".into(), index: 0 });
    assert!(matches!(refuse(closed(vec![a, nameless])), LlbError::Op { source: OpError::Digest(_), .. }));
}

#[test]
fn maps_are_keyed_by_digests_and_locations_by_sources() {
    let mut wire = closed(vec![source("a")]);
    wire.metadata.insert("x".into(), pb::OpMetadata::default());
    assert!(matches!(refuse(wire), LlbError::Key { map: "metadata", .. }));
    let mut wire = closed(vec![source("a")]);
    let location = pb::Location { source_index: 1, ranges: vec![] };
    let locations = [(Digest::of("x").to_string(), pb::Locations { locations: vec![location] })];
    wire.source = Some(pb::Source { locations: locations.into(), infos: vec![] });
    assert!(matches!(refuse(wire), LlbError::SourceIndex { index: 1, count: 0, .. }));
}

#[test]
fn definitions_within_definitions_end_somewhere() {
    let mut wire = closed(vec![source("a")]);
    for _ in 0..1_000 {
        let build = pb::BuildOp { builder: -1, def: Some(wire), ..Default::default() };
        wire = closed(vec![of(pb::op::Op::Build(build))]);
    }
    let mut error = refuse(wire);
    while let LlbError::Op { source: OpError::Nested(inner), .. } = error {
        error = *inner;
    }
    assert!(matches!(error, LlbError::NestedTooDeep(_)));
}

#[test]
fn too_many_or_too_large_ops_are_refused() {
    let many = pb::Definition { def: vec![vec![]; rbuild_llb::MAX_OPS + 1], ..Default::default() };
    assert!(matches!(refuse(many), LlbError::TooManyOps { .. }));
    let large = source(&"x".repeat(rbuild_llb::MAX_OP_BYTES));
    assert!(matches!(refuse(closed(vec![large])), LlbError::OpTooLarge { index: 0, .. }));
}

#[test]
fn too_many_sources_are_refused() {
    let with = |count: usize| pb::Definition {
        source: Some(pb::Source { infos: vec![pb::SourceInfo::default(); count], ..Default::default() }),
        ..Default::default()
    };
    assert!(matches!(refuse(with(1_001)), LlbError::TooManySources { count: 1_001, limit: 1_000 }));
    assert!(rbuild_llb::Definition::from_wire(with(1_000)).is_ok());
}

#[test]
fn unreachable_ops_are_checked_and_left_out() {
    let graph = rbuild_llb::Graph::from_definition(
        &Definition::from_wire(closed(vec![source("unused"), source("a")])).unwrap(),
    );
    assert_eq!(graph.unwrap().len(), 1);
    let wire = closed(vec![exec(|e| e.network = 7), source("a")]);
    assert!(matches!(refuse(wire), LlbError::Op { source: OpError::UnknownEnum { .. }, .. }));
}

#[test]
fn clients_that_leave_the_output_of_a_secret_at_zero_pass() {
    let op = exec(|e| {
        e.mounts.push(pb::Mount {
            output: 0,
            mount_type: pb::MountType::Secret.into(),
            secret_opt: Some(pb::SecretOpt::default()),
            ..mount("/s")
        });
    });
    let op = Op::from_wire(op).unwrap();
    assert_eq!(op.output_count(), 1);
    assert_eq!(op.to_wire().encode_to_vec(), {
        let again = Op::from_wire(op.to_wire()).unwrap();
        again.to_wire().encode_to_vec()
    });
}
