use proptest::prelude::*;

use super::{Command, detect_syntax, parse};
use crate::lint::Linter;

#[test]
fn ten_megabytes_of_backslashes_are_no_more_than_a_long_line() {
    for text in [
        "\\".repeat(10 << 20),
        "\\\n".repeat(5 << 20),
        "FROM scratch\nRUN ".to_owned() + &"\\\n".repeat(5 << 20),
    ] {
        let outcome = parse(text.as_bytes(), &Linter::default());
        if !text.starts_with("FROM") {
            let error = outcome.unwrap_err();
            let shown = error.to_string();
            assert!(shown.contains("max allowed size") || shown.contains("unknown instruction"), "{shown}");
        }
    }
}

#[test]
fn files_that_are_too_large_are_refused() {
    let error = parse(&vec![b'\n'; super::lines::MAX_FILE_BYTES + 1], &Linter::default()).unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
}

#[test]
fn directives_stand_at_the_top_and_once() {
    let at = |text: &str| parse(text.as_bytes(), &Linter::default()).map(|p| p.directives.escape);
    assert_eq!(at("# escape=`\nFROM a").unwrap(), '`');
    assert_eq!(at("# x\n# escape=`\nFROM a").unwrap(), '\\');
    assert_eq!(at("\n# escape=`\nFROM a").unwrap(), '\\');
    let error = at("# escape=x\nFROM a").unwrap_err();
    assert_eq!(error.to_string(), "invalid escape token 'x' does not match ` or \\");
    assert_eq!(error.lines(), Some((1, 1)));
    let error = at("# escape=`\n# escape=\\\nFROM a").unwrap_err();
    assert_eq!(error.to_string(), "only one escape parser directive can be used");
    assert_eq!(error.lines(), Some((2, 2)));
    let parsed = parse(b"# Syntax = a/b:1 \n#check=skip=all\nFROM a", &Linter::default()).unwrap();
    assert_eq!(parsed.directives.syntax.as_deref(), Some("a/b:1"));
    assert_eq!(parsed.directives.check.as_deref(), Some("skip=all"));
}

#[test]
fn syntax_is_found_in_other_languages() {
    let cases: [(&str, Option<(&str, u32)>); 8] = [
        ("# syntax=a/b\nx", Some(("a/b", 1))),
        ("#!/usr/bin/env x\n# syntax = a/b c\n", Some(("a/b c", 2))),
        ("// syntax=a/b\n", Some(("a/b", 1))),
        ("# escape=`\n# syntax=a\n", Some(("a", 2))),
        ("{\"syntax\": \"a/b\", \"x\": 1}", Some(("a/b", 0))),
        ("\u{feff}# syntax=a/b\n", Some(("a/b", 1))),
        ("# other\n# syntax=a/b\n", None),
        ("FROM a\n# syntax=a/b\n", None),
    ];
    for (text, expected) in cases {
        let found = detect_syntax(text.as_bytes());
        assert_eq!(found.as_ref().map(|(name, line)| (name.as_str(), *line)), expected, "{text}");
    }
}

#[test]
fn errors_name_their_lines() {
    let cases = [
        (
            "FROM a\nRUN \\\n x\nCPOY a b",
            "dockerfile parse error on line 4: unknown instruction: CPOY (did you mean COPY?)",
            (4, 4),
        ),
        ("FROM a\nCOPY <<EOF /x\nq", "unterminated heredoc", (2, 3)),
        (
            "FROM a\nENV \\\n a=b c",
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
            (2, 3),
        ),
        (
            "FROM a\nCOPY --frm=x a b",
            "dockerfile parse error on line 2: unknown flag: --frm (did you mean from?)",
            (2, 2),
        ),
    ];
    for (text, message, lines) in cases {
        let error = parse(text.as_bytes(), &Linter::default()).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.lines(), Some(lines), "{text}");
    }
}

#[test]
fn empty_continuation_lines_are_warned_of() {
    let lint = Linter::default();
    let parsed = parse(b"FROM a\nRUN x \\\n\n y\n", &lint).unwrap();
    let found = lint.take();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].short(), "NoEmptyContinuation: Empty continuation line (line 4)");
    let Command::Run(run) = &parsed.stages[0].instructions[0].command else { panic!("not a RUN") };
    assert_eq!(run.form.words, ["x  y"]);
}

proptest! {
    #[test]
    fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(parse(&bytes, &Linter::default()));
        drop(detect_syntax(&bytes));
    }

    #[test]
    fn parsing_of_likely_text_never_panics(
        lines in prop::collection::vec(
            "(FROM|RUN|COPY|ADD|ENV|LABEL|ARG|ONBUILD|HEALTHCHECK|# escape=|EXPOSE|VOLUME)[ \t]*(--[a-z]{1,8}=?)?[ a-z<\\-\"'\\[\\],=$\\\\{}]{0,30}",
            0..12,
        )
    ) {
        let text = lines.join("\n");
        drop(parse(text.as_bytes(), &Linter::default()));
        drop(crate::compile_offline("Dockerfile", text.as_bytes(), &std::collections::BTreeMap::new()));
    }
}
