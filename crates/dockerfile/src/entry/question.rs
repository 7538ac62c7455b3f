use std::collections::BTreeMap;

use futures::future::try_join;
use rbuild_frontend::{BuildError, Detail, ErrorCode, FrontendResult, Subrequest};

use super::{Request, Shared, unsupported, warn};
use crate::lint::Linter;
use crate::parse;
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

impl Request {
    pub(super) async fn answer(self, question: Subrequest) -> Result<FrontendResult, BuildError> {
        match question {
            Subrequest::Describe => subrequest::describe(),
            Subrequest::Targets => {
                let parsed = parse::parse(&self.source.info.data, &Linter::off());
                // As upstream answers questions: an error without its lines.
                let parsed = parsed.map_err(|error| BuildError::invalid(error.to_string()))?;
                subrequest::targets(&parsed, &self.source)
            }
            Subrequest::Outline => self.outline().await.map_err(|mut error| {
                error.details.retain(|detail| !matches!(detail, Detail::Source(_)));
                error
            }),
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
        let parsed = match self.parse(&lint) {
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
        let context = self.loader.context(&self.build, self.ignore.clone());
        let (plan, context) = try_join(self.plan(&options, &self.lint, false), context).await?;
        let outline = lower::outline(&plan, &self.source, &options, &context, &self.lint);
        let outline = outline.map_err(|error| self.located(error))?;
        if let Some(error) = self.lint.violation() {
            return Err(self.located(error));
        }
        subrequest::outline(&plan.stages[plan.target], outline, &self.source)
    }

    /// Compiles for the findings alone: all stages, or what the target needs if the request names one.
    async fn check(&self) -> Result<(), BuildError> {
        let options = self.options();
        let whole = options.target.is_empty();
        let context = self.loader.context(&self.build, self.ignore.clone());
        let (plan, context) = try_join(self.plan(&options, &self.lint, whole), context).await?;
        self.lower(&plan, &options, &context, &self.lint)?;
        self.lint.violation().map_or(Ok(()), |error| Err(self.located(error)))
    }
}
