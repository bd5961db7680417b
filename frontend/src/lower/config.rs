//! Instructions that change the config: no vertex, but for WORKDIR's directory.

use std::fmt::Write as _;

use crate::ast::{ArgDeclaration, Command, HealthcheckSpec, Pair, Statement, Word};
use crate::check;
use crate::go_text::{duration, quoted_list};
use crate::ignore::clean;
use crate::ports::Ports;
use crate::{Diagnostic, Empty, Healthcheck, MakeDirOp, Op, Span, VertexId, signal};

use super::stage::{Fault, Lowering, StageResult};

impl Lowering<'_, '_> {
    pub(super) fn workdir(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        word: &Word,
    ) -> Result<Option<VertexId>, Fault> {
        let text = self.expand(stage, statement, word)?;
        if !std::mem::replace(&mut stage.has_workdir, true) && !text.starts_with('/') {
            let message = format!(
                "Relative workdir \"{text}\" can have unexpected results if the base image changes"
            );
            let rule = check::WORKDIR_RELATIVE_PATH;
            if let Some(warning) = self.checks.warn(&statement.comments, rule, word.span, message) {
                warning.help = Some("begin with an absolute path".to_owned());
            }
        }
        let current = stage.config.config.working_dir.as_deref().unwrap_or("/");
        // An absolute path stays as written, trailing slash included, as in BuildKit.
        let dir = match text.as_str() {
            "" => current.to_owned(),
            text if text.starts_with('/') => text.to_owned(),
            text => clean(&format!("{current}/{text}")),
        };
        let path = clean(&dir);
        // Relative paths in a row make ever longer ones; the graph keeps each.
        self.charge(4 * path.len(), word.span)?;
        stage.config.config.working_dir = Some(dir.clone());
        let vertex = (path != "/").then(|| {
            let owner = stage.config.config.user.clone().unwrap_or_default();
            let op = Op::MakeDir(MakeDirOp { path, owner });
            self.vertices.add(op, vec![stage.root], stage.platform.clone())
        });
        stage.root = vertex.unwrap_or(stage.root);
        self.commit(stage, statement.span, format!("WORKDIR {dir}"), vertex)?;
        Ok(vertex)
    }

    pub(super) fn arg(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        declarations: &[ArgDeclaration],
    ) -> Result<(), Fault> {
        let mut entry = "ARG".to_owned();
        // All defaults are read before any argument is set, as for ENV.
        let mut values = Vec::with_capacity(declarations.len());
        for declaration in declarations {
            let name = &declaration.name.text;
            self.check_secret(statement, "ARG", &declaration.name, name);
            let given = self.plan.options.build_args.get(name.as_str()).cloned();
            values.push(match (given, &declaration.default) {
                (Some(given), _) => (Some(given), None),
                (None, Some(default)) => {
                    let value = self.expand(stage, statement, default)?;
                    // A default that holds variables may hold what `--build-arg` gave them.
                    let shown = (!default.text.contains('$')).then(|| value.clone());
                    (Some(value), shown)
                }
                (None, None) => (self.plan.globals.get(name.as_str()).cloned(), None),
            });
        }
        for (declaration, (value, shown)) in declarations.iter().zip(values) {
            let name = &declaration.name.text;
            entry.push(' ');
            entry.push_str(name);
            if let Some(shown) = shown {
                entry.push('=');
                entry.push_str(&shown);
            }
            stage.scope.set_arg(name, value);
        }
        self.commit(stage, statement.span, entry, None)
    }

    pub(super) fn env(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        pairs: &[Pair],
    ) -> Result<(), Fault> {
        let mut entry = "ENV".to_owned();
        // All values are read before any is set: one line sees the values from before it.
        let values = self.pairs(stage, statement, pairs)?;
        for (pair, (key, value)) in pairs.iter().zip(values) {
            self.check_secret(statement, "ENV", &pair.key, &key);
            let _ = write!(entry, " {key}={value}");
            stage.scope.set_env(&key, value);
        }
        self.commit(stage, statement.span, entry, None)
    }

    pub(super) fn label(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        pairs: &[Pair],
    ) -> Result<(), Fault> {
        let mut entry = "LABEL".to_owned();
        for (key, value) in self.pairs(stage, statement, pairs)? {
            let _ = write!(entry, " {key}={value}");
            stage.config.config.labels.get_or_insert_default().insert(key, value);
        }
        self.commit(stage, statement.span, entry, None)
    }

    fn pairs(
        &mut self,
        stage: &StageResult,
        statement: &Statement,
        pairs: &[Pair],
    ) -> Result<Vec<(String, String)>, Fault> {
        for pair in pairs.iter().filter(|pair| !pair.has_equals) {
            let written = &statement.keyword.text;
            let message = format!(
                "\"{written} key=value\" should be used instead of legacy \"{written} key value\" \
                 format"
            );
            let span = pair.key.span.join(pair.value.span);
            let rule = check::LEGACY_KEY_VALUE_FORMAT;
            if let Some(warning) = self.checks.warn(&statement.comments, rule, span, message) {
                warning.help = Some(format!("write `{written} {}=...`", pair.key.text));
            }
        }
        let expand = |pair: &Pair| {
            let key = self.expand(stage, statement, &pair.key)?;
            let value = self.expand(stage, statement, &pair.value)?;
            Ok((key, value))
        };
        pairs.iter().map(expand).collect()
    }

    fn check_secret(&mut self, statement: &Statement, keyword: &str, word: &Word, name: &str) {
        if !sounds_secret(name) {
            return;
        }
        let message =
            format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        let rule = check::SECRETS_IN_ARG_OR_ENV;
        if let Some(warning) = self.checks.warn(&statement.comments, rule, word.span, message) {
            warning.help = Some("use `RUN --mount=type=secret`".to_owned());
        }
    }

    pub(super) fn cmd(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        command: &Command,
    ) {
        self.check_once(stage, statement, "CMD");
        self.check_shell_form(stage, statement, command, "CMD");
        let words = Self::arguments(stage, command);
        let entry = format!("CMD {}", quoted_list(&words));
        stage.config.config.cmd = (!words.is_empty()).then_some(words);
        stage.config.config.args_escaped = Some(true);
        self.commit_or_fault(stage, statement.span, entry);
    }

    pub(super) fn entrypoint(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        command: &Command,
    ) {
        self.check_once(stage, statement, "ENTRYPOINT");
        self.check_shell_form(stage, statement, command, "ENTRYPOINT");
        let words = Self::arguments(stage, command);
        let entry = format!("ENTRYPOINT {}", quoted_list(&words));
        stage.config.config.entrypoint = (!words.is_empty()).then_some(words);
        if !stage.seen.contains_key("CMD") {
            stage.config.config.cmd = None;
        }
        self.commit_or_fault(stage, statement.span, entry);
    }

    pub(super) fn healthcheck(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        spec: &HealthcheckSpec,
    ) {
        self.check_once(stage, statement, "HEALTHCHECK");
        let test = match &spec.command {
            None => vec!["NONE".to_owned()],
            Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.text.to_string()],
            Some(Command::Exec(words)) => {
                let words = words.iter().map(|word| word.text.to_string());
                std::iter::once("CMD".to_owned()).chain(words).collect()
            }
        };
        let entry = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            test.join(" "),
            duration(spec.interval),
            duration(spec.timeout),
            duration(spec.start_period),
            duration(spec.start_interval),
            spec.retries,
        );
        stage.config.config.healthcheck = Some(Healthcheck {
            test,
            interval: spec.interval,
            timeout: spec.timeout,
            start_period: spec.start_period,
            start_interval: spec.start_interval,
            retries: spec.retries,
        });
        self.commit_or_fault(stage, statement.span, entry);
    }

    fn commit_or_fault(&mut self, stage: &mut StageResult, span: Span, entry: String) {
        if let Err(fault) = self.commit(stage, span, entry, None) {
            self.checks.out.push(*fault);
        }
    }

    /// Speaks of the earlier of two instructions of which only the last counts.
    fn check_once(&mut self, stage: &mut StageResult, statement: &Statement, name: &'static str) {
        if let Some(earlier) = stage.seen.insert(name, statement.span) {
            let written = &statement.keyword.text;
            let message = format!(
                "Multiple {written} instructions should not be used in the same stage because only \
                 the last one will be used"
            );
            let rule = check::MULTIPLE_INSTRUCTIONS;
            self.checks.warn(&statement.comments, rule, earlier, message);
        }
    }

    fn check_shell_form(
        &mut self,
        stage: &StageResult,
        statement: &Statement,
        command: &Command,
        name: &str,
    ) {
        let has_shell = stage.config.config.shell.as_ref().is_some_and(|shell| !shell.is_empty());
        if has_shell || !matches!(command, Command::Shell(_)) {
            return;
        }
        let written = &statement.keyword.text;
        let message = format!(
            "JSON arguments recommended for {written} to prevent unintended behavior related to OS \
             signals"
        );
        let rule = check::JSON_ARGS_RECOMMENDED;
        let warning = self.checks.warn(&statement.comments, rule, statement.span, message);
        if let Some(warning) = warning {
            warning.help = Some(format!(r#"write `{name} ["executable", "argument"]`"#));
        }
    }

    pub(super) fn expose(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        words: &[Word],
    ) -> Result<(), Fault> {
        // Sorted as written, before variables: the order of BuildKit's history.
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by(|a, b| a.text.cmp(&b.text));
        let mut entries = Vec::new();
        for word in words {
            let lexer = self.plan.lexer;
            let expansion = self.expand_with(lexer, &stage.scope, statement, word)?;
            for (_, text) in expansion.words {
                self.expose_one(statement, word, &text, &mut entries)?;
            }
        }
        let entry = format!("EXPOSE [{}]", entries.join(" "));
        let ports = stage.config.config.exposed_ports.get_or_insert_default();
        ports.extend(entries.into_iter().map(|port| (port, Empty {})));
        self.commit(stage, statement.span, entry, None)
    }

    fn expose_one(
        &mut self,
        statement: &Statement,
        word: &Word,
        text: &str,
        entries: &mut Vec<String>,
    ) -> Result<(), Fault> {
        let ports = Ports::parse(text)
            .map_err(|message| Box::new(Diagnostic::error(word.span, message)))?;
        let protocol = ports.protocol.to_ascii_lowercase();
        if ports.protocol != protocol {
            let message =
                format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
            let rule = check::EXPOSE_PROTO_CASING;
            self.checks.warn(&statement.comments, rule, word.span, message);
        }
        if ports.has_host {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found \
                 '{text}'"
            );
            let rule = check::EXPOSE_INVALID_FORMAT;
            if let Some(warning) = self.checks.warn(&statement.comments, rule, word.span, message) {
                warning.help = Some("ports are published when a container starts".to_owned());
            }
        }
        let count = usize::from(ports.last - ports.first) + 1;
        self.charge(count * 64, word.span)?;
        entries.extend((ports.first..=ports.last).map(|port| format!("{port}/{protocol}")));
        Ok(())
    }

    pub(super) fn volume(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        words: &[Word],
    ) -> Result<(), Fault> {
        let mut paths = Vec::with_capacity(words.len());
        for word in words {
            let path = self.expand(stage, statement, word)?;
            if path.is_empty() {
                let message = "a volume's path cannot be empty";
                return Err(Box::new(Diagnostic::error(word.span, message)));
            }
            paths.push(path);
        }
        let entry = format!("VOLUME [{}]", paths.join(" "));
        let volumes = stage.config.config.volumes.get_or_insert_default();
        volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
        self.commit(stage, statement.span, entry, None)
    }

    pub(super) fn user(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        word: &Word,
    ) -> Result<(), Fault> {
        let user = self.expand(stage, statement, word)?;
        let entry = format!("USER {user}");
        stage.config.config.user = (!user.is_empty()).then_some(user);
        self.commit(stage, statement.span, entry, None)
    }

    pub(super) fn stopsignal(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        word: &Word,
    ) -> Result<(), Fault> {
        let text = self.expand(stage, statement, word)?;
        signal::check(&text, word.span)?;
        let entry = format!("STOPSIGNAL {text}");
        stage.config.config.stop_signal = Some(text);
        self.commit(stage, statement.span, entry, None)
    }
}

/// Whether a name has a part that names secrets, and none that names something harmless
/// (BuildKit's `SecretsUsedInArgOrEnv`).
fn sounds_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_ascii_lowercase();
    let has = |parts: &[&str]| lower.split('_').any(|part| parts.contains(&part));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        for name in ["API_KEY", "DATABASE_PASSWORD", "github_token", "secret", "MY_AUTH_X"] {
            assert!(sounds_secret(name), "{name}");
        }
        for name in ["KEYBOARD", "PUBLIC_KEY", "KEY_FILE", "TOKEN_VERSION", "AUTHOR"] {
            assert!(!sounds_secret(name), "{name}");
        }
    }
}
