//! Tablespaces of a new copy, and its WAL where that is elsewhere: each grows beside what is there of the old one, on its file system, and takes
//! that one's place once the copy is whole.
//!
//! pg_basebackup would write each to where the source has it, and only if nothing is there: neither is so on
//! a node that has had it before, or that has it elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::files;
use crate::file;

/// Where the links to tablespaces are, in a data directory.
const LINKS: &str = "pg_tblspc";
/// Where the WAL is, in a data directory.
pub(super) const WAL: &str = "pg_wal";
/// Where one grows, in the directory that it is to stand in.
const COPY: &str = "causeway.copy";
/// What stood there before, until it is removed.
const OLD: &str = "causeway.old";

/// The location of each tablespace, by its number.
pub(super) type Locations = BTreeMap<u32, PathBuf>;

/// Those of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tablespaces(Vec<Tablespace>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tablespace {
    oid: u32,
    /// Where the source has it.
    source: PathBuf,
    /// Where it is to be here.
    place: PathBuf,
    /// Whether it has been there before.
    is_ours: bool,
}

impl Tablespaces {
    /// Those of the source: where ours are, else where `mapping` says, else where the source has them.
    pub(super) fn of(theirs: &Locations, ours: &Locations, mapping: &[(PathBuf, PathBuf)]) -> Self {
        let tablespace = |(oid, source): (&u32, &PathBuf)| {
            let mapped = mapping.iter().find(|(from, _)| from == source);
            let elsewhere = mapped.map_or(source, |(_, to)| to);
            let own = ours.get(oid);
            Tablespace {
                oid: *oid,
                source: source.clone(),
                place: own.unwrap_or(elsewhere).clone(),
                is_ours: own.is_some(),
            }
        };
        Self(theirs.iter().map(tablespace).collect())
    }

    /// Makes room for the copies, and touches nothing that may be somebody else's.
    pub(super) fn prepare(&self, data: &Path) -> io::Result<()> {
        for Tablespace { place, is_ours, .. } in &self.0 {
            if place.starts_with(data) {
                let text = format!(
                    "the tablespace {} is in the data directory",
                    place.display()
                );
                return Err(io::Error::other(text));
            }
            fs::create_dir_all(place)?;
            if !is_ours && let Some(found) = occupant(place)? {
                return Err(io::Error::other(format!(
                    "the tablespace {} is new here, and its directory is not empty ({}): it may be another \
                     server's; name a directory by postgres.tablespace_mapping",
                    place.display(),
                    found.display(),
                )));
            }
            files::remove_all(&place.join(COPY))?;
            files::remove_all(&place.join(OLD))?;
        }
        Ok(())
    }

    /// What pg_basebackup is told.
    pub(super) fn mapping(&self) -> impl Iterator<Item = OsString> {
        self.0.iter().map(|tablespace| {
            let mut argument = OsString::from("--tablespace-mapping=");
            argument.push(escaped(&tablespace.source));
            argument.push("=");
            argument.push(escaped(&tablespace.place.join(COPY)));
            argument
        })
    }

    /// Puts the copies in their places, in a data directory that is a copy itself.
    pub(super) fn settle(&self, data: &Path) -> io::Result<()> {
        for Tablespace { oid, place, .. } in &self.0 {
            let (copy, old) = (place.join(COPY), place.join(OLD));
            if !copy.exists() {
                // It was dropped meanwhile.
                continue;
            }
            fs::create_dir_all(&old)?;
            for entry in fs::read_dir(&copy)? {
                let name = entry?.file_name();
                // Of other versions' directories none is touched.
                match fs::rename(place.join(&name), old.join(&name)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => fs::rename(copy.join(&name), place.join(&name))?,
                }
            }
            settled(&data.join(LINKS), &oid.to_string(), place)?;
        }
        Ok(())
    }
}

/// Where a copy's WAL goes, if that is not into its data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WalDirectory(Option<PathBuf>);

impl WalDirectory {
    /// The one that a data directory has a link to.
    pub(super) fn of(data: &Path) -> io::Result<Self> {
        let link = data.join(WAL);
        let found = match fs::symlink_metadata(&link) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self(None)),
            found => found?,
        };
        if !found.is_symlink() {
            return Ok(Self(None));
        }
        let target = data.join(fs::read_link(&link)?);
        Ok(Self(Some(place(&target))))
    }

    /// Makes room for the copy's, where there is a volume for it.
    pub(super) fn prepare(&self, data: &Path) -> io::Result<()> {
        let Some(place) = &self.0 else {
            return Ok(());
        };
        let refuse = |why: &str| {
            let place = place.display();
            Err(io::Error::other(format!(
                "{WAL} is a link to {place}, {why}"
            )))
        };
        if place.starts_with(data) {
            return refuse("which is in the data directory and would go with it");
        }
        // Were it made, WAL would go to whatever its volume is to be mounted on.
        if !place.is_dir() {
            return refuse("which is no directory: is its volume mounted?");
        }
        files::remove_all(&place.join(COPY))?;
        files::remove_all(&place.join(OLD))
    }

    /// What pg_basebackup is told.
    pub(super) fn argument(&self) -> Option<OsString> {
        let place = self.0.as_ref()?;
        let mut argument = OsString::from("--waldir=");
        argument.push(place.join(COPY));
        Some(argument)
    }

    /// Puts the copy's in the place of what was there, in a data directory that is a copy itself.
    pub(super) fn settle(&self, data: &Path) -> io::Result<()> {
        let Some(place) = &self.0 else {
            return Ok(());
        };
        let (copy, old) = (place.join(COPY), place.join(OLD));
        fs::create_dir_all(&old)?;
        // None of the old WAL may stay: it is of another history.
        for entry in fs::read_dir(place)? {
            let name = entry?.file_name();
            if ![COPY, OLD, "lost+found"].iter().any(|own| name == *own) {
                fs::rename(place.join(&name), old.join(&name))?;
            }
        }
        for entry in fs::read_dir(&copy)? {
            let name = entry?.file_name();
            fs::rename(copy.join(&name), place.join(&name))?;
        }
        settled(data, WAL, place)
    }
}

/// Lets the copy's link lead to where it is now, and removes what was there.
fn settled(links: &Path, name: &str, place: &Path) -> io::Result<()> {
    let (link, draft) = (links.join(name), links.join("causeway.new"));
    files::remove_if_there(&draft)?;
    symlink(place, &draft)?;
    fs::rename(&draft, &link)?;
    file::sync_directory(links)?;
    file::sync_directory(place)?;
    files::remove_all(&place.join(COPY))?;
    files::remove_all(&place.join(OLD))
}

/// Where a data directory has its tablespaces.
pub(super) fn locations(data: &Path) -> io::Result<Locations> {
    let mut found = Locations::new();
    let links = match fs::read_dir(data.join(LINKS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        links => links?,
    };
    for link in links {
        let link = link?;
        let oid = link.file_name().to_str().and_then(|name| name.parse().ok());
        // What is no link lies in the data directory and goes with it.
        if let (Some(oid), true) = (oid, link.file_type()?.is_symlink()) {
            found.insert(oid, place(&fs::read_link(link.path())?));
        }
    }
    Ok(found)
}

/// What psql printed of a server's tablespaces: number and location in each line.
pub(super) fn parse(printed: &str) -> Option<Locations> {
    let lines = printed.lines().filter(|line| !line.is_empty());
    let location = |line: &str| {
        let (oid, location) = line.split_once('|')?;
        Some((oid.parse().ok()?, PathBuf::from(location)))
    };
    lines.map(location).collect()
}

/// The place of a copy that was cut short before it was put there.
fn place(location: &Path) -> PathBuf {
    match location.parent() {
        Some(parent) if location.ends_with(COPY) => parent.to_owned(),
        _ => location.to_owned(),
    }
}

/// Something in a directory that is neither of ours nor of a file system's.
fn occupant(place: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = entry.file_name();
        if ![COPY, OLD, "lost+found"].iter().any(|own| name == *own) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pairs: &[(u32, &Path)]) -> Locations {
        pairs
            .iter()
            .map(|(oid, path)| (*oid, path.to_path_buf()))
            .collect()
    }

    #[test]
    fn a_copy_takes_the_place_of_what_was_there_and_of_nothing_else() {
        let base = std::env::temp_dir().join(format!("causeway-spaces-{}", std::process::id()));
        let (data, place, new) = (base.join("data"), base.join("a=b"), base.join("new"));
        fs::create_dir_all(data.join(LINKS)).unwrap();
        fs::create_dir_all(place.join("PG_15")).unwrap();
        fs::create_dir_all(place.join("PG_14")).unwrap();
        fs::write(place.join("PG_15/old"), "").unwrap();
        symlink(place.join(COPY), data.join(LINKS).join("7")).unwrap();
        let ours = locations(&data).unwrap();
        assert_eq!(
            ours,
            at(&[(7, &place)]),
            "a copy that was cut short is known"
        );
        let theirs = parse(&format!("7|/srv/x\n8|{}\n\n", base.join("from").display())).unwrap();
        let mapping = [(base.join("from"), new.clone())];
        let spaces = Tablespaces::of(&theirs, &ours, &mapping);
        spaces.prepare(&data).unwrap();
        let arguments: Vec<_> = spaces.mapping().collect();
        let expected = format!(
            "--tablespace-mapping=/srv/x={}/a\\=b/causeway.copy",
            base.display()
        );
        assert_eq!(arguments[0], *expected);
        for place in [&place, &new] {
            fs::create_dir_all(place.join(COPY).join("PG_15")).unwrap();
            fs::write(place.join(COPY).join("PG_15/new"), "").unwrap();
        }
        spaces.settle(&data).unwrap();
        for place in [&place, &new] {
            assert!(place.join("PG_15/new").exists() && !place.join("PG_15/old").exists());
            assert!(!place.join(COPY).exists() && !place.join(OLD).exists());
        }
        assert!(place.join("PG_14").exists());
        assert_eq!(locations(&data).unwrap(), at(&[(7, &place), (8, &new)]));

        // So does its WAL, and none of the old is left.
        let wal = base.join("wal");
        fs::create_dir_all(wal.join("archive_status")).unwrap();
        fs::write(wal.join("000000010000000000000001"), "old").unwrap();
        assert_eq!(WalDirectory::of(&data).unwrap().argument(), None);
        for link in [wal.clone(), wal.join(COPY)] {
            files::remove_if_there(&data.join(WAL)).unwrap();
            symlink(&link, data.join(WAL)).unwrap();
            let directory = WalDirectory::of(&data).unwrap();
            directory.prepare(&data).unwrap();
            let argument = directory.argument().unwrap();
            assert_eq!(
                argument,
                *format!("--waldir={}/causeway.copy", wal.display())
            );
        }
        let directory = WalDirectory::of(&data).unwrap();
        fs::create_dir_all(wal.join(COPY).join("archive_status")).unwrap();
        fs::write(wal.join(COPY).join("000000020000000000000005"), "new").unwrap();
        directory.settle(&data).unwrap();
        assert_eq!(fs::read_link(data.join(WAL)).unwrap(), wal);
        let mut left: Vec<_> = fs::read_dir(&wal)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["000000020000000000000005", "archive_status"]);
        fs::remove_dir_all(&wal).unwrap();
        let error = WalDirectory::of(&data).unwrap().prepare(&data).unwrap_err();
        assert!(
            error.to_string().contains("is its volume mounted?"),
            "{error}"
        );

        // What is new here does not go where something is.
        let spaces = Tablespaces::of(&at(&[(9, &new)]), &ours, &[]);
        assert!(spaces.prepare(&data).is_err());
        let inside = Tablespaces::of(&at(&[(9, &data.join("x"))]), &ours, &[]);
        assert!(inside.prepare(&data).is_err());
        fs::remove_dir_all(&base).unwrap();
    }
}
