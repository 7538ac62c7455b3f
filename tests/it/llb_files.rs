//! Every action of a file op and every attribute of a copy, once, and every refusal.

use std::os::unix::fs::MetadataExt as _;

use rbuild_llb::{
    Chmod, Chown, CopyAction, FileActions, MkdirAction, MkfileAction, RmAction, State, SymlinkAction, UserRef,
};
use rbuild_tests::llb::{busybox, listing, made, plain};
use rbuild_tests::{TestDaemon, TestSpace};

/// 2017-07-14, and a half second.
const TIME_NS: i64 = 1_500_000_000_500_000_000;

fn acts(base: &State, actions: FileActions) -> State {
    base.file(actions, plain())
}

fn by_id(user: u32, group: u32) -> Option<Chown> {
    Some(Chown { user: Some(UserRef::Id(user)), group: Some(UserRef::Id(group)) })
}

fn by_name(user: &str, group: Option<&str>) -> Option<Chown> {
    let name = |name: &str| UserRef::Name { name: name.into(), input: Some(0) };
    Some(Chown { user: Some(name(user)), group: group.map(name) })
}

fn mtime(dir: &TestSpace, path: &str) -> i64 {
    dir.at(path).symlink_metadata().unwrap().mtime()
}

/// Where copies come from.
fn source() -> State {
    made(
        "mkdir -p p/q/r p/empty; echo 1 >p/one.txt; echo 2 >p/two.go; echo 3 >p/q/three.txt; echo 4 >p/q/r/four.txt; \
         chmod 640 p/one.txt; chown 9:9 p/two.go; ln -s q p/link; tar -cf a.tar p/q; echo text >no.tar",
    )
}

#[test]
fn root_files_directories_and_links_are_made_as_asked() {
    let daemon = TestDaemon::start();
    let actions = FileActions::new()
        .mkdir(MkdirAction {
            path: "/a/b".into(),
            mode: 0o750,
            make_parents: true,
            owner: by_id(3, 4),
            timestamp_ns: Some(TIME_NS),
        })
        .mkfile(MkfileAction {
            path: "/f".into(),
            mode: 0o604,
            data: b"data"[..].into(),
            owner: by_id(5, 6),
            timestamp_ns: Some(TIME_NS),
        })
        .symlink(SymlinkAction {
            old_path: "../f".into(),
            new_path: "/a/l".into(),
            owner: by_id(7, 8),
            timestamp_ns: Some(TIME_NS),
        });
    let dir = daemon.solve_to_dir(&acts(&State::scratch(), actions), &[]);
    assert_eq!(listing(dir.path()), ["750 3:4 a/", "750 3:4 a/b/", "777 7:8 a/l -> ../f", "604 5:6 f data"]);
    for path in ["a/b", "a/l", "f"] {
        assert_eq!(mtime(&dir, path), 1_500_000_000, "{path}");
    }
    // Owners by name are those of the tree that is changed.
    let named = MkfileAction {
        path: "/f".into(),
        mode: 0o600,
        owner: by_name("user", Some("staff")),
        ..MkfileAction::default()
    };
    let only = acts(&busybox(), FileActions::new().mkfile(named));
    let dir = daemon.solve_to_dir(&only, &[]);
    assert!(
        listing(dir.path()).contains(&"600 1000:50 f".to_owned())
            || listing(dir.path()).contains(&"600 1000:50 f ".to_owned())
    );
}

#[test]
fn root_removal_does_what_it_is_allowed_to() {
    let daemon = TestDaemon::start();
    let rm = |path: &str, allow_not_found, allow_wildcard| {
        let action = RmAction { path: path.into(), allow_not_found, allow_wildcard };
        acts(&source(), FileActions::new().rm(action))
    };
    let names = |state: &State| -> Vec<String> {
        let dir = daemon.solve_to_dir(state, &[]);
        let mut names: Vec<_> = std::fs::read_dir(dir.at("p"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&rm("/p/*.*", false, true)), ["empty", "link", "q"]);
    assert_eq!(names(&rm("/p/q", false, false)), ["empty", "link", "one.txt", "two.go"]);
    assert_eq!(
        names(&rm("/p/link", false, false)),
        ["empty", "one.txt", "q", "two.go"],
        "the link, not what it leads to"
    );
    assert_eq!(names(&rm("/p/none", true, false)).len(), 5);
    daemon.solve(&rm("/p/none", false, false), &[]).failure().has("not found");
    assert_eq!(names(&rm("/p/*.*", true, false)).len(), 5, "without wildcards it is a name");
}

fn copy(base: &State, action: CopyAction) -> State {
    acts(base, FileActions::new().copy(&source(), action))
}

/// Contents of `/p` into `/x`, with more attributes.
fn contents() -> CopyAction {
    CopyAction {
        src: "/p".into(),
        dest: "/x".into(),
        dir_copy_contents: true,
        create_dest_path: true,
        ..CopyAction::default()
    }
}

#[test]
fn root_every_attribute_of_a_copy_counts() {
    let daemon = TestDaemon::start();
    let patterns = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let cases: Vec<(&str, CopyAction, Vec<&str>)> = vec![
        (
            "a directory as it is",
            CopyAction { src: "/p/q".into(), dest: "/x".into(), ..CopyAction::default() },
            vec!["755 0:0 x/", "755 0:0 x/r/", "644 0:0 x/r/four.txt 4", "644 0:0 x/three.txt 3"],
        ),
        (
            "owner and mode",
            CopyAction { src: "/p/q".into(), owner: by_id(5, 6), mode: Chmod::Bits(0o700), ..contents() },
            vec!["700 5:6 x/", "700 5:6 x/r/", "700 5:6 x/r/four.txt 4", "700 5:6 x/three.txt 3"],
        ),
        (
            "symbolic mode",
            CopyAction { src: "/p/q".into(), mode: Chmod::Symbolic("u=rwX,go=".into()), ..contents() },
            vec!["700 0:0 x/", "700 0:0 x/r/", "600 0:0 x/r/four.txt 4", "600 0:0 x/three.txt 3"],
        ),
        (
            "include patterns",
            CopyAction { include_patterns: patterns(&["**/f*.txt", "*.go"]), ..contents() },
            vec![
                "755 0:0 x/",
                "755 0:0 x/q/",
                "755 0:0 x/q/r/",
                "644 0:0 x/q/r/four.txt 4",
                "644 9:9 x/two.go 2",
            ],
        ),
        (
            "exclude patterns",
            CopyAction { exclude_patterns: patterns(&["q", "*.txt", "link"]), ..contents() },
            vec!["755 0:0 x/", "755 0:0 x/empty/", "644 9:9 x/two.go 2"],
        ),
        (
            "wildcards",
            CopyAction { src: "/p/*.*".into(), dest: "/x/".into(), allow_wildcard: true, ..contents() },
            vec!["755 0:0 x/", "640 0:0 x/one.txt 1", "644 9:9 x/two.go 2"],
        ),
        (
            "wildcards that match nothing",
            CopyAction {
                src: "/none*".into(),
                allow_wildcard: true,
                allow_empty_wildcard: true,
                ..contents()
            },
            vec![],
        ),
        (
            "a link",
            CopyAction { src: "/p/link".into(), dest: "/x".into(), ..CopyAction::default() },
            vec!["777 0:0 x -> q"],
        ),
        (
            "what a link leads to",
            CopyAction {
                src: "/p/link".into(),
                dest: "/x".into(),
                follow_symlink: true,
                ..CopyAction::default()
            },
            vec!["755 0:0 x/", "755 0:0 x/r/", "644 0:0 x/r/four.txt 4", "644 0:0 x/three.txt 3"],
        ),
        (
            "an archive",
            CopyAction { src: "/a.tar".into(), attempt_unpack: true, ..contents() },
            vec![
                "755 0:0 x/",
                "755 0:0 x/p/",
                "755 0:0 x/p/q/",
                "755 0:0 x/p/q/r/",
                "644 0:0 x/p/q/r/four.txt 4",
                "644 0:0 x/p/q/three.txt 3",
            ],
        ),
        (
            "what is no archive",
            CopyAction { src: "/no.tar".into(), dest: "/x/".into(), attempt_unpack: true, ..contents() },
            vec!["755 0:0 x/", "644 0:0 x/no.tar text"],
        ),
        (
            "paths that must be there, and are",
            CopyAction {
                src: "/".into(),
                include_patterns: patterns(&["p/one.txt"]),
                required_paths: patterns(&["p/one.txt"]),
                ..contents()
            },
            vec!["755 0:0 x/", "755 0:0 x/p/", "640 0:0 x/p/one.txt 1"],
        ),
        (
            "paths that must be there count for patterns only",
            CopyAction { src: "/p/empty".into(), required_paths: patterns(&["none"]), ..contents() },
            vec!["755 0:0 x/"],
        ),
    ];
    for (what, action, expected) in cases {
        let dir = daemon.solve_to_dir(&copy(&State::scratch(), action), &[]);
        assert_eq!(listing(dir.path()), expected, "{what}");
    }
    let timed = CopyAction {
        src: "/p/one.txt".into(),
        dest: "/x/y/".into(),
        create_dest_path: true,
        timestamp_ns: Some(TIME_NS),
        ..CopyAction::default()
    };
    let dir = daemon.solve_to_dir(&copy(&State::scratch(), timed), &[]);
    for path in ["x", "x/y", "x/y/one.txt"] {
        assert_eq!(mtime(&dir, path), 1_500_000_000, "{path}");
    }
    let named = CopyAction {
        owner: by_name("user", None),
        src: "/p/one.txt".into(),
        dest: "/x".into(),
        ..CopyAction::default()
    };
    let dir = daemon.solve_to_dir(&copy(&busybox(), named), &[]);
    assert!(listing(dir.path()).contains(&"640 1000:1000 x 1".to_owned()), "{:?}", listing(dir.path()));
}

#[test]
fn root_what_is_in_the_way_gives_way_only_if_asked() {
    let daemon = TestDaemon::start();
    let base = made("mkdir -p x/one.txt/in; echo file >x/q; echo same >x/two.go");
    let onto = CopyAction { ..contents() };
    daemon
        .solve(&copy(&base, onto.clone()), &[])
        .failure()
        .has("cannot replace directory `/x/one.txt` with a file");
    let replacing = CopyAction { always_replace_existing: true, ..onto };
    let dir = daemon.solve_to_dir(&copy(&base, replacing), &[]);
    assert_eq!((dir.read("x/one.txt"), dir.read("x/q/three.txt")), ("1\n".into(), "3\n".into()));
}

#[test]
fn root_what_cannot_be_copied_is_said() {
    let daemon = TestDaemon::start();
    let refused = |action: CopyAction, text: &str| {
        daemon.solve(&copy(&State::scratch(), action), &[]).failure().has(text);
    };
    refused(CopyAction { src: "/none".into(), ..contents() }, "\"/none\": not found");
    refused(CopyAction { src: "/none*".into(), allow_wildcard: true, ..contents() }, "\"/none*\": not found");
    refused(
        CopyAction { mode: Chmod::Symbolic("nonsense".into()), ..contents() },
        "invalid mode \"nonsense\"",
    );
    refused(CopyAction { owner: by_name("nobody-here", None), ..contents() }, "nobody-here");
    let required = vec!["p/none".to_owned()];
    let include_patterns = vec!["p/*".to_owned()];
    refused(
        CopyAction { src: "/".into(), include_patterns, required_paths: required, ..contents() },
        "\"p/none\": not found",
    );
    let deep = CopyAction { dest: "/no/such/x".into(), create_dest_path: false, ..contents() };
    refused(deep, "not found");
    // Nothing leads out.
    let escape =
        CopyAction { src: "/../../p/one.txt".into(), dest: "/../../x".into(), ..CopyAction::default() };
    let dir = daemon.solve_to_dir(&copy(&State::scratch(), escape), &[]);
    assert_eq!(dir.read("x"), "1\n");
}
