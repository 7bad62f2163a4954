//! Files of deployments: one manifest, several documents, or a list, as operators write them and as `reconvene get -o yaml`
//! prints them. Of what the coordinator sets in one, its status counts for nothing; its generation says what it was made of.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::dataset::DatasetFields;
use super::place::{Place, Places};
use super::read::{checked, parse};
use super::{API_VERSION, DatasetRef, DeploymentManifest, DeploymentSpec, ManifestError, Metadata};

/// The `kind` of a list of deployments.
pub const LIST: &str = "List";
/// The version that other tools write a list with, whatever is in it.
const LIST_VERSION: &str = "v1";

/// A deployment of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// As it was written, comments included; of what the coordinator printed, only what is the operator's.
    pub text: String,
    /// What it means.
    pub manifest: DeploymentManifest<DatasetRef>,
    /// Whether the text was made from what the coordinator printed.
    pub is_printed: bool,
    /// The generation that it was printed of.
    pub generation: Option<u64>,
    /// Where it stands, as in `document 2 (deployment/fashion)`; `None` where it is the only one of its file.
    pub title: Option<String>,
}

impl Document {
    /// Reads and checks every deployment of a file. Places are those of the whole file.
    ///
    /// # Errors
    /// The first thing that is wrong, under the title of the deployment that it is in.
    pub fn read_all(text: &str) -> Result<Vec<Self>, ManifestError> {
        let mut documents: Vec<Self> = Vec::new();
        let split = split(text);
        let is_only = split.len() == 1;
        for (index, (lines_before, text)) in split.into_iter().enumerate() {
            let placed = format!("{}{text}", "\n".repeat(lines_before));
            let number = (!is_only).then_some(index + 1);
            if is_list(&placed) {
                documents.extend(read_list(&placed, number)?);
            } else {
                documents.push(read_one(text, &placed, number)?);
            }
        }
        check_twice(&documents)?;
        Ok(documents)
    }
}

fn check_twice(documents: &[Document]) -> Result<(), ManifestError> {
    let name = |document: &Document| document.manifest.metadata.name.clone();
    let title = |document: &Document| document.title.clone().unwrap_or_default();
    for (index, document) in documents.iter().enumerate() {
        if let Some(first) = documents[..index].iter().find(|first| name(first) == name(document)) {
            return Err(ManifestError::Twice { first: title(first), second: title(document) });
        }
    }
    Ok(())
}

/// How messages name the deployment whose tree it is.
fn title(place: &str, tree: &Value) -> String {
    match tree["metadata"]["name"].as_str() {
        Some(name) => format!("{place} (deployment/{name})"),
        None => place.to_owned(),
    }
}

/// The same error, under a title where there is one.
fn within(title: Option<String>) -> impl FnOnce(ManifestError) -> ManifestError {
    |source| match title {
        Some(title) => ManifestError::Within { title, source: Box::new(source) },
        None => source,
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
    generation: Option<u64>,
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

/// The documents of a text that have anything in them, each with the number of lines before it. Those of comments alone are
/// passed over; a comment before the first `---` is the next document's.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut begins, mut lines_before, mut has_content, mut has_marker) = (0, 0, false, false);
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if rest.is_some() {
            if has_content {
                documents.push((lines_before, &text[begins..at]));
            }
            if has_content || has_marker {
                (begins, lines_before, has_content) = (at, index, false);
            }
            has_marker = true;
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

fn read_one(text: &str, placed: &str, number: Option<usize>) -> Result<Document, ManifestError> {
    let found: Value = serde_saphyr::from_str(placed).unwrap_or_default();
    let title = number.map(|number| title(&format!("document {number}"), &found));
    let read = || {
        let written: Written = parse(placed)?;
        let (is_printed, generation) = (written.is_printed(), written.metadata.generation);
        let manifest = checked(placed, written.manifest(), "")?;
        let text = if is_printed { yaml(&tree(text)) } else { text.to_owned() };
        Ok(Document { text, manifest, is_printed, generation, title: title.clone() })
    };
    read().map_err(within(title.clone()))
}

fn read_list(placed: &str, number: Option<usize>) -> Result<Vec<Document>, ManifestError> {
    let mut tree: Value = serde_saphyr::from_str(placed).unwrap_or_default();
    let titles = titles(&tree, number);
    let list: WrittenList = parse(placed).map_err(|error| {
        let title = index_at(placed, titles.len(), error.place()).and_then(|index| titles[index].clone());
        within(title.or_else(|| number.map(|number| format!("document {number}"))))(error)
    })?;
    let WrittenList { api_version, items, .. } = list;
    if ![API_VERSION, LIST_VERSION].contains(&api_version.as_str()) {
        let error = ManifestError::Value {
            place: Places::of(placed).find("apiVersion"),
            field: "apiVersion".to_owned(),
            problem: format!("'{api_version}' is not known; allowed: {API_VERSION}, {LIST_VERSION}"),
        };
        return Err(within(number.map(|number| format!("document {number} ({LIST})")))(error));
    }
    let document = |(index, written): (usize, Written)| {
        let title = titles.get(index).cloned().flatten();
        let generation = written.metadata.generation;
        let manifest =
            checked(placed, written.manifest(), &format!("items.{index}.")).map_err(within(title.clone()))?;
        let text = yaml(&plain(tree["items"][index].take(), Some(&manifest)));
        Ok(Document { text, manifest, is_printed: true, generation, title })
    };
    items.into_iter().enumerate().map(document).collect()
}

/// Those of a list's items; none where one is alone in its file.
fn titles(list: &Value, number: Option<usize>) -> Vec<Option<String>> {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let of = number.map(|number| format!(" of document {number}")).unwrap_or_default();
    let is_only = items.len() == 1 && number.is_none();
    let titled = |(index, item)| (!is_only).then(|| title(&format!("item {}{of}", index + 1), item));
    items.iter().enumerate().map(titled).collect()
}

/// Which of so many items of a list a place is in.
fn index_at(placed: &str, items: usize, place: Option<Place>) -> Option<usize> {
    let (places, at) = (Places::of(placed), place?);
    let begins = |index: &usize| {
        let item = places.find(&format!("items.{index}"));
        (item.line, item.column) <= (at.line, at.column)
    };
    (0..items).take_while(begins).last()
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
            assert_eq!((written[0].generation, again[0].generation), (None, Some(3)));
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
    fn documents_of_comments_alone_are_passed_over() {
        let other = FASHION.replace("name: fashion }\nspec", "name: other }\nspec");
        let file = format!(
            "# of the lab\n---\n# nothing\n---\n---\n{FASHION}---\n\n---\n# none\n--- # last\n{other}---\n"
        );
        let documents = Document::read_all(&file).unwrap();
        let texts: Vec<_> = documents.iter().map(|it| it.text.clone()).collect();
        assert_eq!(texts, [format!("---\n{FASHION}"), format!("--- # last\n{other}")]);
        let wrong = file.replace("network: resnet20", "network: Res Net");
        let text = crate::causes::chain(&Document::read_all(&wrong).unwrap_err());
        assert!(text.starts_with("document 1 (deployment/fashion): line 11, column 12"), "{text}");
        assert_eq!(Document::read_all(&format!("# of the lab\n{FASHION}")).unwrap().len(), 1);
    }

    #[test]
    fn a_list_may_be_of_the_version_that_other_tools_write() {
        let list = |version: &str| {
            let item = FASHION.replace('\n', "\n  ");
            format!("apiVersion: {version}\nkind: List\nitems:\n- {item}\n")
        };
        assert_eq!(Document::read_all(&list("v1")).unwrap().len(), 1);
        let other = FASHION.replace("name: fashion }\nspec", "name: other }\nspec");
        let error = Document::read_all(&format!("{other}---\n{}", list("v7"))).unwrap_err();
        let text = crate::causes::chain(&error);
        assert!(text.starts_with("document 2 (List): line 12, column 13: apiVersion: 'v7'"), "{text}");
    }

    #[test]
    fn a_deployment_stands_once_in_a_file() {
        let refusal = |text: &str| Document::read_all(text).unwrap_err().to_string();
        assert_eq!(
            refusal(&format!("{FASHION}---\n{FASHION}")),
            "document 1 (deployment/fashion) and document 2 (deployment/fashion) are the same deployment; leave one of them out"
        );
    }

    #[test]
    fn what_is_wrong_is_placed_in_the_whole_file() {
        let refusal = |text: &str| crate::causes::chain(&Document::read_all(text).unwrap_err());
        let wrong = FASHION.replace("resnet20", "Res Net");
        let text = refusal(&format!("{FASHION}---\n{wrong}"));
        let titled = "document 2 (deployment/fashion): line 17, column 12: spec.network: 'Res Net'";
        assert!(text.starts_with(titled), "{text}");
        let text = refusal(&format!("{FASHION}---\n{}", FASHION.replace("network:", "nework:")));
        assert!(
            text.starts_with("document 2 (deployment/fashion): line 17, column 3: unknown field"),
            "{text}"
        );
        let text = refusal(&format!("{FASHION}---\nkind: [\n"));
        assert!(text.starts_with("document 2: line "), "{text}");
        let list =
            format!("apiVersion: {API_VERSION}\nkind: List\nitems:\n- {}", wrong.replace('\n', "\n  "));
        let text = refusal(&list);
        assert!(text.starts_with("line 9, column 14: items.0.spec.network: 'Res Net'"), "{text}");
        let item = |name: &str, text: &str| {
            format!(
                "- {}",
                text.replace("name: fashion }\nspec", &format!("name: {name} }}\nspec"))
                    .replace('\n', "\n  ")
            )
        };
        let strange = FASHION.replace("network:", "nework:");
        for (second, problem) in [(&wrong, "items.1.spec.network: 'Res Net'"), (&strange, "unknown field")] {
            let items = format!("{}\n{}", item("one", FASHION), item("two", second));
            let text = refusal(&format!("apiVersion: {API_VERSION}\nkind: List\nitems:\n{items}"));
            assert!(text.starts_with("item 2 (deployment/two): line ") && text.contains(problem), "{text}");
        }
        let text = refusal(&FASHION.replace("  network:", "  status: 1\n  network:"));
        assert!(text.starts_with("line 6, column 3: unknown field 'status'"), "{text}");
        assert!(refusal("# nothing\n").contains("the text ends where a deployment should stand"));
    }
}
