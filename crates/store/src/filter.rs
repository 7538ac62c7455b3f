use regex::Regex;

use crate::usage::UsageRecord;

/// A list of filters in containerd's syntax (`field`, `field==value`, `field!=value`, `field~=regex`, joined by
/// commas): a record matches if all parts of one filter match. An empty list matches everything.
#[derive(Debug, Default)]
pub struct Filter {
    any: Vec<Vec<Term>>,
}

#[derive(Debug)]
struct Term {
    field: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// A filter cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid filter `{text}` at character {at}: {reason}")]
pub struct FilterError {
    text: String,
    at: usize,
    reason: String,
}

impl Filter {
    /// Parses a list of filters.
    pub fn parse(filters: &[String]) -> Result<Self, FilterError> {
        let any = filters.iter().map(|text| parse_one(text)).collect::<Result<_, _>>()?;
        Ok(Self { any })
    }

    /// Whether a record matches.
    pub fn matches(&self, record: &UsageRecord) -> bool {
        self.any.is_empty() || self.any.iter().any(|terms| terms.iter().all(|term| term.matches(record)))
    }
}

impl Term {
    fn matches(&self, record: &UsageRecord) -> bool {
        let (value, present) = field(record, &self.field);
        match &self.test {
            Test::Present => present,
            Test::Equal(wanted) => value == *wanted,
            Test::NotEqual(other) => value != *other,
            Test::Matches(regex) => regex.is_match(&value),
        }
    }
}

/// A field's value, and whether the field counts as there. Upstream's flags have no value; `true` and `false` here
/// let `inuse==false` mean what it says.
fn field(record: &UsageRecord, name: &str) -> (String, bool) {
    let flag = |on: bool| (on.to_string(), on);
    let text = |text: &str| (text.to_owned(), !text.is_empty());
    match name {
        "id" => text(&record.id),
        "parents" | "parent" => text(&record.parents.join(";")),
        "description" => text(&record.description),
        "type" => text(record.record_type.as_str()),
        "inuse" => flag(record.in_use),
        "mutable" => flag(record.mutable),
        "immutable" => flag(!record.mutable),
        "shared" => flag(record.shared),
        "private" => flag(!record.shared),
        _ => (String::new(), false),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

fn parse_one(text: &str) -> Result<Vec<Term>, FilterError> {
    let mut parser = Parser { text, at: 0 };
    let mut terms = Vec::new();
    if text.trim().is_empty() {
        return Ok(terms);
    }
    loop {
        terms.push(parser.term()?);
        match parser.next() {
            None => return Ok(terms),
            Some(',') => {}
            Some(other) => return Err(parser.error(format!("`{other}` where `,` or the end was expected"))),
        }
    }
}

impl Parser<'_> {
    fn error(&self, reason: impl Into<String>) -> FilterError {
        FilterError { text: self.text.to_owned(), at: self.at, reason: reason.into() }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let length = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        let taken = rest[..length].to_owned();
        self.at += length;
        taken
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let field = self.field()?;
        let operator = self.rest().get(..2).unwrap_or_default().to_owned();
        if !matches!(operator.as_str(), "==" | "!=" | "~=") {
            if matches!(self.rest().chars().next(), None | Some(',')) {
                return Ok(Term { field, test: Test::Present });
            }
            return Err(self.error("expected one of `==`, `!=`, `~=`"));
        }
        self.at += 2;
        let value = self.value(operator == "~=")?;
        let test = match operator.as_str() {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => Test::Matches(Regex::new(&value).map_err(|error| self.error(error.to_string()))?),
        };
        Ok(Term { field, test })
    }

    fn field(&mut self) -> Result<String, FilterError> {
        if self.rest().starts_with(['"', '\'']) {
            return self.value(false);
        }
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
        if name.is_empty() { Err(self.error("expected the name of a field")) } else { Ok(name) }
    }

    fn value(&mut self, regex: bool) -> Result<String, FilterError> {
        let quote = self
            .rest()
            .chars()
            .next()
            .filter(|c| matches!(c, '"' | '\'' | '`') || (regex && matches!(c, '/' | '|')));
        let Some(quote) = quote else {
            let value = self.take_while(|c| c != ',' && !c.is_whitespace());
            return if value.is_empty() { Err(self.error("expected a value")) } else { Ok(value) };
        };
        self.next();
        let mut value = String::new();
        loop {
            match self.next() {
                None => return Err(self.error(format!("the closing {quote} is missing"))),
                Some('\\') if quote != '`' => match self.next() {
                    Some(escaped) if escaped == quote || (escaped == '\\' && !regex) => value.push(escaped),
                    Some(other) => value.extend(['\\', other]),
                    None => return Err(self.error("nothing follows the backslash")),
                },
                Some(c) if c == quote => return Ok(value),
                Some(c) => value.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordType;

    fn record() -> UsageRecord {
        UsageRecord {
            id: "abc".into(),
            mutable: true,
            in_use: false,
            size: 1,
            parents: vec!["p1".into(), "p2".into()],
            created_ms: 0,
            last_used_ms: None,
            usage_count: 0,
            description: "cached mount /root/.cache, npm".into(),
            record_type: RecordType::ExecCacheMount,
            shared: false,
        }
    }

    #[test]
    fn filters_match_as_upstream_has_them() {
        for (text, expected) in [
            ("", true),
            ("id==abc", true),
            ("id!=abc", false),
            ("id~=^a.c$", true),
            ("type==exec.cachemount", true),
            ("type==regular", false),
            ("mutable", true),
            ("immutable", false),
            ("inuse", false),
            ("inuse==false", true),
            ("private,mutable", true),
            ("private,shared", false),
            ("parents~=p2", true),
            ("parents==p1;p2", true),
            (r#"description=="cached mount /root/.cache, npm""#, true),
            ("description~=/npm$/", true),
            (r"description~=/\/root\/\.cache/", true),
            ("nosuchfield", false),
            ("nosuchfield!=x", true),
        ] {
            let filter = Filter::parse(&[text.to_owned()]).expect(text);
            assert_eq!(filter.matches(&record()), expected, "{text}");
        }
        let any = Filter::parse(&["id==x".into(), "mutable".into()]).expect("parses");
        assert!(any.matches(&record()), "one of several is enough");
        assert!(Filter::parse(&[]).expect("parses").matches(&record()));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_place() {
        for bad in ["==x", "id=x", "id==", "id==\"x", "id~=(", "id==a b", "id==a,", "é"] {
            let error = Filter::parse(&[bad.to_owned()]).expect_err(bad);
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
