//! The crate's one error type: a kind that says what went wrong, a message that says what to do,
//! and the context in which it happened. It knows nothing of Python.

mod codes;
mod redirect;

use std::borrow::Cow;
use std::fmt;

use crate::client::Secret;

pub use codes::Remedy;
pub(crate) use codes::ServerCode;
use codes::ServerError;
pub(crate) use redirect::Redirect;

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument that cannot be right, found before any byte was sent.
    InvalidArgument,
    /// The server could not be reached, or the connection was lost.
    Connection,
    /// The server did not answer within the timeout.
    Timeout,
    /// The server refused the credentials, or the user lacks a permission.
    Authentication,
    /// The server answered with an error, or with bytes that are not RESP.
    Response,
    /// The key holds something other than a stream.
    WrongType,
    /// The stream does not exist, and its reader was told that it must.
    NoStream,
    /// The consumer group does not exist.
    NoGroup,
    /// The schema contradicts itself, or the entries.
    Schema,
    /// A field's text does not fit its dtype.
    Decode,
    /// Entries are gone that should have been read.
    DataLoss,
    /// Another owner has taken over.
    Fenced,
    /// Another consumer of the group has entries of a batch by now.
    Claimed,
    /// Rows were not written; what became of each is known.
    Write,
    /// Nobody knows whether some rows were written.
    OutcomeUnknown,
    /// A commit is in, but it is not known to be on all the replicas and disks where it has to be.
    NotDurable,
    /// Entries are pending for a consumer that was to be deleted.
    PendingEntries,
    /// There is no processor of that name on the stream.
    NoProcessor,
    /// A processor is running that was to be reset or deleted.
    ProcessorRunning,
    /// A defect of this crate. Please report it.
    Internal,
}

impl ErrorKind {
    /// Every kind, so that a test can prove that each is mapped and provoked.
    pub const ALL: [ErrorKind; 20] = [
        ErrorKind::InvalidArgument,
        ErrorKind::Connection,
        ErrorKind::Timeout,
        ErrorKind::Authentication,
        ErrorKind::Response,
        ErrorKind::WrongType,
        ErrorKind::NoStream,
        ErrorKind::NoGroup,
        ErrorKind::Schema,
        ErrorKind::Decode,
        ErrorKind::DataLoss,
        ErrorKind::Fenced,
        ErrorKind::Claimed,
        ErrorKind::Write,
        ErrorKind::OutcomeUnknown,
        ErrorKind::NotDurable,
        ErrorKind::PendingEntries,
        ErrorKind::NoProcessor,
        ErrorKind::ProcessorRunning,
        ErrorKind::Internal,
    ];
}

/// An error of this crate.
///
/// ```
/// use redfloe::{EntryId, ErrorKind};
///
/// let error = "12-x".parse::<EntryId>().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidArgument);
/// assert!(!error.retryable());
/// ```
#[derive(Debug)]
pub struct Error {
    // Boxed, so that a `Result` on the hot path stays one pointer wide.
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    /// What to do, where the message does not say it.
    advice: Option<Cow<'static, str>>,
    context: Vec<(&'static str, String)>,
    /// The server's word for it, and what that stands for.
    code: Option<String>,
    server: Option<ServerCode>,
    remedy: Remedy,
    redirect: Option<Redirect>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; not retryable, without context.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                advice: None,
                context: Vec::new(),
                code: None,
                server: None,
                remedy: Remedy::No,
                redirect: None,
                source: None,
            }),
        }
    }

    /// Adds a name and a value that say where it happened, such as the stream or the address.
    pub fn with_context(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        // What failed within another attempt says the same once more.
        if !self.inner.context.iter().any(|(known, same)| *known == name && *same == value) {
            self.inner.context.push((name, value));
        }
        self
    }

    /// Says what to do, after the message.
    pub(crate) fn with_advice(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.inner.advice = Some(advice.into());
        self
    }

    /// The message and context, without advice and without the context named in `known`; equal
    /// failures give equal reasons, so they can be counted.
    pub(crate) fn reason(&self, known: &[&str]) -> String {
        let rest = self.inner.context.iter().filter(|(name, _)| !known.contains(name));
        self.inner.message.clone() + &context_text(rest)
    }

    /// Changes the context of that name, where there is one.
    pub(crate) fn map_context(mut self, name: &str, map: impl Fn(&str) -> String) -> Self {
        for (_, value) in self.inner.context.iter_mut().filter(|(known, _)| *known == name) {
            *value = map(value);
        }
        self
    }

    /// Gives the context of that name another name.
    pub(crate) fn rename_context(mut self, name: &str, new: &'static str) -> Self {
        for (known, _) in self.inner.context.iter_mut().filter(|(known, _)| *known == name) {
            *known = new;
        }
        self
    }

    /// Keeps the error that caused this one.
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Marks the error as transient, so that the request is retried after a pause; or as one that
    /// is not.
    pub fn with_retryable(self, retryable: bool) -> Self {
        match (retryable, self.retryable()) {
            (true, false) => self.with_remedy(Remedy::Wait),
            (false, true) => self.with_remedy(Remedy::No),
            _ => self,
        }
    }

    /// Says what has to happen before the same request may succeed.
    pub(crate) fn with_remedy(mut self, remedy: Remedy) -> Self {
        self.inner.remedy = remedy;
        self
    }

    /// The same under another kind.
    pub(crate) fn into_kind(mut self, kind: ErrorKind) -> Self {
        self.inner.kind = kind;
        self
    }

    /// The same without a secret that its texts may quote.
    pub(crate) fn without(mut self, secret: &Secret) -> Self {
        let inner = &mut *self.inner;
        let context = inner.context.iter_mut().map(|(_, value)| value);
        for text in std::iter::once(&mut inner.message).chain(context) {
            if let Some(struck) = secret.struck_out_of(text) {
                *text = struck;
            }
        }
        self
    }

    /// The same once more, for another who waited for the same answer; without what caused it.
    #[cfg(feature = "python")]
    pub(crate) fn again(&self) -> Self {
        let inner = &self.inner;
        Error {
            inner: Box::new(Inner {
                message: inner.message.clone(),
                advice: inner.advice.clone(),
                context: inner.context.clone(),
                code: inner.code.clone(),
                redirect: inner.redirect.clone(),
                source: None,
                ..**inner
            }),
        }
    }

    /// Gives it the code that the server's own error would have.
    pub(crate) fn with_code(mut self, code: &str) -> Self {
        self.inner.code = Some(code.to_owned());
        self.inner.server = Some(ServerError::parse(code).code);
        self
    }

    /// The same under another kind and with another message, which goes before its own.
    pub(crate) fn reframed(mut self, kind: ErrorKind, message: &str) -> Self {
        self.inner.kind = kind;
        self.inner.message = format!("{message}: {}", self.inner.message);
        self.inner.remedy = Remedy::No;
        self
    }

    /// The same with another message.
    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Self {
        self.inner.message = message.into();
        self
    }

    /// The error for a reply `-CODE text` of the server. Its kind and its [`Remedy`] depend on the
    /// code, or on the one that the text quotes where a script or a transaction failed.
    pub fn from_server(line: &[u8]) -> Self {
        // An error line longer than this says nothing more to a human, and may quote a payload.
        const SHOWN: usize = 512;
        let text = String::from_utf8_lossy(line.get(..SHOWN).unwrap_or(line));
        // A server that does not know AUTH or HELLO quotes their arguments: a password.
        let shown = text.split(", with args beginning with").next().unwrap_or_default();
        let parsed = ServerError::parse(shown);
        let mut error = Error::new(parsed.kind, format!("the server answered: {shown}"));
        error.inner.code = Some(parsed.word.to_owned());
        error.inner.server = Some(parsed.code);
        error.inner.redirect = parsed.redirect.map(|redirect| Redirect {
            slot: redirect.slot,
            address: redirect.address.to_owned(),
            asks: parsed.code == ServerCode::Ask,
        });
        error.with_remedy(parsed.remedy)
    }

    /// The error for a reply that breaks the protocol.
    pub(crate) fn protocol(message: impl fmt::Display) -> Self {
        Error::new(
            ErrorKind::Response,
            format!("the server's reply is not valid RESP: {message}; is this a Redis server?"),
        )
    }

    /// The error for an argument that cannot be right.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The message without what to do, and without its context.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// Names and values that say where it happened.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.inner.context
    }

    /// The server's error code, such as `WRONGTYPE`, where the server answered with one.
    pub fn code(&self) -> Option<&str> {
        self.inner.code.as_deref()
    }

    /// Which of the server's errors it is, where the server answered with one.
    pub(crate) fn server_code(&self) -> Option<ServerCode> {
        self.inner.server
    }

    /// The node of a cluster that serves the key instead, where the server's answer names one.
    pub(crate) fn redirect(&self) -> Option<&Redirect> {
        self.inner.redirect.as_ref()
    }

    /// What has to happen before the same request may succeed.
    pub fn remedy(&self) -> Remedy {
        self.inner.remedy
    }

    /// Whether the same request may succeed after a pause.
    pub fn retryable(&self) -> bool {
        self.inner.remedy.is_time()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { message, advice, context, .. } = &*self.inner;
        f.write_str(message)?;
        if let Some(advice) = advice {
            write!(f, "; {advice}")?;
        }
        f.write_str(&context_text(context))
    }
}

/// The context in brackets, after a space; nothing where there is none.
fn context_text<'a>(context: impl IntoIterator<Item = &'a (&'static str, String)>) -> String {
    let pairs: Vec<String> =
        context.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    if pairs.is_empty() { String::new() } else { format!(" ({})", pairs.join(", ")) }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

/// A number and what it counts, for an error message: `1 row`, but `2 rows`.
pub(crate) fn counted<N: fmt::Display + PartialEq + From<u8>>(
    number: N,
    one: &str,
    many: &str,
) -> String {
    let what = if number == N::from(1) { one } else { many };
    format!("{number} {what}")
}

/// Bytes from outside as short, printable text for an error message.
pub(crate) fn shorten(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let head = bytes.get(..SHOWN).unwrap_or(bytes);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => head.escape_ascii().to_string(),
    };
    match bytes.len() {
        len if len > SHOWN => format!("\"{text}\"... ({len} bytes)"),
        _ => format!("\"{text}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_s_line_becomes_an_error() {
        let error = Error::from_server(b"LOADING Redis is loading");
        assert_eq!(error.message(), "the server answered: LOADING Redis is loading");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Response, Some("LOADING")));
        assert_eq!((error.remedy(), error.retryable()), (Remedy::Wait, true));
        assert_eq!(error.server_code(), Some(ServerCode::Loading));
        assert_eq!(Error::from_server(b"no code here").code(), Some("ERR"));
    }

    #[test]
    fn arguments_that_a_server_quotes_are_left_out() {
        let unknown = b"ERR unknown command `HELLO`, with args beginning with: `3`, `hunter2`, ";
        let error = Error::from_server(unknown);
        assert_eq!(error.message(), "the server answered: ERR unknown command `HELLO`");
        assert_eq!(error.server_code(), Some(ServerCode::UnknownCommand));
    }

    #[test]
    fn display_lists_the_context_and_keeps_the_source() {
        let error = Error::new(ErrorKind::Connection, "lost")
            .with_context("address", "h:1")
            .with_context("stream", "s")
            .with_context("address", "h:1")
            .with_source(std::io::Error::other("reset"));
        assert_eq!(error.to_string(), "lost (address: h:1, stream: s)");
        assert_eq!(
            std::error::Error::source(&error).map(ToString::to_string).as_deref(),
            Some("reset")
        );
    }

    #[test]
    fn shorten_keeps_a_message_short_and_printable() {
        assert_eq!(shorten(b"a\nb"), "\"a\\nb\"");
        assert_eq!(shorten(b"\xff"), "\"\\xff\"");
        assert!(shorten(&[b'x'; 1000]).ends_with("... (1000 bytes)"));
    }
}
