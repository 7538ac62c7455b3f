//! What ADD makes of archives of every kind. `tests/archives/make.py` writes them; `listings.txt` beside it has what a
//! buildkitd made of each, or a part of our message where both refuse. Where ours differs, a comment there says why.
use rbuild_tests::{TestDaemon, TestSpace, run};

const LISTINGS: &str = include_str!("../archives/listings.txt");

/// The entries of a tar, as far as they can be the same: directories that are made on the way have the time of the build.
fn listing(tar: &std::path::Path) -> Vec<String> {
    let path = tar.to_str().unwrap();
    let flags = ["--numeric-owner", "--full-time", "--utc", "--xattrs", "--xattrs-include=*"];
    let command = ["LC_ALL=C", "tar"];
    let listed = run("env", &[&command[..], &flags, &["--quoting-style=escape", "-tvvf", path]].concat());
    listed.success().stdout.lines().map(timeless).collect()
}

fn timeless(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let now = words.iter().position(|word| {
        word.split_once('-').is_some_and(|(year, rest)| {
            rest.len() == 5 && year.parse::<u32>().is_ok_and(|year| (2025..2200).contains(&year))
        })
    });
    match now {
        Some(at) => [&words[..at], &["now"], &words[(at + 2).min(words.len())..]].concat().join(" "),
        None => words.join(" "),
    }
}

#[test]
fn archives_of_every_kind_are_unpacked_as_upstream_does() {
    let daemon = TestDaemon::start();
    let cases = TestSpace::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/archives/make.py");
    run("python3", &[script, cases.path().to_str().unwrap()]).success();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in LISTINGS.split("== ").skip(1) {
        let mut lines = case.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let name = lines.next().unwrap();
        let expected: Vec<&str> = lines.collect();
        seen += 1;
        let context = TestSpace::new();
        context.write("Dockerfile", "FROM scratch\nADD a /d/\n");
        std::fs::copy(cases.at(name), context.at("a")).unwrap();
        let out = context.at("out.tar");
        let output = daemon.build(context.path(), &["--output", &format!("type=tar,dest={}", out.display())]);
        if let Some(words) = expected.first().and_then(|line| line.strip_prefix("refused: ")) {
            if output.code == Some(0) || !output.all().contains(words) {
                wrong.push(format!("{name}: not refused with `{words}`:\n{}", output.all()));
            }
            continue;
        }
        let found = match output.code {
            Some(0) => listing(&out),
            _ => vec![output.all()],
        };
        if found != expected {
            wrong.push(format!("{name}:\n{}\n  expected:\n{}", found.join("\n"), expected.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(seen, std::fs::read_dir(cases.path()).unwrap().count(), "every archive has its listing");
}
