use crate::parse::inner::{Heredoc, Node, NodeArgs};
use crate::parse::{is_heredoc, parse_nodes};

/// Documents within Dockerfiles. The first byte picks: a file as it is, or one that is written here around the
/// documents that the rest describes.
///
/// Claims: documents are the lines between an instruction and the line that ends them, to the byte; what is
/// written as a document is read as that document, and the instruction below it is found.
pub fn heredoc(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    if choice & 1 == 0 {
        documents_are_lines_of_the_file(rest);
    } else {
        documents_are_read_as_written(*choice, rest);
    }
    for word in String::from_utf8_lossy(rest).split_whitespace() {
        is_heredoc(word);
    }
}

fn documents_of(node: &Node) -> &[Heredoc] {
    match &node.args {
        NodeArgs::Nested(inner) => &inner.heredocs,
        _ => &node.heredocs,
    }
}

fn documents_are_lines_of_the_file(text: &[u8]) {
    let Ok(file) = parse_nodes(text) else { return };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut free_from = 1;
    for node in &file.nodes {
        let (first, last) = (node.lines.first as usize, node.lines.last as usize);
        assert!(
            free_from <= first && first <= last && last <= lines.len(),
            "{:?} of {}",
            node.lines,
            lines.len()
        );
        free_from = last + 1;
        let mut end = last;
        for document in documents_of(node).iter().rev() {
            let mark = lines[end - 1].trim_end_matches(['\r', '\n']);
            let mark = if document.chomp { mark.trim_start_matches('\t') } else { mark };
            assert_eq!(mark, document.name);
            let length = document.content.split_inclusive('\n').count();
            let begin = end.checked_sub(1 + length).expect("a document lies within the file");
            assert!(begin >= first, "a document begins below its instruction");
            assert_eq!(lines[begin..end - 1].concat(), document.content);
            end = begin;
        }
    }
}

/// One document that is written into a file.
struct Written {
    fd: Option<u8>,
    chomp: bool,
    quote: Option<char>,
    name: String,
    body: String,
}

impl Written {
    /// From bytes: two of choices, the name up to a line end, and the body.
    fn read(data: &[u8]) -> Option<Self> {
        let [choice, fd, rest @ ..] = data else { return None };
        let mut parts = rest.splitn(2, |byte| *byte == b'\n');
        let name: String = parts.next()?.iter().map(|byte| name_char(*byte)).collect();
        let body = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let written = Self {
            fd: (choice & 1 != 0).then_some(*fd),
            chomp: choice & 2 != 0,
            quote: [None, Some('"'), Some('\''), None][usize::from(choice >> 2 & 3)],
            name,
            body: if body.is_empty() || body.ends_with('\n') { body } else { body + "\n" },
        };
        let ends = |line: &str| {
            let line = line.trim_end_matches(['\r', '\n']);
            let line = if written.chomp { line.trim_start_matches('\t') } else { line };
            line == written.name
        };
        let fits = !written.name.is_empty()
            && !written.body.split_inclusive('\n').any(|line| ends(line) || line.len() > 65_535);
        fits.then_some(written)
    }

    fn mark(&self) -> String {
        let fd = self.fd.map(|fd| fd.to_string()).unwrap_or_default();
        let dash = if self.chomp { "-" } else { "" };
        let quote = self.quote.map(String::from).unwrap_or_default();
        format!("{fd}<<{dash}{quote}{}{quote}", self.name)
    }
}

/// Names of documents: what needs no quotes.
fn name_char(byte: u8) -> char {
    const CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";
    char::from(CHARS[usize::from(byte & 63)])
}

fn documents_are_read_as_written(choice: u8, data: &[u8]) {
    let written: Option<Vec<Written>> = super::parts(data).map(Written::read).collect();
    let Some(written) = written.filter(|written| written.len() <= 8) else { return };
    let onbuild = if choice & 2 != 0 { "ONBUILD " } else { "" };
    let end = if choice & 4 != 0 { "\r\n" } else { "\n" };
    let word = if choice & 8 != 0 { "COPY" } else { "RUN" };
    let marks: Vec<String> = written.iter().map(Written::mark).collect();
    let mut file = format!(
        "FROM a\n{onbuild}{word} {} /b{end}",
        marks.join(if choice & 16 != 0 { " \\\n" } else { " " })
    );
    for document in &written {
        file.push_str(&format!("{}{}{end}", document.body, document.name));
    }
    file.push_str("USER c\n");
    let parsed = parse_nodes(file.as_bytes()).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let [_, holder, user] = parsed.nodes.as_slice() else { panic!("{file:?}: {:?}", parsed.nodes) };
    assert_eq!(user.keyword, "user", "{file:?}");
    assert_eq!(user.lines.last as usize, file.lines().count(), "{file:?}");
    let documents = documents_of(holder);
    assert_eq!(documents.len(), written.len(), "{file:?}");
    for (document, written) in documents.iter().zip(&written) {
        assert_eq!(document.name, written.name, "{file:?}");
        assert_eq!(document.content, written.body, "{file:?}");
        assert_eq!(document.fd, written.fd.map_or(0, u32::from), "{file:?}");
        assert_eq!(document.expand, written.quote.is_none(), "{file:?}");
        assert_eq!(document.text(), chomped(written), "{file:?}");
    }
}

/// The document as its reader gets it.
fn chomped(written: &Written) -> String {
    let mut out = String::new();
    let mut line_start = true;
    for c in written.body.chars() {
        if written.chomp && line_start && c == '\t' {
            continue;
        }
        line_start = c == '\n';
        out.push(c);
    }
    out
}
