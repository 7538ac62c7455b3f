use super::*;

fn root() -> Value {
    serde_json::from_str(
        r#"{"name": "r/a:1", "manifest": {"mediaType": "index", "size": 3, "manifests": [
              {"digest": "sha256:aa", "platform": {"architecture": "amd64", "os": "linux"}},
              {"digest": "sha256:bb", "platform": {"architecture": "arm", "os": "linux", "variant": "v7"},
               "annotations": {"b": "2", "a.x": "1"}}]},
            "image": {"linux/arm/v7": {"created_by": "x"}, "linux/amd64": {"config": {"Env": ["A=1", "B=2"],
              "Labels": {"l": "1"}}, "rootfs": {"diff_ids": ["sha256:cc"]}}}}"#,
    )
    .unwrap()
}

fn run(text: &str) -> Result<String, TemplateError> {
    Template::parse(text)?.run(&root())
}

#[test]
fn values_print_as_go_prints_them() {
    for (template, expected) in [
        ("", ""),
        ("plain }} text", "plain }} text"),
        ("{{.Name}} {{ .Manifest.MediaType }} {{.Manifest.Size}}", "r/a:1 index 3"),
        ("{{json .Name}}{{.Name | json}}", "\"r/a:1\"\"r/a:1\""),
        ("{{range .Manifest.Manifests}}{{.Digest}} {{end}}", "sha256:aa sha256:bb "),
        (
            "{{range $i, $m := .Manifest.Manifests}}{{$i}}={{$m.Platform.OS}}/{{.Platform.Architecture}}\
             {{if .Platform.Variant}}/{{.Platform.Variant}}{{else}}-{{end}},{{end}}",
            "0=linux/amd64-,1=linux/arm/v7,",
        ),
        ("{{range $k, $v := .Image}}{{$k}} {{end}}", "linux/amd64 linux/arm/v7 "),
        ("{{(index .Image \"linux/amd64\").Config.Env}}", "[A=1 B=2]"),
        ("{{(index .Image \"linux/amd64\").Config.Labels}}", "map[l:1]"),
        ("{{(index .Image \"linux/amd64\").RootFS.DiffIDs}}", "[sha256:cc]"),
        ("{{(index .Image \"linux/arm/v7\").CreatedBy}}", "x"),
        ("{{.Name | json | len}}", "7"),
        ("{{(index .Manifest.Manifests 1).Annotations}}", "map[a.x:1 b:2]"),
        (
            "{{with .Manifest}}{{.Size}}{{$.Name}}{{end}}{{with .Manifest.Annotations}}x{{else}}y{{end}}",
            "3r/a:1y",
        ),
        ("{{$x := .Name}}{{range .Manifest.Manifests}}{{$x = .Digest}}{{end}}{{$x}}", "sha256:bb"),
        ("{{if and (eq .Name \"r/a:1\") (not false) (gt 2 1)}}yes{{else if true}}no{{end}}", "yes"),
        ("{{if or .Manifest.Subject (ne 1 1)}}a{{else if le \"a\" \"b\"}}b{{else}}c{{end}}", "b"),
        ("a {{- /* nothing */ -}} b {{- `}}` }}  c", "ab}}  c"),
        ("{{printf \"%-4s|%4d|%q|%%\" \"ab\" 7 `x\"`}}", "ab  |   7|\"x\\\"\"|%"),
        ("{{range .Manifest.Manifests}}{{.Annotations}}{{end}}", "map[]map[a.x:1 b:2]"),
        (
            "{{with index .Image \"linux/amd64\"}}{{.Config.Cmd}}{{.Config.Labels.nope}}{{.Author}}{{end}}",
            "[]",
        ),
        ("{{println 1 \"a\\tb\"}}{{print -2.5 true nil}}", "1 a\tb\n-2.5 true "),
        (
            "{{range .Manifest.Manifests}}{{if eq .Digest \"sha256:aa\"}}{{continue}}{{end}}{{.Digest}}{{break}}{{end}}",
            "sha256:bb",
        ),
    ] {
        assert_eq!(run(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_cannot_be_done_is_an_error_that_says_so() {
    for (template, expected) in [
        ("{{.Name", "unclosed action"),
        ("{{", "unclosed action"),
        ("{{}}", "unexpected end"),
        ("{{.Nmae}}", "no field `Nmae` here, only name, manifest, image"),
        ("{{.Name.Foo}}", "no field `Foo`"),
        ("{{.Image.Config}}", "no field `Config` here, only linux/arm/v7, linux/amd64"),
        ("{{.Manifest}}", "a structure cannot be printed"),
        ("{{(index .Manifest.Manifests 0).Platform}}", "a structure cannot be printed"),
        ("{{index .Manifest.Manifests 7}}", "index out of range"),
        ("{{join .Name}}", "function \"join\" not defined"),
        ("{{.Name \"x\"}}", "unexpected second value"),
        ("{{.Name | .Name}}", "unexpected second value"),
        ("{{if .Name}}", "`if` has no `end`"),
        ("{{range .Name}}{{end}}", "range: neither a list nor a map"),
        ("{{end}}", "`end` without"),
        ("{{else}}", "`else` without"),
        ("{{break}}", "`break` without"),
        ("{{if true}}{{else}}{{else}}{{end}}", "`else` without"),
        ("{{template \"x\"}}", "`template` is not supported"),
        ("{{$x}}", "variable $x is not defined"),
        ("{{range .Manifest.Manifests}}{{$y := 1}}{{end}}{{$y}}", "variable $y is not defined"),
        ("{{json}}", "json: wrong number of arguments"),
        ("{{printf \"%x\" 1}}", "verb %x is not supported"),
        ("{{printf \"%99999s\" 1}}", "width is too large"),
        ("{{\"\\u0041\"}}", "`\\u` is not supported"),
        ("{{.Name ]}}", "unexpected `]`"),
    ] {
        let error = run(template).unwrap_err().to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }
    for deep in ["(".repeat(10_000), "{{if true}}".repeat(10_000)] {
        let text = if deep.starts_with('(') { format!("{{{{{deep}}}}}") } else { deep };
        assert_eq!(Template::parse(&text).unwrap_err(), TemplateError::TooDeep);
    }
}

#[test]
fn a_value_with_a_text_of_its_own_is_json_where_json_is_asked_for() {
    let value = Box::new(serde_json::from_str(r#"{"size": 1}"#).unwrap());
    let shown = Value::Shown(Shown { text: "shown".into(), value });
    let root = Value::Map([("manifest".to_owned(), shown)].into_iter().collect());
    let run = |text: &str| Template::parse(text).unwrap().run(&root).unwrap();
    assert_eq!(run("{{.Manifest}} {{.Manifest.Size}}"), "shown 1");
    assert_eq!(run("{{json .}}"), "{\n  \"manifest\": {\n    \"size\": 1\n  }\n}");
}

#[test]
fn what_a_template_needs_is_known_before_it_runs() {
    let uses = |text: &str, field: &str| Template::parse(text).unwrap().uses(field);
    assert!(uses("{{.Image.Config}}", "image") && uses("{{range $k, $v := .Image}}{{end}}", "image"));
    assert!(uses("{{json .}}", "image") && uses("{{with (index .SBOM \"a\").SPDX}}{{end}}", "sbom"));
    assert!(!uses("{{.Name}}{{if .Manifest}}x{{end}}", "image"));
    let names = |text: &str| Template::parse(text).unwrap().names("SBOM");
    assert!(names("{{json .SBOM}}") && !names("{{json .}}"));
}
