use super::outline::OutlineArg;
use super::stage::StageLowering;
use crate::CompileError;
use crate::lint::describes;
use crate::parse::{ArgCommand, Instruction, Pair};
use crate::shell::Variables;

impl StageLowering<'_, '_> {
    /// ENV: all values see the variables from before the instruction.
    pub(super) fn env(&mut self, instruction: &Instruction, pairs: &[Pair]) -> Result<(), CompileError> {
        let mut shown = String::from("ENV");
        let pairs = self.expand_pairs(pairs)?;
        self.cx.lint.pairs("ENV", instruction, self.escape());
        for Pair { name, value } in pairs {
            self.cx.lint.secret_name("ENV", &name, self.lines);
            shown.push_str(&format!(" {name}={value}"));
            self.set_variable(&name, &value)?;
            set_env(&mut self.built.image.config.env, &name, &value);
        }
        self.commit(shown, false);
        Ok(())
    }

    /// LABEL.
    pub(super) fn label(&mut self, instruction: &Instruction, pairs: &[Pair]) -> Result<(), CompileError> {
        let mut shown = String::from("LABEL");
        let pairs = self.expand_pairs(pairs)?;
        self.cx.lint.pairs("LABEL", instruction, self.escape());
        for Pair { name, value } in pairs {
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
    pub(super) fn arg(&mut self, instruction: &Instruction, args: &[ArgCommand]) -> Result<(), CompileError> {
        let mut shown = String::from("ARG");
        for arg in args {
            // Variables in names are not expanded.
            let name = arg.name.clone();
            self.cx.lint.secret_name("ARG", &name, self.lines);
            let default = arg.default.as_deref().map(|text| self.expand(text)).transpose()?;
            let own = self.cx.options.build_args.get(&name).cloned().or(default);
            self.outline_arg(instruction, &name, own.as_deref());
            let value = own.or_else(|| self.cx.plan.globals.get(&name).map(str::to_owned));
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

    fn outline_arg(&mut self, instruction: &Instruction, name: &str, own: Option<&str>) {
        let globals = &self.cx.plan.globals;
        let global = own.is_none() && globals.get(name).is_some();
        let declared = globals.place(name).is_some();
        let Some(outline) = self.cx.outline_of(self.id) else { return };
        if !global {
            let said = instruction.comments.iter().find_map(|comment| describes(comment, name));
            outline.own(OutlineArg {
                name: name.to_owned(),
                value: own.unwrap_or_default().to_owned(),
                description: said.unwrap_or_default().to_owned(),
                lines: instruction.lines,
            });
        } else if declared {
            outline.global(name);
        }
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
