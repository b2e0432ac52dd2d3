//! One connection: a socket that has been logged in, and replies read off it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Id;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::cluster::Asking;
use super::credentials::Credentials;
use super::options::ConnectionOptions;
use super::pool::{Generation, home};
use super::sink::Sink;
use super::socket::{Socket, lost, open_socket, silent};
use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::resp::{Outlines, RawReply, cmd};

pub(crate) struct Connection {
    socket: Box<dyn Socket>,
    /// What has been read off the socket; `unread` of it has not been decoded yet.
    buffer: Box<[u8]>,
    unread: std::ops::Range<usize>,
    /// How long the server may be silent while it owes an answer.
    patience: Duration,
    /// When the server has last said something.
    heard: Option<Instant>,
    /// A request is under way, or its reply was not read to the end.
    busy: bool,
    generation: Generation,
    /// The node takes over the slot, and has to be sent ASKING before each command.
    asking: Option<Box<AskingFirst>>,
    /// The runtime that it was opened on, and which alone is told what the socket has to say.
    pub(super) home: Option<Id>,
    /// The process that opened it. A forked child must not use the socket, nor close it: that would
    /// take it from the parent's event queue, which the two share.
    process: u32,
    number: u64,
}

/// How many connections were opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// What is between the commands and a node that has to be sent ASKING.
#[derive(Default)]
struct AskingFirst {
    asking: Asking,
    /// Commands of an exchange, each after its ASKING, of which so many bytes are sent.
    packed: Vec<u8>,
    sent: usize,
    /// What these bytes were, as long as none of them is sent.
    original: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_inherited() {
            std::mem::forget(std::mem::replace(&mut self.socket, Box::new(tokio::io::empty())));
        }
    }
}

impl Connection {
    /// Large enough that system calls do not count, small enough to stay in a core's cache.
    const BUFFER: usize = 256 * 1024;

    /// Connects and logs in, within `limit`: the connect timeout, or what is left of it.
    pub(super) async fn open(
        options: &ConnectionOptions,
        credentials: &Credentials,
        tls: Option<Arc<ClientConfig>>,
        generation: Generation,
        limit: Duration,
    ) -> Result<Connection> {
        let opening = async {
            let socket = open_socket(options, tls).await?;
            let mut connection = Connection {
                socket,
                buffer: vec![0; Self::BUFFER].into_boxed_slice(),
                unread: 0..0,
                patience: options.connect_timeout,
                heard: None,
                busy: false,
                generation,
                asking: None,
                home: home(),
                process: std::process::id(),
                number: OPENED.fetch_add(1, Ordering::Relaxed) + 1,
            };
            connection.log_in(options, credentials).await?;
            connection.patience = options.response_timeout;
            Ok(connection)
        };
        match timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("no connection within {:?} (connect_timeout)", options.connect_timeout),
            )),
        }
        .map_err(|error| error.with_context("address", options.address.to_string()))
    }

    async fn log_in(
        &mut self,
        options: &ConnectionOptions,
        credentials: &Credentials,
    ) -> Result<()> {
        let mut commands = Vec::new();
        let user = credentials.username.as_deref();
        let password = credentials.password_sent();
        if options.resp3 {
            let mut hello = cmd("HELLO");
            hello.arg(3);
            if let Some(password) = password {
                hello.arg("AUTH").arg(user.unwrap_or("default")).arg(password);
            }
            commands.push(hello);
        } else if let Some(password) = password {
            let mut auth = cmd("AUTH");
            if let Some(user) = user {
                auth.arg(user);
            }
            auth.arg(password);
            commands.push(auth);
        }
        let naming = options.client_name.as_ref().map(|name| {
            let mut setname = cmd("CLIENT");
            setname.arg("SETNAME").arg(name);
            commands.push(setname);
            commands.len() - 1
        });
        if options.database != 0 {
            let mut select = cmd("SELECT");
            select.arg(options.database);
            commands.push(select);
        }
        if options.cluster.is_replica {
            commands.push(cmd("READONLY"));
        }
        if commands.is_empty() {
            return Ok(());
        }
        let mut packed = Zeroizing::new(Vec::new());
        commands.iter().for_each(|command| command.write_packed_command(&mut packed));
        self.send(&packed).await?;
        let mut replies = Outlines::new(commands.len());
        self.receive(&mut replies, Some(Duration::ZERO)).await?;
        for (number, reply) in replies.into_values().into_iter().enumerate() {
            match reply {
                // The name is for whoever looks at CLIENT LIST: nothing else needs it.
                Err(error) if Some(number) == naming && is_not_for_us(&error) => {}
                // The server, or something before it, may quote what it was sent.
                Err(error) => return Err(credentials.password.iter().fold(error, Error::without)),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the server has said anything on it, if only to the login.
    pub(super) fn was_answered(&self) -> bool {
        self.heard.is_some()
    }

    /// Waits for an answer to PING (Redis 1.0), within `limit`: what is left of the connect timeout.
    /// What the answer says does not matter: a server may refuse the command, or still be loading.
    pub(super) async fn ping(
        &mut self,
        options: &ConnectionOptions,
        limit: Duration,
    ) -> Result<()> {
        let pinging = async {
            self.send(&cmd("PING").get_packed_command()).await?;
            self.receive(&mut RawReply::new(), Some(Duration::ZERO)).await
        };
        match timeout(limit, pinging).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("no answer within {:?} (connect_timeout)", options.connect_timeout),
            )),
        }
        .map_err(|error| error.with_context("address", options.address.to_string()))
    }

    /// Whether it was opened by the process that this one was forked from.
    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }

    /// Fails where the connection was opened before a fork; another one is then opened.
    fn check_process(&self) -> Result<()> {
        match self.is_inherited() {
            true => Err(lost(io::ErrorKind::NotConnected.into())),
            false => Ok(()),
        }
    }

    /// How long a reply may take to come.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Sends packed commands.
    pub(crate) async fn send(&mut self, packed: &[u8]) -> Result<()> {
        self.check_process()?;
        self.busy = true;
        let mut asking = Vec::new();
        let packed = match &mut self.asking {
            Some(first) => {
                first.asking.put(packed, &mut asking);
                &asking
            }
            None => packed,
        };
        let sending = async {
            self.socket.write_all(packed).await?;
            self.socket.flush().await
        };
        let sent = match timeout(self.patience, sending).await {
            Ok(sent) => sent.map_err(lost),
            Err(_) => Err(silent("take the command", self.patience)),
        };
        self.retire_if_failed(sent)
    }

    /// It was opened before it was known that it is the first of these.
    pub(super) fn belongs_to(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// No other connection of this process has the same.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether another server has taken the place of the one that it leads to.
    pub(super) fn is_superseded(&self) -> bool {
        self.generation.is_superseded()
    }

    /// From now on sends ASKING before each command.
    pub(super) fn ask(&mut self) {
        self.asking = Some(Box::default());
    }

    /// From now on no more; says whether the connection can be used without.
    pub(super) fn stop_asking(&mut self) -> bool {
        self.asking
            .take()
            .is_none_or(|first| first.asking.is_idle() && first.sent == first.packed.len())
    }

    /// Takes the replies to ASKING out of what was read; says how many bytes are left.
    fn without_asking(&mut self, len: usize) -> Result<usize> {
        match (&mut self.asking, self.buffer.get_mut(..len)) {
            (Some(first), Some(read)) => first.asking.strip(read),
            _ => Ok(len),
        }
    }

    /// Neither this connection nor those that were opened with it are used again.
    pub(super) fn retire(&self) {
        self.generation.retire();
    }

    fn retire_if_failed<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.retire();
        }
        result
    }

    /// Reads one reply into the sink, or as much of it as the sink takes for now. The server may
    /// stay silent for `wait` (`None`: for ever) before the reply begins, and for the response
    /// timeout at any time.
    pub(crate) async fn receive<S: Sink>(
        &mut self,
        sink: &mut S,
        wait: Option<Duration>,
    ) -> Result<()> {
        self.check_process()?;
        let mut patience = wait.map(|wait| wait.saturating_add(self.patience));
        loop {
            let unread = self.buffer.get(self.unread.clone()).unwrap_or_default();
            self.unread.start += sink.decode(unread)?;
            if sink.is_full() {
                self.busy = !sink.is_complete() || !self.unread.is_empty();
                return Ok(());
            }
            self.read(patience).await?;
            patience = Some(self.patience);
        }
    }

    /// Waits until the next reply begins to come, for as long as [`Connection::receive`] would.
    /// Nothing is lost where this future is dropped.
    pub(crate) async fn listen(&mut self, wait: Option<Duration>) -> Result<()> {
        self.check_process()?;
        match self.unread.is_empty() {
            true => self.read(wait.map(|wait| wait.saturating_add(self.patience))).await,
            false => Ok(()),
        }
    }

    /// Reads what comes next, when all that came before has been taken.
    async fn read(&mut self, patience: Option<Duration>) -> Result<()> {
        loop {
            let reading = self.socket.read(&mut self.buffer);
            let read = match patience {
                None => reading.await.map_err(lost),
                Some(patience) => match timeout(patience, reading).await {
                    Ok(read) => read.map_err(lost),
                    Err(_) => Err(silent("answer", patience)),
                },
            };
            let read = read.and_then(|len| match len {
                0 => Err(lost(io::ErrorKind::UnexpectedEof.into())),
                len => Ok(len),
            });
            let read = self.retire_if_failed(read)?;
            self.heard = Some(Instant::now());
            self.unread = 0..self.without_asking(read)?;
            if !self.unread.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends what it can of `packed` and gives `sink` what has come of the replies, as soon as
    /// either is possible; adds to `sent` how many bytes went out, also where it fails then. So
    /// commands and replies pass each other, and neither side waits until the other has said all.
    ///
    /// The sink takes any number of replies. [`Connection::settle`] ends such an exchange.
    pub(crate) async fn exchange<S: Sink>(
        &mut self,
        packed: &[u8],
        sent: &mut usize,
        sink: &mut S,
    ) -> Result<()> {
        self.check_process()?;
        self.busy = true;
        let patience = self.patience;
        let Connection { socket, buffer, asking, .. } = self;
        if let Some(first) = asking.as_deref_mut()
            && first.sent == first.packed.len()
        {
            let packed = packed.get(..Self::BUFFER).unwrap_or(packed);
            (first.sent, first.original) = (0, packed.len());
            first.packed.clear();
            first.asking.put(packed, &mut first.packed);
        }
        let exchanging = std::future::poll_fn(|context| {
            let bytes = match &asking {
                Some(first) => first.packed.get(first.sent..).unwrap_or_default(),
                None => packed,
            };
            let written = match bytes {
                [] => Poll::Pending,
                _ => Pin::new(&mut *socket).poll_write(context, bytes),
            };
            if let Poll::Ready(Ok(len)) = written {
                *sent += match asking.as_deref_mut() {
                    Some(first) => {
                        first.sent += len;
                        // Nobody knows which of them are sent, so they all count.
                        std::mem::take(&mut first.original)
                    }
                    None => len,
                };
            }
            // TLS may hold back what it was given.
            let flushed = Pin::new(&mut *socket).poll_flush(context);
            let mut buffer = ReadBuf::new(buffer);
            let read = Pin::new(&mut *socket).poll_read(context, &mut buffer);
            match (read, written, flushed) {
                // What a server said before it hung up is worth more than that it did.
                (Poll::Ready(Ok(())), _, _) => Poll::Ready(match buffer.filled().len() {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    len => Ok(len),
                }),
                (Poll::Ready(Err(error)), _, _)
                | (_, Poll::Ready(Err(error)), _)
                | (_, _, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (_, Poll::Ready(Ok(_)), _) => Poll::Ready(Ok(0)),
                _ => Poll::Pending,
            }
        });
        let received = match timeout(patience, exchanging).await {
            Ok(received) => received.map_err(lost),
            Err(_) => Err(silent("answer", patience)),
        };
        let received = self.retire_if_failed(received)?;
        if received > 0 {
            self.heard = Some(Instant::now());
        }
        let received = self.without_asking(received)?;
        let mut unread = self.buffer.get(..received).unwrap_or_default();
        while !unread.is_empty() {
            let taken = sink.decode(unread)?;
            unread = unread.get(taken..).unwrap_or_default();
            if taken == 0 {
                return Err(Error::protocol("more replies came than commands were sent"));
            }
        }
        Ok(())
    }

    /// Exchanges until all is sent and the sink has all replies.
    pub(crate) async fn exchange_all<S: Sink>(
        &mut self,
        packed: &[u8],
        sent: &mut usize,
        sink: &mut S,
    ) -> Result<()> {
        while !sink.is_complete() {
            let rest = packed.get(*sent..).unwrap_or_default();
            self.exchange(rest, sent, sink).await?;
        }
        self.settle();
        Ok(())
    }

    /// Every reply of an exchange has come: the connection may serve others again.
    pub(crate) fn settle(&mut self) {
        self.busy = false;
    }

    /// Whether the server was there a moment ago. A connection that was silent for longer may lead
    /// nowhere without anybody having been told, such as by a router that has forgotten it; and one
    /// that is new may have been accepted for a server that hangs.
    pub(crate) fn is_fresh(&self) -> bool {
        const MOMENT: Duration = Duration::from_secs(1);
        self.heard.is_some_and(|heard| heard.elapsed() < MOMENT)
    }

    /// Whether the connection can serve another request: nothing is owed, nothing is left over,
    /// and the server has not hung up.
    pub(crate) fn is_reusable(&mut self) -> bool {
        if self.busy || self.is_inherited() || self.generation.is_retired() {
            return false;
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let polled = Pin::new(&mut self.socket).poll_read(&mut context, &mut buffer);
        matches!(polled, Poll::Pending)
    }
}

/// Whether a command was refused because the user may not run it, or the server does not have it.
fn is_not_for_us(error: &Error) -> bool {
    error.server_code().is_some_and(ServerCode::is_withheld)
}
