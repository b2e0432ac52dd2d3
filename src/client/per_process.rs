//! Values that a process does not share with the one that it was forked from.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that each process makes for itself, on first use and again after a fork.
///
/// No lock is involved, because a fork may copy one that a thread of the parent holds, and that
/// thread is not there to release it. The child leaves the parent's value alone, threads and
/// sockets included.
pub(crate) struct PerProcess<T> {
    current: AtomicPtr<Made<T>>,
    owned: PhantomData<T>,
}

struct Made<T> {
    process: u32,
    value: T,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess { current: AtomicPtr::new(ptr::null_mut()), owned: PhantomData }
    }

    /// This process's value, made where there is none yet. Of threads that make one at the same
    /// time one is heard.
    pub(crate) fn get<E>(&self, make: impl Fn() -> Result<T, E>) -> Result<&T, E> {
        let process = std::process::id();
        let seen = self.current.load(Ordering::Acquire);
        // SAFETY: the pointer is null or comes from `Box::into_raw` below; what it points to is
        // freed by `drop` only, which nobody who borrows `self` can outlive.
        if let Some(made) = unsafe { seen.as_ref() }
            && made.process == process
        {
            return Ok(&made.value);
        }
        let made = Box::into_raw(Box::new(Made { process, value: make()? }));
        match self.current.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: `made` was a box a moment ago; it is freed by `drop` only. What `seen` points
            // to is the parent's and stays where it is.
            Ok(_) => Ok(unsafe { &(*made).value }),
            Err(_) => {
                // SAFETY: `made` was never shared; another thread was first.
                drop(unsafe { Box::from_raw(made) });
                self.get(make)
            }
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let made = *self.current.get_mut();
        // SAFETY: as in `get`; nobody borrows `self` any more.
        if unsafe { made.as_ref() }.is_some_and(|made| made.process == std::process::id()) {
            // SAFETY: it comes from `Box::into_raw` and is freed here, once.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn is_made_once_and_dropped() {
        let value = Rc::new(Cell::new(0));
        let per_process = PerProcess::new();
        for _ in 0..2 {
            let got = per_process.get(|| {
                value.set(value.get() + 1);
                Ok::<_, ()>(Rc::clone(&value))
            });
            assert_eq!(got.map(|value| value.get()), Ok(1));
        }
        drop(per_process);
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let per_process = PerProcess::new();
        assert_eq!(per_process.get(|| Err("no")), Err("no"));
        assert_eq!(per_process.get(|| Ok::<_, &str>(1)), Ok(&1));
    }
}
