use std::collections::BTreeSet;

use rbuild_oci::{ImageConfig, ImageRef, Platform};

use super::{Linter, Lookups, rules};
use crate::parse::StageSource;
use crate::shell::{Budget, Lexer, Variables};
use crate::source::Lines;

/// Bases that are no image when nobody gives build arguments.
pub(crate) fn check_default_bases(
    lint: &Linter,
    stages: &[StageSource],
    defaults: &dyn Variables,
    lexer: Lexer,
    budget: &Budget,
) {
    if !lint.wants(&rules::INVALID_DEFAULT_ARG_IN_FROM) {
        return;
    }
    for from in stages.iter().map(|stage| &stage.from) {
        // What cannot be expanded is an error of its own, later.
        let Ok(name) = lexer.expand(&from.base, defaults, budget) else { continue };
        if ImageRef::parse(&name.text).is_err() {
            lint.report(&rules::INVALID_DEFAULT_ARG_IN_FROM, from.lines, || {
                format!("Default value for ARG {} results in empty or invalid base image name", from.base)
            });
        }
    }
}

/// Variables of a FROM that no ARG above it declares.
pub(crate) fn check_undeclared(
    lint: &Linter,
    lookups: &Lookups<'_>,
    declared: impl Fn(&str) -> bool,
    lines: Lines,
) {
    for name in lookups.missed().into_iter().filter(|name| !declared(name)) {
        lint.report(&rules::UNDEFINED_ARG_IN_FROM, lines, || {
            format!("FROM argument '{name}' is not declared{}", lookups.hint(&name, ""))
        });
    }
}

/// `--platform` that says what holds anyway, or that ties the file to one platform.
pub(crate) fn check_platform_flag(
    lint: &Linter,
    written: &str,
    expanded: &str,
    lookups: &Lookups<'_>,
    stage: &str,
    lines: Lines,
) {
    const DEFAULT: &str = "TARGETPLATFORM";
    let found = lookups.found();
    if found.is_empty() && lookups.missed().is_empty() {
        check_constant(lint, expanded, stage, lines);
        return;
    }
    let only_default = found == BTreeSet::from([DEFAULT.to_owned()]) && lookups.missed().is_empty();
    if only_default && lookups.get(DEFAULT) == Some(expanded) {
        lint.report(&rules::REDUNDANT_TARGET_PLATFORM, lines, || {
            format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            )
        });
    }
}

fn check_constant(lint: &Linter, platform: &str, stage: &str, lines: Lines) {
    // A stage that bears the platform's name is meant for it.
    let named = Platform::parse(platform).is_ok_and(|platform| {
        let platform = platform.normalize();
        stage.contains(&platform.os) || stage.contains(&platform.architecture)
    });
    if !named {
        lint.report(&rules::FROM_PLATFORM_FLAG_CONST, lines, || {
            let shown = crate::text::quote(platform);
            format!("FROM --platform flag should not use constant value {shown}")
        });
    }
}

/// A base image that turned out to be for another platform than the one that was asked for.
pub(crate) fn check_image_platform(
    lint: &Linter,
    written: &str,
    config: &ImageConfig,
    wanted: &Platform,
    lines: Lines,
) {
    let is = &config.platform;
    // Nothing but a name without a system says nothing; variants run on each other.
    if is.os.is_empty() || (is.os == wanted.os && is.architecture == wanted.architecture) {
        return;
    }
    lint.report(&rules::BASE_IMAGE_PLATFORM, lines, || {
        let (is, wanted) = (shown(is), shown(wanted));
        format!("Base image {written} was pulled with platform {is}, expected {wanted} for current build")
    });
}

fn shown(platform: &Platform) -> String {
    crate::text::quote(&platform.clone().normalize().to_string())
}
