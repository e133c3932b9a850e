//! Sections of the configuration files that the rig writes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

/// A section as YAML; sections can be written one after the other.
pub(super) fn section(name: &str, content: impl Serialize) -> String {
    // Whoever reads the file meets the reason in place of the section.
    yaml_serde::to_string(&BTreeMap::from([(name, content)]))
        .unwrap_or_else(|error| format!("{name}: '{error}'\n"))
}

pub(super) fn path(path: &Path) -> Value {
    path.to_string_lossy().into()
}
