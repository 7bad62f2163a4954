//! Whether the state directory takes writes, told without one: `status` belongs to other users, too, and a disk that is written
//! whenever somebody asks wears. Owns the reasons, also why a file may not be read, each with what mends it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::fs::{Access, StatVfs, StatVfsMountFlags, access, statvfs};
use rustix::process::geteuid;

use super::StateDir;
use crate::causes::describe;

/// An emergency of the file system itself, or somebody's intention.
const READ_ONLY: &str = "its file system is read-only; the kernel's log says why, if nobody meant it to be";

const FULL: &str = "its disk is full; make room there";

const NO_FILES: &str = "its disk takes no more files; remove some there";

const ROOT: u32 = 0;

impl StateDir {
    /// Why this process cannot write here, as far as it is known: a look, and the last proof if that failed, which is then made
    /// again.
    pub fn refuses(&self) -> Option<String> {
        let user = geteuid().as_raw();
        let mut folders = self.all_folders().into_iter();
        let seen =
            disk(&self.root, user).or_else(|| folders.find_map(|folder| self.is_closed(&folder, user)));
        let has_failed = || self.refused.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        seen.or_else(|| if has_failed() { self.prepare().err().map(|error| describe(&error)) } else { None })
    }

    /// Why an agent of the user to whom the folder belongs could not write here. Agents of others are not known of.
    pub fn refuses_its_owner(&self) -> Option<String> {
        let owner = self.root.metadata().ok()?.uid();
        // Those that are not there yet are made when they are needed.
        let may_write = |folder: &PathBuf| {
            folder.metadata().map_or(true, |found| lets_write(found.mode(), found.uid(), owner))
        };
        let is_closed = || self.all_folders().into_iter().find(|folder| !may_write(folder));
        disk(&self.root, owner).or_else(|| Some(self.of_another(&is_closed()?, owner)))
    }

    fn all_folders(&self) -> Vec<PathBuf> {
        [vec![self.root.clone()], self.folders()].concat()
    }

    fn is_closed(&self, folder: &Path, user: u32) -> Option<String> {
        match access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from) {
            Ok(()) => None,
            // Those within it are made when they are needed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != self.root => None,
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Some(READ_ONLY.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some(self.of_another(folder, user))
            }
            Err(error) => Some(format!("{}: {error}", folder.display())),
        }
    }

    fn of_another(&self, folder: &Path, user: u32) -> String {
        self.closed("write", folder, user)
    }

    /// Why this process may not read `path`, which another user's agent has left, and what lets it.
    pub fn closed_to_reader(&self, path: &Path) -> String {
        self.closed("read", path, geteuid().as_raw())
    }

    fn closed(&self, verb: &str, path: &Path, user: u32) -> String {
        let (path, root) = (path.display(), self.root.display());
        format!(
            "user {user} may not {verb} {path}; `chown -R {user} {root}` and `chmod -R u+rwX {root}` let it"
        )
    }
}

/// What is wrong with the whole disk, for `user`.
fn disk(root: &Path, user: u32) -> Option<String> {
    // What cannot be looked at is told by the folder itself.
    full_or_read_only(&statvfs(root).ok()?, user).map(str::to_owned)
}

fn full_or_read_only(disk: &StatVfs, user: u32) -> Option<&'static str> {
    // Some is kept for root. What has none at all, blocks or files, does not count them.
    let (blocks, files) =
        if user == ROOT { (disk.f_bfree, disk.f_ffree) } else { (disk.f_bavail, disk.f_favail) };
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        Some(READ_ONLY)
    } else if disk.f_blocks > 0 && blocks == 0 {
        Some(FULL)
    } else if disk.f_files > 0 && files == 0 {
        Some(NO_FILES)
    } else {
        None
    }
}

/// Whether `user` may write a folder of `owner` with such a mode, as far as that says it: `user` may be in its group.
fn lets_write(mode: u32, owner: u32, user: u32) -> bool {
    let has = |bits| mode & bits == bits;
    user == ROOT || if owner == user { has(0o300) } else { has(0o030) || has(0o003) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read_only_or_full_of_bytes_or_of_files() {
        let sound = StatVfs {
            f_bsize: 4096,
            f_frsize: 4096,
            f_blocks: 100,
            f_bfree: 10,
            f_bavail: 5,
            f_files: 50,
            f_ffree: 3,
            f_favail: 1,
            f_fsid: 0,
            f_flag: StatVfsMountFlags::NODEV,
            f_namemax: 255,
        };
        let read_only = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NODEV;
        let uncounted =
            StatVfs { f_blocks: 0, f_bfree: 0, f_bavail: 0, f_files: 0, f_ffree: 0, f_favail: 0, ..sound };
        for (case, disk, of_user, of_root) in [
            ("read-only", StatVfs { f_flag: read_only, ..sound }, Some(READ_ONLY), Some(READ_ONLY)),
            ("a reserve for root", StatVfs { f_bavail: 0, ..sound }, Some(FULL), None),
            ("full", StatVfs { f_bavail: 0, f_bfree: 0, ..sound }, Some(FULL), Some(FULL)),
            ("no files", StatVfs { f_favail: 0, f_ffree: 0, ..sound }, Some(NO_FILES), Some(NO_FILES)),
            ("as /proc", uncounted, None, None),
            ("sound", sound, None, None),
        ] {
            assert_eq!(full_or_read_only(&disk, 7), of_user, "{case}");
            assert_eq!(full_or_read_only(&disk, ROOT), of_root, "{case}");
        }
    }

    #[test]
    fn a_folder_lets_its_owner_write_and_others_by_its_mode() {
        for (mode, owner, user, lets) in [
            (0o700, 7, 7, true),
            (0o500, 7, 7, false),
            (0o755, 0, 7, false),
            (0o775, 0, 7, true),
            (0o777, 0, 7, true),
            (0o766, 0, 7, false),
            (0o000, 7, ROOT, true),
        ] {
            assert_eq!(lets_write(mode, owner, user), lets, "{mode:o} {owner} {user}");
        }
    }

    #[test]
    fn a_proof_that_failed_is_told_until_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!((state.refuses(), state.refuses_its_owner()), (None, None));
        let in_the_way = dir.path().join("writable.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert_eq!(state.refuses(), None, "nothing has been tried");
        state.clone().prepare().unwrap_err();
        let why = state.refuses().unwrap();
        assert!(
            why.starts_with("cannot create ") && why.ends_with("writable.new: Is a directory (os error 21)"),
            "{why}"
        );
        std::fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(state.refuses(), None);
        std::fs::remove_dir_all(dir.path()).unwrap();
        let why = state.refuses().unwrap();
        assert!(why.contains("No such file"), "{why}");
    }
}
