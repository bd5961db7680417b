//! Bytes to things with a digest: the store on disk.
//!
//! Invariants: blocking I/O only, no network, no async, no unsafe, no mount. A name appears after
//! its content. What is read back is checked, and damage is a miss, never a lie.

#![forbid(unsafe_code)]

mod digest;

pub use digest::{ChainId, DiffId, Digest, DigestError, HashingReader, HashingWriter, chain_id};
