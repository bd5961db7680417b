//! A build graph in Graphviz' language: `rbuild debug dump-graph --format dot x | dot -Tsvg`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use frontend::{BuildGraph, Op};

/// Writes the vertices with the instructions that they come from; edges lead from what is needed
/// to what needs it, and the output's vertex has a double border.
pub(super) fn write(graph: &BuildGraph) -> String {
    let mut texts: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for step in &graph.steps {
        if let Some(vertex) = step.vertex {
            texts.entry(vertex.0).or_default().push(&step.text);
        }
    }
    let mut dot = String::from("digraph build {\n  node [shape=box, fontname=monospace];\n");
    for (index, vertex) in graph.vertices.iter().enumerate() {
        let mut label = format!("#{index} {}", op_text(&vertex.op));
        for text in texts.get(&index).into_iter().flatten() {
            label.push('\n');
            label.push_str(text);
        }
        let border = if graph.outputs().any(|output| output.vertex.0 == index) {
            ", peripheries=2"
        } else {
            ""
        };
        let _ = writeln!(dot, "  v{index} [label={}{border}];", quoted(&label));
        for (place, input) in vertex.inputs.iter().enumerate() {
            // The first input of what changes a root is that root; others are read.
            let style = if place == 0 { "" } else { " [style=dashed]" };
            let _ = writeln!(dot, "  v{} -> v{index}{style};", input.0);
        }
    }
    dot.push_str("}\n");
    dot
}

fn op_text(op: &Op) -> String {
    match op {
        Op::Scratch => "scratch".to_owned(),
        Op::Image(image) => format!("image {}", image.reference),
        Op::Context(context) => match &context.name {
            Some(name) => format!("context {name}"),
            None => "context".to_owned(),
        },
        Op::Git(git) => format!("git {}", git.url),
        Op::Http(http) => format!("http {}", http.url),
        Op::Copy(copy) => format!("copy to {}", copy.destination),
        Op::MakeDir(dir) => format!("mkdir {}", dir.path),
        Op::Run(_) => "run".to_owned(),
        Op::Merge => "merge".to_owned(),
    }
}

/// Quotes a label; `\l` ends a line and sets it to the left (Graphviz, "escString").
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for line in text.lines() {
        for char in line.chars() {
            if matches!(char, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(char);
        }
        quoted.push_str("\\l");
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted() {
        assert_eq!(quoted("a \"b\" \\\nc"), r#""a \"b\" \\\lc\l""#);
    }
}
