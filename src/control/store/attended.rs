//! What proxies have said of how far they have come, as it was last read from etcd; and who of them is behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Version;
use super::rpc::KeyValue;
use crate::core::leader_lease::Micros;

/// What a proxy says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    /// By which state of the record it holds its clients with nothing under way.
    pub(super) holds: Option<u64>,
    /// Which state of the record it has heard of.
    #[serde(default)]
    pub(super) heard: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    word: Word,
    /// The revision of its last change.
    revision: i64,
    /// When it was first seen at this revision.
    since: Micros,
}

/// What proxies have said, as it was last seen: by their keys.
#[derive(Debug, Default)]
pub(super) struct Attended {
    revision: i64,
    heard: BTreeMap<Vec<u8>, Heard>,
}

impl Attended {
    /// The keys as of a revision; answers may overtake each other.
    pub(super) fn see(&mut self, revision: i64, keys: &[KeyValue], now: Micros) {
        if revision < self.revision {
            return;
        }
        self.revision = revision;
        let before = std::mem::take(&mut self.heard);
        let heard = |key: &KeyValue| {
            let known = before.get(&key.key);
            let known = known.filter(|known| known.revision == key.mod_revision);
            let heard = Heard {
                // What cannot be read says that somebody is there, and no more.
                word: serde_json::from_slice(&key.value).unwrap_or_default(),
                revision: key.mod_revision,
                since: known.map_or(now, |known| known.since),
            };
            (key.key.clone(), heard)
        };
        self.heard = keys.iter().map(heard).collect();
    }

    /// How many that have been heard of within `ttl`, other than the one with this key, do not hold their clients
    /// by this state of the record or a later one; of those that have not heard of it, only if they count.
    pub(super) fn behind(
        &self,
        own: &[u8],
        version: Version,
        ttl: Micros,
        now: Micros,
        unaware_count: bool,
    ) -> usize {
        let by = |said: Option<u64>| said.is_some_and(|said| said >= version.0);
        let behind = |(key, heard): &(&Vec<u8>, &Heard)| {
            let is_there = now.saturating_sub(heard.since) < ttl;
            let counts = unaware_count || by(heard.word.heard);
            key.as_slice() != own && !by(heard.word.holds) && is_there && counts
        };
        self.heard.iter().filter(behind).count()
    }

    /// The keys that nobody has written for so long, with their revisions.
    pub(super) fn forgotten(&self, bound: Micros, now: Micros) -> Vec<(String, i64)> {
        let old = self.heard.iter();
        let old = old.filter(|(_, heard)| now.saturating_sub(heard.since) >= bound);
        let named = |(key, heard): (&Vec<u8>, &Heard)| {
            Some((String::from_utf8(key.clone()).ok()?, heard.revision))
        };
        old.filter_map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, value: &str, mod_revision: i64) -> KeyValue {
        KeyValue {
            key: name.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
            mod_revision,
        }
    }

    #[test]
    fn who_is_there_and_has_not_heard_of_a_record_is_behind() {
        let mut attended = Attended::default();
        let holds = r#"{"holds":7}"#;
        let keys = [
            key("a", holds, 1),
            key("b", r#"{"holds":null}"#, 2),
            key("c", "nonsense", 3),
        ];
        attended.see(3, &keys, 100);
        let behind = |attended: &Attended, own: &str, version, now| {
            attended.behind(own.as_bytes(), Version(version), 50, now, true)
        };
        assert_eq!(behind(&attended, "a", 9, 120), 2);
        assert_eq!(behind(&attended, "b", 7, 120), 1);
        assert_eq!(behind(&attended, "b", 8, 120), 2);
        // Who has heard of it and is not done counts in any case.
        let aware = [
            key("d", r#"{"holds":null,"heard":8}"#, 1),
            key("e", holds, 2),
        ];
        let mut others = Attended::default();
        others.see(3, &aware, 100);
        let counted = |all| others.behind(b"a", Version(8), 50, 120, all);
        assert_eq!((counted(true), counted(false)), (2, 1));
        // An answer that was overtaken.
        attended.see(2, &[], 120);
        assert_eq!(behind(&attended, "d", 7, 120), 2);
        // One has spoken again, another not for too long.
        attended.see(
            4,
            &[key("a", holds, 1), key("b", holds, 4), key("c", "", 3)],
            130,
        );
        assert_eq!(behind(&attended, "d", 7, 149), 1);
        assert_eq!(behind(&attended, "d", 8, 150), 1);
        assert_eq!(behind(&attended, "d", 8, 180), 0);
        let forgotten = attended.forgotten(80, 200);
        assert_eq!(forgotten, [("a".to_owned(), 1), ("c".to_owned(), 3)]);
        attended.see(5, &[], 200);
        assert!(attended.forgotten(0, 200).is_empty());
    }
}
