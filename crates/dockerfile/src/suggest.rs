//! "Did you mean": the known word that is nearest to a mistyped one.

/// Words that differ in more places are not taken for typing mistakes.
const MAX_DISTANCE: usize = 2;
/// Longer words are not compared: the cost is quadratic and nobody mistypes a word of that length.
const MAX_WORD: usize = 128;

/// The option nearest to `word`, if it is near; ties go to the first.
pub(crate) fn nearest<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
    case_sensitive: bool,
) -> Option<&'a str> {
    let fold = |text: &str| if case_sensitive { text.to_owned() } else { text.to_lowercase() };
    let folded: Vec<char> = fold(word).chars().collect();
    if folded.is_empty() || folded.len() > MAX_WORD {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for option in options {
        let candidate: Vec<char> = fold(option).chars().collect();
        if candidate == folded {
            return None;
        }
        let distance = levenshtein(&folded, &candidate);
        if distance <= MAX_DISTANCE && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// ` (did you mean X?)`, or nothing.
pub(crate) fn hint<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
    case_sensitive: bool,
) -> String {
    nearest(word, options, case_sensitive).map_or_else(String::new, |near| format!(" (did you mean {near}?)"))
}

fn levenshtein(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let words = ["add", "arg", "copy", "from", "run"];
        assert_eq!(nearest("FORM", words, false), Some("from"));
        assert_eq!(nearest("cpoy", words, false), Some("copy"));
        assert_eq!(nearest("xyz", words, false), None);
        assert_eq!(nearest("copy", words, false), None);
        assert_eq!(hint("rn", words, true), " (did you mean run?)");
    }
}
