//! A deployment as programs and people get it: the manifest that was applied, and beside it what became of it. What is printed
//! can be applied again.

use coordinator::manifest::{LIST, tree};
use proto::v1;
use serde_json::{Map, Value};
use tonic::Status;

use super::{Column, Naming, Resource, columns};
use crate::cli::connect::{Client, soon};
use crate::cli::error::CliError;
use crate::cli::output::object;

impl Resource for v1::Deployment {
    const KIND: &'static str = "Deployment";
    const NOUN: &'static str = "deployment";
    const PLURAL: &'static str = "deployments";
    const NAMING: Naming = Naming::Exact;
    const COLUMNS: &'static [Column<Self>] = columns::DEPLOYMENTS;
    const LIST: &'static str = LIST;

    fn name(&self) -> &str {
        &self.name
    }

    fn document(&self) -> Result<Value, CliError> {
        let mut document = object(Self::KIND, &tree(&self.manifest))?;
        document["metadata"] = serde_json::json!({ "name": self.name, "generation": self.generation });
        let mut status = match object(Self::KIND, self)? {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        status.retain(|key, _| {
            !["apiVersion", "kind", "name", "generation", "manifest"].contains(&key.as_str())
        });
        document["status"] = Value::Object(status);
        Ok(document)
    }

    fn item(&self) -> Result<Value, CliError> {
        self.document()
    }

    async fn list(client: &mut Client, name: &str) -> Result<Vec<Self>, Status> {
        let request = soon(v1::ListRequest { name: name.to_owned() });
        Ok(client.list_deployments(request).await?.into_inner().deployments)
    }
}
