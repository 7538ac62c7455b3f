use rbuild_llb::{Definition, ExecOptions, MarshalOptions, State};

use super::*;

struct Place {
    _dir: tempfile::TempDir,
    memory: Memory,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path().join("explain")).unwrap();
        Self { _dir: dir, memory }
    }
}

/// Name, command, environment.
type Step<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

fn chain(steps: &[Step<'_>]) -> Definition {
    let mut state = State::image("docker.io/library/busybox:latest", Default::default()).unwrap();
    for (name, command, env) in steps {
        for (key, value) in *env {
            state = state.add_env(key, value);
        }
        let options = ExecOptions {
            args: vec!["/bin/sh".into(), "-c".into(), (*command).to_owned()],
            constraints: rbuild_llb::Constraints::default().custom_name((*name).to_owned()),
            ..ExecOptions::default()
        };
        state = state.run(options).root();
    }
    state.marshal(&MarshalOptions::default()).unwrap()
}

fn names(explained: &[Explained]) -> Vec<(&str, &[Cause])> {
    explained.iter().map(|step| (step.name.as_str(), step.causes.as_slice())).collect()
}

/// Runs the steps whose names begin with one of `ran`.
fn build(place: &Place, definition: &Definition, ran: &[&str], args: &[(&str, &str)]) -> Vec<Explained> {
    let graph = Arc::new(Graph::from_definition(definition).unwrap());
    let explainer = Explainer::default();
    for vertex in graph.vertices() {
        if ran.iter().any(|name| vertex.name().starts_with(name)) {
            explainer.ran(vertex.digest);
        }
    }
    explainer.solves(graph);
    let args = BuildArgs(args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    explainer.finish(&place.memory, &Digest::of("target"), &args)
}

fn field(field: &str, before: Option<&str>, after: Option<&str>) -> Cause {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Cause::Field { field: field.into(), before: owned(before), after: owned(after) }
}

#[test]
fn the_field_that_changed_is_named_and_what_follows_points_to_it() {
    let place = Place::new();
    let one = chain(&[("[1/2] RUN a", "a", &[]), ("[2/2] RUN b", "b", &[])]);
    let first = build(&place, &one, &["["], &[]);
    assert!(first.iter().all(|step| step.causes == [Cause::First]), "{first:?}");
    let two = chain(&[("[1/2] RUN aa", "aa", &[]), ("[2/2] RUN b", "b", &[])]);
    let second = build(&place, &two, &["["], &[]);
    let changed = [field("command", Some("a"), Some("aa"))];
    let follows = [Cause::Before { step: "[1/2] RUN aa".into() }];
    assert_eq!(names(&second), [("[1/2] RUN aa", &changed[..]), ("[2/2] RUN b", &follows[..])]);
    assert!(second[0].is_root() && !second[1].is_root());
}

#[test]
fn build_arguments_are_told_from_other_variables() {
    let place = Place::new();
    build(&place, &chain(&[("[1/1] RUN a", "a", &[("V", "1"), ("W", "1")])]), &["["], &[]);
    let changed = chain(&[("[1/1] RUN a", "a", &[("V", "2"), ("W", "2")])]);
    let explained = build(&place, &changed, &["["], &[("V", "2")]);
    let arg = Cause::BuildArg { name: "V".into(), before: Some("1".into()), after: Some("2".into()) };
    assert_eq!(explained[0].causes, [arg, field("env W", Some("1"), Some("2"))]);
}

#[test]
fn what_ran_without_a_difference_was_not_kept() {
    let place = Place::new();
    let definition = chain(&[("[1/1] RUN a", "a", &[])]);
    build(&place, &definition, &["["], &[]);
    assert_eq!(build(&place, &definition, &["["], &[])[0].causes, [Cause::NotKept]);
}

#[test]
fn files_that_were_read_are_compared_path_by_path() {
    let place = Place::new();
    let definition = chain(&[("[1/1] RUN a", "a", &[])]);
    let graph = Arc::new(Graph::from_definition(&definition).unwrap());
    let vertex = graph.vertices().iter().find(|vertex| vertex.name().starts_with('[')).unwrap().digest;
    let run = |files: &[(&str, &str)]| {
        let files: FileList = files.iter().map(|(p, d)| (p.as_bytes().to_vec(), Digest::of(d))).collect();
        let explainer = Explainer::default();
        explainer.ran(vertex);
        explainer.solves(graph.clone());
        explainer.reads(&vertex, 0, &Digest::of(format!("{files:?}")), Some(&files));
        explainer.finish(&place.memory, &Digest::of("t"), &BuildArgs::default()).remove(0).causes
    };
    run(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let expected = FileChanges {
        added: vec!["d".into()],
        removed: vec!["a".into()],
        changed: vec!["b".into()],
        total: 3,
    };
    assert_eq!(run(&[("b", "2"), ("c", "1"), ("d", "1")]), [Cause::Files(expected)]);
}
