use rbuild_llb::{Chown, Constraints, FileActions, MkdirAction};
use rbuild_oci::{Empty, Healthcheck};

use super::stage::StageLowering;
use super::{network, paths};
use crate::CompileError;
use crate::durations::format_duration;
use crate::parse::{HealthCommand, ShellForm};
use crate::plan::Step;
use crate::text::{plain_list, quote_list};

/// The shell when neither SHELL nor the base image names one.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Most ports of one EXPOSE: all there are, of each protocol.
const MAX_PORTS: usize = 3 * 65_536;
/// What a port costs at most: `65535/sctp` in the history, and an entry of a map in the config.
const PORT_BYTES: usize = 100;

impl StageLowering<'_, '_> {
    /// The words of a command, through the shell if it is one string.
    pub(super) fn command(&self, form: &ShellForm) -> Vec<String> {
        if !form.shell {
            return form.words.clone();
        }
        let shell = &self.built.image.config.shell;
        let mut words: Vec<String> =
            if shell.is_empty() { DEFAULT_SHELL.map(str::to_owned).to_vec() } else { shell.clone() };
        words.push(form.words.join(" "));
        words
    }

    pub(super) fn maintainer(&mut self, name: &str) -> Result<(), CompileError> {
        self.built.image.author = name.to_owned();
        self.commit(format!("MAINTAINER {name}"), false);
        Ok(())
    }

    pub(super) fn cmd(&mut self, form: &ShellForm) -> Result<(), CompileError> {
        self.check_command("CMD", form);
        let words = self.command(form);
        self.commit(format!("CMD {}", quote_list(&words)), false);
        let config = &mut self.built.image.config;
        config.cmd = words;
        config.args_escaped = true;
        self.built.cmd_set = true;
        Ok(())
    }

    pub(super) fn entrypoint(&mut self, form: &ShellForm) -> Result<(), CompileError> {
        self.check_command("ENTRYPOINT", form);
        let words = self.command(form);
        self.commit(format!("ENTRYPOINT {}", quote_list(&words)), false);
        self.built.image.config.entrypoint = words;
        if !self.built.cmd_set {
            self.built.image.config.cmd.clear();
        }
        Ok(())
    }

    fn check_command(&mut self, keyword: &'static str, form: &ShellForm) {
        self.built.checks.single(self.cx.lint, keyword, self.lines);
        if form.shell && self.built.image.config.shell.is_empty() {
            self.cx.lint.shell_form(keyword, self.lines);
        }
    }

    pub(super) fn healthcheck(&mut self, check: &HealthCommand) -> Result<(), CompileError> {
        self.built.checks.single(self.cx.lint, "HEALTHCHECK", self.lines);
        self.commit(
            format!(
                "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
                plain_list(&check.test),
                format_duration(check.interval),
                format_duration(check.timeout),
                format_duration(check.start_period),
                format_duration(check.start_interval),
                check.retries
            ),
            false,
        );
        self.built.image.config.healthcheck = Some(Healthcheck {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        });
        Ok(())
    }

    pub(super) fn expose(&mut self, ports: &[String]) -> Result<(), CompileError> {
        let mut all = Vec::new();
        let mut words = ports.to_vec();
        words.sort();
        for word in words {
            for port in self.expand_words(&word)? {
                self.cx.lint.port(&port, self.lines);
                let ports = network::parse_ports(&port);
                let ports = ports.map_err(|error| CompileError::new(error).word(&word))?;
                if all.len() + ports.len() > MAX_PORTS {
                    return Err(CompileError::new(format!("EXPOSE names more than {MAX_PORTS} ports")));
                }
                // Every instruction lists its ports in the history.
                self.cx.spend(ports.len() * PORT_BYTES)?;
                all.extend(ports);
            }
        }
        self.commit(format!("EXPOSE {}", plain_list(&all)), false);
        self.built.image.config.exposed_ports.extend(all.into_iter().map(|port| (port, Empty {})));
        Ok(())
    }

    pub(super) fn user(&mut self, user: &str) -> Result<(), CompileError> {
        let user = self.expand(user)?;
        self.built.state = std::mem::take(&mut self.built.state).user(&user);
        self.commit(format!("USER {user}"), false);
        self.built.image.config.user = user;
        Ok(())
    }

    pub(super) fn volume(&mut self, volumes: &[String]) -> Result<(), CompileError> {
        let mut all = Vec::with_capacity(volumes.len());
        for path in volumes {
            let path = self.expand(path)?;
            if path.is_empty() {
                return Err(CompileError::new("VOLUME specified can not be an empty string"));
            }
            self.built.image.config.volumes.insert(path.clone(), Empty {});
            all.push(path);
        }
        self.commit(format!("VOLUME {}", plain_list(&all)), false);
        Ok(())
    }

    pub(super) fn stop_signal(&mut self, signal: &str) -> Result<(), CompileError> {
        let signal = self.expand(signal)?;
        if !network::is_signal(&signal) {
            return Err(CompileError::new(format!("invalid signal: {signal}")));
        }
        self.commit(format!("STOPSIGNAL {signal}"), false);
        self.built.image.config.stop_signal = signal;
        Ok(())
    }

    pub(super) fn shell(&mut self, words: &[String]) -> Result<(), CompileError> {
        self.built.image.config.shell = words.to_vec();
        self.commit(format!("SHELL {}", plain_list(words)), false);
        Ok(())
    }

    pub(super) fn workdir(&mut self, step: &Step, path: &str) -> Result<(), CompileError> {
        let path = self.expand(path)?;
        self.built.checks.workdir(self.cx.lint, &path, self.lines);
        let current = match self.built.image.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        };
        let dir = match path.as_str() {
            // Not even cleaned.
            "" => current.to_owned(),
            _ if path.starts_with('/') => path,
            _ => paths::clean_rooted(&format!("{current}/{path}")),
        };
        let made = dir != "/";
        if made {
            self.next_step();
        }
        // It is cheap and never ignores the cache.
        let constraints = Constraints::default()
            .custom_name(self.step_name(step, ""))
            .location(self.cx.source.location(step.instruction.lines));
        self.built.image.config.working_dir.clone_from(&dir);
        self.built.state = std::mem::take(&mut self.built.state).dir(&dir);
        let epoch = self.cx.options.source_date_epoch;
        let action = MkdirAction {
            path: dir.clone(),
            mode: 0o755,
            make_parents: true,
            owner: Some(&self.built.image.config.user).filter(|u| !u.is_empty()).map(|u| Chown::parse(u)),
            timestamp_ns: epoch.and_then(|s| s.checked_mul(1_000_000_000)),
        };
        if made {
            self.built.state = self.built.state.file(FileActions::new().mkdir(action), constraints);
        }
        self.commit(format!("WORKDIR {dir}"), made);
        Ok(())
    }
}
