//! Several graphs as one: targets and platforms of one build share the work that is the same.

use std::collections::HashMap;

use crate::{BuildGraph, Diagnostic, Op, Platform, Step, Vertex, VertexId};

/// What makes two vertices the same work. The platform counts for commands only: copies are the
/// same everywhere.
#[derive(PartialEq, Eq, Hash)]
struct Work {
    op: Op,
    inputs: Vec<VertexId>,
    after: Vec<VertexId>,
    platform: Option<Platform>,
}

/// Merges `graphs`, which must be of one Dockerfile. Equal work becomes one vertex and equal stages
/// are shown once; a stage that a platform has of its own is named after it. The outputs keep their
/// order; each graph must have but one. Returns `None` for no graphs.
#[must_use]
pub fn merge(graphs: Vec<BuildGraph>) -> Option<BuildGraph> {
    let is_mixed = graphs.windows(2).any(|pair| pair[0].output.platform != pair[1].output.platform);
    let mut graphs = graphs.into_iter();
    let first = graphs.next()?;
    let rest: Vec<BuildGraph> = graphs.collect();
    if rest.is_empty() {
        return Some(first);
    }
    let mut merger = Merger::default();
    let mut stages: Vec<(Platform, Vec<Step>)> = Vec::new();
    let mut outputs = Vec::new();
    let mut warnings: Vec<Diagnostic> = Vec::new();
    let source_date_epoch = first.source_date_epoch;
    for graph in std::iter::once(first).chain(rest) {
        let places = merger.add(graph.vertices);
        let place = |id: VertexId| places[id.0];
        for diagnostic in graph.warnings {
            if !warnings.contains(&diagnostic) {
                warnings.push(diagnostic);
            }
        }
        let mut output = graph.output;
        let platform = output.platform.clone();
        let steps = graph.steps.into_iter().map(|mut step| {
            step.vertex = step.vertex.map(place);
            step
        });
        for stage in by_stage(steps.collect()) {
            if !stages.iter().any(|(_, known)| *known == stage) {
                stages.push((platform.clone(), stage));
            }
        }
        output.vertex = place(output.vertex);
        for entry in &mut output.history {
            entry.vertex = entry.vertex.map(place);
        }
        outputs.push(output);
    }
    let mut outputs = outputs.into_iter();
    Some(BuildGraph {
        vertices: merger.vertices,
        steps: if is_mixed { named(stages) } else { flat(stages) },
        output: outputs.next()?,
        more_outputs: outputs.collect(),
        warnings,
        source_date_epoch,
    })
}

#[derive(Default)]
struct Merger {
    vertices: Vec<Vertex>,
    known: HashMap<Work, VertexId>,
}

impl Merger {
    /// Adds vertices and returns where each is now.
    fn add(&mut self, vertices: Vec<Vertex>) -> Vec<VertexId> {
        let mut places: Vec<VertexId> = Vec::with_capacity(vertices.len());
        for vertex in vertices {
            let moved = |ids: &[VertexId]| ids.iter().map(|id| places[id.0]).collect::<Vec<_>>();
            let (inputs, after) = (moved(&vertex.inputs), moved(&vertex.after));
            let is_command = matches!(vertex.op, Op::Run(_));
            let work = Work {
                op: vertex.op.clone(),
                inputs: inputs.clone(),
                after: after.clone(),
                platform: is_command.then(|| vertex.platform.clone()),
            };
            let next = VertexId(self.vertices.len());
            let id = *self.known.entry(work).or_insert(next);
            if id == next {
                self.vertices.push(Vertex { inputs, after, ..vertex });
            }
            places.push(id);
        }
        places
    }
}

fn by_stage(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut stages: Vec<Vec<Step>> = Vec::new();
    for step in steps {
        match stages.last_mut() {
            Some(stage) if stage[0].stage == step.stage => stage.push(step),
            _ => stages.push(vec![step]),
        }
    }
    stages
}

fn flat(stages: Vec<(Platform, Vec<Step>)>) -> Vec<Step> {
    stages.into_iter().flat_map(|(_, stage)| stage).collect()
}

/// Names stages after their platform that are there more than once.
fn named(stages: Vec<(Platform, Vec<Step>)>) -> Vec<Step> {
    let names: Vec<Option<String>> =
        stages.iter().map(|(_, stage)| stage[0].stage.clone()).collect();
    let is_alone = |name: &Option<String>| names.iter().filter(|it| *it == name).count() == 1;
    let mut steps = Vec::new();
    for (platform, stage) in stages {
        let name = stage[0].stage.clone();
        let shown = match &name {
            _ if is_alone(&name) => name,
            Some(name) => Some(format!("{platform} {name}")),
            None => Some(platform.to_string()),
        };
        steps.extend(stage.into_iter().map(|step| Step { stage: shown.clone(), ..step }));
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{LowerOptions, Lowered, lower, parse};

    const FILE: &str = "\
FROM --platform=$BUILDPLATFORM scratch AS tools
COPY tool /tool
FROM scratch AS app
ARG TARGETARCH
COPY --from=tools /tool /tool
COPY bin-$TARGETARCH /bin
FROM app AS debug
COPY symbols /
";

    fn graph(target: Option<&str>, platform: &str) -> BuildGraph {
        let options = LowerOptions {
            target: target.map(str::to_owned),
            target_platform: Platform::parse(platform).unwrap(),
            ..LowerOptions::default()
        };
        match lower(&parse(FILE).dockerfile, &options, &BTreeMap::new()).unwrap() {
            Lowered::Graph(graph) => *graph,
            Lowered::Needs(bases) => panic!("no base is needed, and it wants {bases:?}"),
        }
    }

    fn shown(graph: &BuildGraph) -> Vec<String> {
        let show = |step: &Step| {
            let stage = step.stage.as_deref().unwrap_or_default();
            let vertex = step.vertex.map_or_else(String::new, |id| format!(" #{}", id.0));
            format!("[{stage} {}/{}] {}{vertex}", step.number, step.total, step.text)
        };
        graph.steps.iter().map(show).collect()
    }

    #[test]
    fn platforms_share_what_does_not_depend_on_them() {
        let graphs = ["linux/amd64", "linux/arm64"].map(|it| graph(Some("app"), it));
        let lone = graphs[0].vertices.len();
        let merged = merge(graphs.into()).unwrap();
        assert_eq!(merged.vertices.len(), lone + 1, "one copy is for one platform alone");
        assert_eq!(merged.outputs().count(), 2);
        let text = shown(&merged).join("\n");
        assert_eq!(text.matches("COPY tool").count(), 1, "{text}");
        assert_eq!(text.matches("[linux/arm64 app").count(), 4, "{text}");
        for (id, vertex) in merged.vertices.iter().enumerate() {
            assert!(vertex.inputs.iter().all(|input| input.0 < id), "the order stays topological");
        }
    }

    #[test]
    fn targets_share_their_stages() {
        let graphs = ["app", "debug"].map(|it| graph(Some(it), "linux/amd64"));
        let merged = merge(graphs.into()).unwrap();
        let (app, debug) = (merged.output.vertex, merged.more_outputs[0].vertex);
        assert_eq!(merged.vertices[debug.0].inputs[0], app, "{:?}", shown(&merged));
        assert_eq!(shown(&merged).len(), graph(None, "linux/amd64").steps.len());
    }

    #[test]
    fn one_graph_stays_as_it_is() {
        let alone = graph(None, "linux/amd64");
        let merged = merge(vec![alone.clone()]).unwrap();
        assert_eq!(shown(&merged), shown(&alone));
        assert!(merge(Vec::new()).is_none());
    }
}
