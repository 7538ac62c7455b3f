use proptest::prelude::*;

use super::*;

fn good(text: &str) -> GitUrl {
    GitUrl::parse(text).unwrap().unwrap_or_else(|| panic!("{text} is no git url"))
}

#[test]
fn all_ways_to_write_an_address_share_a_place() {
    for (text, remote, transport) in [
        ("https://github.com/a/b.git", "https://github.com/a/b.git", GitTransport::Https),
        ("HTTP://github.com/a/b.git", "http://github.com/a/b.git", GitTransport::Http),
        (
            "https://u:pw@github.com//a/x/../b.git#main",
            "https://u:pw@github.com//a/x/../b.git",
            GitTransport::Https,
        ),
        ("github.com/a/b.git", "https://github.com/a/b.git", GitTransport::Https),
        ("git@github.com:a/b.git", "git@github.com:a/b.git", GitTransport::Ssh),
        ("git@github.com:/a/b.git?ref=x", "git@github.com:/a/b.git", GitTransport::Ssh),
        ("git@github.com://a/b.git", "git@github.com://a/b.git", GitTransport::Ssh),
        ("ssh://git@github.com/a/b.git", "ssh://git@github.com/a/b.git", GitTransport::Ssh),
        ("git://github.com/a%2Fb.git", "git://github.com/a%2Fb.git", GitTransport::Git),
        ("https://github.com/a/b.git?#x", "https://github.com/a/b.git?", GitTransport::Https),
    ] {
        let url = good(text);
        assert_eq!(url.place(), "github.com/a/b.git", "{text}");
        assert_eq!((url.remote(), url.transport), (remote, transport), "{text}");
    }
    assert_eq!(good("ssh://git@h:2222/~/a.git").place(), "h:2222/~/a.git");
    assert_eq!(good("ssh://h").place(), "h/");
}

#[test]
fn what_is_no_repository_is_left_to_others() {
    for text in [
        "",
        "a",
        "a/b.git",
        "host:a/b.git",
        "user.name@a.b:c",
        "a/b@c:d",
        "git@[::1]:a",
        "@h:p",
        "u@:p",
        "https://github.com/a/b",
        "https://a/b.GIT",
        "https://.git",
        "http://a/b?ref=x.git",
        "http://a/b#.git",
        "ftp://h/b.git",
        "file:///x.git",
        "ext::sh -c x",
        "ext::sh://x",
        "--upload-pack=x",
    ] {
        assert_eq!(GitUrl::parse(text), Ok(None), "{text}");
    }
}

#[test]
fn ref_and_subdirectory_stand_in_the_fragment_or_the_query() {
    for (rest, git_ref, subdir) in [
        ("", "", ""),
        ("#", "", ""),
        ("#main", "main", ""),
        ("#main:a/b", "main", "a/b"),
        ("#:a", "", "a"),
        ("#v:/a/./b/", "v", "a/b"),
        ("#v:.", "v", ""),
        ("#a:b:c", "a", "b:c"),
        ("#a%2Bb", "a+b", ""),
        ("?ref=v&subdir=/a/b/", "v", "a/b"),
        ("?branch=x", "refs/heads/x", ""),
        ("?branch=refs/heads/x", "refs/heads/x", ""),
        ("?tag=x", "refs/tags/x", ""),
        ("?tag=x#refs/tags/x", "refs/tags/x", ""),
        ("?tag=a&ref=refs/tags/a", "refs/tags/a", ""),
        ("?ref=v#:d", "v", "d"),
        ("?subdir=d#v", "v", "d"),
        ("?ref=a%zz&subdir=x;y", "", ""),
    ] {
        let url = good(&format!("https://h/r.git{rest}"));
        assert_eq!((url.git_ref.as_str(), url.subdir.as_str()), (git_ref, subdir), "{rest}");
    }
    // Of scp's form no part but the query is escaped.
    assert_eq!(good("git@h:r#a%20").git_ref, "a%20");
}

#[test]
fn options_are_read_from_the_query() {
    let url = good("https://h/r.git?commit=ab&submodules=0&keep-git-dir&mtime=commit&fetch-by-commit=T");
    let expected = GitUrlOptions {
        checksum: Some("ab".into()),
        keep_git_dir: Some(true),
        submodules: Some(false),
        commit_mtime: true,
        fetch_by_commit: true,
    };
    assert_eq!(url.options, expected);
    let url = good("https://h/r.git?checksum=ab&commit=ab&submodules&keep-git-dir=false&mtime=checkout");
    let expected = GitUrlOptions {
        checksum: Some("ab".into()),
        keep_git_dir: Some(false),
        submodules: Some(true),
        ..GitUrlOptions::default()
    };
    assert_eq!(url.options, expected);
}

#[test]
fn refusals_say_what_is_wrong() {
    for (rest, message) in [
        ("?foo=bar", "unexpected query \"foo\""),
        ("?Ref=a", "unexpected query \"Ref\""),
        ("?foo", "query \"foo\" has no value"),
        ("?mtime", "query \"mtime\" has no value"),
        ("?ref=a&ref=a", "query \"ref\" has multiple values"),
        ("?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
        ("?branch=b&ref=a", "ref conflicts: \"a\" vs \"refs/heads/b\""),
        ("?subdir=b#a:c", "subdir conflicts: \"c\" vs \"b\""),
        ("?checksum=a&commit=b", "checksum conflicts: \"a\" vs \"b\""),
        ("?branch=a&tag=b", "branch conflicts with tag"),
        ("?submodules=x", "invalid submodules value: \"x\""),
        ("?mtime=x", "invalid mtime value: \"x\" (must be \"checkout\" or \"commit\")"),
        ("#-x", "invalid git ref `-x`: it begins with `-`"),
        ("?ref=%2Dx", "invalid git ref `-x`: it begins with `-`"),
        ("?ref=a%0Ab", "invalid git ref `a\\nb`: it has control characters"),
        ("#refs/heads/*", "invalid git ref `refs/heads/*`: git allows none of ` ~^:?*[\\` in a ref"),
        ("#a..b", "invalid git ref `a..b`: git allows neither `..` nor `@{` in a ref"),
        ("#a:../b", "invalid git subdirectory `../b`: it has `..`"),
        ("#a:b/%2e%2e/%2e%2e", "invalid git subdirectory `b/../..`: it has `..`"),
        ("?subdir=a%00", "invalid git subdirectory `a\\u{0}`: it has control characters"),
        ("#a%zz", "invalid git url `https://h/r.git`: its fragment has invalid escapes"),
    ] {
        let error = GitUrl::parse(&format!("https://h/r.git{rest}")).unwrap_err();
        assert_eq!(error.to_string(), message, "{rest}");
    }
    for text in [
        "ssh://-oProxyCommand=x/b.git",
        "-a@c:d",
        "a@-oProxyCommand:d",
        "ssh://-u@h/b.git",
        "ssh:///b.git",
        "ssh://git@host:a/b.git",
        "https://h\n/b.git",
        "https://h/a%0a.git",
        "https://h/a%23b.git",
        "git@h:a\nb",
        "ssh://h h/x",
    ] {
        assert!(matches!(GitUrl::parse(text), Err(GitUrlError::Url { .. })), "{text:?}");
    }
}

#[test]
fn passwords_are_in_no_message() {
    let url = good("https://me:hunter2@h/r.git#v");
    assert_eq!(url.user_info(), Some("me:hunter2"));
    assert_eq!(url.redacted(), "https://h/r.git");
    assert!(!format!("{url:?}").contains("hunter2"));
    for text in ["https://me:hunter2@h:x/r.git", "https://me:hunter2@h/%0ar.git", "ssh://me:hunter2@-h/x"] {
        let error = GitUrl::parse(text).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
    }
}

#[test]
fn identifiers_are_read_back() {
    let place = GitPlace::parse("git://h:1/a/b.git#v1:x/y").unwrap();
    let expected = GitPlace { remote: "h:1/a/b.git".into(), git_ref: "v1".into(), subdir: "x/y".into() };
    assert_eq!(place, expected);
    for identifier in
        ["", "https://h/a", "git://", "git://-h/a", "git://h/a\n", "git://h/a#-x", "git://h/a#v:../x"]
    {
        assert!(GitPlace::parse(identifier).is_err(), "{identifier:?}");
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z%.:/@#?&=~-]{0,6}",
        "\\PC{0,4}",
        Just("https://".to_owned()),
        Just("ssh://".to_owned()),
        Just("git@h:".to_owned()),
        Just("h/a.git".to_owned()),
        Just("#-".to_owned()),
        Just("?ref=%2d".to_owned()),
        Just(":../".to_owned()),
        Just("subdir=%2e%2e/".to_owned()),
        Just("\n".to_owned()),
        Just("%00".to_owned()),
    ]
}

#[test]
fn an_identifier_names_no_helper_program() {
    for bad in ["ext::sh/a.git", "ext::sh[/a.git", "ext::sh@[::1]/a.git", "ext::a@b@[::1]:2/a.git"] {
        assert!(GitPlace::parse(&format!("git://{bad}")).is_err(), "{bad}");
    }
    for good in ["[::1]/a.git", "me@[::1]:22/a.git"] {
        assert!(GitPlace::parse(&format!("git://{good}")).is_ok(), "{good}");
    }
}

proptest! {
    #[test]
    fn nothing_dangerous_gets_out(pieces in proptest::collection::vec(piece(), 0..7)) {
        let text = pieces.concat();
        let Ok(Some(url)) = GitUrl::parse(&text) else { return Ok(()) };
        let place = url.place();
        // A directory may be called `-x`: it is looked up below a root and never an argument.
        for part in [url.remote(), &place, &url.git_ref, &url.host] {
            prop_assert!(!part.starts_with('-') && !part.bytes().any(|b| b.is_ascii_control()), "{part:?}");
        }
        prop_assert!(!url.remote().contains("::") || url.remote().contains("://") || url.is_ssh());
        prop_assert!(!url.subdir.bytes().any(|b| b.is_ascii_control()), "{:?}", url.subdir);
        prop_assert!(url.subdir.split('/').all(|part| part != ".."));
        prop_assert!(check_git_ref(&url.git_ref).is_ok());
    }

    #[test]
    fn an_identifier_says_what_the_address_said(pieces in proptest::collection::vec(piece(), 0..5)) {
        let text = format!("https://h/r.git{}", pieces.concat());
        let Ok(Some(url)) = GitUrl::parse(&text) else { return Ok(()) };
        if url.place().contains('#') { return Ok(()) }
        let identifier = format!("git://{}#{}:{}", url.place(), url.git_ref, url.subdir);
        let place = GitPlace::parse(&identifier).unwrap();
        prop_assert_eq!((place.remote, place.git_ref, place.subdir), (url.place(), url.git_ref, url.subdir));
    }
}
