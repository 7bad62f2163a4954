//! What one manifest says otherwise than another: field by field, for people. Never judges either.

use serde::Serialize;
use serde_json::Value;

use super::DeploymentManifest;

/// More than so many are counted, not told.
const MOST: usize = 12;

/// The fields in which `after` is another than `before`, as in `spec.training.epochs: 10 -> 12`; empty where they mean the same.
pub fn changes<D: Serialize>(before: &DeploymentManifest<D>, after: &DeploymentManifest<D>) -> String {
    let mut found = Vec::new();
    compare("", &tree(before), &tree(after), &mut found);
    let more = found.len().saturating_sub(MOST);
    found.truncate(MOST);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found.join("; ")
}

/// By way of its text: there a share or a rate has the digits that a person gave it.
fn tree<D: Serialize>(manifest: &DeploymentManifest<D>) -> Value {
    let text = serde_saphyr::to_string(manifest).unwrap_or_default();
    serde_saphyr::from_str(&text).unwrap_or_default()
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(was), Value::Object(is)) => {
            let mut keys: Vec<&String> = was.keys().chain(is.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let of =
                    |fields: &serde_json::Map<String, Value>| fields.get(key).cloned().unwrap_or_default();
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, &of(was), &of(is), found);
            }
        }
        (before, after) => found.push(format!("{path}: {} -> {}", told(before), told(after))),
    }
}

fn told(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_another_is_told() {
        let read = |lines: &str| {
            let head = "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: { name: d }\nspec:\n  network: resnet20\n";
            DeploymentManifest::read(&format!("{head}  dataset: {{ name: x }}\n{lines}")).unwrap()
        };
        let one = read("  training: { epochs: 10, learningRate: 0.1 }\n");
        assert_eq!(changes(&one, &one), "");
        let two = read(
            "  training: { epochs: 12, learningRate: 0.05 }\n  rollout: { bake: 5m }\n  budgets: [{ params: 1/4 }]\n",
        );
        assert_eq!(
            changes(&one, &two),
            "spec.budgets: [] -> [{\"params\":\"1/4\",\"selector\":{}}]; spec.rollout.bake: none -> 5m; \
             spec.training.epochs: 10 -> 12; spec.training.learningRate: 0.1 -> 0.05"
        );
    }
}
