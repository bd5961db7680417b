//! Whether two syntax trees mean the same: equal but for places and for how keywords are written.

use serde_json::Value;

use crate::Dockerfile;

pub(super) fn is_same(one: &Dockerfile, other: &Dockerfile) -> bool {
    match (meaning(one), meaning(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

fn meaning(dockerfile: &Dockerfile) -> Option<Value> {
    let mut tree = serde_json::to_value(dockerfile).ok()?;
    strip(&mut tree);
    Some(tree)
}

/// Takes places out, and of instructions how they are written.
fn strip(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            if fields.contains_key("keyword") {
                fields.remove("keyword");
                fields.remove("text");
            }
            for place in ["span", "mark", "body"] {
                fields.remove(place);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(elements) => elements.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
