//! The errors that servers answer with, in one table: which kind of error each is, and what makes
//! a second attempt promising. Nothing else in the crate looks at an error's text.

use super::ErrorKind::{self, Authentication, NoGroup, Response, WrongType};
use super::redirect::Named;

/// What has to happen before the same request may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Nothing that a client can do: the same request fails again.
    No,
    /// Time: the same connection can be used again after a pause.
    Wait,
    /// Time and another connection, because this one is of no use any more or leads to a server
    /// that does not serve the request any more.
    Reconnect,
    /// Another node of the cluster serves the key, which the answer names.
    Rediscover,
    /// The server has to be sent the script itself, not its digest.
    ReloadScript,
}

impl Remedy {
    /// Whether time is what is missing, or another node, so that a retry is promising.
    pub(crate) fn is_time(self) -> bool {
        matches!(self, Remedy::Wait | Remedy::Reconnect | Remedy::Rediscover)
    }

    /// Whether the connection that the error came on, and those that were opened with it, are of
    /// no more use.
    pub(crate) fn needs_connection(self) -> bool {
        matches!(self, Remedy::Reconnect)
    }
}

impl ServerCode {
    /// Whether it ends a wait for entries as a timeout does: a reader that still wants some asks again.
    pub(crate) fn ends_wait(self) -> bool {
        matches!(self, ServerCode::UnblockedByClient | ServerCode::UnblockedByKey)
    }

    /// Whether the server does not have the command.
    pub(crate) fn is_unknown_command(self) -> bool {
        matches!(self, ServerCode::UnknownCommand | ServerCode::UnknownSubcommand)
    }

    /// Whether the user lacks the permission for a command, be it in a script.
    pub(crate) fn is_no_permission(self) -> bool {
        use ServerCode::{NoPermission, NoPermissionInScript, RefusedInScript};
        matches!(self, NoPermission | NoPermissionInScript | RefusedInScript)
    }

    /// Whether there is no such command for this user, for either reason.
    pub(crate) fn is_withheld(self) -> bool {
        self.is_no_permission() || self.is_unknown_command()
    }
}

/// Makes the enum and its table from the same rows, so that neither can lack what the other has.
macro_rules! server_codes {
    ($($(#[$doc:meta])* $code:ident: $word:literal $($text:literal)? => $kind:ident, $remedy:ident;)*) => {
        /// An error that a server answers with. Several share a word, and differ in their text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum ServerCode {
            $($(#[$doc])* $code,)*
        }

        /// A row applies to lines of its word that contain its text; the first that applies counts.
        const TABLE: &[Row] = &[
            $(Row {
                code: ServerCode::$code,
                word: $word,
                text: concat!($($text)?),
                kind: $kind,
                remedy: Remedy::$remedy,
            },)*
        ];
    };
}

struct Row {
    code: ServerCode,
    word: &'static str,
    text: &'static str,
    kind: ErrorKind,
    remedy: Remedy,
}

server_codes! {
    /// The slot belongs to another node of the cluster.
    Moved: "MOVED" => Response, Rediscover;
    /// The slot is being moved to another node of the cluster.
    Ask: "ASK" => Response, Rediscover;
    /// Some of the keys have been moved to another node, and some not yet.
    TryAgain: "TRYAGAIN" => Response, Wait;
    /// The cluster does not serve the slot at present.
    ClusterDown: "CLUSTERDOWN" => Response, Wait;
    /// The server is no node of a cluster.
    ClusterDisabled: "ERR" "cluster support disabled" => Response, No;
    /// The server reads its data from disk.
    Loading: "LOADING" => Response, Wait;
    /// A replica was asked to write: a master before a failover.
    ReadOnly: "READONLY" => Response, Reconnect;
    /// A replica without a master, which may be on its way out.
    MasterDown: "MASTERDOWN" => Response, Reconnect;
    /// A script keeps the server busy.
    Busy: "BUSY" => Response, Wait;
    /// Not enough replicas are connected to accept a write.
    NoReplicas: "NOREPLICAS" => Response, Wait;
    /// The server cannot save to disk, and accepts no write meanwhile.
    Misconf: "MISCONF" => Response, Wait;
    /// The server's memory is full.
    OutOfMemory: "OOM" => Response, Wait;
    /// The server does not have the script with this digest.
    NoScript: "NOSCRIPT" => Response, ReloadScript;
    /// The server does not understand the script: it has a line of flags, and the server is older than 7.0.
    ScriptSyntax: "ERR" "Error compiling script" => Response, No;
    /// CLIENT UNBLOCK ended a wait.
    UnblockedByClient: "UNBLOCKED" "CLIENT UNBLOCK" => Response, Wait;
    /// The key that was waited for is gone or has another type; the next command says what it is.
    UnblockedByKey: "UNBLOCKED" "no longer exists" => Response, Wait;
    /// The server became a replica while somebody waited.
    Demoted: "UNBLOCKED" => Response, Reconnect;
    /// There is no such consumer group, or no such stream.
    NoGroup: "NOGROUP" => NoGroup, No;
    /// There is a consumer group of that name already.
    BusyGroup: "BUSYGROUP" => Response, No;
    /// The key holds another type.
    WrongType: "WRONGTYPE" => WrongType, No;
    /// The user lacks the permission.
    NoPermission: "NOPERM" => Authentication, No;
    /// The user lacks the permission for a command in a script.
    NoPermissionInScript: "ERR" "ACL failure in script" => Authentication, No;
    /// The same before Redis 8 and Valkey.
    RefusedInScript: "ERR" "user executing the script can't" => Authentication, No;
    /// The connection has not logged in.
    NoAuth: "NOAUTH" => Authentication, No;
    /// The user or the password is wrong.
    WrongPassword: "WRONGPASS" => Authentication, No;
    /// The same before Redis 6.
    InvalidPassword: "ERR" "invalid password" => Authentication, No;
    /// A password was sent to a server that has none.
    NeedlessPassword: "ERR" "AUTH" => Authentication, No;
    /// The server has as many connections as it may, and closes this one.
    TooManyClients: "ERR" "max number of clients" => Response, Reconnect;
    /// A transaction was given up because of a command in it, whose own error came before.
    ExecAbort: "EXECABORT" => Response, No;
    /// The keys of one command belong to several slots.
    CrossSlot: "CROSSSLOT" => Response, No;
    /// The server is too old for the command.
    UnknownCommand: "ERR" "unknown command" => Response, No;
    /// The server is too old for the subcommand.
    UnknownSubcommand: "ERR" "nknown subcommand" => Response, No;
    /// The server is too old for one of the options.
    SyntaxError: "ERR" "syntax error" => Response, No;
    /// The server does not know this form of an entry ID.
    InvalidId: "ERR" "Invalid stream ID" => Response, No;
    /// The entry ID is not greater than the stream's last.
    IdTooSmall: "ERR" "equal or smaller" => Response, No;
    /// There is no such key.
    NoKey: "ERR" "no such key" => Response, No;
    /// There is no such key, and XGROUP needs one.
    NoKeyForGroup: "ERR" "requires the key to exist" => Response, No;
    /// What was sent is not RESP, or exceeds a limit; the server hangs up.
    Protocol: "ERR" "Protocol error" => Response, No;
    /// Any other.
    Other: "" => Response, No;
}

/// What a line says, without its leading `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerError<'a> {
    pub(super) code: ServerCode,
    /// The word that stands for it, such as `WRONGTYPE`.
    pub(super) word: &'a str,
    pub(super) kind: ErrorKind,
    pub(super) remedy: Remedy,
    /// Where it says that another node of the cluster serves the key.
    pub(super) redirect: Option<Named<'a>>,
}

impl<'a> ServerError<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        let line = cause(line);
        let word = word(line).unwrap_or("ERR");
        let applies = |row: &&Row| {
            (row.word == word || row.word.is_empty())
                && (row.text.is_empty() || line.contains(row.text))
        };
        let (code, kind, remedy) = match TABLE.iter().find(applies) {
            Some(row) => (row.code, row.kind, row.remedy),
            None => (ServerCode::Other, Response, Remedy::No),
        };
        let redirect = match remedy {
            Remedy::Rediscover => Named::parse(line),
            _ => None,
        };
        // One that names no node leads nowhere.
        let is_lost = remedy == Remedy::Rediscover && redirect.is_none();
        let remedy = if is_lost { Remedy::No } else { remedy };
        ServerError { code, word, kind, remedy, redirect }
    }
}

/// The error code that a line begins with.
fn word(line: &str) -> Option<&str> {
    let word = line.split(' ').next()?;
    (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase())).then_some(word)
}

/// The error within a transaction's or a script's, where the line quotes one.
///
/// ```text
/// EXECABORT Transaction discarded because of: READONLY You can't write ...
/// ERR Error running script (call to f_6989f1): @user_script:1: NOGROUP No such key ...
/// ERR Error running script (call to f_7b5042): @user_script:1: @user_script: 1: -OOM command ...
/// ```
///
/// Scripts since Redis 7.0 pass the error on as it was. Before, one that a script caught begins with
/// its place.
fn cause(line: &str) -> &str {
    let quoted = if line.starts_with("EXECABORT ") {
        line.split_once("because of: ").map(|(_, cause)| cause)
    } else if line.starts_with("ERR Error running script") || line.starts_with("@user_script:") {
        script_error(line)
    } else {
        None
    };
    quoted.filter(|cause| word(cause).is_some()).unwrap_or(line)
}

/// What follows the last `@user_script:<line>:`.
fn script_error(line: &str) -> Option<&str> {
    let (_, place) = line.rsplit_once("@user_script:")?;
    let (_, cause) = place.split_once(": ")?;
    // "1: -OOM ..." after "@user_script: 1:", and "NOGROUP ..." after "@user_script:1:".
    Some(cause.rsplit_once(": -").map_or(cause, |(_, cause)| cause).trim_start_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real line of each code, and what is to be made of it.
    const LINES: &[(&str, ServerCode, ErrorKind, Remedy)] = &[
        ("MOVED 3999 127.0.0.1:6381", ServerCode::Moved, Response, Remedy::Rediscover),
        ("ASK 3999 127.0.0.1:6381", ServerCode::Ask, Response, Remedy::Rediscover),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            ServerCode::TryAgain,
            Response,
            Remedy::Wait,
        ),
        ("CLUSTERDOWN Hash slot not served", ServerCode::ClusterDown, Response, Remedy::Wait),
        (
            "ERR This instance has cluster support disabled",
            ServerCode::ClusterDisabled,
            Response,
            Remedy::No,
        ),
        (
            "LOADING Redis is loading the dataset in memory",
            ServerCode::Loading,
            Response,
            Remedy::Wait,
        ),
        (
            "READONLY You can't write against a read only replica.",
            ServerCode::ReadOnly,
            Response,
            Remedy::Reconnect,
        ),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ServerCode::MasterDown,
            Response,
            Remedy::Reconnect,
        ),
        (
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            ServerCode::Busy,
            Response,
            Remedy::Wait,
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            ServerCode::NoReplicas,
            Response,
            Remedy::Wait,
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to \
             persist to disk.",
            ServerCode::Misconf,
            Response,
            Remedy::Wait,
        ),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            ServerCode::OutOfMemory,
            Response,
            Remedy::Wait,
        ),
        (
            "NOSCRIPT No matching script. Please use EVAL.",
            ServerCode::NoScript,
            Response,
            Remedy::ReloadScript,
        ),
        (
            "UNBLOCKED client unblocked via CLIENT UNBLOCK",
            ServerCode::UnblockedByClient,
            Response,
            Remedy::Wait,
        ),
        (
            "UNBLOCKED the stream key no longer exists",
            ServerCode::UnblockedByKey,
            Response,
            Remedy::Wait,
        ),
        (
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> \
             replica?)",
            ServerCode::Demoted,
            Response,
            Remedy::Reconnect,
        ),
        (
            "NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option",
            ServerCode::NoGroup,
            NoGroup,
            Remedy::No,
        ),
        (
            "BUSYGROUP Consumer Group name already exists",
            ServerCode::BusyGroup,
            Response,
            Remedy::No,
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            ServerCode::WrongType,
            WrongType,
            Remedy::No,
        ),
        (
            "NOPERM this user has no permissions to run the 'xadd' command",
            ServerCode::NoPermission,
            Authentication,
            Remedy::No,
        ),
        (
            "ERR ACL failure in script: User u has no permissions to run the 'xack' command",
            ServerCode::NoPermissionInScript,
            Authentication,
            Remedy::No,
        ),
        (
            "ERR The user executing the script can't run this command or subcommand",
            ServerCode::RefusedInScript,
            Authentication,
            Remedy::No,
        ),
        ("NOAUTH Authentication required.", ServerCode::NoAuth, Authentication, Remedy::No),
        (
            "WRONGPASS invalid username-password pair or user is disabled.",
            ServerCode::WrongPassword,
            Authentication,
            Remedy::No,
        ),
        ("ERR invalid password", ServerCode::InvalidPassword, Authentication, Remedy::No),
        (
            "ERR AUTH <password> called without any password configured for the default user.",
            ServerCode::NeedlessPassword,
            Authentication,
            Remedy::No,
        ),
        (
            "ERR max number of clients reached",
            ServerCode::TooManyClients,
            Response,
            Remedy::Reconnect,
        ),
        (
            "EXECABORT Transaction discarded because of previous errors.",
            ServerCode::ExecAbort,
            Response,
            Remedy::No,
        ),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            ServerCode::CrossSlot,
            Response,
            Remedy::No,
        ),
        (
            "ERR unknown command 'XNACK', with args beginning with: 's'",
            ServerCode::UnknownCommand,
            Response,
            Remedy::No,
        ),
        (
            "ERR unknown subcommand 'FOO'. Try XINFO HELP.",
            ServerCode::UnknownSubcommand,
            Response,
            Remedy::No,
        ),
        ("ERR syntax error", ServerCode::SyntaxError, Response, Remedy::No),
        (
            "ERR Invalid stream ID specified as stream command argument",
            ServerCode::InvalidId,
            Response,
            Remedy::No,
        ),
        (
            "ERR The ID specified in XADD is equal or smaller than the target stream top item",
            ServerCode::IdTooSmall,
            Response,
            Remedy::No,
        ),
        ("ERR no such key", ServerCode::NoKey, Response, Remedy::No),
        (
            "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may \
             want to use the MKSTREAM option to create an empty stream automatically.",
            ServerCode::NoKeyForGroup,
            Response,
            Remedy::No,
        ),
        (
            "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'",
            ServerCode::ScriptSyntax,
            Response,
            Remedy::No,
        ),
        ("ERR Protocol error: invalid bulk length", ServerCode::Protocol, Response, Remedy::No),
        ("ERR DB index is out of range", ServerCode::Other, Response, Remedy::No),
        ("NEWCODE of a server to come", ServerCode::Other, Response, Remedy::No),
    ];

    #[test]
    fn each_line_has_its_code_kind_and_remedy() {
        for (line, code, kind, remedy) in LINES {
            let word = line.split(' ').next().unwrap_or_default();
            let found = ServerError::parse(line);
            let expected = (*code, word, *kind, *remedy);
            assert_eq!((found.code, found.word, found.kind, found.remedy), expected, "{line}");
        }
    }

    #[test]
    fn each_code_has_a_line_here() {
        for row in TABLE {
            assert!(LINES.iter().any(|line| line.1 == row.code), "{:?} has no test", row.code);
        }
    }

    #[test]
    fn scripts_and_transactions_pass_on_the_cause() {
        for line in [
            "EXECABORT Transaction discarded because of: ",
            "ERR Error running script (call to f_6989f1b6413990): @user_script:1: ",
            "ERR Error running script (call to f_6989f1b6413990): @user_script:7: @user_script: 7: -",
            "@user_script: 7: -",
        ] {
            for (cause, code, kind, remedy) in LINES {
                let wrapped = format!("{line}{cause}");
                let error = ServerError::parse(&wrapped);
                assert_eq!((error.code, error.kind, error.remedy), (*code, *kind, *remedy));
                assert_eq!(Some(error.word), word(cause), "{wrapped}");
            }
        }
        // Since 7.0 the code comes first.
        let since = "OOM command not allowed when used memory > 'maxmemory'. script: 7b50428ec947e4, \
                     on @user_script:1.";
        assert_eq!(ServerError::parse(since).code, ServerCode::OutOfMemory);
    }

    #[test]
    fn what_quotes_no_code_keeps_its_own() {
        for (line, code, word) in [
            ("EXECABORT Transaction discarded because of: ", ServerCode::ExecAbort, "EXECABORT"),
            ("EXECABORT because of: lower case", ServerCode::ExecAbort, "EXECABORT"),
            (
                "ERR Error running script (call to f_82903a0434f150): @user_script:1: \
                 user_script:1: boom",
                ServerCode::Other,
                "ERR",
            ),
            ("ERR Error running script", ServerCode::Other, "ERR"),
            ("no code here", ServerCode::Other, "ERR"),
            ("", ServerCode::Other, "ERR"),
        ] {
            let error = ServerError::parse(line);
            assert_eq!((error.code, error.word), (code, word), "{line}");
        }
    }
}
