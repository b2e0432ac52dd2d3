//! A real server for the tests of the Rust API.

// Not every test uses all of it.
#![allow(dead_code)]

pub mod lanes;
pub mod proxy;

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redfloe::{Client, ConnectionOptions};

pub const STREAM: &str = "numbers";

/// A server on a free port, which goes down with the test.
pub struct Server {
    process: Child,
    port: u16,
    folder: PathBuf,
}

impl Server {
    /// `None` where no server program was fetched, which is a failure under CI.
    pub fn start() -> Option<Server> {
        Server::start_as("redis-7.0")
    }

    /// The same of another kind of server.
    pub fn start_as(name: &str) -> Option<Server> {
        let cache = std::env::var_os("REDFLOE_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/redfloe"),
            PathBuf::from,
        );
        let bin = cache.join("servers").join(name).join("bin");
        let programs = ["redis-server", "valkey-server"].map(|program| bin.join(program));
        let Some(program) = programs.into_iter().find(|program| program.exists()) else {
            assert!(std::env::var_os("CI").is_none(), "no server here: run `make servers`");
            eprintln!("skipped: no server here, run `make servers`");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // A replica writes there, or a server with a file to append to; one that starts reads it.
        let folder = std::env::temp_dir().join(format!("redfloe-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"])
            .args(["--dir", folder.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { process, port, folder };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "the server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn client(&self) -> Client {
        Client::new(ConnectionOptions::parse(&self.url()).unwrap())
    }

    pub fn run(&self, command: &[&str]) {
        let _: redis::Value = self.ask(command);
    }

    pub fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection).unwrap()
    }

    /// Adds the entries `first-0` to `last-0`, whose field `n` holds their number.
    pub fn add(&self, first: u64, last: u64) {
        const SCRIPT: &str = "for n = ARGV[1], ARGV[2] do redis.call('XADD', KEYS[1], \
                              string.format('%d-0', n), 'n', string.format('%d', n)) end";
        self.run(&["EVAL", SCRIPT, "1", STREAM, &first.to_string(), &last.to_string()]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
