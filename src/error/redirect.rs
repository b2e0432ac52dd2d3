//! Where a node of a cluster says that another serves the key.

/// The slots of a cluster.
const SLOTS: u16 = 16_384;

/// Where a node of a cluster says that another serves the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) slot: u16,
    /// The node, as the one that was asked names it.
    pub(crate) address: String,
    /// It serves the key already, though the slot is not its own yet.
    pub(crate) asks: bool,
}

/// The slot of a key, and the address of the node that serves it: for MOVED from now on, for ASK this
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) slot: u16,
    pub(super) address: &'a str,
}

impl<'a> Named<'a> {
    /// Reads `MOVED 3999 127.0.0.1:6381`.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
        words.next().map(|address| Named { slot, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Remedy;
    use crate::error::codes::ServerError;

    #[test]
    fn a_redirection_names_a_slot_and_a_node() {
        let redirect = |line| ServerError::parse(line).redirect;
        for line in [
            "MOVED 3999 127.0.0.1:6381",
            "ASK 3999 127.0.0.1:6381",
            "ERR Error running script (call to f_1): @user_script:1: MOVED 3999 127.0.0.1:6381",
        ] {
            let expected = Named { slot: 3999, address: "127.0.0.1:6381" };
            assert_eq!(redirect(line), Some(expected), "{line}");
        }
        for line in [
            "MOVED",
            "MOVED x h:1",
            "ASK 99999 h:1",
            "MOVED 16384 h:1",
            "MOVED 1",
            "TRYAGAIN 1 h:1",
        ] {
            assert_eq!(redirect(line), None, "{line}");
        }
        assert_eq!(ServerError::parse("MOVED no").remedy, Remedy::No);
    }
}
