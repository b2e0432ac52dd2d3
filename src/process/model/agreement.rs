//! The scripts on real servers do what the model says, in random histories.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::protocol::{Answer, Grip, Owner, Plan, Request};
use super::super::script::Script;
use super::server::Server;
use super::{Flaw, id};
use crate::entry_id::EntryId;

const LANE: &str = "{s}:lane";
const OUT: &str = "{s}:out";
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(1);

/// What is asked next; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Acquire {
        owner: u8,
        takeover: bool,
        previous: Option<u8>,
        short: bool,
    },
    /// By whoever acquired it that long ago; with another epoch, if that is not 0.
    Renew {
        back: usize,
        off: u64,
        /// How far from the lane's position the batch begins, and how far from there it ends.
        plan: Option<(u64, u64)>,
        short: bool,
    },
    Load {
        back: usize,
        off: u64,
    },
    Release {
        back: usize,
        off: u64,
    },
    /// As far away from where the lane is as that, in commits and in the position.
    Commit {
        back: usize,
        off: u64,
        commits: i64,
        from: u64,
        step: u64,
        short: bool,
    },
    /// The same commit as the latest.
    Again,
    Delete,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let back = || prop_oneof![4 => Just(0usize), 1 => 1usize..3];
    let off = || prop_oneof![9 => Just(0u64), 1 => Just(1u64)];
    let short = || prop::bool::weighted(0.3);
    let step = prop_oneof![
        4 => (0u8..3, prop::bool::weighted(0.2), prop::option::weighted(0.3, 0u8..3), short())
            .prop_map(|(owner, takeover, previous, short)| Step::Acquire {
                owner, takeover, previous, short
            }),
        2 => (back(), off(), prop::option::of((0u64..2, 1u64..3)), short())
            .prop_map(|(back, off, plan, short)| Step::Renew { back, off, plan, short }),
        1 => (back(), off()).prop_map(|(back, off)| Step::Load { back, off }),
        1 => (back(), off()).prop_map(|(back, off)| Step::Release { back, off }),
        6 => (
            back(),
            off(),
            prop_oneof![6 => Just(0i64), 1 => Just(-1i64), 1 => Just(1i64)],
            prop_oneof![6 => Just(0u64), 1 => 1u64..3],
            0u64..3,
            short()
        )
            .prop_map(|(back, off, commits, from, step, short)| Step::Commit {
                back, off, commits, from, step, short
            }),
        2 => Just(Step::Again),
        1 => Just(Step::Delete),
    ];
    vec(step, 1..60)
}

struct Real {
    process: Child,
    connection: redis::Connection,
    /// As [`Caller`](super::super::script::Caller) would find out.
    has_flags: bool,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Real {
    fn start(name: &str) -> Option<Real> {
        let cache = std::env::var_os("REDFLOE_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/redfloe"),
            PathBuf::from,
        );
        let bin = cache.join("servers").join(name).join("bin");
        let program = ["redis-server", "valkey-server"].map(|program| bin.join(program));
        let Some(program) = program.into_iter().find(|program| program.exists()) else {
            assert!(std::env::var_os("CI").is_none(), "{name} is not here: run `make servers`");
            eprintln!("skipped: {name} is not here, run `make servers`");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"])
            .args(["--dir", std::env::temp_dir().to_str().unwrap()])
            .args(["--dbfilename", &format!("redfloe-{port}.rdb")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "{name} does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let connection = client.get_connection().unwrap();
        Some(Real { process, connection, has_flags: name != "redis-6.2" })
    }

    fn command<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        redis::cmd(command[0]).arg(&command[1..]).query(&mut self.connection).unwrap()
    }

    fn run(&mut self, request: &Request, lease: Duration) -> Answer {
        let mut command = redis::cmd("EVAL");
        command.arg(Script::of(request).source(self.has_flags));
        match request {
            Request::Commit { .. } => command.arg(3).arg(LANE).arg("s").arg(OUT),
            Request::Load { .. } => command.arg(2).arg(LANE).arg("{s}:state"),
            _ => command.arg(1).arg(LANE),
        };
        command.arg(request.arguments(lease));
        if let Request::Commit { to, .. } = request {
            // No group, no IDs, a stream to write to, of which nothing is known, nor of the batch: one entry.
            command
                .arg(&["", "", "0", "X", "", "", "XADD", "3", "1", "2", "to"])
                .arg(to.to_string());
        }
        let reply = command.query::<redis::Value>(&mut self.connection).unwrap();
        Answer::parse(&reply).unwrap()
    }

    /// The lane, and how much was written.
    fn state(&mut self) -> (BTreeMap<String, String>, usize) {
        let mut lane: BTreeMap<String, String> = self.command(&["HGETALL", LANE]);
        for of_time in ["until", "lease", "acquired", "committed"] {
            lane.remove(of_time);
        }
        // A commit writes them also where nothing was planned, or is known of the batch.
        let may_be_empty = ["planned", "entries", "batch", "took"];
        lane.retain(|name, value| !may_be_empty.contains(&name.as_str()) || !value.is_empty());
        (lane, self.command(&["XLEN", OUT]))
    }
}

/// The same of the model.
fn state(server: &Server<EntryId>) -> (BTreeMap<String, String>, usize) {
    let mut fields = BTreeMap::new();
    if let Some(lane) = &server.lane {
        let mut set = |name: &str, value: String| fields.insert(name.to_owned(), value);
        set("owner", lane.owner.as_ref().map(|owner| owner.0.clone()).unwrap_or_default());
        set("epoch", lane.epoch.to_string());
        set("position", lane.position.to_string());
        set("commits", lane.commits.to_string());
        if let Some(last) = &lane.last {
            set("last", format!("{} {}", last.owner.0, last.epoch));
        }
        if let Some(planned) = lane.planned {
            set("planned", planned.to_string());
        }
    }
    (fields, server.contents.len())
}

/// One history.
fn agree(real: &mut Real, steps: &[Step]) {
    real.command::<()>(&["FLUSHALL"]);
    let mut model = Server::default();
    let mut grips: Vec<Grip> = vec![Grip { owner: Owner("nobody".to_owned()), epoch: 1 }];
    let mut latest = None;
    let mut is_short = false;
    for step in steps {
        let grip = |back: usize, off: u64| {
            let Grip { owner, epoch } = grips[grips.len() - 1 - back.min(grips.len() - 1)].clone();
            Grip { owner, epoch: epoch + off }
        };
        let (at, done) =
            model.lane.as_ref().map_or((EntryId::MIN, 0), |lane| (lane.position, lane.commits));
        let (request, short) = match step.clone() {
            Step::Acquire { owner, takeover, previous, short } => {
                let name = |number: u8| Owner(format!("o:{number}"));
                let (owner, previous) = (name(owner), previous.map(name));
                let start = id(7);
                (Request::Acquire { owner, takeover, start, previous, mends: false }, Some(short))
            }
            Step::Renew { back, off, plan, short } => {
                let plan = plan.map(|(from, step)| Plan {
                    after: id(at.ms + from),
                    end: id(at.ms + from + step),
                });
                (Request::Renew { grip: grip(back, off), plan }, Some(short))
            }
            Step::Load { back, off } => (Request::Load { grip: grip(back, off), cursor: 0 }, None),
            Step::Release { back, off } => (Request::Release { grip: grip(back, off) }, None),
            Step::Commit { back, off, commits, from, step, short } => {
                let (commits, from) = (done.saturating_add_signed(commits), id(at.ms + from));
                let to = id(from.ms + step);
                let grip = grip(back, off);
                let request = Request::Commit { grip, commits, from, to };
                latest = Some(request.clone());
                (request, Some(short))
            }
            Step::Again => match latest.clone() {
                Some(request) => (request, Some(false)),
                None => continue,
            },
            Step::Delete => {
                real.command::<()>(&["DEL", LANE]);
                model.lane = None;
                continue;
            }
        };
        let lease = if short == Some(true) { SHORT } else { LONG };
        let content = match &request {
            Request::Commit { to, .. } => Some(*to),
            _ => None,
        };
        let expected = model.run(&request, content, is_short, Flaw::None);
        let mut answer = real.run(&request, lease);
        if let Answer::Busy { left, .. } = &mut answer {
            assert!(*left > Duration::ZERO && *left <= LONG);
            *left = Duration::ZERO;
        }
        assert_eq!(answer, expected, "{request:?}");
        assert_eq!(real.state(), state(&model), "{request:?}");
        match &answer {
            Answer::Held { epoch, .. } => {
                grips.push(Grip { owner: request.owner().clone(), epoch: *epoch });
                is_short = short == Some(true);
            }
            Answer::Renewed { .. } => is_short = short == Some(true),
            // The lease is extended before the plan is looked at.
            Answer::Conflict { .. } if matches!(request, Request::Renew { .. }) => {
                is_short = short == Some(true);
            }
            // Of a commit that is found again the lease is extended only if its owner has the lane still.
            Answer::Applied { .. } => {
                let lane = model.lane.as_ref().unwrap();
                if let Request::Commit { grip, .. } = &request
                    && lane.owner.as_ref() == Some(&grip.owner)
                    && lane.epoch == grip.epoch
                {
                    is_short = short == Some(true);
                }
            }
            _ => {}
        }
        if is_short {
            std::thread::sleep(2 * SHORT);
        }
    }
}

fn agrees(name: &str) {
    let Some(real) = Real::start(name) else { return };
    let real = std::cell::RefCell::new(real);
    let mut runner =
        TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        agree(&mut real.borrow_mut(), &steps);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn scripts_agree_with_the_model_on_redis_6_2() {
    agrees("redis-6.2");
}

#[test]
fn scripts_agree_with_the_model_on_redis_7_0() {
    agrees("redis-7.0");
}

#[test]
fn scripts_agree_with_the_model_on_redis_8_10() {
    agrees("redis-8.10");
}

#[test]
fn scripts_agree_with_the_model_on_valkey() {
    agrees("valkey");
}
