//! From error to what the user reads.

use frontend::Diagnostic;

use super::error::BuildError;
use crate::error::causes;
use crate::op::OpError;
use crate::progress::{Failure, SourceDiagnostic, SourceText};

/// Tells `error`; `source` is the Dockerfile that its spans point into.
pub(crate) fn failure_of(error: &BuildError, source: Option<&SourceText>) -> Failure {
    let mut failure = Failure {
        kind: error.kind(),
        causes: causes(error),
        help: None,
        diagnostics: Vec::new(),
        step: None,
        exit_code: None,
        log_tail: Vec::new(),
        kept_by: None,
    };
    match error {
        BuildError::Request { help, .. } => failure.help.clone_from(help),
        BuildError::Dockerfile { diagnostics } => {
            let text = source.map_or("", |source| source.text.as_str());
            failure.diagnostics =
                diagnostics.iter().map(|it| SourceDiagnostic::new(it, text)).collect();
        }
        BuildError::Image { image, span, help, .. } => {
            failure.help.clone_from(help);
            let text = source.map_or("", |source| source.text.as_str());
            let message =
                format!("`{image}` is neither in the store nor to be had from its registry");
            failure.diagnostics =
                vec![SourceDiagnostic::new(&Diagnostic::error(*span, message), text)];
        }
        BuildError::Step { index, source, kept_by, .. } => {
            failure.step = *index;
            failure.kept_by.clone_from(kept_by);
            describe_op(source, &mut failure);
        }
        BuildError::Remote(error) => failure.help = error.help(),
        BuildError::Context(_)
        | BuildError::Archive(_)
        | BuildError::Source(_)
        | BuildError::Store(_)
        | BuildError::Export(_)
        | BuildError::Exchange(_)
        | BuildError::Cancelled => {}
    }
    failure
}

fn describe_op(error: &OpError, failure: &mut Failure) {
    match error {
        OpError::Exit { code, tail } => {
            failure.exit_code = Some(*code);
            failure.log_tail.clone_from(tail);
        }
        OpError::Signal { signal, tail } => {
            failure.exit_code = Some(128 + signal);
            failure.log_tail.clone_from(tail);
        }
        OpError::OutOfMemory { code, tail, .. } => {
            failure.exit_code = Some(*code);
            failure.log_tail.clone_from(tail);
            failure.help =
                Some("give it more with --memory, or have it do less at once".to_owned());
        }
        OpError::TimedOut { tail, .. } => {
            failure.log_tail.clone_from(tail);
            failure.help = Some("give it more time with --timeout".to_owned());
        }
        OpError::Sandbox(error) => {
            failure.exit_code = error.exit_code();
            failure.help = error.help().map(str::to_owned);
        }
        OpError::NoSecret { id } => {
            failure.help = Some(format!("give it with `--secret id={id},src=FILE` or `env=NAME`"));
        }
        OpError::NoAgent { id } => {
            failure.help = Some(format!("give it with `--ssh {id}`, or `--ssh {id}=SOCKET`"));
        }
        OpError::NotAllowed(refused) => failure.help = Some(refused.help()),
        OpError::Leak(_) => {
            failure.help = Some(
                "the layer was thrown away; if it may hold the value, add `--allow secret.leak`"
                    .to_owned(),
            );
        }
        OpError::Remote(error) => failure.help = error.help(),
        OpError::Unsupported { .. }
        | OpError::Device { .. }
        | OpError::Copy(_)
        | OpError::Select(_)
        | OpError::Root(_)
        | OpError::Search(_)
        | OpError::Agent(_)
        | OpError::Output(_)
        | OpError::MakeDir(_)
        | OpError::User(_)
        | OpError::Source(_)
        | OpError::Layer(_)
        | OpError::Changes(_)
        | OpError::Clone(_)
        | OpError::Store(_)
        | OpError::Exchange(_)
        | OpError::Cancelled => {}
    }
}
