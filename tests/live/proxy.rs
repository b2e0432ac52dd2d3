//! A faulty line between a client and its server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redfloe::{Client, ConnectionOptions};

use super::Server;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
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
pub struct Proxy {
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
    pub fn start(server: &Server) -> Proxy {
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

    pub fn client(&self) -> Client {
        self.client_of(8)
    }

    /// One that tries again that often.
    pub fn client_of(&self, retries: u32) -> Client {
        let url = format!("redis://127.0.0.1:{}", self.port);
        let ms = Duration::from_millis;
        let options = ConnectionOptions::parse(&url).unwrap();
        Client::new(options.with_retries(Some(retries), ms(1), ms(10)))
    }

    pub fn arm(&self, needle: &'static str, fault: Fault) {
        self.state.lock().unwrap().armed = Some((needle, fault));
    }

    pub fn has_struck(&self) -> bool {
        self.state.lock().unwrap().struck
    }

    /// Sends what was held to the server.
    pub fn let_go(&self) {
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
