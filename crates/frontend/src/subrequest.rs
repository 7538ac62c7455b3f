//! What a client may ask a frontend instead of a build, and the answers as they are on the wire: JSON in the result's
//! metadata, with upstream's names and order of fields.

use serde::{Deserialize, Serialize};

/// Version of all sub-requests.
pub const VERSION: &str = "1.0.0";

/// A question to a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subrequest {
    /// Which questions are known.
    Describe,
    /// What the target takes from the outside.
    Outline,
    /// Which stages there are.
    Targets,
    /// What should not be written so.
    Lint,
}

impl Subrequest {
    const ALL: [Self; 4] = [Self::Describe, Self::Outline, Self::Targets, Self::Lint];

    /// The option `requestid` of a request.
    pub fn id(self) -> &'static str {
        match self {
            Self::Describe => "frontend.subrequests.describe",
            Self::Outline => "frontend.outline",
            Self::Targets => "frontend.targets",
            Self::Lint => "frontend.lint",
        }
    }

    /// The question of this id.
    pub fn of_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.id() == id)
    }
}

/// A line of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinePosition {
    /// Counted from 1.
    pub line: i32,
}

/// Lines of a text, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineRange {
    /// First.
    pub start: LinePosition,
    /// Last.
    pub end: LinePosition,
}

/// Where something stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Empty if nobody knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<LineRange>,
}

/// One kind of question, as `describe` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its id.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `rpc`.
    #[serde(rename = "type")]
    pub kind: String,
    /// In words.
    pub description: String,
    /// Options that it takes.
    pub opts: Option<Vec<Named>>,
    /// Inputs that it takes.
    pub inputs: Option<Vec<Named>>,
    /// Metadata of its answer.
    pub metadata: Option<Vec<Named>>,
    /// References of its answer.
    pub refs: Option<Vec<Named>>,
}

/// A name with what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// What it means.
    pub description: String,
}

/// What a target takes from the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outline {
    /// The stage's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the file says of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Build arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    /// Secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<OutlineMount>,
    /// Ssh agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<OutlineMount>,
    /// The texts that places are in, in base64.
    pub sources: Vec<String>,
}

/// A build argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What the file says of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its value in this request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where it is declared.
    pub location: Place,
}

/// A secret or an ssh agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineMount {
    /// Its id.
    pub name: String,
    /// A build without it fails.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Where it is first used.
    pub location: Place,
}

/// The stages of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetList {
    /// In the order of the file.
    pub targets: Vec<Target>,
    /// The texts that places are in, in base64.
    pub sources: Vec<String>,
}

/// A stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// It is built when nobody names one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// What the file says of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it starts from, as it is written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// Its platform, as it is written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Where it stands.
    pub location: Place,
}

/// What should not be written so.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LintResult {
    /// The findings; `None` is none.
    pub warnings: Option<Vec<LintWarning>>,
    /// The texts that places are in.
    pub sources: Vec<LintSource>,
    /// Why the file cannot be built at all.
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    pub build_error: Option<LintError>,
}

/// One finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LintWarning {
    /// The rule's name.
    #[serde(rename = "ruleName")]
    pub rule_name: String,
    /// What the rule is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A page about the rule.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// What was found.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Where.
    pub location: Place,
}

/// A text that was looked at.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LintSource {
    /// Its name.
    pub filename: String,
    /// Its bytes, in base64.
    pub data: String,
    /// How to get it again: a definition as Go's encoder writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<Box<serde_json::value::RawValue>>,
    /// Its language.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// Why the file cannot be built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LintError {
    /// The error's text.
    pub message: String,
    /// Where.
    pub location: Place,
}
