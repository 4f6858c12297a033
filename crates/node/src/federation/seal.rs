//! What nodes that share a secret (`federation.secret`) put on what they send each other, so that
//! nobody else can have sent it: HMAC-SHA-256 over all of it.
//!
//! It proves who speaks and hides nothing. Not here: what is sealed, and whether it is too old.

use ring::hmac::{Context, HMAC_SHA256, Key};
use subtle::ConstantTimeEq as _;

/// Bytes of a seal.
pub(super) const BYTES: usize = 32;

/// What a seal is for: one for a datagram is none for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Datagram,
    Call,
    Gossip,
}

/// The shared secret.
#[derive(Clone)]
pub(super) struct Secret(Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(super) fn new(secret: &str) -> Self {
        Self(Key::new(HMAC_SHA256, secret.as_bytes()))
    }

    /// The seal of these parts, which are told apart: moving a byte from one to the next makes
    /// another seal.
    pub(super) fn seal(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; BYTES] {
        let tag = self.context(purpose, parts).sign();
        let mut seal = [0; BYTES];
        seal.copy_from_slice(tag.as_ref());
        seal
    }

    /// Whether `seal` is theirs. Takes as long whether it is or not.
    pub(super) fn verifies(&self, purpose: Purpose, parts: &[&[u8]], seal: &[u8]) -> bool {
        self.seal(purpose, parts)[..].ct_eq(seal).into()
    }

    fn context(&self, purpose: Purpose, parts: &[&[u8]]) -> Context {
        let mut context = Context::with_key(&self.0);
        context.update(match purpose {
            Purpose::Datagram => b"serverledge datagram",
            Purpose::Call => b"serverledge call\0\0\0\0",
            Purpose::Gossip => b"serverledge gossip\0\0",
        });
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_one_secret_one_purpose_and_these_parts() {
        let secret = Secret::new("a secret of some length");
        let parts: [&[u8]; 2] = [b"one", b"two"];
        let seal = secret.seal(Purpose::Call, &parts);
        assert!(secret.verifies(Purpose::Call, &parts, &seal));
        assert!(!secret.verifies(Purpose::Datagram, &parts, &seal));
        assert!(!secret.verifies(Purpose::Call, &[b"onet", b"wo"], &seal));
        assert!(!secret.verifies(Purpose::Call, &[b"onetwo"], &seal));
        assert!(!secret.verifies(Purpose::Call, &parts, &seal[..31]));
        assert!(!secret.verifies(Purpose::Call, &parts, &[]));
        let other = Secret::new("another secret of some length");
        assert!(!other.verifies(Purpose::Call, &parts, &seal));
        for bit in 0..256 {
            let mut forged = seal;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!secret.verifies(Purpose::Call, &parts, &forged));
        }
    }
}
