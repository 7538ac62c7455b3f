use crate::shell::Lexer;

/// A document within a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// The word that ends it.
    pub(crate) name: String,
    /// File descriptor as written; shells read it, we do not.
    pub(crate) fd: u32,
    /// Variables within are expanded: its name was not quoted.
    pub(crate) expand: bool,
    /// Tabs at the start of lines are dropped (`<<-`).
    pub(crate) chomp: bool,
    /// Its lines.
    pub(crate) content: String,
}

impl Heredoc {
    /// Whether this line ends it.
    pub(crate) fn ends_with(&self, line: &str) -> bool {
        let line = super::lines::trim_newline(line);
        let line = if self.chomp { line.trim_start_matches('\t') } else { line };
        // Upstream finds no end for a document without a name.
        !self.name.is_empty() && line == self.name
    }

    /// The lines as their reader sees them.
    pub(crate) fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// The heredoc that a word starts: `[fd]<<[-]name`, the name possibly quoted.
pub(crate) fn parse_heredoc(word: &str) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (fd, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (chomp, quoted) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if quoted.contains('<') {
        return None;
    }
    let unquoted = Lexer::heredoc_name().words(quoted).ok()?;
    // `<< EOF` is a document without a name, which has no end.
    let name = match unquoted.as_slice() {
        [] => String::new(),
        [name] => name.clone(),
        _ => return None,
    };
    let fd = if fd.is_empty() { 0 } else { fd.parse().ok()? };
    let expand = !quoted.contains(['\'', '"']);
    Some(Heredoc { name, fd, expand, chomp, content: String::new() })
}

/// The heredocs that a line of RUN, COPY or ADD starts.
pub(crate) fn heredocs_of(line: &str, escape: char) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let words = Lexer::raw(escape).words(line).unwrap_or_default();
    words.iter().filter_map(|word| parse_heredoc(word)).collect()
}

/// Whether a text is one word that starts a heredoc.
pub(crate) fn is_heredoc(text: &str) -> bool {
    parse_heredoc(text).is_some()
}
