use super::stage::StageLowering;
use crate::CompileError;
use crate::parse::{ArgCommand, Pair};
use crate::shell::Variables;

impl StageLowering<'_, '_> {
    /// ENV: all values see the variables from before the instruction.
    pub(super) fn env(&mut self, pairs: &[Pair]) -> Result<(), CompileError> {
        let mut shown = String::from("ENV");
        for Pair { name, value } in self.expand_pairs(pairs)? {
            shown.push_str(&format!(" {name}={value}"));
            self.set_variable(&name, &value)?;
            set_env(&mut self.built.image.config.env, &name, &value);
        }
        self.commit(shown, false);
        Ok(())
    }

    /// LABEL.
    pub(super) fn label(&mut self, pairs: &[Pair]) -> Result<(), CompileError> {
        let mut shown = String::from("LABEL");
        for Pair { name, value } in self.expand_pairs(pairs)? {
            shown.push_str(&format!(" {name}={value}"));
            self.built.image.config.labels.insert(name, value);
        }
        self.commit(shown, false);
        Ok(())
    }

    fn expand_pairs(&self, pairs: &[Pair]) -> Result<Vec<Pair>, CompileError> {
        pairs
            .iter()
            .map(|pair| Ok(Pair { name: self.expand(&pair.name)?, value: self.expand(&pair.value)? }))
            .collect()
    }

    fn set_variable(&mut self, name: &str, value: &str) -> Result<(), CompileError> {
        // The list is searched, so what a variable costs grows with those that are there.
        self.cx.spend(self.built.state.env().len())?;
        // Taken, not cloned: the environment is changed in place.
        self.built.state = std::mem::take(&mut self.built.state).add_env(name, value);
        Ok(())
    }

    /// ARG: the request's value, else the default, else what was said before the first FROM.
    pub(super) fn arg(&mut self, args: &[ArgCommand]) -> Result<(), CompileError> {
        let mut shown = String::from("ARG");
        for arg in args {
            let name = self.expand(&arg.name)?;
            let default = arg.default.as_deref().map(|text| self.expand(text)).transpose()?;
            let given = self.cx.options.build_args.get(&name).cloned();
            let value = given.or(default).or_else(|| self.cx.plan.globals.get(&name).map(str::to_owned));
            shown.push(' ');
            shown.push_str(&name);
            if let Some(value) = &value {
                shown.push_str(&format!("={value}"));
                self.set_variable(&name, value)?;
            }
            let args = &mut self.built.args;
            match args.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => args.push((name, value)),
            }
        }
        self.commit(shown, false);
        Ok(())
    }
}

/// Sets a variable of an image; its place stays that of its first setting.
fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let same = |known: &&mut String| known.split('=').next() == Some(name);
    match env.iter_mut().find(same) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}
