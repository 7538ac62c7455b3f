use std::io::IsTerminal as _;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// This terminal, passing every key on as it is; as it was again when dropped.
#[derive(Debug)]
pub(super) struct Terminal {
    before: Option<Termios>,
}

impl Terminal {
    pub(super) fn open() -> std::io::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before: Some(before) })
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> Option<(u32, u32)> {
        let size = rustix::termios::tcgetwinsize(std::io::stdin()).ok()?;
        Some((u32::from(size.ws_row), u32::from(size.ws_col)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = tcsetattr(std::io::stdin(), OptionalActions::Now, before)
        {
            tracing::warn!(%error, "the terminal stays as it is");
        }
    }
}
