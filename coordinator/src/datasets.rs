//! The datasets that deployments may mean by a name. Owns taking one in and finding one; keeps no images.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use proto::DeviceId;
use pruner_core::dataset::{self, DatasetError, Format, TestShare};

use crate::clock::unix_ms;
use crate::manifest::{DatasetRef, DatasetSpec};
use crate::models::Arrival;
use crate::store::{DatasetRecord, Store, StoreError};

/// What an operator wants to give a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The name.
    pub name: DeviceId,
    /// Where it is on this host.
    pub path: PathBuf,
    /// How it is laid out; detected, where it is not said.
    pub format: Option<Format>,
    /// Of a folder of images without a test folder.
    pub test_share: Option<TestShare>,
}

/// Why a dataset gets no name.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Another dataset has it.
    #[error("'{name}' is {} already; a dataset never moves under its name: choose another one", path.display())]
    Taken {
        /// The name.
        name: DeviceId,
        /// Where that one is, or this one read otherwise.
        path: PathBuf,
    },
    /// The path means different folders at different times.
    #[error("'{}' is no absolute path; name a folder of the coordinator's host from its root", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// It is nobody's to read.
    #[error(transparent)]
    Private(#[from] Private),
    /// It is no dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a deployment cannot have its dataset.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FindError {
    /// Nobody added it.
    #[error("'{name}' is no dataset's name; known: {}; `reconvene dataset add` brings one", listing(.known))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The path means different folders at different times.
    #[error("'{}' is no absolute path; it is looked for on the coordinator's host: name a folder there from its root", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// There is no such folder.
    #[error(
        "'{}' is no folder on the coordinator's host, which is where it is looked for, wherever workers run; bring the images \
         there, or name the folder that holds them", path.display()
    )]
    Absent {
        /// The path.
        path: PathBuf,
    },
    /// It is nobody's to read.
    #[error(transparent)]
    Private(#[from] Private),
}

/// A folder holds the coordinator's own files, its keys among them, or lies among those: workers of other machines are
/// sent datasets as they are.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("'{}' meets the coordinator's own state folder, /proc, /sys or /dev, or is a link that leads nowhere; name a folder of images elsewhere", path.display())]
pub struct Private {
    /// The folder.
    pub path: PathBuf,
}

/// Refuses `path` where it meets the coordinator's own files, links followed, or is made up by the kernel, which shows them too.
/// One that is not there is not refused.
///
/// # Errors
/// Where it does, or where that cannot be found out.
pub fn check_public(path: &Path, state_dir: &Path) -> Result<(), Private> {
    let private = || Private { path: path.to_owned() };
    let found = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            return Ok(());
        }
        found => found.map_err(|_| private())?,
    };
    let (Ok(own), Ok(this)) = (state_dir.canonicalize(), state_dir.metadata()) else { return Err(private()) };
    // Also where it is mounted a second time.
    let is_own = |folder: &Path| {
        folder.metadata().is_ok_and(|that| (that.dev(), that.ino()) == (this.dev(), this.ino()))
    };
    let is_made_up = ["/proc", "/sys", "/dev"].iter().any(|root| found.starts_with(root));
    if is_made_up || own.starts_with(&found) || found.ancestors().any(is_own) {
        return Err(private());
    }
    Ok(())
}

fn listing(names: &[String]) -> String {
    if names.is_empty() { "none yet".to_owned() } else { names.join(", ") }
}

/// Reads and checks all of the dataset and keeps where it is under its name. The same again changes nothing, and is not
/// read again.
pub fn add(
    store: &dyn Store,
    state_dir: &Path,
    wanted: Wanted,
) -> Result<(DatasetRecord, Arrival), AddError> {
    let Wanted { name, path, format, test_share } = wanted;
    if !path.is_absolute() {
        return Err(AddError::Relative { path });
    }
    check_public(&path, state_dir)?;
    let known = store.dataset(name.as_str())?;
    let format = format.map_or_else(|| dataset::detect(&path), Ok)?;
    let spec = DatasetSpec { format, path, test_share };
    if let Some(known) = known {
        return settle(known, &spec);
    }
    let found = spec.read()?;
    let shape = [found.shape.channels, found.shape.height, found.shape.width];
    let stored = store.insert_dataset(&DatasetRecord {
        name,
        spec: spec.clone(),
        // Every format's readers allow fewer pixels than that, and a label is a byte.
        input_shape: shape.map(|side| u32::try_from(side).unwrap_or(u32::MAX)),
        classes: u32::try_from(found.classes).unwrap_or(u32::MAX),
        train_images: found.train.len() as u64,
        test_images: found.test.len() as u64,
        added_unix_ms: unix_ms(),
    })?;
    let (stored, _) = settle(stored, &spec)?;
    Ok((stored, Arrival::New))
}

fn settle(known: DatasetRecord, spec: &DatasetSpec) -> Result<(DatasetRecord, Arrival), AddError> {
    if known.spec == *spec {
        return Ok((known, Arrival::Known));
    }
    Err(AddError::Taken { name: known.name, path: known.spec.path })
}

/// What a deployment's dataset is: itself, or what has its name; an unknown one is an error that lists what there is. Workers are
/// sent it by this host, so its folder is here or nowhere.
pub fn find(
    store: &dyn Store,
    state_dir: &Path,
    dataset: &DatasetRef,
) -> Result<Result<DatasetSpec, FindError>, StoreError> {
    let public = |spec: DatasetSpec| {
        let path = spec.path.clone();
        if !path.is_absolute() {
            return Err(FindError::Relative { path });
        }
        check_public(&path, state_dir)?;
        if path.is_dir() { Ok(spec) } else { Err(FindError::Absent { path }) }
    };
    let name = match dataset {
        DatasetRef::Files(spec) => return Ok(public(spec.clone())),
        DatasetRef::Named { name } => name,
    };
    if let Some(record) = store.dataset(name)? {
        return Ok(public(record.spec));
    }
    let known = store.datasets()?.into_iter().map(|record| record.name.to_string()).collect();
    Ok(Err(FindError::Unknown { name: name.clone(), known }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::store::SledStore;

    fn cifar100(dir: &Path) {
        for (file, label) in [("train.bin", 7), ("test.bin", 8)] {
            fs::write(dir.join(file), [vec![0, label], vec![label; 3072]].concat()).unwrap();
        }
    }

    fn wanted(name: &str, path: &Path) -> Wanted {
        Wanted { name: name.parse().unwrap(), path: path.to_owned(), format: None, test_share: None }
    }

    #[test]
    fn a_name_is_for_one_dataset() {
        let (records, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = SledStore::open(records.path()).unwrap();
        cifar100(images.path());
        let (record, arrival) = add(&store, records.path(), wanted("small", images.path())).unwrap();
        assert_eq!((record.spec.format, arrival), (Format::Cifar100, Arrival::New));
        assert_eq!((record.input_shape, record.classes), ([3, 32, 32], 100));
        assert_eq!((record.train_images, record.test_images), (1, 1));
        let again = add(&store, records.path(), wanted("small", images.path())).unwrap();
        assert_eq!(again, (record.clone(), Arrival::Known));

        let other = images.path().join("cifar-100-binary");
        fs::create_dir(&other).unwrap();
        cifar100(&other);
        let error = add(&store, records.path(), wanted("small", &other)).unwrap_err().to_string();
        let expected = format!("'small' is {} already; a dataset never moves", images.path().display());
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(store.datasets().unwrap(), std::slice::from_ref(&record));

        let named = |name: &str| DatasetRef::Named { name: name.to_owned() };
        assert_eq!(find(&store, records.path(), &named("small")).unwrap(), Ok(record.spec.clone()));
        assert_eq!(
            find(&store, records.path(), &DatasetRef::Files(record.spec.clone())).unwrap(),
            Ok(record.spec)
        );
        assert_eq!(
            find(&store, records.path(), &named("large")).unwrap().unwrap_err().to_string(),
            "'large' is no dataset's name; known: small; `reconvene dataset add` brings one"
        );
    }

    #[test]
    fn only_what_can_be_read_gets_a_name() {
        let (records, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = SledStore::open(records.path()).unwrap();
        fs::write(images.path().join("test.bin"), [0; 9]).unwrap();
        assert!(matches!(add(&store, records.path(), wanted("a", images.path())), Err(AddError::Dataset(_))));
        assert!(matches!(
            add(&store, records.path(), wanted("a", Path::new("images"))),
            Err(AddError::Relative { .. })
        ));
        assert_eq!(store.datasets().unwrap(), []);
        assert_eq!(
            find(&store, records.path(), &DatasetRef::Named { name: "a".to_owned() })
                .unwrap()
                .unwrap_err()
                .to_string(),
            "'a' is no dataset's name; known: none yet; `reconvene dataset add` brings one"
        );
    }

    #[test]
    fn a_deployments_images_are_on_this_host() {
        let (records, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = SledStore::open(records.path()).unwrap();
        let refusal = |path: &Path| {
            let spec = DatasetSpec { format: Format::Cifar100, path: path.to_owned(), test_share: None };
            find(&store, records.path(), &DatasetRef::Files(spec)).unwrap().unwrap_err().to_string()
        };
        let gone = images.path().join("gone");
        cifar100(images.path());
        for absent in [&gone, &images.path().join("test.bin")] {
            let (refusal, named) = (refusal(absent), format!("'{}' is no folder on", absent.display()));
            assert!(refusal.starts_with(&named) && refusal.contains("the coordinator's host"), "{refusal}");
        }
        let relative = refusal(Path::new("data/fashion"));
        assert!(relative.starts_with("'data/fashion' is no absolute path"), "{relative}");

        fs::create_dir(&gone).unwrap();
        cifar100(&gone);
        add(&store, records.path(), wanted("small", &gone)).unwrap();
        fs::remove_dir_all(&gone).unwrap();
        let named = DatasetRef::Named { name: "small".to_owned() };
        assert_eq!(find(&store, records.path(), &named).unwrap(), Err(FindError::Absent { path: gone }));
    }

    #[test]
    fn the_coordinators_own_files_are_no_dataset() {
        let root = tempfile::tempdir().unwrap();
        let (own, images) = (root.path().join("own"), root.path().join("images"));
        for folder in [own.join("train"), images.clone(), root.path().join("own2")] {
            fs::create_dir_all(folder).unwrap();
        }
        let link = images.join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let broken = images.join("broken");
        std::os::unix::fs::symlink(root.path().join("nothing"), &broken).unwrap();
        let own_descriptors = Path::new("/proc/self/fd");
        for private in
            [&own, root.path(), &link, &own.join("train"), &images.join("../own"), &broken, own_descriptors]
        {
            assert_eq!(check_public(private, &own), Err(Private { path: private.to_owned() }));
        }
        for public in ["images", "own2", "nothing"] {
            assert_eq!(check_public(&root.path().join(public), &own), Ok(()));
        }

        let store = SledStore::open(&root.path().join("own/store")).unwrap();
        let refused = add(&store, &own, wanted("keys", &link)).unwrap_err();
        assert!(matches!(refused, AddError::Private(_)), "{refused}");
        let spec = DatasetSpec { format: Format::Folder, path: link, test_share: None };
        let refused = find(&store, &own, &DatasetRef::Files(spec)).unwrap().unwrap_err();
        assert!(refused.to_string().ends_with("name a folder of images elsewhere"), "{refused}");
    }
}
