//! `--call` and `--check`: a question to the frontend instead of a build, answered as `docker buildx build` prints it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::cli::BuildArgs;
use crate::errors::{CommandError, framed};
use crate::ui;

/// A question to the frontend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The option `requestid`.
    id: String,
    format: Format,
    /// Findings are no failure of the command.
    ignore_status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Call {
    /// What the flags ask for; `None` is a build. `--call` wins over `--check`, its short form.
    pub(crate) fn of(args: &BuildArgs) -> Result<Option<Self>, CommandError> {
        match (args.call.as_deref(), args.check) {
            (Some(text), _) => Self::parse(text),
            (None, true) => Self::parse("check"),
            (None, false) => Ok(None),
        }
    }

    fn parse(text: &str) -> Result<Option<Self>, CommandError> {
        let invalid = |what: &str| {
            CommandError::usage(format!("--call {text}: {what}"))
                .hint("expected a method (build, check, outline, targets, help) and perhaps ,format=json")
        };
        let mut fields = text.split(',');
        let method = match fields.next() {
            Some("build") => None,
            Some("check" | "lint") => Some("lint"),
            Some("help") => Some("subrequests.describe"),
            Some(method) if !method.is_empty() && !method.contains('=') => Some(method),
            _ => return Err(invalid("the method is missing")),
        };
        let (mut format, mut ignore_status) = (Format::Text, false);
        for field in fields {
            match field.split_once('=') {
                Some(("format", "json")) => format = Format::Json,
                Some(("format", "text")) => format = Format::Text,
                Some(("ignorestatus", value)) => {
                    ignore_status = value.parse().map_err(|_| invalid("ignorestatus is true or false"))?;
                }
                _ => return Err(invalid(&format!("unknown field `{field}`"))),
            }
        }
        Ok(method.map(|method| Self { id: format!("frontend.{method}"), format, ignore_status }))
    }

    /// The options of a request that asks this.
    pub(crate) fn attributes(&self) -> [(String, String); 2] {
        [
            ("requestid".into(), self.id.clone()),
            ("frontend.caps".into(), "moby.buildkit.frontend.subrequests".into()),
        ]
    }

    /// Prints an answer. `dockerfile`: the path by which the user knows the file, if there is one.
    ///
    /// Errors: the answer is that something is wrong, or it is none.
    pub(crate) fn print(
        &self,
        response: &BTreeMap<String, String>,
        dockerfile: Option<&Path>,
    ) -> Result<(), CommandError> {
        let Some(json) = response.get("result.json") else {
            return Err(CommandError::new(format!("the frontend gave no answer to {}", self.id)));
        };
        let failed =
            !self.ignore_status && response.get("result.statuscode").is_some_and(|code| code.trim() != "0");
        let outcome = if failed { Err(CommandError::told()) } else { Ok(()) };
        if self.format == Format::Json {
            ui::print(json);
            return outcome;
        }
        if self.id != "frontend.lint" {
            ui::print_raw(response.get("result.txt").map_or("", String::as_str).as_bytes());
            return outcome;
        }
        let found: Value = serde_json::from_str(json)
            .map_err(|error| CommandError::new(format!("the frontend's answer is no JSON: {error}")))?;
        let (text, error) = Findings::new(&found, dockerfile).report();
        ui::print_raw(text.as_bytes());
        match error {
            Some(error) if !self.ignore_status => Err(error),
            _ => outcome,
        }
    }
}

/// The path of the Dockerfile as the user would write it; nothing if it is no file of this machine.
pub(crate) fn dockerfile_path(args: &BuildArgs) -> Option<PathBuf> {
    let path = match &args.file {
        Some(file) => file.clone(),
        None => Path::new(&args.context).join("Dockerfile"),
    };
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    path.is_file().then_some(path)
}

/// The answer to `frontend.lint`.
struct Findings<'a> {
    found: &'a Value,
    name: String,
    text: String,
}

impl<'a> Findings<'a> {
    fn new(found: &'a Value, dockerfile: Option<&Path>) -> Self {
        use base64::Engine as _;
        let source = &found["sources"][0];
        let filename = source["filename"].as_str().unwrap_or("Dockerfile");
        let data = source["data"].as_str().unwrap_or_default();
        let data = base64::engine::general_purpose::STANDARD.decode(data).unwrap_or_default();
        // A client that shares the file knows more of its place than the daemon does.
        let same = |path: &&Path| path.file_name().is_some_and(|name| name == filename);
        let name = dockerfile.filter(same).map(|path| path.display().to_string());
        let name = name.unwrap_or_else(|| filename.to_owned());
        Self { found, name, text: String::from_utf8_lossy(&data).into_owned() }
    }

    fn report(&self) -> (String, Option<CommandError>) {
        let none = Vec::new();
        let mut warnings: Vec<&Value> = self.found["warnings"].as_array().unwrap_or(&none).iter().collect();
        let error = self.found.get("buildError").filter(|error| !error.is_null());
        let mut out = match (warnings.len(), error) {
            (0, Some(_)) => String::new(),
            (0, None) => "Check complete, no warnings found.\n".to_owned(),
            (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
            (count, _) => format!("Check complete, {count} warnings have been found!\n"),
        };
        warnings.sort_by_key(|warning| first_line(&warning["location"]));
        for warning in warnings {
            let text = |name: &str| crate::ui::plain(warning[name].as_str().unwrap_or_default());
            let url = text("url");
            let page = if url.is_empty() { url } else { format!(" - {url}") };
            // Writing to a string cannot fail.
            let _ok = writeln!(out, "\nWARNING: {}{page}\n{}", text("ruleName"), text("detail")).is_ok();
            out.push_str(&self.excerpt(&warning["location"]).unwrap_or_default());
        }
        let error = error.map(|error| {
            let message = error["message"].as_str().unwrap_or_default();
            CommandError::new(message).excerpt(self.excerpt(&error["location"]))
        });
        (out, error)
    }

    fn excerpt(&self, location: &Value) -> Option<String> {
        framed(&self.name, &self.text, &location["ranges"])
    }
}

fn first_line(location: &Value) -> i64 {
    location["ranges"][0]["start"]["line"].as_i64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_formats_are_read_or_refused() {
        assert_eq!(Call::parse("build").unwrap(), None);
        let call = Call::parse("check,format=json").unwrap().unwrap();
        assert_eq!((call.id.as_str(), call.format), ("frontend.lint", Format::Json));
        assert_eq!(Call::parse("outline").unwrap().unwrap().id, "frontend.outline");
        assert_eq!(Call::parse("help").unwrap().unwrap().id, "frontend.subrequests.describe");
        for wrong in ["", "format=json", "check,format=xml", "check,x", "check,ignorestatus=maybe"] {
            assert!(Call::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn findings_are_in_the_order_of_the_file_under_the_path_of_the_user() {
        let found: Value = serde_json::from_str(
            r#"{"warnings":[
                {"ruleName":"B","detail":"b","location":{"ranges":[{"start":{"line":2},"end":{"line":2}}]}},
                {"ruleName":"A","detail":"a","url":"http://a","location":{"ranges":[{"start":{"line":1},"end":{"line":1}}]}}],
              "sources":[{"filename":"Dockerfile","data":"RlJPTSBhClJVTiBiCg=="}],
              "buildError":{"message":"broken","location":{}}}"#,
        )
        .unwrap();
        let (text, error) = Findings::new(&found, Some(Path::new("dir/Dockerfile"))).report();
        let expected = "Check complete, 2 warnings have been found!\n\
            \nWARNING: A - http://a\na\ndir/Dockerfile:1\n--------------------\n   1 | >>> FROM a\n   2 |     RUN b\n   3 |     \n--------------------\n\
            \nWARNING: B\nb\ndir/Dockerfile:2\n--------------------\n   1 |     FROM a\n   2 | >>> RUN b\n   3 |     \n--------------------\n";
        assert_eq!(text, expected);
        assert_eq!(error.unwrap().render(), "error: broken\n");
    }
}
