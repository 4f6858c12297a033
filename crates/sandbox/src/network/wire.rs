//! The device as the TCP stack sees it: two queues in memory.

use std::collections::VecDeque;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::MTU;

/// Packets between the stack and the sandbox.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) to_stack: VecDeque<Vec<u8>>,
    pub(super) to_sandbox: Vec<Vec<u8>>,
}

pub(super) struct Received(Vec<u8>);

pub(super) struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let packet = self.to_stack.pop_front()?;
        Some((Received(packet), Sending(&mut self.to_sandbox)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.to_sandbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // What the sandbox's kernel sends has crossed no wire.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, size: usize, write: F) -> R {
        let mut packet = vec![0; size];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}
