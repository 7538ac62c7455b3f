use crate::PatternError;
use crate::path::parents;
use crate::pattern::Pattern;

/// An ordered list of patterns. Each one that matches a path or a directory above it decides, the last wins;
/// `!` takes back what earlier ones said.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    patterns: Vec<Pattern>,
    has_negation: bool,
}

/// What a set says about one path, and what a walk needs to ask about the paths below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    matched: bool,
    /// By pattern: whether it matched here or above. Empty: nothing is known.
    above: Vec<bool>,
}

impl Match {
    /// Whether the set matches the path.
    pub fn matched(&self) -> bool {
        self.matched
    }
}

impl PatternSet {
    /// Parses patterns, one a line; blank ones say nothing.
    ///
    /// Errors: the first malformed pattern.
    pub fn parse<I, S>(lines: I) -> Result<Self, PatternError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut patterns = Vec::new();
        for line in lines {
            patterns.extend(Pattern::parse(line.as_ref())?);
        }
        let has_negation = patterns.iter().any(|pattern| pattern.negated);
        Ok(Self { patterns, has_negation })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether some pattern begins with `!`.
    pub fn has_negation(&self) -> bool {
        self.has_negation
    }

    pub(crate) fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether the set matches the path, by itself or by a directory above it.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.negated == matched && matches_here_or_above(pattern, path) {
                matched = !pattern.negated;
            }
        }
        matched
    }

    /// The same within a walk: `parent` is what was said of the directory that holds the path, so that the
    /// directories above aren't tried again. At the top it is `Match::default()`.
    #[must_use]
    pub fn matches_with_parent(&self, path: &str, parent: &Match) -> Match {
        let known = parent.above.len() == self.patterns.len() && !parent.above.is_empty();
        let mut matched = false;
        let mut above = vec![false; self.patterns.len()];
        for (position, pattern) in self.patterns.iter().enumerate() {
            let mut hit = known && parent.above[position];
            if !hit {
                if pattern.negated != matched {
                    continue;
                }
                hit = if known { pattern.matches(path) } else { matches_here_or_above(pattern, path) };
            }
            above[position] = hit;
            if hit {
                matched = !pattern.negated;
            }
        }
        Match { matched, above }
    }
}

fn matches_here_or_above(pattern: &Pattern, path: &str) -> bool {
    pattern.matches(path) || parents(path).any(|parent| pattern.matches(parent))
}

#[cfg(test)]
mod tests;
