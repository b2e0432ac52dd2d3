//! What a commit writes, what it refuses, and where it has to be; what a processor reads.

mod live;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use redfloe::{
    Client, Commit, ConnectionOptions, Durability, EntryId, ErrorKind, GroupStart, LaneOptions,
    OnDataLoss, PageReader, ReadRequest, Result, StreamSchema, Trim, WriteRequest, state_key,
    table_key,
};

use live::lanes::{NAME, OUT, check, commit_of, id, key_text, lane_name, lane_of, pages, text};
use live::proxy::{Fault, Proxy};
use live::{STREAM, Server};

#[tokio::test]
async fn what_is_refused_leaves_nothing() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 4);
    let client = server.client();
    let mut lane = lane_of(&client, LaneOptions::default());
    let held = lane.acquire().await?;
    let page = pages(&client, 10).read(held.position, None).await?.unwrap();
    let mut commit = commit_of(&page, &mut 0)?;
    commit.add(b"{numbers}:text", [(&b"a"[..], &b"b"[..])])?;
    server.run(&["SET", "{numbers}:text", "x"]);
    let error = lane.commit(&commit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongType);
    assert!(error.to_string().contains("{numbers}:text"), "{error}");
    assert_eq!(server.ask::<i64>(&["EXISTS", OUT]), 0);
    server.run(&["DEL", "{numbers}:text"]);
    // A user who may write to one key and not to another.
    server.run(&[
        "ACL",
        "SETUSER",
        "u",
        "on",
        ">p",
        "~{numbers}:r*",
        "~numbers",
        &format!("~{OUT}"),
        "+@all",
    ]);
    let url = server.url().replace("redis://", "redis://u:p@");
    let user = Client::new(ConnectionOptions::parse(&url)?);
    let options = LaneOptions { takeover: true, ..LaneOptions::default() };
    let mut theirs = lane_of(&user, options.clone());
    theirs.acquire().await?;
    let error = theirs.commit(&commit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error}");
    assert_eq!(server.ask::<i64>(&["EXISTS", OUT]), 0);
    // The lane is held as before, and other content of the same commit is taken.
    let mut commit = commit_of(&page, &mut 0)?;
    commit.trim(OUT.as_bytes(), 1_000, false)?;
    theirs.commit(&commit).await?;
    check(&server, 4);
    assert!(commit.set(OUT.as_bytes(), b"a", b"b").is_err());
    let wide: Vec<(Vec<u8>, Vec<u8>)> = (0..4_000).map(|n| (text(n), text(n))).collect();
    let wide = wide.iter().map(|(name, value)| (&name[..], &value[..]));
    assert_eq!(commit.add(b"o", wide).unwrap_err().kind(), ErrorKind::InvalidArgument);
    Ok(())
}

#[tokio::test]
async fn any_bytes_and_many_of_them_are_written() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let mut lane = lane_of(&server.client(), LaneOptions::default());
    lane.acquire().await?;
    let mut commit = Commit::between(EntryId::MIN, id(1));
    let hash = table_key(STREAM.as_bytes(), NAME, b"\xff:\0\r\n");
    for number in 0..20_000 {
        commit.set(&hash, &text(number), b"\0\xff\r\n%")?;
        commit.add(OUT.as_bytes(), [(&b"\r\n\0"[..], &text(number)[..])])?;
    }
    for number in 0..10_000 {
        commit.unset(&hash, &text(number))?;
    }
    assert!(!lane.commit(&commit).await?.again);
    assert_eq!(server.ask::<i64>(&["XLEN", OUT]), 20_000);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let fields: i64 = redis::cmd("HLEN").arg(&hash).query(&mut connection).unwrap();
    assert_eq!(fields, 10_000);
    let value: Vec<u8> = redis::cmd("HGET").arg(&hash).arg("10000").query(&mut connection).unwrap();
    assert_eq!(value, b"\0\xff\r\n%");
    Ok(())
}

#[tokio::test]
async fn a_member_of_a_group_acknowledges_in_the_commit() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 10_000);
    let client = server.client();
    let (stream, group) = (STREAM.as_bytes(), b"g");
    redfloe::create_group(&client, stream, group, GroupStart::Behind(EntryId::MIN), false).await?;
    server.run(&["XREADGROUP", "GROUP", "g", "me", "COUNT", "9000", "STREAMS", STREAM, ">"]);
    server.run(&["XREADGROUP", "GROUP", "g", "you", "STREAMS", STREAM, ">"]);
    let of_group = (b"g".to_vec(), b"me".to_vec());
    let options = LaneOptions { group: Some(of_group), ..LaneOptions::default() };
    let mut lane = lane_of(&client, options.clone());
    lane.acquire().await?;
    // A consumer of that name in another group is another.
    let namesake = LaneOptions { group: Some((b"h".to_vec(), b"me".to_vec())), ..options };
    assert!(lane_of(&client, namesake).try_acquire().await?.is_ok());
    let commit_of = |ids: Vec<EntryId>| {
        let mut commit = Commit::acknowledging(ids);
        commit.add(OUT.as_bytes(), [(&b"a"[..], &b"b"[..])]).map(|()| commit)
    };
    let foreign = lane.commit(&commit_of((8_990..9_010).map(id).collect())?).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Claimed);
    assert!(foreign.to_string().contains("9 of the entries"), "{foreign}");
    assert!(foreign.to_string().contains("9001-0"), "{foreign}");
    assert_eq!(server.ask::<i64>(&["XLEN", OUT]), 0);
    let mine = commit_of((1..=9_000).map(id).collect())?;
    assert_eq!(lane.commit(&mine).await?.commits, 1);
    assert_eq!(server.ask::<i64>(&["XLEN", OUT]), 1);
    assert_eq!(redfloe::group_info(&client, stream).await?[0].pending, 1_000);
    let error = lane.commit(&mine).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Claimed);
    let error = lane.commit(&Commit::between(EntryId::MIN, id(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    Ok(())
}

#[tokio::test]
async fn what_was_trimmed_or_begun_anew_is_noticed() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 500);
    let client = server.client();
    let mut reader = pages(&client, 300);
    let page = reader.read(EntryId::MIN, None).await?.unwrap();
    assert_eq!((page.last, page.batch.len()), (id(300), 300));
    assert_eq!(reader.read(id(300), Some(id(310))).await?.unwrap().last, id(310));
    // What was processed may go.
    server.run(&["XTRIM", STREAM, "MINID", "300-0"]);
    assert_eq!(reader.read(id(300), None).await?.unwrap().batch.len(), 200);
    assert!(reader.read(id(500), None).await?.is_none());
    assert!(!reader.wait(id(500), Duration::from_millis(20)).await?);
    server.run(&["XTRIM", STREAM, "MINID", "400-0"]);
    let error = reader.read(id(300), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("400-0"), "{error}");
    let request = ReadRequest::new(STREAM, StreamSchema::default());
    let mut going_on = PageReader::new(&client, request, 10, OnDataLoss::Continue);
    assert_eq!(going_on.read(id(300), None).await?.unwrap().last, id(409));
    server.run(&["DEL", STREAM]);
    server.add(1, 5);
    assert!(!reader.wait(id(500), Duration::from_millis(20)).await?);
    let error = reader.read(id(500), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("created again"), "{error}");
    assert_eq!(going_on.read(id(500), None).await?.unwrap().last, id(5));
    assert!(reader.wait(id(4), Duration::from_secs(5)).await?);
    Ok(())
}

#[tokio::test]
async fn a_commit_counts_once_replicas_have_it() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let Some(replica) = Server::start() else { return Ok(()) };
    let timeout = Duration::from_millis(50);
    let durability = Durability { replicas: 1, timeout, ..Durability::default() };
    let options = LaneOptions { durability, ..LaneOptions::default() };
    let mut lane = lane_of(&server.client(), options);
    lane.acquire().await?;
    let error = lane.commit(&Commit::between(EntryId::MIN, id(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotDurable);
    assert!(error.to_string().contains("only 0 of 1 replicas"), "{error}");
    assert_eq!(lane.held().map(|held| held.position), Some(id(1)));
    replica.run(&["REPLICAOF", "127.0.0.1", &server.port().to_string()]);
    let since = Instant::now();
    for number in 2.. {
        match lane.commit(&Commit::between(id(number - 1), id(number))).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotDurable, "{error}"),
        }
        assert!(since.elapsed() < Duration::from_secs(20), "the replica does not come");
    }
    let lane_at =
        |server: &Server| server.ask::<String>(&["HGET", &key_text(lane_name()), "position"]);
    assert_eq!(lane_at(&server), lane_at(&replica));
    let client = server.client();
    assert_eq!(redfloe::evicting_policy(&client, STREAM.as_bytes()).await?, None);
    server.run(&["CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru"]);
    let policy = redfloe::evicting_policy(&client, STREAM.as_bytes()).await?;
    assert_eq!(policy.as_deref(), Some("allkeys-lru"));
    Ok(())
}

/// One that the server refuses for want of memory or replicas, or as a replica, has written nothing, and is
/// written later. A server before 7.0 refuses each command by itself.
#[tokio::test]
async fn a_commit_that_the_server_refuses_is_not_half_written() -> Result<()> {
    for name in ["redis-6.2", "redis-7.0"] {
        let Some(server) = Server::start_as(name) else { return Ok(()) };
        let ms = Duration::from_millis;
        let options = ConnectionOptions::parse(&server.url())?.with_retries(Some(0), ms(1), ms(1));
        let mut lane = lane_of(&Client::new(options), LaneOptions::default());
        lane.acquire().await?;
        let hash = key_text(state_key(STREAM.as_bytes(), NAME));
        server.run(&["HSET", &hash, "old", "1"]);
        let commit_of = |after: u64| {
            let mut commit = Commit::between(id(after), id(after + 1));
            // A server takes that without memory, too.
            commit.unset(hash.as_bytes(), b"old")?;
            commit.add(OUT.as_bytes(), [(&b"a"[..], &b"b"[..])])?;
            commit.set(hash.as_bytes(), b"new", b"1").map(|()| commit)
        };
        let [memory, replicas] = ["maxmemory", "min-replicas-to-write"]
            .map(|option| ["1", "0"].map(|value| ["CONFIG", "SET", option, value]));
        let [replica, master] =
            [["127.0.0.1", "1"], ["NO", "ONE"]].map(|[host, port]| ["REPLICAOF", host, port]);
        let cases: [(&str, &[&str], &[&str]); 3] = [
            ("OOM", &memory[0], &memory[1]),
            ("NOREPLICAS", &replicas[0], &replicas[1]),
            ("READONLY", &replica, &master),
        ];
        for (after, (code, begin, end)) in cases.into_iter().enumerate() {
            let after = u64::try_from(after).unwrap();
            let commit = commit_of(after)?;
            // Once with what the commit is checked for the first time, and once without.
            server.run(begin);
            let error = lane.commit(&commit).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Response, Some(code)), "{name}");
            assert_eq!(lane.held().map(|held| held.position), Some(id(after)), "{error}");
            server.run(end);
            assert_eq!(server.ask::<u64>(&["XLEN", OUT]), after);
            assert_eq!(server.ask::<i64>(&["HEXISTS", &hash, "old"]), i64::from(after == 0));
            lane.commit(&commit).await?;
            assert_eq!(server.ask::<u64>(&["XLEN", OUT]), after + 1);
        }
    }
    Ok(())
}

/// Whether disks can be waited for is asked before anything is written; where they fail later, the commit is
/// said to be in.
#[tokio::test]
async fn a_commit_counts_once_it_is_on_disk() -> Result<()> {
    // A server writes to its disk once a second.
    let local = Durability { local_aof: true, ..Durability::default() };
    let timeout = Duration::from_millis(50);
    let elsewhere = Durability { replica_aof: 1, timeout, ..Durability::default() };
    let options = |durability| LaneOptions { durability, ..LaneOptions::default() };
    for name in ["redis-6.2", "redis-7.0"] {
        let Some(server) = Server::start_as(name) else { return Ok(()) };
        for durability in [local, elsewhere] {
            let error = lane_of(&server.client(), options(durability)).acquire().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Response);
            assert!(error.to_string().contains("WAITAOF needs Redis 7.2"), "{error}");
        }
        // It was left again.
        let mut lane = lane_of(&server.client(), LaneOptions::default());
        assert!(lane.try_acquire().await?.is_ok());
    }
    for name in ["redis-8.10", "valkey"] {
        let Some(server) = Server::start_as(name) else { return Ok(()) };
        let mut lane = lane_of(&server.client(), options(local));
        let error = lane.acquire().await.unwrap_err();
        assert!(error.to_string().contains("appendonly is disabled"), "{error}");
        server.run(&["CONFIG", "SET", "appendonly", "yes"]);
        lane.acquire().await?;
        lane.commit(&Commit::between(EntryId::MIN, id(1))).await?;
        server.run(&["CONFIG", "SET", "appendonly", "no"]);
        let error = lane.commit(&Commit::between(id(1), id(2))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotDurable);
        assert!(error.to_string().contains("the commit is in, but"), "{error}");
        assert_eq!(lane.held().map(|held| held.position), Some(id(2)));
        lane.release().await?;
        let mut lane = lane_of(&server.client(), options(elsewhere));
        assert_eq!(lane.acquire().await?.position, id(2));
        let error = lane.commit(&Commit::between(id(2), id(3))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotDurable);
        assert!(error.to_string().contains("0 of 1 disks of replicas"), "{error}");
        assert_eq!(lane.held().map(|held| held.position), Some(id(3)));
    }
    Ok(())
}

/// The connection is lost while replicas are waited for, and the server not reached again.
#[tokio::test]
async fn a_commit_that_was_answered_is_in_whatever_comes_of_the_wait() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let proxy = Proxy::start(&server);
    let durability = Durability { replicas: 1, ..Durability::default() };
    let options = LaneOptions { durability, ..LaneOptions::default() };
    let mut lane = lane_of(&proxy.client_of(0), options);
    lane.acquire().await?;
    proxy.arm("$4\r\nWAIT", Fault::LoseRequest);
    let error = lane.commit(&Commit::between(EntryId::MIN, id(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotDurable);
    assert!(proxy.has_struck() && error.to_string().contains("the commit is in, but"), "{error}");
    assert_eq!(lane.held().map(|held| held.position), Some(id(1)));
    Ok(())
}

/// No connection is given up while replicas are waited for: one command of that is a part of its patience.
#[tokio::test]
async fn replicas_are_waited_for_by_a_connection_of_little_patience() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let options = ConnectionOptions::parse(&server.url())?;
    let options = options.with_response_timeout(Duration::from_millis(300));
    let timeout = Duration::from_secs(2);
    let durability = Durability { replicas: 1, timeout, ..Durability::default() };
    let lane_options = LaneOptions { durability, ..LaneOptions::default() };
    let mut lane = lane_of(&Client::new(options), lane_options);
    lane.acquire().await?;
    let connections = || {
        let info = server.ask::<String>(&["INFO", "stats"]);
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.and_then(|number| number.parse::<u64>().ok()).unwrap()
    };
    let before = connections();
    let error = lane.commit(&Commit::between(EntryId::MIN, id(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotDurable);
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    // The count's own one.
    assert_eq!(connections(), before + 1);
    Ok(())
}

/// What was made of other entries than those after the lane's position is not sent.
#[tokio::test]
async fn a_commit_begins_where_the_lane_is() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let client = server.client();
    let mut lane = lane_of(&client, LaneOptions::default());
    lane.acquire().await?;
    let first = Commit::between(EntryId::MIN, id(4));
    lane.commit(&first).await?;
    for (after, to) in [(EntryId::MIN, id(8)), (EntryId::MIN, id(4)), (id(5), id(8))] {
        let error = lane.commit(&Commit::between(after, to)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("the lane is at 4-0"), "{error}");
    }
    let mut commit = Commit::between(id(4), id(4));
    commit.add(OUT.as_bytes(), [(&b"a"[..], &b"b"[..])])?;
    commit.trim(OUT.as_bytes(), u64::MAX, false)?;
    assert_eq!(lane.commit(&commit).await?.commits, 2);
    assert_eq!(server.ask::<i64>(&["XLEN", OUT]), 1);
    assert_eq!(lane.plan(id(4)).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    Ok(())
}

/// A batch that was planned is read whole, whatever the size of others, and ends there.
#[tokio::test]
async fn a_planned_batch_ends_where_it_was_planned() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 3_000);
    let client = server.client();
    let mut reader = pages(&client, 3);
    let page = reader.read(EntryId::MIN, Some(id(2_500))).await?.unwrap();
    assert_eq!((page.batch.len(), page.last), (2_500, id(2_500)));
    server.run(&["XDEL", STREAM, "9-0", "10-0"]);
    let page = reader.read(EntryId::MIN, Some(id(10))).await?.unwrap();
    assert_eq!((page.batch.len(), page.last), (8, id(10)));
    // Nothing is left of it: the position moves all the same.
    let mut lane = lane_of(&client, LaneOptions { start: id(8), ..LaneOptions::default() });
    lane.acquire().await?;
    lane.plan(id(10)).await?;
    lane.release().await?;
    let held = lane.acquire().await?;
    assert!(reader.read(held.position, held.planned).await?.is_none());
    lane.commit(&Commit::between(held.position, held.planned.unwrap())).await?;
    let page = reader.read(id(10), lane.held().unwrap().planned).await?.unwrap();
    assert_eq!((page.batch.len(), page.last), (3, id(13)));
    Ok(())
}

#[tokio::test]
async fn rows_are_published_all_or_none() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let mut lane = lane_of(&server.client(), LaneOptions::default());
    lane.acquire().await?;
    let batch = |numbers: Vec<Option<i64>>| {
        let column: ArrayRef = Arc::new(Int64Array::from(numbers));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    };
    let (whole, broken) = (batch(vec![Some(1), Some(2)]), batch(vec![Some(3), None, Some(4)]));
    let mut commit = Commit::between(EntryId::MIN, id(1));
    let to_out = WriteRequest::new(OUT);
    commit.publish(&whole, &to_out)?;
    let bytes = commit.bytes();
    for request in [to_out.clone(), WriteRequest::new("{numbers}:other")] {
        assert!(commit.publish(&broken, &request).is_err());
        assert_eq!(commit.bytes(), bytes);
    }
    for request in [
        to_out.clone().with_trim(Some(Trim::max_len(1))),
        to_out.clone().with_no_make_stream(true),
        to_out.clone().with_idmp_producer(Some(b"p".to_vec())),
        to_out.clone().with_id_column(Some("n")),
    ] {
        let error = commit.publish(&whole, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    // A key that only a refused batch wrote to is no stream of this commit.
    commit.set(b"{numbers}:other", b"a", b"b")?;
    commit.publish(&broken, &to_out.clone().with_empty_rows_skipped(true))?;
    lane.commit(&commit).await?;
    let rows: Vec<(String, Vec<String>)> = server.ask(&["XRANGE", OUT, "-", "+"]);
    let numbers: Vec<&str> = rows.iter().map(|(_, fields)| fields[1].as_str()).collect();
    assert_eq!(numbers, ["1", "2", "3", "4"]);
    Ok(())
}
