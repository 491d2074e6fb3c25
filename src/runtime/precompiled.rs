//! Compiled guests in a file (`.cwasm`): native code in a container that says which guest it was
//! compiled from, for which engine, and whether all of it is there.
//!
//! The container is checked here; running what is in it is not safe and happens elsewhere. The
//! digest tells damage from what was written, not friend from foe: whoever can write such a file
//! can put any code into it. A `.cwasm` is as trusted as the server's binary and must be as well
//! guarded.
//!
//! ```text
//! offset  0   magic, eight bytes
//!         8   version of the format, u32, little endian
//!        12   length of the code in bytes, u64, little endian
//!        20   SHA-256 of the engine's settings, its version and the machine's instruction set
//!        52   SHA-256 of the guest it was compiled from
//!        84   SHA-256 of the bytes before this one and of the code
//!       116   the code
//! ```

use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};

use super::error::LoadError;
use super::{Engine, Module, describe, pieces, reset, segments};
use crate::abi::Features;

/// A SHA-256 digest.
pub type Sha256Digest = [u8; 32];

/// No WebAssembly, no ELF, and no text.
const MAGIC: Magic = b"\x89cwasm\r\n";
/// The same for a snapshot, which is code that begins with what start functions left.
const SNAPSHOT_MAGIC: Magic = b"\x89csnap\r\n";
type Magic = &'static [u8; 8];
const VERSION: u32 = 1;
/// Magic, version, length, engine and source.
const SIGNED: usize = 84;
const HEADER: usize = SIGNED + 32;

/// Why a compiled guest cannot be used. The text follows the path of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Something else.
    #[error("is no compiled guest: it does not start like one")]
    Magic,
    /// Written by another version of this program.
    #[error("is a compiled guest of format {found}, expected {VERSION}: compile it again")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// Cut short, or longer than it says.
    #[error("is damaged: it has {found} bytes, expected {expected}")]
    Length {
        /// The size of the file.
        found: u64,
        /// What its header says.
        expected: u64,
    },
    /// Bytes have changed since it was written.
    #[error("is damaged: its digest is {found}, expected {expected}")]
    Digest {
        /// In hexadecimal, of what is there.
        found: String,
        /// What its header says.
        expected: String,
    },
    /// Compiled for something else than what is running here.
    #[error(
        "was compiled for another engine, version or processor, or with another --slice: compile it \
         again, on this machine"
    )]
    Engine,
}

/// A compiled guest whose container is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precompiled<'a> {
    /// The digest of the guest it was compiled from, text format or binary.
    pub source: Sha256Digest,
    /// What [`Module::serialize`] made.
    pub code: &'a [u8],
}

/// Whether a file claims to be a compiled guest.
pub fn is_precompiled(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Packs a module that was compiled with this engine from what has the digest `source`.
pub fn encode(
    engine: &Engine,
    source: &Sha256Digest,
    module: &Module,
) -> Result<Vec<u8>, LoadError> {
    let code = module.serialize().map_err(|error| LoadError::Engine(describe(&error)))?;
    Ok(pack(MAGIC, &engine_digest(engine), source, &code))
}

/// Packs a snapshot: a module whose instances have been started, and the features that they enabled.
/// What `of` is the digest of is all that the start functions could see ([`super::snapshot::digest`]).
pub fn encode_snapshot(
    engine: &Engine,
    of: &Sha256Digest,
    module: &Module,
    features: Features,
) -> Result<Vec<u8>, LoadError> {
    let code = module.serialize().map_err(|error| LoadError::Engine(describe(&error)))?;
    let code = [&features.bits().to_le_bytes(), &code[..]].concat();
    Ok(pack(SNAPSHOT_MAGIC, &engine_digest(engine), of, &code))
}

/// Unpacks a snapshot for this engine.
pub fn decode_snapshot<'a>(
    engine: &Engine,
    bytes: &'a [u8],
) -> Result<(Precompiled<'a>, Features), LoadError> {
    let Precompiled { source, code } = unpack(SNAPSHOT_MAGIC, &engine_digest(engine), bytes)?;
    let Some((features, code)) = code.split_first_chunk() else {
        return Err(Unusable::Magic.into());
    };
    let features = Features::from_bits_retain(u32::from_le_bytes(*features));
    Ok((Precompiled { source, code }, features))
}

/// Unpacks a compiled guest for this engine.
pub fn decode<'a>(engine: &Engine, bytes: &'a [u8]) -> Result<Precompiled<'a>, LoadError> {
    Ok(unpack(MAGIC, &engine_digest(engine), bytes)?)
}

/// SHA-256 of some bytes.
pub fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256::digest(bytes).into()
}

/// A digest as people write it.
pub fn hex(digest: &Sha256Digest) -> String {
    hex::encode(digest)
}

/// A digest that a person wrote: 64 hexadecimal digits of any case.
pub fn parse_hex(text: &[u8]) -> Option<Sha256Digest> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}

fn pack(magic: Magic, engine: &Sha256Digest, source: &Sha256Digest, code: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER + code.len());
    file.extend(magic);
    file.extend(VERSION.to_le_bytes());
    file.extend((code.len() as u64).to_le_bytes());
    file.extend(engine);
    file.extend(source);
    let signed = digest_of_both(&file, code);
    file.extend(signed);
    file.extend(code);
    file
}

fn unpack<'a>(
    magic: Magic,
    engine: &Sha256Digest,
    bytes: &'a [u8],
) -> Result<Precompiled<'a>, Unusable> {
    let mut rest = bytes;
    if take(&mut rest) != Some(magic) {
        return Err(Unusable::Magic);
    }
    let cut = |expected: u64| Unusable::Length { found: bytes.len() as u64, expected };
    let version = take(&mut rest).copied().map(u32::from_le_bytes);
    match version {
        Some(VERSION) => {}
        Some(found) => return Err(Unusable::Version { found }),
        None => return Err(cut(HEADER as u64)),
    }
    let (Some(len), Some(compiled_for), Some(source), Some(expected)) =
        (take(&mut rest), take(&mut rest), take(&mut rest), take::<32>(&mut rest))
    else {
        return Err(cut(HEADER as u64));
    };
    let len = u64::from_le_bytes(*len);
    if rest.len() as u64 != len {
        return Err(cut(len.saturating_add(HEADER as u64)));
    }
    let found = digest_of_both(&bytes[..SIGNED], rest);
    if found != *expected {
        return Err(Unusable::Digest { found: hex(&found), expected: hex(expected) });
    }
    if compiled_for != engine {
        return Err(Unusable::Engine);
    }
    Ok(Precompiled { source: *source, code: rest })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(first)
}

fn digest_of_both(header: &[u8], code: &[u8]) -> Sha256Digest {
    Sha256::new().chain_update(header).chain_update(code).finalize().into()
}

/// What the engine says of itself, in more bits than its own hash values have, and what is done to guests
/// before it compiles them.
pub fn engine_digest(engine: &Engine) -> Sha256Digest {
    struct Sha256Hasher(Sha256);
    impl Hasher for Sha256Hasher {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            let digest: Sha256Digest = self.0.clone().finalize().into();
            take(&mut &digest[..]).copied().map_or(0, u64::from_le_bytes)
        }
    }
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.wasm().precompile_compatibility_hash().hash(&mut hasher);
    [pieces::EDITION, segments::EDITION, reset::EDITION].hash(&mut hasher);
    hasher.0.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Compile, guest};
    use proptest::prelude::*;

    const ENGINE: Sha256Digest = [1; 32];
    const SOURCE: Sha256Digest = [2; 32];

    #[test]
    fn a_module_comes_back_as_it_was() {
        let engine = Engine::new(Compile::Serial).expect("an engine");
        let source = b"(module (func (export \"f\")))";
        let module = guest::compile(&engine, source).expect("compiles");
        let file = encode(&engine, &digest(source), &module).expect("encodes");
        assert!(is_precompiled(&file));
        let other = Engine::new(Compile::Parallel).expect("an engine");
        let back = decode(&other, &file).expect("decodes");
        assert_eq!(back.source, digest(source));
        assert_eq!(back.code, module.serialize().expect("serializes"));
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_is_no_guest() {
        let engine = Engine::new(Compile::Serial).expect("an engine");
        let module = guest::compile(&engine, b"(module)").expect("compiles");
        let features = Features::BUFFER_RESPONSE;
        let file = encode_snapshot(&engine, &SOURCE, &module, features).expect("encodes");
        assert!(!is_precompiled(&file));
        assert!(decode(&engine, &file).is_err());
        let (back, enabled) = decode_snapshot(&engine, &file).expect("decodes");
        assert_eq!((back.source, enabled), (SOURCE, features));
        assert_eq!(back.code, module.serialize().expect("serializes"));
        let guest = encode(&engine, &SOURCE, &module).expect("encodes");
        assert!(decode_snapshot(&engine, &guest).is_err());
        assert!(decode_snapshot(&engine, &file[..file.len() - 1]).is_err());
    }

    #[test]
    fn the_code_of_another_engine_is_refused() {
        let file = pack(MAGIC, &[9; 32], &SOURCE, b"code");
        assert_eq!(unpack(MAGIC, &ENGINE, &file), Err(Unusable::Engine));
        let engine = Engine::new(Compile::Serial).expect("an engine");
        let error = decode(&engine, &file).expect_err("is for another engine").to_string();
        assert!(error.starts_with("was compiled for another engine"), "{error}");
    }

    #[test]
    fn what_is_no_compiled_guest_says_so() {
        for bytes in [&b""[..], b"\0asm\x01\0\0\0", b"\x7fELF", b"\x89cwasm\r"] {
            assert_eq!(unpack(MAGIC, &ENGINE, bytes), Err(Unusable::Magic));
            assert!(!is_precompiled(bytes));
        }
        let mut newer = pack(MAGIC, &ENGINE, &SOURCE, b"");
        newer[8] = 2;
        assert_eq!(unpack(MAGIC, &ENGINE, &newer), Err(Unusable::Version { found: 2 }));
    }

    #[test]
    fn a_digest_reads_as_others_print_it() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&digest(b"")), empty);
    }

    proptest! {
        #[test]
        fn every_change_is_noticed(
            code in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let mut file = pack(MAGIC, &ENGINE, &SOURCE, &code);
            let whole = unpack(MAGIC, &ENGINE, &file);
            prop_assert_eq!(whole, Ok(Precompiled { source: SOURCE, code: &code }));
            for cut in [at.index(file.len()), file.len() - 1] {
                prop_assert!(unpack(MAGIC, &ENGINE, &file[..cut]).is_err());
            }
            let at = at.index(file.len());
            file[at] ^= flip;
            prop_assert!(unpack(MAGIC, &ENGINE, &file).is_err());
            file[at] ^= flip;
            file.push(0);
            prop_assert!(unpack(MAGIC, &ENGINE, &file).is_err());
        }
    }
}
