//! Filters of ListenBuildHistory: `status==error,repository~=rbuild`; several are alternatives.

use std::time::Duration;

use rbuild_build::HistoryRecord;

use crate::config::Span;

/// Alternatives of conditions that must all hold. Nothing at all matches everything.
#[derive(Debug, Default)]
pub(super) struct Filter(Vec<Vec<Term>>);

#[derive(Debug)]
struct Term {
    field: Field,
    operator: Operator,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Ref,
    Status,
    Repository,
    StartedAt,
    CompletedAt,
    Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Contains,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug)]
enum Value {
    Text(String),
    /// Milliseconds since 1970, or of a duration.
    Millis(i64),
}

/// Longer ones first: `>=` begins with `>`.
const OPERATORS: [(&str, Operator); 8] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("~=", Operator::Contains),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("=", Operator::Equal),
];

impl Filter {
    /// Errors: a text that names the filter and what was expected.
    pub(super) fn parse(filters: &[String]) -> Result<Self, String> {
        let parse = |filter: &String| filter.split(',').map(|term| Term::parse(filter, term)).collect();
        filters.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn matches(&self, record: &HistoryRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|terms| terms.iter().all(|term| term.matches(record)))
    }
}

impl Term {
    fn parse(filter: &str, term: &str) -> Result<Self, String> {
        let invalid = |what: String| format!("build history filter `{filter}`: {what}");
        let found = OPERATORS
            .iter()
            .filter_map(|(sign, operator)| term.find(sign).map(|at| (at, *sign, *operator)))
            .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
        let Some((at, sign, operator)) = found else {
            return Err(invalid(format!("`{term}` has no operator (==, !=, ~=, <, <=, >, >=)")));
        };
        let value = term[at + sign.len()..].trim().trim_matches('"');
        let field = match term[..at].trim() {
            "ref" => Field::Ref,
            "status" => Field::Status,
            "repository" => Field::Repository,
            "startedAt" | "createdAt" => Field::StartedAt,
            "completedAt" => Field::CompletedAt,
            "duration" => Field::Duration,
            other => {
                let known = "ref, status, repository, startedAt, completedAt, duration";
                return Err(invalid(format!("unknown field `{other}`, expected one of {known}")));
            }
        };
        let is_text = matches!(field, Field::Ref | Field::Status | Field::Repository);
        let is_order = !matches!(operator, Operator::Equal | Operator::NotEqual | Operator::Contains);
        if is_text == is_order {
            return Err(invalid(format!("`{sign}` does not apply to `{}`", term[..at].trim())));
        }
        let value = match field {
            Field::Ref | Field::Status | Field::Repository => Some(Value::Text(value.to_owned())),
            Field::Duration => millis(value).map(Value::Millis),
            // A duration means that long ago.
            Field::StartedAt | Field::CompletedAt => value
                .parse()
                .map(jiff::Timestamp::as_millisecond)
                .ok()
                .or_else(|| millis(value).map(|ago| now_ms() - ago))
                .map(Value::Millis),
        };
        let value = value.ok_or_else(|| invalid(format!("`{term}`: expected a time or a duration")))?;
        Ok(Self { field, operator, value })
    }

    fn matches(&self, record: &HistoryRecord) -> bool {
        match &self.value {
            Value::Text(text) => {
                let found = match self.field {
                    Field::Ref => record.id.clone(),
                    Field::Status => status(record).to_owned(),
                    _ => repository(record),
                };
                match self.operator {
                    Operator::NotEqual => found != *text,
                    Operator::Contains => found.contains(text.as_str()),
                    _ => found == *text,
                }
            }
            Value::Millis(limit) => {
                let found = match self.field {
                    Field::StartedAt => Some(record.created_ms),
                    Field::CompletedAt => record.completed_ms,
                    _ => Some(record.completed_ms.unwrap_or_else(now_ms) - record.created_ms),
                };
                found.is_some_and(|found| match self.operator {
                    Operator::Less => found < *limit,
                    Operator::LessOrEqual => found <= *limit,
                    Operator::Greater => found > *limit,
                    _ => found >= *limit,
                })
            }
        }
    }
}

/// How a build stands, in upstream's words.
fn status(record: &HistoryRecord) -> &'static str {
    match &record.error {
        None if record.is_active() => "running",
        None => "completed",
        Some(error) if error.cancelled => "canceled",
        Some(_) => "error",
    }
}

/// The repository that the build was made from, as clients and git contexts tell it.
fn repository(record: &HistoryRecord) -> String {
    let known = ["vcs:source", "context"].iter().find_map(|name| record.options.get(*name));
    known.cloned().unwrap_or_default()
}

fn millis(duration: &str) -> Option<i64> {
    Span::parse(duration).ok().and_then(|span| i64::try_from(span.0.as_millis()).ok())
}

fn now_ms() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rbuild_build::HistoryError;

    use super::*;

    fn record() -> HistoryRecord {
        serde_json::from_value(serde_json::json!({
            "id": "abc", "frontend": "dockerfile.v0", "options": {"vcs:source": "https://h/x.git"},
            "exporters": [], "created_ms": 1_000_000, "completed_ms": 1_090_000,
        }))
        .unwrap()
    }

    fn matches(filters: &[&str], record: &HistoryRecord) -> bool {
        let filters: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        Filter::parse(&filters).unwrap().matches(record)
    }

    #[test]
    fn terms_are_joined_by_and_and_filters_by_or() {
        let record = record();
        assert!(matches(&[], &record));
        assert!(matches(&["ref==abc,status=completed"], &record));
        assert!(!matches(&["ref==abc,status==error"], &record));
        assert!(matches(&["ref==x", "repository~=x.git"], &record));
        assert!(matches(&["duration>1m,duration<=90s"], &record));
        assert!(matches(&["startedAt<1970-01-01T01:00:00Z,completedAt>=1970-01-01T00:18:10Z"], &record));
        assert!(!matches(&["startedAt>48h"], &record), "it ran long ago");
    }

    #[test]
    fn the_status_of_a_build_follows_its_end() {
        let mut record = record();
        let status = rbuild_build::HistoryBlob { digest: rbuild_digest::Digest::of("x"), size: 1 };
        record.error = Some(HistoryError { message: "x".into(), cancelled: true, status });
        assert!(matches(&["status==canceled"], &record));
        record.error = None;
        record.completed_ms = None;
        assert!(matches(&["status==running"], &record));
    }

    #[test]
    fn what_is_not_a_filter_is_refused_by_name() {
        for (bad, says) in [
            ("nope", "no operator"),
            ("name==x", "unknown field `name`"),
            ("status>x", "does not apply"),
            ("duration==1s", "does not apply"),
            ("startedAt>x", "expected a time"),
        ] {
            let error = Filter::parse(&[bad.to_owned()]).unwrap_err();
            assert!(error.contains(says) && error.contains(bad), "{error}");
        }
    }
}
