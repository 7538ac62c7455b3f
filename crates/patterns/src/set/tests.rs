use proptest::prelude::*;

use super::*;

fn set(lines: &[&str]) -> PatternSet {
    PatternSet::parse(lines).unwrap()
}

#[test]
fn patterns_match_as_users_expect() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&["**"], "file", true),
        (&["**"], "file/", true),
        (&["**/"], "dir/file", true),
        (&["dir/**"], "dir/file", true),
        (&["dir/**"], "dir", false),
        (&["**/dir"], "dir/file", true),
        (&["**/dir"], "a/dir", true),
        (&["**/dir2/*"], "dir/dir2/dir2/file", true),
        (&["**file"], "bfile", true),
        (&["**/file"], "file", true),
        (&["**/**/file"], "dir/dir/file", true),
        (&["a/**/b"], "a/b", true),
        (&["a/**/b"], "a/x/y/b", true),
        (&["a/**/b"], "ab", false),
        (&["abc.def"], "abcdef", false),
        (&["abc?def"], "abczdef", true),
        (&["a\\*b"], "a*b", true),
        (&["a\\*b"], "axb", false),
        (&["*.go"], "main.go", true),
        (&["*.go"], "src/main.go", false),
        (&["src"], "src/main.go", true),
        (&["src/"], "src/main.go", true),
        (&["./src"], "src/main.go", true),
        (&["/src"], "src/main.go", false),
        (&["src", "!src/keep"], "src/keep", false),
        (&["src", "!src/keep"], "src/keep/x", false),
        (&["src", "!src/keep"], "src/other", true),
        (&["!src/keep", "src"], "src/keep", true),
        (&["*", "!*.md"], "README.md", false),
        (&["*", "!*.md", "README*.md"], "README-secret.md", true),
        (&["a[b-d]e"], "ace", true),
        (&["a[^b-d]e"], "aze", true),
        (&["a[^b-d]e"], "ace", false),
        (&["a.|)$(}+{bc"], "a.|)$(}+{bc", true),
        (&["dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl"], "dist", false),
        (&["b^c*"], "b^cd", false),
        (&["x\\d"], "x5", true),
        (&["ö*"], "öl", true),
        (&[], "x", false),
    ];
    for (lines, path, expected) in cases {
        assert_eq!(set(lines).matches(path), *expected, "{lines:?} on {path}");
    }
}

#[test]
fn malformed_patterns_are_errors() {
    for bad in ["!", "[", "a[b", "[]", "x\\", "[z-a"] {
        assert!(PatternSet::parse([bad]).is_err(), "{bad}");
    }
    assert!(PatternSet::parse(["", "  "]).unwrap().is_empty());
}

#[test]
fn a_walk_forgets_exceptions_that_had_nothing_to_take_back() {
    let set = set(&["*/??", "!*"]);
    let dir = set.matches_with_parent("a", &Match::default());
    assert!(!set.matches("a/aa"));
    assert!(set.matches_with_parent("a/aa", &dir).matched());
}

#[test]
fn negation_is_noticed() {
    assert!(set(&["a", "!b"]).has_negation());
    assert!(!set(&["a", "b"]).has_negation());
}

/// A slow matcher for patterns of `*`, `?`, `**` and letters, on whole paths.
fn naive(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*', '/', rest @ ..] if !rest.is_empty() => naive_deep(rest, path),
        ['*', '*', rest @ ..] if rest.is_empty() || rest == ['/'] => true,
        ['*', '*', rest @ ..] => naive_deep(rest, path),
        ['*', rest @ ..] => {
            let reach = path.iter().take_while(|c| **c != '/').count();
            (0..=reach).any(|skip| naive(rest, &path[skip..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|c| *c != '/') && naive(rest, &path[1..]),
        [c, rest @ ..] => path.first() == Some(c) && naive(rest, &path[1..]),
    }
}

/// `rest` at the beginning or after any slash.
fn naive_deep(rest: &[char], path: &[char]) -> bool {
    (0..=path.len()).any(|at| (at == 0 || path[at - 1] == '/') && naive(rest, &path[at..]))
}

fn naive_set(lines: &[String], path: &str) -> bool {
    let mut matched = false;
    for line in lines {
        let (negated, text) = line.strip_prefix('!').map_or((false, line.as_str()), |rest| (true, rest));
        let pattern: Vec<char> = text.chars().collect();
        let whole = std::iter::once(path).chain(crate::path::parents(path));
        if whole.map(|p| p.chars().collect::<Vec<_>>()).any(|p| naive(&pattern, &p)) {
            matched = !negated;
        }
    }
    matched
}

/// Components without `**` next to letters (`**x` is a suffix match upstream, which the naive one isn't).
fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => "[ab?*]{1,3}".prop_filter("no double star", |p| !p.contains("**")), 1 => Just("**".to_owned())];
    (any::<bool>(), prop::collection::vec(part, 1..4))
        .prop_map(|(negated, parts)| format!("{}{}", if negated { "!" } else { "" }, parts.join("/")))
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{1,3}", 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #[test]
    fn sets_match_as_the_naive_matcher_does(lines in prop::collection::vec(pattern(), 1..5), path in path()) {
        prop_assert_eq!(set(&lines.iter().map(String::as_str).collect::<Vec<_>>()).matches(&path), naive_set(&lines, &path));
    }

    /// True of sets without `!` only: upstream's walk doesn't try an exception on a directory that nothing has
    /// matched yet, and so doesn't know of it further down.
    #[test]
    fn a_walk_says_what_a_single_question_says(lines in prop::collection::vec(pattern(), 1..5), path in path()) {
        let set = PatternSet::parse(lines.iter().map(|line| line.trim_start_matches('!'))).unwrap();
        let mut state = Match::default();
        for dir in crate::path::parents(&path) {
            state = set.matches_with_parent(dir, &state);
            prop_assert_eq!(state.matched(), set.matches(dir), "{}", dir);
        }
        prop_assert_eq!(set.matches_with_parent(&path, &state).matched(), set.matches(&path));
    }

    #[test]
    fn arbitrary_patterns_never_panic(line in "\\PC{0,30}", path in "\\PC{0,30}") {
        if let Ok(set) = PatternSet::parse([&line]) {
            set.matches(&path);
        }
    }

    #[test]
    fn odd_patterns_never_panic(line in "[\\[\\]\\\\^*?!a:d./-]{0,16}", path in "[a/d.\\[\\]-]{0,12}") {
        if let Ok(set) = PatternSet::parse([&line]) {
            set.matches(&path);
        }
    }
}
