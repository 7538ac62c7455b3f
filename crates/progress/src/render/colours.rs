//! Which colours the live view has.

/// SGR codes by what they say; `None` is no colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Colours {
    pub(super) run: Option<String>,
    pub(super) cancel: Option<String>,
    pub(super) error: Option<String>,
    pub(super) warning: Option<String>,
    pub(super) faint: Option<String>,
}

impl Colours {
    pub(super) fn none() -> Self {
        Self { run: None, cancel: None, error: None, warning: None, faint: None }
    }

    /// The usual ones, changed by a list like `run=green:error=255,0,0` (the value of `BUILDKIT_COLORS`).
    pub(super) fn with(list: Option<&str>) -> Self {
        let mut colours = Self {
            run: Some("34".into()),
            cancel: Some("33".into()),
            error: Some("31".into()),
            warning: Some("33".into()),
            faint: Some("2".into()),
        };
        for field in list.unwrap_or_default().split(':').filter(|field| !field.is_empty()) {
            let Some((name, value)) = field.split_once('=') else {
                tracing::warn!(field, "BUILDKIT_COLORS: not of the form name=colour");
                continue;
            };
            let slot = match name.to_ascii_lowercase().as_str() {
                "run" => &mut colours.run,
                "cancel" => &mut colours.cancel,
                "error" => &mut colours.error,
                "warning" => &mut colours.warning,
                _ => {
                    tracing::warn!(name, "BUILDKIT_COLORS: not one of run, cancel, error, warning");
                    continue;
                }
            };
            match code(value) {
                Some(code) => *slot = Some(code),
                None => tracing::warn!(value, "BUILDKIT_COLORS: neither a colour's name nor r,g,b"),
            }
        }
        colours
    }
}

fn code(value: &str) -> Option<String> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    let value = value.to_ascii_lowercase();
    let (base, name) = value.strip_prefix("light-").map_or((30, value.as_str()), |name| (90, name));
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Some((base + index).to_string());
    }
    let parts: Vec<u8> = value.split(',').map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [r, g, b] => Some(format!("38;2;{r};{g};{b}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_colours_and_the_rest_is_ignored() {
        let colours =
            Colours::with(Some("run=light-green:error=Cyan:cancel=1,2,3:warning=pale:x=red:y:error=1,2"));
        assert_eq!(colours.run.as_deref(), Some("92"));
        assert_eq!(colours.error.as_deref(), Some("36"));
        assert_eq!(colours.cancel.as_deref(), Some("38;2;1;2;3"));
        assert_eq!(colours.warning.as_deref(), Some("33"));
        assert_eq!(Colours::with(None).run.as_deref(), Some("34"));
    }
}
