//! The example of the README, down to the last field of its graph.

use std::collections::BTreeMap;

use frontend::{
    ContextOp, CopyOp, CopySource, HistoryStep, ImageConfig, ImageOp, MakeDirOp, Op, Platform,
    RunNetwork, RunOp, Step, Unpack, Vertex, VertexId,
};

use crate::support::{lower, options};

const EXAMPLE: &str = "FROM node:14
WORKDIR /app-node
COPY . .
RUN npm install
ENTRYPOINT npm start
";

#[test]
fn the_example_lowers_to_four_layers_and_a_config() {
    let parsed = frontend::parse(EXAMPLE);
    assert_eq!(parsed.diagnostics, []);
    let graph = lower(&parsed.dockerfile, &options(EXAMPLE)).expect("a good file");
    let platform = Platform::parse("linux/amd64").expect("a platform");
    let vertex = |op: Op, inputs: &[usize]| Vertex {
        op,
        inputs: inputs.iter().copied().map(VertexId).collect(),
        after: Vec::new(),
        platform: platform.clone(),
    };
    let want = [
        vertex(
            Op::Image(ImageOp {
                reference: "docker.io/library/node:14".to_owned(),
                digest: format!("sha256:{}", "d".repeat(64)),
            }),
            &[],
        ),
        vertex(Op::MakeDir(MakeDirOp { path: "/app-node".to_owned(), owner: String::new() }), &[0]),
        vertex(Op::Context(ContextOp { name: None }), &[]),
        vertex(
            Op::Copy(CopyOp {
                sources: vec![CopySource::Path { input: 1, path: String::new(), wildcard: true }],
                destination: "/app-node".to_owned(),
                destination_is_dir: true,
                owner: None,
                mode: None,
                exclude: Vec::new(),
                parents: false,
                unpack: Unpack::Never,
            }),
            &[1, 2],
        ),
        vertex(
            Op::Run(RunOp {
                args: ["/bin/sh", "-c", "npm install"].map(str::to_owned).to_vec(),
                env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
                cwd: "/app-node".to_owned(),
                user: String::new(),
                mounts: Vec::new(),
                network: RunNetwork::Default,
                insecure: false,
                files: Vec::new(),
                devices: Vec::new(),
                hostname: None,
            }),
            &[3],
        ),
    ];
    assert_eq!(graph.vertices, want);
    assert_eq!(graph.output.vertex, VertexId(4));
    let steps = graph.steps.iter().map(|step: &Step| {
        (step.number, step.total, step.text.as_str(), step.vertex.map(|vertex| vertex.0))
    });
    let want = [
        (1, 5, "FROM node:14", Some(0)),
        (2, 5, "WORKDIR /app-node", Some(1)),
        (3, 5, "COPY . .", Some(3)),
        (4, 5, "RUN npm install", Some(4)),
        (5, 5, "ENTRYPOINT npm start", None),
    ];
    assert_eq!(steps.collect::<Vec<_>>(), want);
    let entry = |created_by: &str, vertex: Option<usize>| HistoryStep {
        created_by: created_by.to_owned(),
        author: None,
        vertex: vertex.map(VertexId),
    };
    let want = [
        entry("WORKDIR /app-node", Some(1)),
        entry("COPY . . # buildkit", Some(3)),
        entry("RUN /bin/sh -c npm install # buildkit", Some(4)),
        entry(r#"ENTRYPOINT ["/bin/sh" "-c" "npm start"]"#, None),
    ];
    assert_eq!(graph.output.history, want);
    check_config(&graph.output.config);
    let rules: Vec<_> = graph.warnings.iter().filter_map(|warning| warning.rule).collect();
    assert_eq!(rules, ["JSONArgsRecommended"]);
}

fn check_config(config: &ImageConfig) {
    assert_eq!(config.config.working_dir.as_deref(), Some("/app-node"));
    let entrypoint = ["/bin/sh", "-c", "npm start"].map(str::to_owned).to_vec();
    assert_eq!(config.config.entrypoint, Some(entrypoint));
    assert_eq!((config.created.as_deref(), config.architecture.as_str()), (None, "amd64"));
}
