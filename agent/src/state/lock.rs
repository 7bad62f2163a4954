//! That no two agents use one state directory. Owns the locks that say so, which end with the process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::no_file;

/// Takes the state directory at `root` for as long as what is returned lives; `None`: another agent has it.
///
/// The folder itself is locked, which nothing that lies in it can prevent, and the file `lock`, by which others see that an agent
/// runs. A disk that takes neither lock has both left out.
pub fn take(root: &Path) -> Option<Vec<File>> {
    let mut locks = Vec::new();
    if let Ok(folder) = File::open(root) {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => locks.push(folder),
            Err(Errno::WOULDBLOCK) => return None,
            // Some file systems lock no folders.
            Err(_) => {}
        }
    }
    if let Ok(file) = open(&root.join("lock")) {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => locks.push(file),
            Err(Errno::WOULDBLOCK) => return None,
            Err(_) => {}
        }
    }
    Some(locks)
}

/// Opens the file, whatever it is, and makes it where it can. What leads to no file gives way to one.
fn open(path: &Path) -> io::Result<File> {
    open_as_it_is(path).or_else(|error| {
        use io::ErrorKind::{InvalidData, NotADirectory, NotFound};
        let leads_nowhere = matches!(error.kind(), InvalidData | NotADirectory | NotFound);
        if !leads_nowhere || path.symlink_metadata().is_err() {
            return Err(error);
        }
        tracing::warn!(path = %path.display(), %error, "it is no file, and gives way to one");
        fs::remove_file(path)?;
        open_as_it_is(path)
    })
}

fn open_as_it_is(path: &Path) -> io::Result<File> {
    // A pipe would else be waited for until somebody reads from it.
    let without_waiting = OFlags::NONBLOCK.bits() as i32;
    let open = |options: &mut fs::OpenOptions| options.custom_flags(without_waiting).open(path);
    let made = open(fs::OpenOptions::new().create(true).truncate(false).write(true));
    made.or_else(|_| open(fs::OpenOptions::new().read(true))).map_err(no_file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn two_never_have_it_whatever_lies_there() {
        type Case = (&'static str, fn(&Path));
        let cases: [Case; 7] = [
            ("nothing", |_| ()),
            ("a file", |path| fs::write(path, "").unwrap()),
            ("a folder", |path| fs::create_dir(path).unwrap()),
            ("a pipe", |path| {
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap();
            }),
            ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
            ("a link to itself", |path| symlink("lock", path).unwrap()),
            ("a link to nowhere", |path| symlink("no/where", path).unwrap()),
        ];
        for (case, put) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lock");
            put(&path);
            let locks = take(dir.path()).unwrap();
            assert_eq!(locks.len(), 2, "{case}");
            assert!(take(dir.path()).is_none(), "{case}");
            let is_in_the_way = path.symlink_metadata().unwrap();
            let is_in_the_way = is_in_the_way.is_symlink() || is_in_the_way.file_type().is_socket();
            assert!(!is_in_the_way, "{case}: it has given way");
            // Whoever puts something else there does not change that.
            let _ = fs::remove_file(&path);
            let _ = UnixListener::bind(&path);
            assert!(take(dir.path()).is_none(), "{case}");
        }
    }
}
