//! The operators' socket on the coordinator's own host. Owns who is who there: the kernel says which user called.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use crate::config::SocketConfig;
use crate::identity::{Peer, Role};

/// A socket that listens, and what it lets whom do.
pub struct LocalListener {
    pub(crate) socket: UnixListener,
    pub(crate) others: Option<Role>,
}

/// Listens on the configured socket; one that a dead process left behind is replaced.
pub fn bind(config: &SocketConfig) -> io::Result<LocalListener> {
    let path = &config.path;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, mode(path, config.others)?)?;
    Ok(LocalListener { socket, others: config.others })
}

/// Where other users may do nothing, they need not get as far as being told.
fn mode(path: &Path, others: Option<Role>) -> io::Result<fs::Permissions> {
    let mut permissions = fs::metadata(path)?.permissions();
    permissions.set_mode(if others.is_some() { 0o666 } else { 0o600 });
    Ok(permissions)
}

/// Who has connected.
pub(crate) fn peer(stream: &UnixStream, others: Option<Role>) -> io::Result<Peer> {
    Ok(of_user(stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw(), others))
}

/// Root and the coordinator's own user may do anything: they could read its store and its keys.
fn of_user(user: u32, own: u32, others: Option<Role>) -> Peer {
    let role = if user == 0 || user == own { Some(Role::Admin) } else { others };
    let name = format!("{USER}{user}").parse().expect("a number is part of a name");
    role.map_or(Peer::Unknown, |role| Peer::Operator { name, role, key: None })
}

/// What the names of the host's users begin with.
pub const USER: &str = "uid-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_may_what() {
        let operator = |name: &str, role| Peer::Operator { name: name.parse().unwrap(), role, key: None };
        assert_eq!(of_user(0, 990, None), operator("uid-0", Role::Admin));
        assert_eq!(of_user(990, 990, None), operator("uid-990", Role::Admin));
        assert_eq!(of_user(1000, 990, None), Peer::Unknown);
        assert_eq!(of_user(1000, 990, Some(Role::Viewer)), operator("uid-1000", Role::Viewer));
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let config = SocketConfig { path: folder.path().join("sock"), others: None };
        let first = bind(&config).unwrap();
        assert_eq!(fs::metadata(&config.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&config).map(drop).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let open = SocketConfig { others: Some(Role::Viewer), ..config.clone() };
        drop(bind(&open).unwrap());
        assert_eq!(fs::metadata(&config.path).unwrap().permissions().mode() & 0o777, 0o666);
        fs::remove_file(&config.path).unwrap();
        fs::write(&config.path, "a file of somebody's").unwrap();
        assert_eq!(bind(&config).map(drop).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
