//! Questions about many keys, each asked where the key is served.

use futures_util::future::try_join_all;
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

    /// Asks about keys: all that one node serves in one round trip, all nodes at the same time. The
    /// answers are as those of [`Questions::ask`]: no error that time mends, or that another node does.
    pub(crate) async fn ask_about(&self, about: &[About<'_>]) -> Result<Vec<Vec<Result<Value>>>> {
        self.ask_about_by(Client::session_for, about).await
    }

    /// The same by sessions of this kind: [`Client::session_for`] or [`Client::reading_session`].
    pub(crate) async fn ask_about_by(
        &self,
        session_for: fn(&Client, &[u8]) -> Session,
        about: &[About<'_>],
    ) -> Result<Vec<Vec<Result<Value>>>> {
        let mut answers: Vec<Vec<Result<Value>>> = about.iter().map(|_| Vec::new()).collect();
        let mut missing: Vec<usize> = (0..about.len()).collect();
        // The second round knows of the cluster, where the first has found out.
        for _ in 0..2 {
            let keys: Vec<&[u8]> =
                missing.iter().filter_map(|index| Some(about.get(*index)?.key)).collect();
            let lists = self.split_by_node(&keys).await?;
            let asking = lists.iter().map(|list| {
                let list = list.iter().filter_map(|at| missing.get(*at).copied());
                let list: Vec<(usize, &About<'_>)> =
                    list.filter_map(|index| Some((index, about.get(index)?))).collect();
                async move {
                    let Some((_, first)) = list.first() else { return Ok(Vec::new()) };
                    let session = session_for(self, first.key);
                    ask_node(session, list).await
                }
            });
            let mut elsewhere = Vec::new();
            for (index, answered) in try_join_all(asking).await?.into_iter().flatten() {
                match answered.zip(answers.get_mut(index)) {
                    Some((answered, slot)) => *slot = answered,
                    None => elsewhere.push(index),
                }
            }
            missing = elsewhere;
            if missing.is_empty() {
                return Ok(answers);
            }
        }
        // A slot that is on its way: key by key.
        for index in missing {
            if let (Some(about), Some(slot)) = (about.get(index), answers.get_mut(index)) {
                let mut session = session_for(self, about.key);
                *slot = questions(std::iter::once(about)).ask(&mut session).await?;
            }
        }
        Ok(answers)
    }

    /// Whether the master of this slot serves the key as well, as far as is known.
    pub(crate) fn serves_with(&self, slot: u16, key: &[u8]) -> bool {
        let cluster = self.cluster();
        cluster.master(slot) == cluster.master(super::slot_of(key))
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

/// The answers of one node about each of these keys; none about one that it does not serve.
async fn ask_node(
    mut session: Session,
    list: Vec<(usize, &About<'_>)>,
) -> Result<Vec<(usize, Option<Vec<Result<Value>>>)>> {
    let all = questions(list.iter().map(|(_, about)| *about));
    let mut come = all.ask_one_node(&mut session).await?.into_iter();
    let mut answers = Vec::with_capacity(list.len());
    for (index, about) in list {
        let own: Vec<_> = come.by_ref().take(about.questions.len()).collect();
        let redirected = |answer: &Result<Value>| answer.as_ref().err().is_some_and(is_redirect);
        let own = match own.iter().find(|answer| redirected(answer)) {
            Some(Err(error)) => {
                session.learn(error);
                None
            }
            _ => Some(own),
        };
        answers.push((index, own));
    }
    Ok(answers)
}

fn questions<'a>(about: impl Iterator<Item = &'a About<'a>>) -> Questions {
    let mut questions = Questions::default();
    about.flat_map(|about| &about.questions).for_each(|question| questions.add(question));
    questions
}

pub(super) fn is_redirect(error: &Error) -> bool {
    error.remedy() == Remedy::Rediscover
}
