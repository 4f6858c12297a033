//! The protocol between node and sandbox: what both sides must agree on.
//!
//! `PROTOCOL.md` tells the whole story. Here are the numbers; reading and writing frames is the
//! business of each side (`serverledge-sandbox` for the node, the shims for the runtimes). The
//! program beside this library, pid 1 of every sandbox, shares nothing with it but this crate.

#![forbid(unsafe_code)]

/// Largest frame either side may send, in bytes after the length field.
pub const FRAME_MAX: usize = 64 << 20;

/// Bytes of a frame before its head: total length (`u32`), kind (`u8`), length of the head
/// (`u32`); integers are big-endian. The total length counts everything after itself.
pub const PREFIX: usize = 4 + 1 + 4;

/// What a frame is.
pub mod kind {
    /// Sandbox to node, first on every connection: which slot it serves.
    pub const HELLO: u8 = 1;
    /// Node to sandbox: load this function.
    pub const LOAD: u8 = 2;
    /// Sandbox to node: loaded, or why not.
    pub const LOADED: u8 = 3;
    /// Node to sandbox: run this call.
    pub const INVOKE: u8 = 4;
    /// Sandbox to node: what came of it.
    pub const RESULT: u8 = 5;
    /// Node to sandbox, instead of [`LOAD`]: become a zygote.
    pub const ZYGOTE: u8 = 6;
}

/// What the executor is to do: the first byte of its configuration.
pub mod task {
    /// Start an interpreter, and end with it.
    pub const RUN: u8 = 0;
    /// Start an interpreter, and stay when it ends: what it has forked lives on.
    pub const STAY: u8 = 1;
    /// Wait for an interpreter that joins from elsewhere, and end with it.
    pub const ADOPT: u8 = 2;
}
