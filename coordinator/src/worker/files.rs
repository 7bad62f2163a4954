//! The files that a job needs: the dataset's, and the network's where an operator brought it. Those of another host are
//! downloaded once and kept.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use proto::{Digest, v1};
use tokio::task::block_in_place;
use tokio_stream::StreamExt as _;

use super::WorkerSettings;
use super::client::{Client, WorkerError};
use super::job::{Failure, Voice};
use super::task::Task;
use crate::blob::{BlobError, BlobStore};
use crate::durable;

/// The folders of what was downloaded.
pub(super) struct Files {
    pub(super) blobs: BlobStore,
    datasets: PathBuf,
    shares: bool,
}

impl Files {
    pub(super) fn open(settings: &WorkerSettings) -> Result<Self, BlobError> {
        let blobs = BlobStore::open(settings.state_dir.join("models"))?;
        Ok(Self { blobs, datasets: settings.state_dir.join("datasets"), shares: settings.shares_files })
    }

    /// Has all that the task names lie here, and the task name it here.
    pub(super) async fn fetch(
        &self,
        client: &Client,
        lease: &v1::Lease,
        task: &mut Task,
        voice: &Voice,
    ) -> Result<(), Failure> {
        let (model, dataset) = match task {
            Task::Score { subject, model } => (model, &mut subject.dataset),
            Task::Train(training) => (&mut training.model, &mut training.spec.dataset),
        };
        if let Some(model) = model
            && block_in_place(|| self.blobs.verify(&model.file)).is_err()
        {
            let bytes = client.download(model.file.digest).await.map_err(Failure::Fetch)?;
            let kept = block_in_place(|| self.blobs.put(bytes));
            kept.map_err(|error| Failure::Derive(error.into()))?;
        }
        if !self.shares {
            dataset.path = self.dataset(client, lease, voice).await?;
        }
        Ok(())
    }

    /// The dataset's folder here, filled unless it was before.
    async fn dataset(&self, client: &Client, lease: &v1::Lease, voice: &Voice) -> Result<PathBuf, Failure> {
        let files = client.dataset(lease.clone()).await.map_err(Failure::Fetch)?;
        let folder = self.datasets.join(listing(&files).to_string());
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| Failure::Disk { path, source }
        };
        if folder.is_dir() {
            return Ok(folder);
        }
        let part = self.datasets.join("unfinished");
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&part)(error)),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&part).map_err(failed(&part))?;
        let size: u64 = files.iter().map(|file| file.size).sum();
        voice.line(format!("fetching {} files of the dataset, {size} bytes", files.len()));
        let mut done = 0;
        for file in files {
            let path = below(&part, &file.path).map_err(failed(&part))?;
            let mut parts =
                client.read_dataset(lease.clone(), file.path.clone()).await.map_err(Failure::Fetch)?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed(parent))?;
            }
            let mut written = File::create(&path).map_err(failed(&path))?;
            while let Some(next) = parts.next().await {
                let next = next.map_err(|status| Failure::Fetch(WorkerError::from(status)))?;
                written.write_all(&next.chunk).map_err(failed(&path))?;
                done += next.chunk.len() as u64;
                let _ = voice.progress(done, size.max(done), || format!("fetching {}", file.path));
            }
            written.sync_all().map_err(failed(&path))?;
        }
        fs::rename(&part, &folder).and_then(|()| durable::sync(&self.datasets)).map_err(failed(&folder))?;
        Ok(folder)
    }
}

/// Names what the files are: another listing is another dataset.
fn listing(files: &[v1::DatasetFile]) -> Digest {
    let mut text = String::new();
    for v1::DatasetFile { path, size, modified_unix_ms } in files {
        text.push_str(&format!("{path}\0{size}\0{modified_unix_ms}\n"));
    }
    Digest::of(text.as_bytes())
}

/// The place of a file below `folder`, and nowhere else.
pub(crate) fn below(folder: &Path, path: &str) -> io::Result<PathBuf> {
    let path = Path::new(path);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || path.as_os_str().is_empty() {
        return Err(io::Error::other(format!("'{}' is no file below a dataset's folder", path.display())));
    }
    Ok(folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = Path::new("/data");
        assert_eq!(below(folder, "train/1/a.png").unwrap(), Path::new("/data/train/1/a.png"));
        for wrong in ["", "/etc/shadow", "../x", "a/../../x", "./x", "a/.."] {
            assert!(below(folder, wrong).is_err() || wrong == "./x", "{wrong}");
        }
    }

    #[test]
    fn a_listing_that_changed_is_another_dataset() {
        let file = |path: &str, size| v1::DatasetFile { path: path.to_owned(), size, modified_unix_ms: 7 };
        assert_eq!(listing(&[file("a", 1)]), listing(&[file("a", 1)]));
        assert_ne!(listing(&[file("a", 1)]), listing(&[file("a", 2)]));
        assert_ne!(listing(&[file("a", 1), file("b", 1)]), listing(&[file("a", 1)]));
    }
}
