//! One read of all that there is, of as many parts as there may be.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::Parts;
use crate::decode::Batch;
use crate::error::{Error, Result};
use crate::read::deadline::Deadline;
use crate::read::group::lane::ids_by_stream;
use crate::read::group::part::Part;
use crate::read::group::placing::budgets;
use crate::read::poll::Pace;
use crate::read::request::BatchBounds;

impl Parts {
    /// Connections that it has at the same time: the next parts use those of the ones before.
    const AT_ONCE: usize = 64;

    /// All that there is in one batch, after waiting for the first where that is asked for.
    pub(in crate::read::group) async fn read_all(&mut self) -> Result<Batch> {
        self.request.bounds = BatchBounds::NONE;
        Box::pin(self.plan()).await?;
        if let [part] = self.parts.as_mut_slice()
            && let Some(reader) = part.reader()
        {
            reader.limit(self.left);
            return reader.read_all().await;
        }
        // Also those that have their group only from now on, though a `count` leaves them no entry.
        let mut readers: Vec<_> = self.parts.iter_mut().filter_map(Part::reader).collect();
        for readers in readers.chunks_mut(Self::AT_ONCE) {
            try_join_all(readers.iter_mut().map(|reader| reader.start())).await?;
            readers.iter_mut().for_each(|reader| reader.leave_connection());
        }
        let deadline = self.request.block.map(Deadline::of_block);
        let mut pause = Duration::from_millis(5);
        let batch = loop {
            let asked = Instant::now();
            let batch = self.gather_all().await?;
            let left = deadline.map(|deadline| deadline.left_up_to(Pace::SLICE));
            if left.is_none_or(|left| left.is_zero()) || !batch.is_empty() || self.left == Some(0) {
                break batch;
            }
            // No one request waits for all, and what each of many was sent would be pending.
            let left = deadline.map_or(pause, |deadline| deadline.left_up_to(pause));
            tokio::time::sleep(left).await;
            for lane in self.parts.iter_mut().filter_map(Part::reader).flat_map(|r| &mut r.lanes) {
                // Whatever comes now is wanted.
                lane.is_at_end = false;
            }
            pause = pause.saturating_mul(2).min(Pace::PAUSE * 5).max(asked.elapsed());
        };
        let mut by_stream = ids_by_stream(&batch).into_iter().collect();
        let mut readers: Vec<_> = self.parts.iter_mut().filter_map(Part::reader).collect();
        for readers in readers.chunks_mut(Self::AT_ONCE) {
            let settling = readers.iter_mut().map(|reader| {
                reader.handed_out_of(&mut by_stream);
                reader.settle()
            });
            try_join_all(settling).await?;
            readers.iter_mut().for_each(|reader| reader.leave_connection());
        }
        Ok(batch)
    }

    /// What all parts have now, of those that are not at their end, or the request's count of it.
    async fn gather_all(&mut self) -> Result<Batch> {
        let mut batches = Vec::new();
        let mut left = self.left;
        self.parts.iter_mut().for_each(|part| part.is_drained = false);
        loop {
            let numbers = self.parts.iter().enumerate();
            let some: Vec<usize> = numbers
                .filter(|(_, part)| !part.is_drained)
                .map(|(number, _)| number)
                .take(Self::AT_ONCE)
                .collect();
            if some.is_empty() || left == Some(0) {
                break;
            }
            let shares: Vec<Option<u64>> = match left {
                Some(left) => budgets(left, some.len()).map(Some).collect(),
                None => vec![None; some.len()],
            };
            let parts = self.parts.iter_mut().enumerate();
            let parts = parts.filter(|(number, _)| some.contains(number)).zip(shares);
            let gathering = parts.filter_map(|((_, part), share)| {
                let reader = part.reader().filter(|_| share != Some(0))?;
                reader.limit(share);
                Some(async move {
                    let batch = reader.gather(false).await?;
                    reader.leave_connection();
                    let is_drained = share.is_none_or(|share| (batch.len() as u64) < share);
                    Ok::<_, Error>((batch, is_drained))
                })
            });
            let gathered = try_join_all(gathering.collect::<Vec<_>>()).await?;
            for (number, (batch, is_drained)) in some.into_iter().zip(gathered) {
                left = left.map(|left| left.saturating_sub(batch.len() as u64));
                self.parts.get_mut(number).into_iter().for_each(|p| p.is_drained = is_drained);
                batches.extend((!batch.is_empty()).then_some(batch));
            }
        }
        self.mingle.join(batches)
    }
}
