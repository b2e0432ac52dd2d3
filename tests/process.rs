//! Exactly once, against real servers: lost replies, crashes and zombies at each step of the protocol.

mod live;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field};
use redfloe::{
    Client, Commit, ConnectionOptions, Durability, EntryId, ErrorKind, GroupStart, Lane,
    LaneOptions, OnDataLoss, Page, PageReader, ReadRequest, Result, StreamSchema, state_key,
    table_key,
};

use live::{STREAM, Server};

const NAME: &[u8] = b"sums";
const OUT: &str = "{numbers}:sums";
/// Text of each script, which goes to a server that does not have it yet.
const STEPS: [(&str, &str); 6] = [
    ("acquire", "where a new\n-- lane begins"),
    ("load", "what a successor has written"),
    ("renew", "where the next batch is to end"),
    ("release", "whoever is next increments it"),
    ("commit", "A script is not rolled back"),
    ("read", "XRANGE"),
];

fn id(number: u64) -> EntryId {
    EntryId::new(number, 0)
}

fn lane_of(client: &Client, options: LaneOptions) -> Lane {
    Lane::new(client, STREAM.as_bytes(), NAME, options).unwrap()
}

fn pages(client: &Client, rows: usize) -> PageReader {
    let schema = StreamSchema::closed([Field::new("n", DataType::Int64, true)]);
    PageReader::new(client, ReadRequest::new(STREAM, schema), rows, OnDataLoss::Raise)
}

fn numbers(page: &Page) -> Vec<i64> {
    let column = page.batch.records().column_by_name("n").unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

fn text(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// The sum so far, as the server has it.
fn sum(server: &Server) -> i64 {
    let key = String::from_utf8(state_key(STREAM.as_bytes(), NAME)).unwrap();
    let sum: Option<i64> = server.ask(&["HGET", &key, "sum"]);
    sum.unwrap_or_default()
}

/// What one commit makes of a page: the sum up to each number, the sum, and a row for the latest number.
fn commit_of(page: &Page, sum: &mut i64) -> Result<Commit> {
    let mut commit = Commit::up_to(page.last);
    for number in numbers(page) {
        *sum += number;
        commit.add(OUT.as_bytes(), [(&b"n"[..], &text(number)[..]), (b"sum", &text(*sum))])?;
        commit.set(&table_key(STREAM.as_bytes(), NAME, b"t"), &text(number % 3), &text(number))?;
    }
    commit.set(&state_key(STREAM.as_bytes(), NAME), b"sum", &text(*sum))?;
    Ok(commit)
}

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
            lane.plan(page.last).await?;
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

/// Whether all that came of the numbers up to there is what one undisturbed run writes.
fn check(server: &Server, last: i64) {
    let rows: Vec<(String, Vec<String>)> = server.ask(&["XRANGE", OUT, "-", "+"]);
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, fields)| fields).collect();
    let expected: Vec<Vec<String>> = (1..=last)
        .map(|number| {
            let sum = number * (number + 1) / 2;
            vec!["n".to_owned(), number.to_string(), "sum".to_owned(), sum.to_string()]
        })
        .collect();
    assert_eq!(rows, expected);
    assert_eq!(sum(server), last * (last + 1) / 2);
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
    let gone = other.commit(&Commit::up_to(id(5))).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::DataLoss);
    let none = lane_of(&client, LaneOptions::default()).commit(&commit).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
    assert_eq!(server.ask::<i64>(&["HLEN", &key_text(state_key(stream, NAME))]), 1);
    Ok(())
}

fn lane_name() -> Vec<u8> {
    b"{numbers}:redfloe:numbers:sums".to_vec()
}

fn key_text(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap()
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
    let mut commit = Commit::up_to(id(1));
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
    let mut lane = lane_of(&client, options);
    lane.acquire().await?;
    let commit_of = |ids: Vec<EntryId>| {
        let mut commit = Commit::acknowledging(ids);
        commit.add(OUT.as_bytes(), [(&b"a"[..], &b"b"[..])]).map(|()| commit)
    };
    let foreign = lane.commit(&commit_of((8_990..9_010).map(id).collect())?).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Fenced);
    assert!(foreign.to_string().contains("9 of the entries"), "{foreign}");
    assert!(foreign.to_string().contains("9001-0"), "{foreign}");
    assert_eq!(server.ask::<i64>(&["XLEN", OUT]), 0);
    let mine = commit_of((1..=9_000).map(id).collect())?;
    assert_eq!(lane.commit(&mine).await?.commits, 1);
    assert_eq!(server.ask::<i64>(&["XLEN", OUT]), 1);
    assert_eq!(redfloe::group_info(&client, stream).await?[0].pending, 1_000);
    let error = lane.commit(&mine).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let error = lane.commit(&Commit::up_to(id(1))).await.unwrap_err();
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
    assert!(error.to_string().contains("begun anew"), "{error}");
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
    let error = lane.commit(&Commit::up_to(id(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("only 0 of 1 replicas"), "{error}");
    assert_eq!(lane.held().map(|held| held.position), Some(id(1)));
    replica.run(&["REPLICAOF", "127.0.0.1", &server.port().to_string()]);
    let since = Instant::now();
    for number in 2.. {
        match lane.commit(&Commit::up_to(id(number))).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Timeout, "{error}"),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The connection is closed instead of passing the request on.
    LoseRequest,
    /// It is closed once the server has answered.
    LoseReply,
    /// The request is passed on when it is let go, whatever became of the client.
    HoldRequest,
    /// It is executed, and its reply not passed on.
    HoldReply,
}

/// Stands between a client and the server, and does something to one request.
struct Proxy {
    port: u16,
    state: Arc<Mutex<ProxyState>>,
}

#[derive(Default)]
struct ProxyState {
    armed: Option<(&'static str, Fault)>,
    struck: bool,
    held: Vec<(TcpStream, Vec<u8>)>,
}

impl Proxy {
    fn start(server: &Server) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, target) = (listener.local_addr().unwrap().port(), server.port());
        let state = Arc::new(Mutex::new(ProxyState::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let shared = Arc::clone(&shared);
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", target)))
                else {
                    return;
                };
                std::thread::spawn(move || serve(client, server, &shared));
            }
        });
        Proxy { port, state }
    }

    fn client(&self) -> Client {
        let url = format!("redis://127.0.0.1:{}", self.port);
        let ms = Duration::from_millis;
        let options = ConnectionOptions::parse(&url).unwrap();
        Client::new(options.with_retries(Some(8), ms(1), ms(10)))
    }

    fn arm(&self, needle: &'static str, fault: Fault) {
        self.state.lock().unwrap().armed = Some((needle, fault));
    }

    fn has_struck(&self) -> bool {
        self.state.lock().unwrap().struck
    }

    /// Sends what was held to the server.
    fn let_go(&self) {
        for (mut server, request) in self.state.lock().unwrap().held.drain(..) {
            // Its reply goes where the client was.
            server.write_all(&request).unwrap();
        }
    }
}

/// Passes on a request at a time, as this client sends them, and its reply.
fn serve(mut client: TcpStream, mut server: TcpStream, state: &Mutex<ProxyState>) {
    let mut buffer = vec![0; 1 << 20];
    let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let is_passing = Arc::new(Mutex::new(true));
    let passing = Arc::clone(&is_passing);
    std::thread::spawn(move || {
        let (mut server, mut client) = back;
        let mut buffer = vec![0; 1 << 20];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            match *passing.lock().unwrap() {
                true => drop(client.write_all(&buffer[..read])),
                false => return,
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        let request = &buffer[..read];
        let mut shared = state.lock().unwrap();
        let fault = shared.armed.filter(|(needle, _)| {
            request.windows(needle.len()).any(|part| part == needle.as_bytes())
        });
        let Some((_, fault)) = fault else {
            drop(shared);
            if server.write_all(request).is_err() {
                break;
            }
            continue;
        };
        shared.armed = None;
        if fault != Fault::HoldRequest {
            *is_passing.lock().unwrap() = false;
        }
        match fault {
            Fault::LoseRequest => {}
            Fault::LoseReply | Fault::HoldReply => {
                server.write_all(request).unwrap();
                // The other thread takes the reply, and then it is over there.
                std::thread::sleep(Duration::from_millis(20));
            }
            Fault::HoldRequest => {
                shared.held.push((server.try_clone().unwrap(), request.to_vec()));
            }
        }
        shared.struck = true;
        drop(shared);
        if matches!(fault, Fault::HoldRequest | Fault::HoldReply) {
            // Until the client gives up.
            while let Ok(1..) = client.read(&mut buffer) {}
            return;
        }
        break;
    }
    let _ = client.shutdown(Shutdown::Both);
}
