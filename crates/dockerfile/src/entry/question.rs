use std::collections::BTreeMap;

use rbuild_frontend::{BuildError, Detail, ErrorCode, FrontendResult, Subrequest};

use super::{Request, Shared, off_runtime, unsupported, warn};
use crate::lint::Linter;
use crate::subrequest;
use crate::{CompileOptions, lower};

/// The question that a request asks instead of a build.
pub(super) fn asked(options: &BTreeMap<String, String>) -> Result<Option<Subrequest>, BuildError> {
    let Some(id) = options.get("requestid").filter(|id| !id.is_empty()) else { return Ok(None) };
    match Subrequest::of_id(id) {
        Some(question) => Ok(Some(question)),
        None => Err(unsupported(format!("unsupported request {id}"), Detail::Subrequest(id.clone()))),
    }
}

/// Upstream answers these questions with errors that point nowhere.
fn without_lines(mut error: BuildError) -> BuildError {
    error.details.retain(|detail| !matches!(detail, Detail::Source(_)));
    error
}

impl Request {
    pub(super) async fn answer(self, question: Subrequest) -> Result<FrontendResult, BuildError> {
        match question {
            Subrequest::Describe => subrequest::describe(),
            Subrequest::Targets => {
                let parsed = self.parse(&Linter::off()).await.map_err(without_lines)?;
                subrequest::targets(&parsed, &self.source)
            }
            Subrequest::Outline => self.outline().await.map_err(without_lines),
            Subrequest::Lint => self.lint().await,
        }
    }

    async fn outline(self) -> Result<FrontendResult, BuildError> {
        let shared = self.parse_and_warn().await?;
        let outline = shared.outline().await;
        warn(&*shared.bridge, &shared.source, &shared.lint).await?;
        outline
    }

    /// Findings are the answer here, and so is what keeps the file from being built.
    async fn lint(self) -> Result<FrontendResult, BuildError> {
        let lint = match self.linter() {
            Ok(lint) => lint,
            Err(error) => return subrequest::lint(&[], Some(&error), &self.source),
        };
        let parsed = match self.parse(&lint).await {
            Ok(parsed) => parsed,
            Err(error) => return subrequest::lint(&lint.take(), Some(&error), &self.source),
        };
        let shared = self.share(parsed, lint);
        match shared.check().await {
            Err(error) if error.code == ErrorCode::Cancelled => Err(error),
            outcome => subrequest::lint(&shared.lint.take(), outcome.as_ref().err(), &shared.source),
        }
    }
}

impl Shared {
    /// Questions are about the daemon's own platform, whatever the request is for.
    fn options(&self) -> CompileOptions {
        let options = self.build.platforms.first().cloned().unwrap_or_default();
        let target_platform = options.build_platform.clone();
        CompileOptions { target_platform, platform_given: false, show_platforms: false, ..options }
    }

    async fn outline(&self) -> Result<FrontendResult, BuildError> {
        let options = self.options();
        let plan = self.plan(&options, &self.lint, false).await?;
        let context = self.loader.context(&self.build, self.ignore.clone()).await?;
        let target = (plan.stages[plan.target].name.clone(), plan.stages[plan.target].description.clone());
        let (source, lint) = (self.source.clone(), self.lint.clone());
        let outline = off_runtime(move || lower::outline(&plan, &source, &options, &context, &lint)).await?;
        let outline = outline.map_err(|error| self.located(error))?;
        if let Some(error) = self.lint.violation() {
            return Err(self.located(error));
        }
        subrequest::outline(target, outline, &self.source)
    }

    /// Compiles for the findings alone: all stages, or what the target needs if the request names one.
    async fn check(&self) -> Result<(), BuildError> {
        let options = self.options();
        let whole = options.target.is_empty();
        let plan = self.plan(&options, &self.lint, whole).await?;
        let context = self.loader.context(&self.build, self.ignore.clone()).await?;
        self.lower(plan, &options, &context, &self.lint).await?;
        self.lint.violation().map_or(Ok(()), |error| Err(self.located(error)))
    }
}
