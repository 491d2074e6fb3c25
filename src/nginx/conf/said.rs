//! What the process that tries out a guest says to the one that forked it ([`super::child`]): compiled
//! code before the guest has run, and then only text, which is read as such.

use std::fs::File;
use std::io::{self, Write};

use crate::abi::Features;
use crate::nginx::guests::fault::start_directive;
use crate::nginx::ngx::log::Escaped;
use crate::runtime::Module;
use crate::runtime::error::LoadError;
use crate::runtime::snapshot::Start;

/// What the child says is a row of messages: a byte for the kind, the length in eight, the text. Code
/// comes first, if there is any; the last one says how it went, after the guest's frames if it failed.
const CODE: u8 = b'c';
const STARTED: u8 = b'+';
const FRAMES: u8 = b'f';
const REFUSED: u8 = b'-';

/// Why a guest cannot be used.
pub(crate) struct Failure {
    /// One line.
    pub(crate) reason: String,
    /// Frames of the guest, a line each.
    pub(crate) backtrace: Option<String>,
    /// Whether the process was lost before it had said how it went: another attempt with less to do may
    /// go well.
    pub(crate) lost: bool,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Failure { reason: reason.into(), backtrace: None, lost: false }
    }

    /// The same of a process that was lost.
    pub(crate) fn lost(reason: impl Into<String>) -> Self {
        Failure { lost: true, ..Failure::new(reason) }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let reason = match start_directive(&error) {
            Some(directive) => format!("{error} (see {directive})"),
            None => error.to_string(),
        };
        Failure { reason, backtrace: error.backtrace(), lost: false }
    }
}

/// The messages of a child.
pub(crate) struct Said<'a> {
    pub(crate) code: Option<&'a [u8]>,
    pub(crate) verdict: Result<Report, Failure>,
}

impl<'a> Said<'a> {
    /// `None` if the child ended before it had said how it went.
    pub(crate) fn read(said: &'a [u8]) -> Option<Self> {
        let (kind, text, rest) = Self::message(said)?;
        let (code, (kind, text, rest)) = match kind {
            CODE => (Some(text), Self::message(rest)?),
            _ => (None, (kind, text, rest)),
        };
        let (frames, (kind, text, rest)) = match kind {
            FRAMES => (Some(text), Self::message(rest)?),
            _ => (None, (kind, text, rest)),
        };
        let verdict = match kind {
            STARTED if rest.is_empty() => Ok(Report::decode(text)?),
            REFUSED if rest.is_empty() => {
                let backtrace = frames.map(|it| String::from_utf8_lossy(it).into_owned());
                Err(Failure { reason: Escaped(text).to_string(), backtrace, lost: false })
            }
            _ => return None,
        };
        Some(Said { code, verdict })
    }

    fn message(said: &[u8]) -> Option<(u8, &[u8], &[u8])> {
        let (&kind, rest) = said.split_first()?;
        let (len, rest) = rest.split_first_chunk()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let (text, rest) = rest.split_at_checked(len)?;
        Some((kind, text, rest))
    }
}

/// Where the child says things.
pub(crate) struct Parent(pub(crate) File);

impl Parent {
    fn say(&self, kind: u8, text: &[u8]) -> io::Result<()> {
        let mut pipe = &self.0;
        pipe.write_all(&[kind])?;
        pipe.write_all(&(text.len() as u64).to_le_bytes())?;
        pipe.write_all(text)
    }

    /// The last message: how it went.
    pub(crate) fn conclude(&self, result: Result<Report, Failure>) -> io::Result<()> {
        match result {
            Ok(report) => self.say(STARTED, &report.encode()),
            Err(Failure { reason, backtrace, lost: _ }) => {
                if let Some(frames) = backtrace {
                    self.say(FRAMES, frames.as_bytes())?;
                }
                self.say(REFUSED, reason.as_bytes())
            }
        }
    }

    /// The first message, before the guest runs.
    pub(crate) fn hand_over(&self, module: &Module) -> Result<(), Failure> {
        let code = module.serialize().map_err(|error| {
            Failure::new(format!("cannot serialize the compiled code: {error:#}"))
        })?;
        let said = self.say(CODE, &code);
        said.map_err(|error| Failure::new(format!("cannot hand over the compiled code: {error}")))
    }
}

/// What a child found out about a guest.
pub(crate) struct Report {
    pub(crate) start: Start,
    /// Why there is no snapshot although one was asked for.
    pub(crate) unfit: Option<String>,
    /// How long the compiler took, if it had to.
    pub(crate) compiled_ms: Option<u32>,
}

/// Bytes of a report before its text: whether there is a snapshot, features, time spent compiling.
const REPORT_HEAD: usize = 9;

/// Stands for "not compiled".
const NOTHING_SPENT: u32 = u32::MAX;

impl Report {
    fn encode(&self) -> Vec<u8> {
        let (done, features) = match self.start {
            Start::Run => (0, 0),
            Start::Done(features) => (1, features.bits()),
        };
        let mut bytes = vec![done];
        bytes.extend(features.to_le_bytes());
        bytes.extend(self.compiled_ms.unwrap_or(NOTHING_SPENT).to_le_bytes());
        bytes.extend(self.unfit.as_deref().unwrap_or_default().as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, unfit) = bytes.split_first_chunk::<REPORT_HEAD>()?;
        let number = |at| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (features, spent) = (number(1)?, number(5)?);
        let start = match head[0] {
            0 => Start::Run,
            _ => Start::Done(Features::from_bits_retain(features)),
        };
        let unfit = String::from_utf8_lossy(unfit).into_owned();
        let unfit = (!unfit.is_empty()).then_some(unfit);
        let compiled_ms = (spent != NOTHING_SPENT).then_some(spent);
        Some(Report { start, unfit, compiled_ms })
    }
}
