use rbuild_frontend::subrequest::{Description, Named, VERSION};
use rbuild_frontend::{BuildError, FrontendResult, Subrequest};

use super::answer;
use super::table::table;

/// Which requests are known. Upstream does not list `frontend.lint`, and clients ask for it all the same.
pub(crate) fn describe() -> Result<FrontendResult, BuildError> {
    let named =
        |name: &str, description: &str| Named { name: name.to_owned(), description: description.to_owned() };
    let request = |of: Subrequest, description: &str, opts: Option<Vec<Named>>| Description {
        name: of.id().to_owned(),
        version: VERSION.to_owned(),
        kind: "rpc".to_owned(),
        description: description.to_owned(),
        opts,
        inputs: None,
        metadata: Some(vec![named("result.json", ""), named("result.txt", "")]),
        refs: None,
    };
    let target = vec![named("target", "Target build stage")];
    let all = vec![
        request(Subrequest::Outline, "List all parameters current build target supports", Some(target)),
        request(Subrequest::Targets, "List all targets current build supports", Some(Vec::new())),
        request(Subrequest::Describe, "List available subrequest types", None),
    ];
    let header = ["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned);
    let rows = all.iter().map(|of| {
        let name = of.name.strip_prefix("frontend.").unwrap_or(&of.name);
        [name.to_owned(), of.version.clone(), of.description.clone()]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let text = table(&rows, 1);
    answer(&all, text)
}
