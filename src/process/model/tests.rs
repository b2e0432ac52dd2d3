//! What is explored of the processors of a stream.

use super::{Bounds, Explorer, Flaw, torture};

/// Nothing but losing and repeating what is sent, and leases that expire.
const QUIET: Bounds = Bounds {
    acquisitions: 2,
    inputs: 2,
    crashes: 0,
    failovers: 0,
    releases: 0,
    renewals: 0,
    plans: 0,
    idles: 0,
};
const FAILOVER: Bounds = Bounds { inputs: 1, failovers: 1, ..QUIET };

fn holds(bounds: Bounds, answers: &[&str]) {
    let seen = Explorer::explore(bounds, Flaw::None).unwrap();
    assert!(seen.finished, "{seen:?}");
    for answer in answers {
        assert!(seen.answers.contains(answer), "{answer} was not seen: {seen:?}");
    }
}

#[test]
fn each_input_is_applied_once_through_crashes_and_lost_replies() {
    let bounds = Bounds { inputs: 3, crashes: 1, ..QUIET };
    holds(bounds, &["held", "busy", "applied", "again", "fenced", "conflict"]);
}

#[test]
fn each_input_is_applied_once_through_releases_and_heartbeats() {
    holds(Bounds { inputs: 1, releases: 1, renewals: 1, ..QUIET }, &["applied", "again", "fenced"]);
}

#[test]
fn each_input_is_applied_once_through_a_failover_that_loses_commits() {
    holds(FAILOVER, &["applied", "again", "fenced", "conflict"]);
}

#[test]
fn a_batch_that_was_handed_out_stays_the_same() {
    holds(Bounds { crashes: 1, plans: 3, ..QUIET }, &["applied", "again", "fenced"]);
}

#[test]
fn a_commit_without_an_input_is_applied_once() {
    let bounds = Bounds { inputs: 1, crashes: 1, idles: 1, ..QUIET };
    holds(bounds, &["held", "busy", "applied", "again", "fenced", "conflict"]);
    for bounds in [Bounds { crashes: 1, idles: 2, ..QUIET }, Bounds { idles: 1, ..FAILOVER }] {
        let bounds = Bounds { inputs: 0, ..bounds };
        assert!(Explorer::explore(bounds, Flaw::None).unwrap().idle);
    }
    for flaw in [Flaw::NoSequence, Flaw::GoesOn, Flaw::ReadsEarly] {
        let bounds = Bounds { inputs: 1, idles: 1, ..QUIET };
        Explorer::explore(bounds, flaw).expect_err(&format!("{flaw:?} was not found"));
    }
}

/// As far as it comes in its time: what was explored says how far that was.
#[test]
#[ignore = "takes REDFLOE_TORTURE_SECONDS: make torture"]
fn each_input_is_applied_once_through_everything() {
    let all = [
        Bounds { acquisitions: 3, inputs: 1, crashes: 1, ..QUIET },
        Bounds { acquisitions: 3, crashes: 1, ..QUIET },
        Bounds { acquisitions: 3, inputs: 1, failovers: 1, ..QUIET },
        Bounds { failovers: 1, releases: 1, renewals: 1, ..QUIET },
        Bounds { inputs: 3, crashes: 1, plans: 4, ..QUIET },
        Bounds { acquisitions: 3, inputs: 1, crashes: 1, idles: 1, ..QUIET },
    ];
    let limit = torture() / u32::try_from(all.len()).unwrap();
    for bounds in all {
        let seen = Explorer::explore_for(bounds, Flaw::None, limit).unwrap();
        println!("{bounds:?}: {seen:?}");
        assert!(seen.finished && seen.answers.contains("again"));
    }
}

/// What the protocol has is needed: without any of it the explorer finds a history that goes wrong.
#[test]
fn each_flaw_is_found() {
    for (flaw, bounds) in [
        (Flaw::NoEpoch, QUIET),
        (Flaw::NoSequence, QUIET),
        (Flaw::GoesOn, QUIET),
        (Flaw::ReadsEarly, QUIET),
        (Flaw::ReadsBlindly, FAILOVER),
        (Flaw::PlansAnew, Bounds { crashes: 1, plans: 2, ..QUIET }),
    ] {
        let error = Explorer::explore(bounds, flaw).expect_err(&format!("{flaw:?} was not found"));
        let is_of_a_batch = error.starts_with("a batch was handed out again");
        assert_eq!(is_of_a_batch, flaw == Flaw::PlansAnew, "{flaw:?}: {error}");
    }
}
