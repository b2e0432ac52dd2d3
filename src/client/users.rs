//! Whether a fork copied a value while somebody was using it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts who is using a value that has locks.
///
/// A fork copies the value as it is at that instant. What another thread was doing to it is never
/// brought to an end in the child: its locks stay held, and it may be half changed.
#[derive(Debug, Default)]
pub(crate) struct Users {
    /// The process that counted last, and its users.
    count: AtomicU64,
}

impl Users {
    /// Counts a user, until what this returns is dropped; `None` where the process that this one
    /// was forked from had a user at that time, so that the value must not be touched.
    pub(crate) fn enter(&self) -> Option<User<'_>> {
        self.enter_as(std::process::id())
    }

    fn enter_as(&self, process: u32) -> Option<User<'_>> {
        let entered =
            self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                match (owner(count) == process, users(count)) {
                    (true, _) => Some(count + 1),
                    (false, 0) => Some(pack(process) + 1),
                    (false, _) => None,
                }
            });
        entered.ok().map(|_| User { users: self, process })
    }
}

/// Somebody who uses a value.
pub(crate) struct User<'a> {
    users: &'a Users,
    process: u32,
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        // In the child of a fork the thread that forked goes on, and is no longer a user either.
        let left = |count| (owner(count) == self.process).then(|| count - 1);
        let _ = self.users.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, left);
    }
}

const fn pack(process: u32) -> u64 {
    (process as u64) << 32
}

const fn owner(count: u64) -> u32 {
    (count >> 32) as u32
}

const fn users(count: u64) -> u32 {
    count as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_its_users() {
        let users = Users::default();
        let (one, two) = (users.enter(), users.enter());
        assert!(one.is_some() && two.is_some());
        drop((one, two));
        assert!(users.enter_as(1).is_some());
    }

    #[test]
    fn a_child_does_not_touch_what_its_parent_was_using() {
        let users = Users::default();
        let parents = users.enter_as(1);
        assert!(users.enter_as(2).is_none());
        assert!(users.enter_as(1).is_some());
        drop(parents); // in the child, where it was the forking thread's
        assert!(users.enter_as(2).is_some());
        assert!(users.enter_as(3).is_some());
    }
}
