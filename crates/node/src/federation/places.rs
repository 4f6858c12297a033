//! What placing the tasks of workflows needs of the fleet: the cloud's node to hand them to, and a way
//! to send one function to a node that was chosen already.

use std::sync::Arc;

use serverledge_api::InvokeReply;
use serverledge_core::policy::{Reason, Trail, Wanted};

use super::offload::{Along, Sent};
use super::targets::Targets;
use super::{Federation, Member};
use crate::catalog::Function;
use crate::invoke::{Invocation, InvokeError};
use crate::node::Node;

impl Federation {
    /// The cloud's member that would be chosen now, and how far it is, s, if that is known.
    pub(crate) fn cloud_target(&self, node: &Node) -> Option<(Arc<Member>, Option<f64>)> {
        let targets = Targets::cloud(self, node);
        let wanted = Wanted {
            architectures: &[],
            memory_mb: 0,
            cpu: 0.0,
            now: self.peers.now(),
            seed: self.seed(),
        };
        let (_, member) = targets.choose(&wanted, &mut Trail::new("workflow"))?;
        let known = self.peers.known(&member.path());
        Some((Arc::clone(member), known.and_then(|known| known.distance)))
    }

    /// Runs a call on `member`. `Ok(Err(_))` if it has provably not begun there.
    pub(crate) async fn send_to(
        &self,
        node: &Node,
        member: &Member,
        function: &Function,
        invocation: &Invocation,
        along: &Along,
    ) -> Result<Result<InvokeReply, Reason>, InvokeError> {
        let sent = self
            .offloader
            .send(node, member, function, invocation, along)
            .await;
        match sent {
            Sent::Ran(reply) => Ok(Ok(reply)),
            Sent::NotBegun(reason) => Ok(Err(reason)),
            Sent::Failed(error) => Err(error),
        }
    }
}
