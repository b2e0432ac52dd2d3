//! Questions about many keys, each asked where the key is served.

use redis::Value;

use super::{Client, Questions, Session};
use crate::error::{Error, Remedy, Result};
use crate::resp::Packed;

/// What is asked about one key, and what the answers are.
pub(crate) struct About<'k> {
    pub(crate) key: &'k [u8],
    pub(crate) questions: Vec<Packed>,
}

impl Client {
    /// Splits keys by the nodes that serve them: lists of indexes, each in order. One list where the
    /// server is no cluster.
    pub(crate) async fn split_by_node(&self, keys: &[&[u8]]) -> Result<Vec<Vec<usize>>> {
        if !self.is_cluster() || keys.len() < 2 {
            return Ok(vec![(0..keys.len()).collect()]);
        }
        let first = keys.first().copied().unwrap_or_default();
        // Waits until the map is there, through whatever fails.
        self.session_for(first).learn_map().await?;
        let mut nodes = Vec::new();
        let mut lists: Vec<Vec<usize>> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let node = self.cluster().master(super::slot_of(key));
            match nodes.iter().position(|known| *known == node).and_then(|at| lists.get_mut(at)) {
                Some(list) => list.push(index),
                None => {
                    nodes.push(node);
                    lists.push(vec![index]);
                }
            }
        }
        Ok(lists)
    }

    /// Asks about keys: all that one node serves in one round trip, one node after the other. The
    /// answers are as those of [`Questions::ask`]: no error that time mends, or that another node does.
    pub(crate) async fn ask_about(&self, about: &[About<'_>]) -> Result<Vec<Vec<Result<Value>>>> {
        let mut answers: Vec<Vec<Result<Value>>> = about.iter().map(|_| Vec::new()).collect();
        let mut missing: Vec<usize> = (0..about.len()).collect();
        // The second round knows of the cluster, where the first has found out.
        for _ in 0..2 {
            let keys: Vec<&[u8]> =
                missing.iter().filter_map(|index| Some(about.get(*index)?.key)).collect();
            let mut elsewhere = Vec::new();
            for list in self.split_by_node(&keys).await? {
                let list: Vec<usize> =
                    list.iter().filter_map(|at| missing.get(*at).copied()).collect();
                elsewhere.extend(self.ask_node(about, &list, &mut answers).await?);
            }
            missing = elsewhere;
            if missing.is_empty() {
                return Ok(answers);
            }
        }
        // A slot that is on its way: key by key.
        for index in missing {
            if let (Some(about), Some(slot)) = (about.get(index), answers.get_mut(index)) {
                let mut session = self.session_for(about.key);
                *slot = questions(std::iter::once(about)).ask(&mut session).await?;
            }
        }
        Ok(answers)
    }

    /// Asks one node; gives the keys that it does not serve.
    async fn ask_node(
        &self,
        about: &[About<'_>],
        list: &[usize],
        answers: &mut [Vec<Result<Value>>],
    ) -> Result<Vec<usize>> {
        let asked = || list.iter().filter_map(|index| about.get(*index));
        let Some(first) = asked().next() else { return Ok(Vec::new()) };
        let mut session = self.session_for(first.key);
        let all = questions(asked());
        let mut come = all.ask_one_node(&mut session).await?.into_iter();
        let mut elsewhere = Vec::new();
        for index in list {
            let Some(about) = about.get(*index) else { continue };
            let own: Vec<_> = come.by_ref().take(about.questions.len()).collect();
            let redirected =
                |answer: &Result<Value>| answer.as_ref().err().is_some_and(is_redirect);
            match own.iter().find(|answer| redirected(answer)) {
                Some(Err(error)) => {
                    session.learn(error);
                    elsewhere.push(*index);
                }
                _ => {
                    if let Some(slot) = answers.get_mut(*index) {
                        *slot = own;
                    }
                }
            }
        }
        Ok(elsewhere)
    }

    /// A session for each master of the cluster, or one for the server that is none.
    pub(crate) async fn master_sessions(&self) -> Result<Vec<Session>> {
        if !self.is_cluster() && !self.looks_like_a_cluster().await? {
            return Ok(vec![self.session()]);
        }
        self.session().learn_map().await?;
        let slots = self.cluster().slots_of_masters();
        Ok(slots
            .into_iter()
            .map(|slot| Session::new(self.clone(), super::Route::Slot(slot)))
            .collect())
    }
}

fn questions<'a>(about: impl Iterator<Item = &'a About<'a>>) -> Questions {
    let mut questions = Questions::default();
    about.flat_map(|about| &about.questions).for_each(|question| questions.add(question));
    questions
}

pub(super) fn is_redirect(error: &Error) -> bool {
    error.remedy() == Remedy::Rediscover
}
