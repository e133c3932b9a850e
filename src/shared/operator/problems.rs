//! What is wrong at present with each node, said by whoever sees it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeProblem {
    pub node: String,
    /// A short name, such as `agent`.
    pub kind: &'static str,
    pub text: String,
}

/// Texts, by node and kind.
#[derive(Debug, Default)]
pub struct Problems(Mutex<BTreeMap<(String, &'static str), String>>);

impl Problems {
    /// Says what is wrong with a node, or that nothing of this kind is any more. Whether that is news:
    /// the same kind of problem is told once, though its words may change.
    pub fn report(&self, node: &str, kind: &'static str, text: Option<String>) -> bool {
        let mut open = self.0.lock();
        let key = (node.to_owned(), kind);
        match text {
            Some(text) => open.insert(key, text).is_none(),
            None => open.remove(&key).is_some(),
        }
    }

    /// By node.
    pub fn all(&self) -> Vec<NodeProblem> {
        let open = self.0.lock();
        let problems = open.iter().map(|((node, kind), text)| NodeProblem {
            node: node.clone(),
            kind,
            text: text.clone(),
        });
        problems.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_news_once_and_so_is_its_end() {
        let problems = Problems::default();
        let text = |text: &str| Some(text.to_owned());
        assert!(problems.report("pg2", "agent", text("refused")));
        assert!(!problems.report("pg2", "agent", text("timed out")));
        assert!(problems.report("pg1", "agent", text("refused")));
        let all = problems.all();
        assert_eq!((&*all[0].node, &*all[1].text), ("pg1", "timed out"));
        assert!(problems.report("pg2", "agent", None));
        assert!(!problems.report("pg2", "agent", None));
    }
}
