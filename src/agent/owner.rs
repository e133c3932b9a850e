//! The agent runs as the owner of the data directory, as the server must; root steps down to it.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, initgroups, setgid, setgroups, setuid};

/// Becomes the owner of the data directory for good.
///
/// To be called before anything is written and before there are threads.
pub(super) fn become_owner(data: &Path) -> io::Result<()> {
    let data = std::fs::metadata(data)?;
    let (uid, gid) = (Uid::from_raw(data.uid()), Gid::from_raw(data.gid()));
    let own = Uid::effective();
    let refuse = |text: String| Err(io::Error::other(text));
    if uid.is_root() {
        return refuse("it belongs to root, and PostgreSQL does not run as root".to_owned());
    }
    if own == uid {
        return Ok(());
    }
    if !own.is_root() {
        return refuse(format!(
            "it belongs to user {uid} and the agent was started as user {own}: start it as the \
             owner or as root"
        ));
    }
    match User::from_uid(uid)? {
        Some(user) => {
            let name = CString::new(user.name).map_err(io::Error::other)?;
            initgroups(&name, user.gid)?;
            setgid(user.gid)?;
        }
        None => {
            setgroups(&[gid])?;
            setgid(gid)?;
        }
    }
    setuid(uid)?;
    Ok(())
}
