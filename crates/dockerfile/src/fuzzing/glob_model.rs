//! Shell patterns the slow way: the set of places that a match may have reached, character by character.

/// One element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Literal(char),
    One,
    Many,
}

/// A pattern, or `None` if an escape stands before an ordinary character.
pub(super) fn parse(text: &[char], escape: char) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let c = text[at];
        at += 1;
        if c == escape {
            let literal = text.get(at).copied();
            at += 1;
            match literal {
                None => parts.push(Part::Literal(escape)),
                Some(c) if c == escape || "*?\\/}".contains(c) => parts.push(Part::Literal(c)),
                Some(_) => return None,
            }
        } else if c == '*' {
            parts.push(Part::Many);
        } else if c == '?' {
            parts.push(Part::One);
        } else {
            parts.push(Part::Literal(c));
        }
    }
    Some(parts)
}

/// The lengths of all prefixes of `text` that match as a whole, shortest first. Wildcards stop at line ends.
pub(super) fn prefixes(parts: &[Part], text: &[char]) -> Vec<usize> {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let c = text.get(at).copied();
            match part {
                Part::Literal(literal) if reached[at] && c == Some(*literal) => next[at + 1] = true,
                Part::One if reached[at] && c.is_some_and(|c| c != '\n') => next[at + 1] = true,
                Part::Many if reached[at] || next[at] => {
                    next[at] = true;
                    if c.is_some_and(|c| c != '\n') {
                        next[at + 1] = true;
                    }
                }
                _ => {}
            }
        }
        reached = next;
    }
    (0..=text.len()).filter(|at| reached[*at]).collect()
}

/// `text` without its shortest or longest matching prefix.
pub(super) fn cut_prefix(parts: &[Part], text: &[char], longest: bool) -> Vec<char> {
    let lengths = prefixes(parts, text);
    let length = if longest { lengths.last() } else { lengths.first() };
    text[length.copied().unwrap_or(0)..].to_vec()
}

/// `text` without its shortest or longest matching suffix.
pub(super) fn cut_suffix(parts: &[Part], text: &[char], longest: bool) -> Vec<char> {
    let parts: Vec<Part> = parts.iter().rev().copied().collect();
    let text: Vec<char> = text.iter().rev().copied().collect();
    let mut rest = cut_prefix(&parts, &text, longest);
    rest.reverse();
    rest
}

/// `text` with the first match, or all that do not overlap, replaced: from the left, the longest ones. An empty
/// match right behind another one is none.
pub(super) fn replace(parts: &[Part], text: &[char], replacement: &[char], all: bool) -> Vec<char> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut matched_until = None;
    while at <= text.len() {
        let length = prefixes(parts, &text[at..]).last().copied();
        let length = length.filter(|length| *length > 0 || matched_until != Some(at));
        match length {
            Some(length) => {
                out.extend(replacement);
                at += length;
                out.extend(text.get(at).filter(|_| length == 0));
                matched_until = Some(at);
                at += usize::from(length == 0);
                if !all {
                    break;
                }
            }
            None => {
                out.extend(text.get(at));
                at += 1;
            }
        }
    }
    out.extend(text.get(at..).unwrap_or_default());
    out
}
