use rbuild_oci::History;

use super::stage::StageLowering;

/// Who wrote the history.
const COMMENT: &str = "buildkit.dockerfile.v0";

impl StageLowering<'_, '_> {
    /// Adds a line to the image's history.
    pub(super) fn commit(&mut self, created_by: String, has_layer: bool) {
        let created = self.cx.options.source_date_epoch.and_then(|epoch| rbuild_oci::format_time(epoch, 0));
        self.built.image.history.push(History {
            created,
            created_by,
            comment: COMMENT.to_owned(),
            empty_layer: !has_layer,
            ..History::default()
        });
    }

    /// The ARGs of a process as history shows them: `|2 A=x B=y `, or nothing.
    pub(super) fn shown_args(&self) -> String {
        if self.built.args.is_empty() {
            return String::new();
        }
        let mut shown = format!("|{}", self.built.args.len());
        for (name, value) in &self.built.args {
            let current = self.built.state.get_env(name).map(str::to_owned);
            let value = current.or_else(|| value.clone()).unwrap_or_default();
            shown.push_str(&format!(" {name}={value}"));
        }
        shown.push(' ');
        shown
    }
}
