//! Triggers of a base image: they name images and reach stages that nothing else reaches.

use std::collections::BTreeMap;

use frontend::{LowerOptions, Lowered};

use crate::support::{lower, options, resolve};

const SOURCE: &str = "FROM busybox AS tools\nRUN make\nFROM with-triggers\nRUN own\n";

#[test]
fn triggers_of_a_base_ask_for_further_images() {
    let parsed = frontend::parse(SOURCE);
    let options: LowerOptions = options(SOURCE);
    let first = frontend::base_images(&parsed.dockerfile, &options).expect("a good file");
    let names: Vec<&str> = first.iter().map(|image| image.reference.as_str()).collect();
    assert_eq!(names, ["docker.io/library/with-triggers:latest"]);
    let bases: BTreeMap<_, _> =
        first.into_iter().map(|image| (image.clone(), resolve(&image))).collect();
    match frontend::lower(&parsed.dockerfile, &options, &bases).expect("a good file") {
        Lowered::Graph(_) => panic!("the images of the triggers are not there yet"),
        Lowered::Needs(images) => {
            let names: Vec<String> = images.into_iter().map(|image| image.reference).collect();
            assert_eq!(
                names,
                ["docker.io/library/busybox:latest", "docker.io/library/nginx:latest"]
            );
        }
    }
}

#[test]
fn triggers_run_before_the_stage_and_are_not_kept() {
    let parsed = frontend::parse(SOURCE);
    let graph = lower(&parsed.dockerfile, &options(SOURCE)).expect("a good file");
    let steps: Vec<String> = graph
        .steps
        .iter()
        .map(|step| format!("{:?} {}/{} {}", step.stage, step.number, step.total, step.text))
        .collect();
    let want = [
        r#"Some("tools") 1/2 FROM busybox AS tools"#,
        r#"Some("tools") 2/2 RUN make"#,
        r#"Some("1") 1/5 FROM with-triggers"#,
        r#"Some("1") 2/5 ONBUILD RUN echo $HOME"#,
        r#"Some("1") 3/5 ONBUILD COPY --from=nginx /x /y"#,
        r#"Some("1") 4/5 ONBUILD COPY --from=tools /t /"#,
        r#"Some("1") 5/5 RUN own"#,
    ];
    assert_eq!(steps, want);
    assert_eq!(graph.output.config.config.on_build, None);
    let from = parsed.dockerfile.stages[1].from.span;
    assert!(graph.steps[3].span == from, "a trigger's place is the FROM that brought it");
}
