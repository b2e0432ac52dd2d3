use super::*;

pub(super) const LENGTH: usize = 10;

/// A row whose command ends at `position` rows of a chunk, after it.
pub(super) fn row(index: usize, position: usize) -> Row {
    let end = (position + 1) * LENGTH;
    Row { number: 100 + index, end, key: 0, own: None, state: RowState::Unanswered }
}

/// That many rows of ten bytes each, numbered from 100, and without a connection.
pub(super) fn pushed(rows: usize) -> InFlight {
    let mut in_flight = InFlight::new(rows, Ends::default(), WriteControl::default());
    let rows: Vec<Row> = (0..rows).map(|index| row(index, index)).collect();
    in_flight.push(Chunk { bytes: vec![0; rows.len() * LENGTH], rows });
    in_flight
}

impl InFlight {
    pub(super) fn take(&mut self, replies: &[u8]) -> Result<()> {
        let taken = XaddReplies(self).decode(replies)?;
        assert_eq!(taken, replies.len());
        self.settle();
        Ok(())
    }
}

#[test]
fn rows_that_are_encoded_and_not_sent_are_not_in() -> Result<()> {
    let mut rows = pushed(10);
    rows.note_sent(4 * LENGTH + 3);
    assert_eq!(rows.outstanding(), 0..4);
    assert!(!rows.is_between_commands());
    assert_eq!(rows.end_of_command(), 5 * LENGTH);
    rows.take(b"$3\r\n1-0\r\n$3\r\n2-0\r\n")?;
    assert_eq!((rows.rows_in(), rows.waiting(), rows.unsent()), (2, 8, 57));
    assert_eq!(rows.first_missing(), Some(102));
    assert_eq!(rows.numbers(rows.uncertain()), 102..104);
    rows.note_sent(LENGTH - 3);
    rows.take(b"$3\r\n3-0\r\n$3\r\n4-0\r\n$3\r\n5-0\r\n")?;
    assert_eq!(rows.numbers(rows.uncertain()), 0..0);
    assert_eq!(rows.first_missing(), Some(105));
    Ok(())
}

#[test]
fn rows_of_a_lost_connection_are_uncertain_until_they_are_answered() -> Result<()> {
    let mut rows = pushed(5);
    rows.note_sent(4 * LENGTH);
    rows.take(b"$3\r\n1-0\r\n$3\r\n2")?; // and no more
    rows.resend(rows.outstanding().start);
    // Nothing was sent on the new connection, and still.
    assert_eq!(rows.outstanding(), 1..1);
    assert_eq!(rows.uncertain(), 1..4);
    rows.resend(rows.outstanding().start);
    rows.note_sent(2 * LENGTH);
    rows.take(b"$3\r\n2-0\r\n")?;
    assert_eq!(rows.uncertain(), 2..4);
    rows.note_sent(2 * LENGTH);
    rows.take(b"$3\r\n3-0\r\n$3\r\n4-0\r\n$3\r\n5-0\r\n")?;
    assert!(rows.uncertain().is_empty());
    assert_eq!(rows.rows_in(), 5);
    Ok(())
}

#[test]
fn refused_rows_are_certain_and_sent_again_in_their_order() -> Result<()> {
    let mut rows = pushed(4);
    rows.note_sent(3 * LENGTH);
    rows.take(b"$3\r\n1-0\r\n-OOM a\r\n-OOM b\r\n")?;
    let refused = rows.take_refused().map(|refused| (refused.row, refused.overtaken));
    assert_eq!(refused, Some((1, false)));
    rows.resend_refused(1);
    assert!(rows.uncertain().is_empty());
    assert_eq!((rows.first_missing(), rows.unsent()), (Some(101), 3 * LENGTH));
    rows.note_sent(3 * LENGTH);
    rows.take(b"-ERR a\r\n$3\r\n3-0\r\n*-1\r\n")?;
    let refused = rows.take_refused().map(|refused| (refused.row, refused.overtaken));
    assert_eq!(refused, Some((1, true)));
    assert_eq!((rows.rows_in(), rows.first_missing()), (2, Some(101)));
    let written = rows.into_ids().finish(104);
    assert_eq!(written.rows(), 2);
    Ok(())
}

#[test]
fn after_a_protocol_error_nothing_more_is_done() -> Result<()> {
    let mut rows = pushed(4);
    rows.note_sent(4 * LENGTH);
    rows.take(b"$3\r\n1-0\r\n-ERR Protocol error\r\n")?;
    assert_eq!(rows.uncertain(), 2..4);
    rows.forget_unanswered();
    assert!(rows.uncertain().is_empty());
    assert_eq!(rows.first_missing(), Some(101));
    Ok(())
}

#[test]
fn other_replies_are_none_to_xadd() {
    for reply in [&b"+QUEUED\r\n"[..], b"*1\r\n$1\r\na\r\n", b"$5\r\nabcde\r\n"] {
        let mut rows = pushed(1);
        rows.note_sent(LENGTH);
        assert!(XaddReplies(&mut rows).decode(reply).is_err());
    }
    let mut rows = pushed(1);
    rows.note_sent(LENGTH);
    let replies = b"$3\r\n1-0\r\n$3\r\n2-0\r\n";
    assert!(XaddReplies(&mut rows).decode(replies).is_err(), "more than were sent");
}

#[test]
fn a_row_that_is_refused_now_may_be_in_by_a_connection_that_was_lost() -> Result<()> {
    let mut rows = pushed(5);
    rows.note_sent(3 * LENGTH);
    rows.resend(rows.outstanding().start);
    rows.note_sent(5 * LENGTH);
    rows.take(b"-OOM a\r\n$3\r\n2-0\r\n-OOM a\r\n-OOM a\r\n-OOM a\r\n")?;
    assert_eq!(rows.uncertain(), 0..3);
    assert_eq!(rows.refused_again(), 0..3);
    Ok(())
}

#[test]
fn what_may_be_in_is_handed_on_with_the_rows() -> Result<()> {
    let mut rows = pushed(5);
    let since = Some(Instant::now());
    rows.chunks.iter_mut().for_each(|chunk| chunk.since = since);
    rows.note_sent(3 * LENGTH);
    rows.resend(rows.outstanding().start);
    rows.note_sent(5 * LENGTH);
    rows.take(b"$3\r\n1-0\r\n-ASK 1 a:1\r\n-ASK 1 a:1\r\n-ASK 1 a:1\r\n-ASK 1 a:1\r\n")?;
    let before = rows.sent_before().expect("rows that were sent twice");
    assert_eq!((before.rows.clone(), before.since), (101..103, since));
    assert_eq!(rows.missing(), Some(vec![101, 102, 103, 104]));
    let mut next = InFlight::new(5, Ends::default(), WriteControl::default());
    let rest = (1..5).map(|index| row(index, index - 1)).collect();
    next.hold(Chunk { bytes: vec![0; 4 * LENGTH], rows: rest }, &before);
    assert_eq!((next.numbers(next.uncertain()), next.since()), (101..103, since));
    next.note_sent(4 * LENGTH);
    next.take(b"$3\r\n2-0\r\n$3\r\n3-0\r\n")?;
    assert_eq!(next.numbers(next.uncertain()), 103..105);
    Ok(())
}
