//! The stages of a file as what can be asked for (`--call=targets`).

use crate::Span;
use crate::ast::Dockerfile;

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its place in the file, from 0: it can be asked for by that, too.
    pub number: usize,
    /// In lower case.
    pub name: Option<String>,
    /// What a comment above says of it.
    pub description: String,
    /// As written.
    pub base: String,
    /// `--platform`, as written.
    pub platform: Option<String>,
    /// Built when no other is asked for.
    pub is_default: bool,
    /// The FROM.
    pub span: Span,
}

/// Lists the stages of a file.
#[must_use]
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let last = dockerfile.stages.len().saturating_sub(1);
    let target = |(number, stage): (usize, &crate::Stage)| {
        let name = stage.name().map(str::to_owned);
        let description = name.as_deref().map(|name| description(&stage.from.comments, name));
        Target {
            number,
            description: description.unwrap_or_default(),
            name,
            base: stage.from.base.text.to_string(),
            platform: stage.from.platform.as_ref().map(|platform| platform.text.to_string()),
            is_default: number == last,
            span: stage.from.span,
        }
    };
    dockerfile.stages.iter().enumerate().map(target).collect()
}

/// What the first comment that begins with `name` says behind it.
pub(crate) fn description(comments: &[String], name: &str) -> String {
    let said = comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '));
    said.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_as_targets() {
        let source =
            "FROM a\n# other x\n# build makes it\nFROM --platform=$X b AS Build\nFROM build\n";
        let found = targets(&crate::parse(source).dockerfile);
        let told: Vec<String> = found
            .iter()
            .map(|target| {
                let name = target.name.as_deref().unwrap_or("-");
                let platform = target.platform.as_deref().unwrap_or("-");
                format!(
                    "{} {name} {} {platform} {:?} {}",
                    target.number, target.base, target.description, target.is_default
                )
            })
            .collect();
        assert_eq!(
            told,
            [r#"0 - a - "" false"#, r#"1 build b $X "makes it" false"#, r#"2 - build - "" true"#]
        );
    }
}
