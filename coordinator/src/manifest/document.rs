//! Files of deployments: one manifest, several documents, or a list, as operators write them and as `reconvene get -o yaml`
//! prints them. What the coordinator sets in one, its status and its generation, counts for nothing.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::dataset::DatasetFields;
use super::place::Places;
use super::read::{checked, parse};
use super::{API_VERSION, DatasetRef, DeploymentManifest, DeploymentSpec, ManifestError, Metadata};

/// The `kind` of a list of deployments.
pub const LIST: &str = "List";

/// A deployment of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// As it was written, comments included; of what the coordinator printed, only what is the operator's.
    pub text: String,
    /// What it means.
    pub manifest: DeploymentManifest<DatasetRef>,
    /// Whether the text was made from what the coordinator printed.
    pub is_printed: bool,
}

impl Document {
    /// Reads and checks every deployment of a file. Places are those of the whole file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read_all(text: &str) -> Result<Vec<Self>, ManifestError> {
        let mut documents = Vec::new();
        for (lines_before, text) in split(text) {
            let placed = format!("{}{text}", "\n".repeat(lines_before));
            if is_list(&placed) {
                documents.extend(read_list(&placed)?);
            } else {
                documents.push(read_one(text, &placed)?);
            }
        }
        Ok(documents)
    }
}

/// What of a manifest is the operator's, as a tree: as it was written where that means the same, else with every setting.
pub fn tree(text: &str) -> Value {
    let written = serde_saphyr::from_str(text).unwrap_or_default();
    plain(written, DeploymentManifest::read(text).ok().as_ref())
}

/// A tree as YAML.
pub fn yaml(tree: &Value) -> String {
    serde_saphyr::to_string(tree).expect("a tree of plain values can always be written")
}

/// One deployment as a text may have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Written {
    api_version: String,
    kind: String,
    metadata: WrittenMetadata,
    spec: DeploymentSpec<DatasetFields>,
    /// Set by the coordinator.
    status: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenMetadata {
    name: String,
    /// Set by the coordinator.
    generation: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenList {
    api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    items: Vec<Written>,
}

impl Written {
    fn is_printed(&self) -> bool {
        self.status.is_some() || self.metadata.generation.is_some()
    }

    pub(super) fn manifest(self) -> DeploymentManifest<DatasetFields> {
        let Self { api_version, kind, metadata: WrittenMetadata { name, .. }, spec, .. } = self;
        DeploymentManifest { api_version, kind, metadata: Metadata { name }, spec }
    }
}

/// The documents of a text that have anything in them, each with the number of lines before it.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut begins, mut lines_before, mut has_content) = (0, 0, false);
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if rest.is_some() && has_content {
            documents.push((lines_before, &text[begins..at]));
            (begins, lines_before, has_content) = (at, index, false);
        }
        let content = rest.unwrap_or(line).trim();
        has_content |= !content.is_empty() && !content.starts_with(['#', '%']);
        at += line.len();
    }
    if has_content || documents.is_empty() {
        documents.push((lines_before, &text[begins..]));
    }
    documents
}

fn is_list(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    serde_saphyr::from_str::<Kind>(text).is_ok_and(|found| found.kind == LIST)
}

fn read_one(text: &str, placed: &str) -> Result<Document, ManifestError> {
    let written: Written = parse(placed)?;
    let is_printed = written.is_printed();
    let manifest = checked(placed, written.manifest(), "")?;
    let text = if is_printed { yaml(&tree(text)) } else { text.to_owned() };
    Ok(Document { text, manifest, is_printed })
}

fn read_list(placed: &str) -> Result<Vec<Document>, ManifestError> {
    let WrittenList { api_version, items, .. } = parse(placed)?;
    if api_version != API_VERSION {
        return Err(ManifestError::Value {
            place: Places::of(placed).find("apiVersion"),
            field: "apiVersion".to_owned(),
            problem: format!("'{api_version}' is not known; allowed: {API_VERSION}"),
        });
    }
    let mut tree: Value = serde_saphyr::from_str(placed).unwrap_or_default();
    let document = |(index, written): (usize, Written)| {
        let manifest = checked(placed, written.manifest(), &format!("items.{index}."))?;
        let written = tree["items"][index].take();
        Ok(Document { text: yaml(&plain(written, Some(&manifest))), manifest, is_printed: true })
    };
    items.into_iter().enumerate().map(document).collect()
}

/// `written` without what the coordinator sets. A tree loses how a scalar was spelt, as in a label `1.10`: where it then means
/// something else, every setting of `manifest` stands in its place.
fn plain(mut written: Value, manifest: Option<&DeploymentManifest<DatasetRef>>) -> Value {
    let mut tree = Map::new();
    for key in ["apiVersion", "kind", "metadata", "spec"] {
        if let Some(value) = written.get_mut(key) {
            tree.insert(key.to_owned(), value.take());
        }
    }
    if let Some(Value::Object(metadata)) = tree.get_mut("metadata") {
        metadata.retain(|key, _| key == "name");
    }
    let tree = Value::Object(tree);
    let Some(manifest) = manifest else { return tree };
    if DeploymentManifest::read(&yaml(&tree)).is_ok_and(|again| again == *manifest) {
        return tree;
    }
    let whole = serde_saphyr::to_string(manifest).ok();
    whole.and_then(|text| serde_saphyr::from_str(&text).ok()).unwrap_or(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FASHION: &str = "\
# for the lab
apiVersion: reconvene/v1
kind: Deployment
metadata: { name: fashion }
spec:
  network: resnet20
  dataset: { name: fashion } # as it was added
  training: { learningRate: 0.1 }
  budgets:
    - { params: 1/16.21, size: 64Ki, latencyP95: 2.5ms }
";

    fn printed(text: &str) -> String {
        let mut tree = tree(text);
        tree["metadata"]["generation"] = 3.into();
        tree["status"] = serde_json::json!({ "phase": "Complete", "devices": [{ "deviceId": "gw-1" }] });
        yaml(&tree)
    }

    #[test]
    fn what_was_printed_is_read_as_what_was_applied() {
        for text in [
            FASHION.to_owned(),
            // As numbers these labels would be others.
            FASHION.replace("spec:", "spec:\n  selector: { release: 1.10, tier: yes, id: 007 }"),
        ] {
            let written = Document::read_all(&text).unwrap();
            assert_eq!((written[0].text.as_str(), written[0].is_printed), (text.as_str(), false));
            let again = Document::read_all(&printed(&text)).unwrap();
            assert_eq!((&again[0].manifest, again[0].is_printed), (&written[0].manifest, true), "{text}");
            assert!(!again[0].text.contains("status") && !again[0].text.contains("generation"));
            assert_eq!(DeploymentManifest::read(&printed(&text)).as_ref(), Ok(&written[0].manifest));
        }
        let tree = tree(FASHION);
        assert_eq!(tree["spec"]["training"], serde_json::json!({ "learningRate": 0.1 }), "as it was written");
    }

    #[test]
    fn a_file_holds_several_documents_or_a_list() {
        let other = FASHION.replace("name: fashion }\nspec", "name: other }\nspec");
        let file = format!("---\n{FASHION}---\n# the second\n{other}---\n");
        let documents = Document::read_all(&file).unwrap();
        let names: Vec<_> = documents.iter().map(|it| it.manifest.metadata.name.as_str()).collect();
        assert_eq!(names, ["fashion", "other"]);
        assert_eq!(documents[1].text, format!("---\n# the second\n{other}"));
        let items: Vec<Value> =
            [FASHION, &other].map(|text| serde_saphyr::from_str(&printed(text)).unwrap()).into();
        let list = yaml(&serde_json::json!({ "apiVersion": API_VERSION, "kind": LIST, "items": items }));
        let listed = Document::read_all(&list).unwrap();
        assert_eq!(listed.len(), 2);
        for (listed, document) in listed.iter().zip(&documents) {
            assert_eq!(listed.manifest, document.manifest);
            assert_eq!(listed.text, yaml(&tree(&document.text)));
        }
    }

    #[test]
    fn what_is_wrong_is_placed_in_the_whole_file() {
        let refusal = |text: &str| Document::read_all(text).unwrap_err().to_string();
        let wrong = FASHION.replace("resnet20", "Res Net");
        let text = refusal(&format!("{FASHION}---\n{wrong}"));
        assert!(text.starts_with("line 17, column 12: spec.network: 'Res Net'"), "{text}");
        let list =
            format!("apiVersion: {API_VERSION}\nkind: List\nitems:\n- {}", wrong.replace('\n', "\n  "));
        let text = refusal(&list);
        assert!(text.starts_with("line 9, column 14: items.0.spec.network: 'Res Net'"), "{text}");
        let text = refusal(&FASHION.replace("  network:", "  status: 1\n  network:"));
        assert!(text.starts_with("line 6, column 3: unknown field 'status'"), "{text}");
        assert!(refusal("# nothing\n").contains("the text ends where a deployment should stand"));
    }
}
