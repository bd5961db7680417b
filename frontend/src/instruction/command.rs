//! RUN, CMD, ENTRYPOINT, SHELL and ONBUILD.

use smol_str::SmolStr;

use crate::ast::{Command, Onbuild, Run, RunFlags, Word};
use crate::flags::{Known, Takes};
use crate::syntax::{Arguments, Keyword, Raw};
use crate::{Diagnostic, Span};

use super::{Typed, Typing, mount, take_text};

const RUN_FLAGS: Known = &[
    ("mount", Takes::Values),
    ("network", Takes::Value),
    ("security", Takes::Value),
    ("device", Takes::Values),
];

/// Returns shell or exec form; no text at all is an empty text for the shell.
pub(super) fn command(arguments: &mut Arguments, span: Span) -> Command {
    match arguments {
        Arguments::Json(words) => Command::Exec(std::mem::take(words)),
        other => {
            let nothing = || Word { text: SmolStr::default(), span: Span::new(span.end, span.end) };
            Command::Shell(take_text(other).unwrap_or_else(nothing))
        }
    }
}

impl Typing<'_, '_> {
    pub(super) fn run(&mut self, raw: &mut Raw) -> Run {
        let flags = self.run_flags(raw);
        let command = command(&mut raw.arguments, raw.span);
        if command == Command::Exec(Vec::new()) {
            self.value_error(raw.span, "RUN names no command");
        }
        Run { command, heredocs: std::mem::take(&mut raw.heredocs), flags }
    }

    fn run_flags(&mut self, raw: &Raw) -> Option<Box<RunFlags>> {
        if raw.flags.is_empty() {
            return None;
        }
        let mut flags = self.flags(raw, RUN_FLAGS);
        let network = flags.value("network");
        self.one_of(network.as_ref(), "network", &["default", "none", "host"]);
        let security = flags.value("security");
        self.one_of(security.as_ref(), "security", &["sandbox", "insecure"]);
        let mounts = flags.values("mount");
        let mounts = mounts.iter().filter_map(|value| self.mount(value)).collect();
        let devices = flags.values("device");
        for device in &devices {
            if let Err(diagnostic) = mount::check_device(device) {
                self.checks.out.push(*diagnostic);
            }
        }
        Some(Box::new(RunFlags { mounts, network, security, devices }))
    }

    fn one_of(&mut self, value: Option<&Word>, flag: &str, known: &[&str]) {
        let Some(value) = value.filter(|value| !known.contains(&value.text.as_str())) else {
            return;
        };
        let help = format!("expected {}", known.join(", "));
        self.error(value.span, format!("`--{flag}` cannot be `{}`", value.text)).help = Some(help);
    }

    pub(super) fn shell(&mut self, raw: &mut Raw) -> Option<Vec<Word>> {
        self.flags(raw, &[]);
        match &mut raw.arguments {
            Arguments::Json(words) if !words.is_empty() => Some(std::mem::take(words)),
            Arguments::Text(Some(text)) => {
                let (span, help) = (text.span, r#"write `SHELL ["/bin/bash", "-c"]`"#);
                self.error(span, "SHELL takes the exec form only").help = Some(help.to_owned());
                None
            }
            _ => {
                self.error(raw.span, "SHELL needs an argument");
                None
            }
        }
    }

    pub(super) fn onbuild(&mut self, raw: &mut Raw) -> Option<Onbuild> {
        self.flags(raw, &[]);
        let Arguments::Trigger(Some(trigger)) = &mut raw.arguments else {
            self.error(raw.span, "ONBUILD needs an instruction");
            return None;
        };
        let mut trigger = std::mem::replace(&mut **trigger, empty(raw.keyword.clone()));
        if let Some(refused @ (Keyword::From | Keyword::Maintainer | Keyword::Onbuild)) =
            trigger.known
        {
            let message = format!("a trigger cannot be {}", format!("{refused:?}").to_uppercase());
            self.error(trigger.keyword.span, message);
            return None;
        }
        trigger.heredocs = std::mem::take(&mut raw.heredocs);
        let mut expression = trigger.text.to_string();
        for heredoc in &trigger.heredocs {
            expression.push('\n');
            expression.push_str(&heredoc.content);
            expression.push_str(&heredoc.name);
        }
        // BuildKit looks at a trigger where it runs, so a bad one is no fault of this file.
        let first = self.checks.out.len();
        let typed = self.instruction(trigger);
        let is_sound = !self.checks.out.said_since(first).iter().any(Diagnostic::is_fault);
        self.checks.out.forgive(first, |remark| {
            remark.message = format!("no build can run this trigger: {}", remark.message);
        });
        let trigger = match typed {
            Some(Typed::Statement(trigger)) if is_sound => Some(Box::new(trigger)),
            _ => None,
        };
        Some(Onbuild { expression, trigger })
    }
}

fn empty(keyword: Word) -> Raw {
    Raw {
        span: keyword.span,
        keyword,
        known: None,
        flags: Vec::new(),
        arguments: Arguments::Ignored,
        heredocs: Vec::new(),
        text: SmolStr::default(),
        comments: Vec::new(),
        empty_line: None,
    }
}
