use rbuild_frontend::Fault;

use crate::CompileError;
use crate::source::Lines;

/// Most bytes of a Dockerfile. Upstream has no such limit but never sees larger ones: the gateway refuses
/// messages above 16 MiB.
pub(crate) const MAX_FILE_BYTES: usize = 16 << 20;
/// Most bytes of one physical line; upstream's scanner has the same.
const MAX_LINE_BYTES: usize = 65_535;

/// Physical lines of a file, with look-ahead for continuations and heredocs.
#[derive(Debug)]
pub(crate) struct LineReader<'a> {
    rest: &'a str,
    /// Number of the line that was read last.
    pub(crate) number: u32,
}

impl<'a> LineReader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text, number: 0 }
    }

    /// The next line with its line end. Errors: it is too long.
    pub(crate) fn next(&mut self) -> Result<Option<&'a str>, CompileError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
        self.number += 1;
        if end > MAX_LINE_BYTES {
            return Err(CompileError::at(
                Lines::one(self.number),
                format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}"),
            )
            .fault(Fault::DockerfileLimit));
        }
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Some(line))
    }
}

/// Without its line end.
pub(crate) fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

pub(crate) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Splits off an escape character at the end, which joins the next line. `None`: the line ends here.
///
/// A doubled escape character is a literal one; spaces and tabs may follow it.
pub(crate) fn continued(line: &str, escape: char) -> Option<&str> {
    let body = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!body.ends_with(escape)).then_some(body)
}
