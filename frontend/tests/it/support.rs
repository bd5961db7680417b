//! What the tests share: a resolver without network and a compact text of graphs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use frontend::{
    BaseImage, BuildGraph, Diagnostic, Dockerfile, ImageConfig, LowerOptions, Lowered,
    NamedContext, Platform, ResolvedBase, RootFs, Severity, Span,
};

/// Resolves any image to a config of one layer; some names have something to them.
pub(crate) fn resolve(image: &BaseImage) -> ResolvedBase {
    let mut config = ImageConfig {
        os: image.platform.os.clone(),
        architecture: image.platform.architecture.clone(),
        variant: image.platform.variant.clone(),
        rootfs: RootFs {
            diff_ids: vec![format!("sha256:{}", "1".repeat(64))],
            ..RootFs::default()
        },
        ..ImageConfig::default()
    };
    config.config.env = Some(vec!["PATH=/bin".to_owned()]);
    let name = image.reference.rsplit('/').next().unwrap_or_default();
    match name.split(':').next().unwrap_or_default() {
        "with-bad-trigger" => {
            config.config.on_build = Some(vec!["COPPY a b".to_owned(), "FROM x".to_owned()]);
        }
        "with-triggers" => {
            let triggers = ["RUN echo $HOME", "COPY --from=nginx /x /y", "COPY --from=tools /t /"];
            config.config.on_build = Some(triggers.iter().map(ToString::to_string).collect());
        }
        "foreign" => "s390x".clone_into(&mut config.architecture),
        _ => {}
    }
    ResolvedBase { digest: format!("sha256:{}", "d".repeat(64)), config }
}

/// Lowers, resolving as often as asked.
pub(crate) fn lower(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
) -> Result<Box<BuildGraph>, Vec<Diagnostic>> {
    let mut bases = BTreeMap::new();
    let mut wanted = frontend::base_images(dockerfile, options)?;
    loop {
        for image in wanted {
            let resolved = resolve(&image);
            bases.insert(image, resolved);
        }
        match frontend::lower(dockerfile, options, &bases)? {
            Lowered::Graph(graph) => return Ok(graph),
            Lowered::Needs(images) => wanted = images,
        }
    }
}

/// Reads `# options: --target x --build-arg A=b ...` off the last line that has it.
pub(crate) fn options(source: &str) -> LowerOptions {
    let platform = Platform::parse("linux/amd64").expect("a platform");
    let mut options = LowerOptions {
        target_platform: platform.clone(),
        build_platform: platform,
        ..LowerOptions::default()
    };
    let line = source.lines().rev().find_map(|line| line.strip_prefix("# options: "));
    let mut words = line.unwrap_or_default().split(' ').filter(|word| !word.is_empty());
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        let (key, rest) = value.split_once('=').unwrap_or((value, ""));
        let pair = (key.to_owned(), rest.to_owned());
        match flag {
            "--target" => options.target = Some(value.to_owned()),
            "--platform" => options.target_platform = Platform::parse(value).expect("a platform"),
            "--build-arg" => options.build_args.extend([pair]),
            "--label" => options.labels.extend([pair]),
            "--build-context" => {
                let context = match rest.strip_prefix("image:") {
                    Some(image) => NamedContext::Image(image.to_owned()),
                    None => NamedContext::Local,
                };
                options.named_contexts.insert(key.to_owned(), context);
            }
            other => panic!("unknown option {other}"),
        }
    }
    options
}

/// Writes a graph for people: vertices, steps, config and history, one a line.
pub(crate) fn graph_text(graph: &BuildGraph) -> String {
    let mut text = String::new();
    let json = |value: &dyn erased::Json| value.json();
    for (id, vertex) in graph.vertices.iter().enumerate() {
        let inputs: Vec<usize> = vertex.inputs.iter().map(|input| input.0).collect();
        let after: Vec<usize> = vertex.after.iter().map(|before| before.0).collect();
        let after = if after.is_empty() { String::new() } else { format!(" after {after:?}") };
        let (platform, op) = (&vertex.platform, json(&vertex.op));
        let _ = writeln!(text, "#{id} {inputs:?}{after} {platform} {op}");
    }
    for step in &graph.steps {
        let stage = step.stage.as_deref().map(|stage| format!("{stage} ")).unwrap_or_default();
        let vertex = step.vertex.map(|vertex| format!(" #{}", vertex.0)).unwrap_or_default();
        let _ = writeln!(text, "[{stage}{}/{}] {}{vertex}", step.number, step.total, step.text);
    }
    let output = &graph.output;
    let _ = writeln!(text, "output #{} {}", output.vertex.0, output.platform);
    let _ = writeln!(text, "config {}", json(&output.config));
    for entry in &output.history {
        let vertex = entry.vertex.map(|vertex| format!(" #{}", vertex.0)).unwrap_or_default();
        let _ = writeln!(text, "history {:?}{vertex}", entry.created_by);
    }
    if let Some(epoch) = graph.source_date_epoch {
        let _ = writeln!(text, "epoch {epoch:?}");
    }
    text
}

mod erased {
    /// A value that serde can write, behind a reference.
    pub(super) trait Json {
        fn json(&self) -> String;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).expect("plain data")
        }
    }
}

/// Writes a diagnostic as `line:column-line:column severity [rule] message | help`.
pub(crate) fn diagnostic_text(source: &str, diagnostic: &Diagnostic) -> String {
    let (line, column) = diagnostic.span.line_column(source);
    let end = Span::new(diagnostic.span.end, diagnostic.span.end);
    let (end_line, end_column) = end.line_column(source);
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let rule = diagnostic.rule.map(|rule| format!(" [{rule}]")).unwrap_or_default();
    let help = diagnostic.help.as_ref().map(|help| format!(" | {help}")).unwrap_or_default();
    format!(
        "{line}:{column}-{end_line}:{end_column} {severity}{rule} {}{help}\n",
        diagnostic.message
    )
}
