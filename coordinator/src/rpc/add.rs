//! A dataset that gets a name: the request's words into values, and nothing else.

use std::path::PathBuf;

use proto::{DeviceId, v1};
use pruner_core::dataset::{Format, TestShare};
use tonic::Status;

use super::{status, view};
use crate::core::Core;
use crate::datasets::{self, Wanted};
use crate::models::Arrival;

pub(super) async fn add(
    core: &Core,
    request: v1::AddDatasetRequest,
) -> Result<v1::AddDatasetResponse, Status> {
    let wanted = wanted(request)?;
    let own = core.state_dir.clone();
    let added = core.store.call(move |store| Ok(datasets::add(store, &own, wanted))).await;
    let (record, arrival) = added.map_err(status::store)?.map_err(status::add)?;
    let path = record.spec.path.display();
    tracing::info!(dataset = %record.name, format = %record.spec.format, %path, ?arrival, "dataset added");
    let unchanged = arrival == Arrival::Known;
    Ok(v1::AddDatasetResponse { dataset: Some(view::dataset(&record)), unchanged })
}

fn wanted(request: v1::AddDatasetRequest) -> Result<Wanted, Status> {
    let v1::AddDatasetRequest { name, path, format, test_share } = request;
    let name = name
        .parse::<DeviceId>()
        .map_err(|invalid| Status::invalid_argument(format!("the dataset's name {}", invalid.problem)))?;
    let format = match format.as_str() {
        "" => None,
        name => {
            Some(name.parse::<Format>().map_err(|unknown| Status::invalid_argument(unknown.to_string()))?)
        }
    };
    let test_share = test_share
        .map(TestShare::new)
        .transpose()
        .map_err(|error| Status::invalid_argument(format!("a test share of {error}")))?;
    Ok(Wanted { name, path: PathBuf::from(path), format, test_share })
}
