//! How many entries to ask for at once.

/// Chooses the COUNT of each page from the size of the entries seen so far.
///
/// A page must be large enough that round trips do not count, and small enough that neither the
/// server's output buffer nor ours grows with the stream. Entries may be of any size, so the first
/// page is small and the next ones follow what it held.
#[derive(Debug, Clone)]
pub struct PageSize {
    count: u64,
    /// The bytes of reply that a page aims at.
    target: u64,
    /// The most that it may aim at.
    most: u64,
    /// The size of the largest recent entries: giants seldom come alone.
    largest: u64,
}

impl PageSize {
    const FIRST: u64 = 100;
    const MOST: u64 = 20_000;
    /// The bytes of reply that a page aims at, at most.
    const TARGET: u64 = 2 * 1024 * 1024;
    /// A page is at most this many times as large as the one before.
    const GROWTH: u64 = 8;
    /// The number of pages in which it grows back after a loss.
    const STEPS: u64 = 64;

    /// The first page's size.
    pub fn new() -> Self {
        PageSize { count: Self::FIRST, target: Self::TARGET, most: Self::TARGET, largest: 0 }
    }

    /// The first page's size, where no page should have more than that many bytes.
    pub(crate) fn within(bytes: u64) -> Self {
        let most = Self::TARGET.min(bytes);
        PageSize { target: most, most, ..Self::new() }
    }

    /// The number of entries to ask for.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Learns from a page: its entries and the bytes of its reply.
    pub fn observe(&mut self, entries: u64, bytes: u64) {
        if let Some(per_entry) = bytes.checked_div(entries) {
            self.target = self.target.saturating_add(self.most / Self::STEPS).min(self.most);
            self.largest = per_entry.max(self.largest / Self::GROWTH);
            let fitting = self.target / self.largest.max(1);
            let most = self.count.saturating_mul(Self::GROWTH).min(Self::MOST);
            self.count = fitting.clamp(1, most);
        }
    }

    /// Learns that the connection was lost before a page's end: the server may refuse to send that much
    /// (client-output-buffer-limit), or something between to pass it on. It grows again step by step.
    pub fn lost(&mut self) {
        self.target = (self.target / 2).max(1);
        self.count = (self.count / 4).max(1);
    }

    /// Learns that nobody waited for a page's end, which may have been too far off.
    pub fn shrink(&mut self) {
        self.count = self.count.min((self.count / 2).max(Self::FIRST));
    }
}

impl Default for PageSize {
    fn default() -> Self {
        PageSize::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_larger_than_a_batch() {
        let mut page = PageSize::within(1_000);
        page.observe(100, 100 * 50);
        assert_eq!(page.count(), 20);
        assert_eq!(PageSize::within(u64::MAX).target, PageSize::TARGET);
    }

    #[test]
    fn a_page_that_is_too_much_for_somebody_shrinks_until_it_is_not() {
        const ENTRY: u64 = 100_000;
        let (mut page, mut came, mut losses) = (PageSize::new(), 0, 0);
        while came < 500 {
            match page.count() * ENTRY > 1_000_000 {
                true => {
                    page.lost();
                    losses += 1;
                }
                false => {
                    came += page.count();
                    page.observe(page.count(), page.count() * ENTRY);
                }
            }
        }
        assert!(losses < 10, "{losses}");
        // After a restart of the server it is as large as before in a while.
        let mut page = PageSize::new();
        let mut sizes = Vec::new();
        for _ in 0..20 {
            page.observe(page.count(), page.count() * 146);
            sizes.push(page.count());
        }
        page.lost();
        assert!(page.count() <= 2 * 1024 * 1024 / 146 / 2);
        (0..PageSize::STEPS).for_each(|_| page.observe(page.count(), page.count() * 146));
        assert_eq!(Some(&page.count()), sizes.last());
        for _ in 0..100 {
            page.lost();
        }
        assert_eq!(page.count(), 1);
    }

    #[test]
    fn pages_follow_the_size_of_entries() {
        let mut page = PageSize::new();
        page.observe(100, 100 * 146);
        assert_eq!(page.count(), 800);
        page.observe(800, 800 * 146);
        assert_eq!(page.count(), 6_400);
        page.observe(6_400, 6_400 * 146);
        assert_eq!(page.count(), 2 * 1024 * 1024 / 146);
        page.observe(10, 10 * 100_000_000);
        assert_eq!(page.count(), 1);
        // Giants seldom come alone.
        for expected in [1, 1, 8] {
            page.observe(1, 20);
            assert_eq!(page.count(), expected);
        }
        page.observe(0, 5);
        assert_eq!(page.count(), 8);
        page.shrink();
        assert_eq!(page.count(), 8);
        page.observe(8, 80);
        page.observe(64, 640);
        assert_eq!(page.count(), 512);
        for expected in [256, 128, 100, 100] {
            page.shrink();
            assert_eq!(page.count(), expected);
        }
    }
}
