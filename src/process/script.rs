//! Scripts that are sent whole once, and afterwards by their digest.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::Value;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::protocol::Request;
use crate::client::Exclusive;
use crate::error::{Remedy, Result, ServerCode};
use crate::resp::{RawReply, push_bulk, push_header};

/// A script as servers know it.
pub(super) struct Script {
    source: &'static str,
    texts: OnceLock<[Text; 2]>,
}

/// One spelling of it.
struct Text {
    source: String,
    /// The SHA-1 that a server knows it by.
    digest: String,
}

/// A script is made of files, one after the other.
macro_rules! script {
    ($($part:literal)+) => {
        Script {
            source: concat!($(include_str!(concat!("lua/", $part, ".lua"))),+),
            texts: OnceLock::new(),
        }
    };
}

static ACQUIRE: Script = script!("lane" "acquire");
static COMMIT: Script = script!("lane" "held" "commit");
static RENEW: Script = script!("lane" "held" "owned" "renew");
static LOAD: Script = script!("lane" "held" "owned" "load");
pub(super) static NOTE: Script = script!("lane" "held" "owned" "note");
pub(super) static RESET: Script = script!("lane" "held" "owned" "reset");
static RELEASE: Script = script!("lane" "held" "owned" "release");

impl Script {
    /// The script of a request.
    pub(super) fn of(request: &Request) -> &'static Script {
        match request {
            Request::Acquire { .. } => &ACQUIRE,
            Request::Renew { .. } => &RENEW,
            Request::Load { .. } => &LOAD,
            Request::Release { .. } => &RELEASE,
            Request::Commit { .. } => &COMMIT,
        }
    }

    /// Its text, with a line of flags or without.
    fn text(&self, has_flags: bool) -> &Text {
        let [plain, flagged] = self.texts.get_or_init(|| {
            // With the line a server looks before the first command whether a write is possible at all.
            ["local has_flags = false", "#!lua\nlocal has_flags = true"].map(|first| {
                let source = format!("{first}\n{}", self.source);
                let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, source.as_bytes());
                let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
                Text { digest: digits.collect(), source }
            })
        });
        if has_flags { flagged } else { plain }
    }

    #[cfg(test)]
    pub(super) fn source(&self, has_flags: bool) -> &str {
        &self.text(has_flags).source
    }
}

/// The arguments of a script, packed.
#[derive(Debug, Clone, Default)]
pub(super) struct Arguments {
    pub(super) number: usize,
    pub(super) packed: Vec<u8>,
}

impl Arguments {
    pub(super) fn push(&mut self, argument: &[u8]) {
        self.number += 1;
        push_bulk(argument, &mut self.packed);
    }

    pub(super) fn append(&mut self, other: &Arguments) {
        self.number += other.number;
        self.packed.extend_from_slice(&other.packed);
    }
}

/// How a server has to be called.
#[derive(Debug)]
pub(super) struct Caller {
    /// It has not refused the line of flags, which came with Redis 7.0.
    has_flags: AtomicBool,
}

impl Default for Caller {
    fn default() -> Self {
        Caller { has_flags: AtomicBool::new(true) }
    }
}

impl Caller {
    /// Calls a script on a connection, once; an error of the server's is given inside.
    pub(super) async fn call(
        &self,
        connection: &mut Exclusive<'_>,
        script: &Script,
        keys: &[&[u8]],
        arguments: &Arguments,
    ) -> Result<Result<Value>> {
        let mut whole = false;
        loop {
            let has_flags = self.has_flags.load(Ordering::Relaxed);
            let text = script.text(has_flags);
            let mut packed = Vec::with_capacity(arguments.packed.len() + 512);
            push_header(b'*', 3 + keys.len() + arguments.number, &mut packed);
            if whole {
                push_bulk(b"EVAL", &mut packed);
                push_bulk(text.source.as_bytes(), &mut packed);
            } else {
                push_bulk(b"EVALSHA", &mut packed);
                push_bulk(text.digest.as_bytes(), &mut packed);
            }
            push_bulk(keys.len().to_string().as_bytes(), &mut packed);
            keys.iter().for_each(|key| push_bulk(key, &mut packed));
            packed.extend_from_slice(&arguments.packed);
            let mut reply = RawReply::of_any_size();
            connection.exchange(&packed, &mut 0, &mut reply).await?;
            let answer = reply.into_value();
            match &answer {
                Err(error) if !whole && error.remedy() == Remedy::ReloadScript => whole = true,
                Err(error)
                    if has_flags && error.server_code() == Some(ServerCode::ScriptSyntax) =>
                {
                    self.has_flags.store(false, Ordering::Relaxed);
                    whole = false;
                }
                _ => return Ok(answer),
            }
        }
    }
}
