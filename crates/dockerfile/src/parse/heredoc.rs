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
        line == self.name
    }

    /// The lines as their reader sees them.
    pub(crate) fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// The heredoc that a text starts: `[fd]<<[-]name`, the name possibly quoted, with white space before it if
/// there is no dash.
pub(crate) fn parse_heredoc(text: &str) -> Option<Heredoc> {
    let (fd, rest) = split_fd(text);
    let rest = rest.strip_prefix("<<")?;
    let (chomp, quoted) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest.trim_start()),
    };
    if quoted.contains('<') {
        return None;
    }
    let unquoted = Lexer::heredoc_name().words(quoted).ok()?;
    let [name] = unquoted.as_slice() else { return None };
    let fd = if fd.is_empty() { 0 } else { fd.parse().ok()? };
    let expand = !quoted.contains(['\'', '"']);
    Some(Heredoc { name: name.clone(), fd, expand, chomp, content: String::new() })
}

fn split_fd(text: &str) -> (&str, &str) {
    text.split_at(text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len())
}

/// The heredocs that a line of RUN, COPY or ADD starts.
pub(crate) fn heredocs_of(line: &str, escape: char) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let mut words = Lexer::raw(escape).words(line).unwrap_or_default().into_iter();
    let mut found = Vec::new();
    while let Some(mut word) = words.next() {
        // `<< EOF`: whatever the next word is, it is the name or spoils it.
        if split_fd(&word).1 == "<<"
            && let Some(name) = words.next()
        {
            word = format!("{word} {name}");
        }
        found.extend(parse_heredoc(&word));
    }
    found
}

/// Whether a text is nothing but the start of a heredoc.
pub(crate) fn is_heredoc(text: &str) -> bool {
    parse_heredoc(text).is_some()
}
