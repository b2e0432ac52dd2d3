//! Exactly once, against real servers: lost replies, crashes and zombies at each step of the protocol.

mod live;

use std::time::{Duration, Instant};

use redfloe::{
    Client, Commit, ConnectionOptions, EntryId, ErrorKind, GroupStart, LaneFilter, LaneOptions,
    Result, delete_processor, processor_info, reset_processor, state_key, table_key,
};

use live::lanes::{NAME, OUT, check, commit_of, id, key_text, lane_name, lane_of, pages};
use live::proxy::{Fault, Proxy};
use live::{STREAM, Server};

/// Text of each script, which goes to a server that does not have it yet.
const STEPS: [(&str, &str); 6] = [
    ("acquire", "where a new\n-- lane begins"),
    ("load", "what a successor has written"),
    ("renew", "where the next batch is to end"),
    ("release", "whoever is next increments it"),
    ("commit", "A script is not rolled back"),
    ("read", "XRANGE"),
];

/// Processes all there is, as whoever builds on this does: after any failure it acquires anew.
async fn process(client: &Client, options: &LaneOptions) -> Result<()> {
    let mut lane = lane_of(client, options.clone());
    let mut reader = pages(client, 4);
    'acquired: loop {
        let mut at = lane.acquire().await?;
        let state = lane.load(&state_key(STREAM.as_bytes(), NAME)).await?;
        let number = |text: &Vec<u8>| std::str::from_utf8(text).unwrap().parse().unwrap();
        let mut total = state.get(&b"sum"[..]).map_or(0, number);
        loop {
            let Some(page) = reader.read(at.position, at.planned).await? else { break };
            assert_eq!(lane.plan(page.last).await?, page.last);
            let commit = commit_of(&page, &mut total)?;
            match lane.commit(&commit).await {
                Ok(_) => at = lane.held().unwrap(),
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown => continue 'acquired,
                Err(error) => return Err(error),
            }
        }
        return lane.release().await;
    }
}

#[tokio::test]
async fn a_stream_is_processed_on_every_server() -> Result<()> {
    for name in ["redis-6.2", "redis-7.0", "redis-8.10", "valkey"] {
        let Some(server) = Server::start_as(name) else { return Ok(()) };
        server.add(1, 10);
        let client = server.client();
        process(&client, &LaneOptions::default()).await?;
        check(&server, 10);
        server.run(&["SCRIPT", "FLUSH"]);
        server.add(11, 25);
        process(&client, &LaneOptions::default()).await?;
        check(&server, 25);
        let mut lane = lane_of(&client, LaneOptions::default());
        let held = lane.acquire().await?;
        assert_eq!((held.epoch, held.position, held.commits, held.planned), (3, id(25), 7, None));
        let mut table: Vec<(String, String)> =
            server.ask(&["HGETALL", "{numbers}:redfloe:numbers:sums:table:t"]);
        table.sort();
        let rows = [("0", "24"), ("1", "25"), ("2", "23")];
        assert_eq!(table, rows.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
    Ok(())
}

/// The request of a step is lost, or its reply: in each case all is written once.
#[tokio::test]
async fn lost_requests_and_replies_change_nothing() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    for (step, script) in STEPS {
        for fault in [Fault::LoseRequest, Fault::LoseReply] {
            server.run(&["FLUSHALL"]);
            server.run(&["SCRIPT", "FLUSH"]);
            server.add(1, 10);
            let proxy = Proxy::start(&server);
            proxy.arm(script, fault);
            process(&proxy.client(), &LaneOptions::default()).await?;
            assert!(proxy.has_struck(), "{step} {fault:?}");
            check(&server, 10);
        }
    }
    Ok(())
}

/// A processor that dies at a step, be it that its request arrives or not, is replaced by another.
#[tokio::test]
async fn whoever_comes_after_a_crash_goes_on() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    for (step, script) in STEPS {
        for fault in [Fault::HoldRequest, Fault::HoldReply] {
            server.run(&["FLUSHALL"]);
            server.run(&["SCRIPT", "FLUSH"]);
            server.add(1, 10);
            let proxy = Proxy::start(&server);
            proxy.arm(script, fault);
            let (client, options) = (proxy.client(), LaneOptions::default());
            let mut dying = Box::pin(process(&client, &options));
            let struck = async {
                while !proxy.has_struck() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            tokio::select! {
                ended = &mut dying => panic!("{step} {fault:?}: {ended:?}"),
                () = struck => {}
            }
            // What it has sent is not dropped with it: it arrives once another has taken over.
            let takeover = LaneOptions { takeover: true, ..LaneOptions::default() };
            server.add(11, 12);
            process(&server.client(), &takeover).await?;
            check(&server, 12);
            proxy.let_go();
            tokio::time::sleep(Duration::from_millis(20)).await;
            check(&server, 12);
            drop(dying);
            process(&server.client(), &takeover).await?;
            check(&server, 12);
        }
    }
    Ok(())
}

/// One that was stopped and is superseded goes on: nothing that it commits is written.
#[tokio::test]
async fn a_zombie_is_fenced() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 10);
    let (client, stream) = (server.client(), STREAM.as_bytes());
    let mut zombie = lane_of(&client, LaneOptions::default());
    let held = zombie.acquire().await?;
    let page = pages(&client, 4).read(held.position, None).await?.unwrap();
    let commit = commit_of(&page, &mut 0)?;
    let options =
        LaneOptions { takeover: true, label: "other".to_owned(), ..LaneOptions::default() };
    let mut other = lane_of(&client, options);
    assert_eq!(other.acquire().await?.epoch, 2);
    let error = zombie.commit(&commit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.to_string().contains("other"), "{error}");
    assert_eq!(server.ask::<i64>(&["EXISTS", OUT]), 0);
    let again = zombie.commit(&commit).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Fenced);
    assert_eq!(zombie.lost().map(|error| error.kind()), Some(ErrorKind::Fenced));
    // It leaves what it does not have, and the other goes on.
    zombie.release().await?;
    other.commit(&commit).await?;
    assert_eq!(other.held().map(|held| held.position), Some(id(4)));
    server.run(&["DEL", std::str::from_utf8(&lane_name()).unwrap()]);
    let gone = other.commit(&Commit::between(id(4), id(5))).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::DataLoss);
    let none = lane_of(&client, LaneOptions::default()).commit(&commit).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
    assert_eq!(server.ask::<i64>(&["HLEN", &key_text(state_key(stream, NAME))]), 1);
    Ok(())
}

#[tokio::test]
async fn a_standby_takes_over_once_the_lease_expires() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let short = LaneOptions { lease: Duration::from_millis(150), ..LaneOptions::default() };
    let mut first = lane_of(&server.client(), short.clone());
    first.acquire().await?;
    let beating = tokio::spawn(first.heartbeat());
    let mut second = lane_of(&server.client(), short.clone());
    let left = second.try_acquire().await?.unwrap_err();
    assert!(left <= short.lease, "{left:?}");
    // The heartbeat keeps it.
    let waited = tokio::time::timeout(Duration::from_millis(500), second.acquire()).await;
    assert!(waited.is_err());
    beating.abort();
    let since = Instant::now();
    assert_eq!(second.acquire().await?.epoch, 2);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    // One that leaves is followed at once, and its successor notices by the heartbeat alone.
    let beating = tokio::spawn(second.heartbeat());
    let taking = LaneOptions { takeover: true, ..short };
    let mut third = lane_of(&server.client(), taking);
    assert_eq!(third.acquire().await?.epoch, 3);
    let since = Instant::now();
    while second.lost().is_none() {
        assert!(since.elapsed() < Duration::from_secs(2), "the heartbeat does not notice");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    third.release().await?;
    let mut fourth = lane_of(&server.client(), LaneOptions::default());
    assert_eq!(fourth.try_acquire().await?.map(|held| held.epoch), Ok(4));
    drop(second);
    beating.await.unwrap();
    Ok(())
}

/// What a state would be read from is another's, or gone: that is said, and the lane is lost.
#[tokio::test]
async fn a_lane_that_is_lost_before_its_state_is_read() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let (client, state) = (server.client(), state_key(STREAM.as_bytes(), NAME));
    let mut lane = lane_of(&client, LaneOptions::default());
    lane.acquire().await?;
    server.run(&["DEL", &key_text(lane_name())]);
    assert_eq!(lane.load(&state).await.unwrap_err().kind(), ErrorKind::DataLoss);
    assert_eq!(lane.lost().map(|error| error.kind()), Some(ErrorKind::DataLoss));
    assert_eq!(lane.held(), None);
    lane.acquire().await?;
    let options = LaneOptions { takeover: true, ..LaneOptions::default() };
    let mut other = lane_of(&client, options);
    other.acquire().await?;
    assert_eq!(lane.load(&state).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(lane.lost().map(|error| error.kind()), Some(ErrorKind::Fenced));
    server.run(&["SET", &key_text(state.clone()), "x"]);
    assert_eq!(other.load(&state).await.unwrap_err().kind(), ErrorKind::WrongType);
    assert!(other.held().is_some());
    Ok(())
}

/// A plan that was given up arrives late: after another of the same batch, or after its commit.
#[tokio::test]
async fn a_late_plan_changes_no_batch() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let planned = || server.ask::<String>(&["HGET", &key_text(lane_name()), "planned"]);
    for is_committed in [false, true] {
        server.run(&["FLUSHALL"]);
        server.run(&["SCRIPT", "FLUSH"]);
        let proxy = Proxy::start(&server);
        let mut lane = lane_of(&proxy.client(), LaneOptions::default());
        lane.acquire().await?;
        proxy.arm("where the next batch is to end", Fault::HoldRequest);
        let waited = tokio::time::timeout(Duration::from_millis(100), lane.plan(id(6))).await;
        assert!(waited.is_err() && proxy.has_struck());
        assert_eq!(lane.plan(id(4)).await?, id(4));
        assert_eq!(lane.plan(id(5)).await?, id(4));
        if is_committed {
            lane.commit(&Commit::between(EntryId::MIN, id(4))).await?;
        }
        proxy.let_go();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(planned(), if is_committed { "" } else { "4-0" });
    }
    Ok(())
}

/// A heartbeat that gets no answer is followed by another in time.
#[tokio::test]
async fn a_silent_connection_does_not_cost_the_lease() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let proxy = Proxy::start(&server);
    let options = LaneOptions { lease: Duration::from_millis(300), ..LaneOptions::default() };
    let mut lane = lane_of(&proxy.client(), options.clone());
    lane.acquire().await?;
    proxy.arm("where the next batch is to end", Fault::HoldRequest);
    let beating = tokio::spawn(lane.heartbeat());
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(proxy.has_struck());
    let mut other = lane_of(&server.client(), options);
    assert!(other.try_acquire().await?.is_err());
    assert!(lane.held().is_some());
    beating.abort();
    Ok(())
}

/// Whoever does not know whether its commit is in has the lane itself: nobody else's lease is waited for.
#[tokio::test]
async fn after_an_unknown_outcome_the_lane_is_acquired_at_once() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let proxy = Proxy::start(&server);
    let mut lane = lane_of(&proxy.client_of(0), LaneOptions::default());
    lane.acquire().await?;
    for (fault, at) in [(Fault::LoseReply, id(4)), (Fault::LoseRequest, id(4))] {
        server.run(&["SCRIPT", "FLUSH"]);
        let held = lane.held().unwrap();
        proxy.arm("A script is not rolled back", fault);
        let commit = Commit::between(held.position, id(held.position.ms + 4));
        let error = lane.commit(&commit).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        let held = lane.try_acquire().await?.unwrap();
        assert_eq!(held.position, at);
        // What was made before that does not begin where the lane is.
        let again = lane.commit(&commit).await;
        match fault {
            Fault::LoseReply => {
                let error = again.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                assert!(error.to_string().contains("begins after 0-0"), "{error}");
            }
            _ => assert_eq!(again?.commits, 2),
        }
    }
    assert_eq!(lane.held().map(|held| (held.epoch, held.position)), Some((3, id(8))));
    Ok(())
}

/// Leaving a lane gives up after a while; to acquire it again does not.
#[tokio::test]
async fn a_lane_that_could_not_be_left_keeps_its_patience() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let ms = Duration::from_millis;
    let options = ConnectionOptions::parse(&server.url())?.with_retries(None, ms(1), ms(5));
    let mut lane = lane_of(&Client::new(options), LaneOptions::default());
    lane.acquire().await?;
    drop(server);
    assert_eq!(lane.release().await.unwrap_err().kind(), ErrorKind::Connection);
    assert!(tokio::time::timeout(ms(300), lane.acquire()).await.is_err());
    Ok(())
}

/// Who works when a processor is reset or deleted writes nothing from then on, nor does what it has sent
/// already; whoever comes next begins where it was told to.
#[tokio::test]
async fn whoever_is_reset_writes_nothing() -> Result<()> {
    for name in ["redis-6.2", "redis-7.0", "redis-8.10", "valkey"] {
        let Some(server) = Server::start_as(name) else { return Ok(()) };
        server.add(1, 10);
        let client = server.client();
        let (stream, to) = (STREAM.as_bytes(), GroupStart::Behind(EntryId::MIN));
        let reset =
            |drop_state, takeover| reset_processor(&client, stream, NAME, to, drop_state, takeover);
        assert_eq!(reset(true, false).await.unwrap_err().kind(), ErrorKind::NoProcessor);
        assert_eq!(server.ask::<i64>(&["DBSIZE"]), 1);
        let mut lane = lane_of(&client, LaneOptions::default());
        let mut reader = pages(&client, 4);
        let mut at = lane.acquire().await?;
        let mut total = 0;
        for _ in 0..2 {
            let page = reader.read(at.position, None).await?.unwrap();
            let commit = commit_of(&page, &mut total)?.with_batch(4, Duration::from_millis(7));
            lane.commit(&commit).await?;
            at = lane.held().unwrap();
        }
        let page = reader.read(at.position, None).await?.unwrap();
        let late = commit_of(&page, &mut total)?;
        let error = reset(true, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProcessorRunning, "{error}");
        let infos = processor_info(&client, &LaneFilter::default()).await?;
        let [info] = infos.as_slice() else { panic!("{infos:?}") };
        assert_eq!((info.entries, info.batch_entries, info.commits), (Some(8), Some(4), 2));
        assert_eq!(info.batch_time, Some(Duration::from_millis(7)));
        assert_eq!((info.position, info.lag), (Some(id(8)), Some(2)));
        assert!(info.lease_left.is_some_and(|left| left <= Duration::from_secs(3)));
        let done = reset(true, true).await?;
        assert_eq!((done.previous, done.position, done.epoch), (id(8), EntryId::MIN, 2));
        assert_eq!((done.state, done.tables), (1, vec![(b"t".to_vec(), 3)]));
        assert_eq!(lane.commit(&late).await.unwrap_err().kind(), ErrorKind::Fenced);
        server.run(&["DEL", OUT]);
        process(&client, &LaneOptions::default()).await?;
        check(&server, 10);
        // The state stays, as whoever skips a batch wants it.
        let end = GroupStart::BehindNewest;
        server.add(11, 12);
        let done = reset_processor(&client, stream, NAME, end, false, false).await?;
        assert_eq!((done.position, done.state, done.tables.len()), (id(12), 0, 0));
        process(&client, &LaneOptions::default()).await?;
        check(&server, 10);
        let mut lane = lane_of(&client, LaneOptions::default());
        lane.acquire().await?;
        let deleting = |takeover| delete_processor(&client, stream, NAME, None, takeover);
        assert_eq!(deleting(false).await.unwrap_err().kind(), ErrorKind::ProcessorRunning);
        assert!(deleting(true).await?);
        assert!(!deleting(true).await?);
        let commit = Commit::between(id(12), id(12));
        assert_eq!(lane.commit(&commit).await.unwrap_err().kind(), ErrorKind::Fenced);
        let mut left: Vec<String> = server.ask(&["KEYS", "*"]);
        left.retain(|key| *key != key_text(lane_name()));
        left.sort();
        assert_eq!(left, [STREAM, OUT]);
    }
    Ok(())
}

/// The reply of a reset is lost, or the request: done again it does the same.
#[tokio::test]
async fn a_reset_may_be_lost() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let stream = STREAM.as_bytes();
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        server.run(&["FLUSHALL"]);
        server.run(&["SCRIPT", "FLUSH"]);
        server.add(1, 10);
        process(&server.client(), &LaneOptions::default()).await?;
        let proxy = Proxy::start(&server);
        proxy.arm("and the hashes to drop", fault);
        let to = GroupStart::Behind(id(3));
        let done = reset_processor(&proxy.client(), stream, NAME, to, true, false).await?;
        assert!(proxy.has_struck());
        assert_eq!((done.previous, done.position), (id(10), id(3)));
        let gone = [state_key(stream, NAME), table_key(stream, NAME, b"t")].map(key_text);
        assert_eq!(server.ask::<i64>(&["EXISTS", &gone[0], &gone[1]]), 0);
        process(&server.client(), &LaneOptions::default()).await?;
        server.run(&["SCRIPT", "FLUSH"]);
        let proxy = Proxy::start(&server);
        proxy.arm("and the hashes to drop", fault);
        assert!(delete_processor(&proxy.client(), stream, NAME, None, false).await?);
        assert!(proxy.has_struck());
        assert_eq!(server.ask::<i64>(&["DBSIZE"]), 2);
    }
    Ok(())
}
