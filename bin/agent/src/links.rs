//! The kernel's side of interfaces: links found by MAC, and upstream's layout laid on them.
//!
//! Only what belongs to the interface in question is added or corrected; rules and routes of pods
//! are the plugin's, and everything else on the node is somebody else's.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::{Call, Failure, FailureKind};
use ipnet::Ipv4Net;
use kernel::Socket;
use nodenet::{EniFacts, LinkName, NodeFacts, NodeSettings, Owned, Step};
use vpc::facts::Mac;

/// How long a new interface may take to appear as a link.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// The node's network, as the agent changes it.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    pub(crate) settings: NodeSettings,
    /// The primary interface, found at the start.
    pub(crate) primary: EniFacts,
}

impl Links {
    /// Finds the primary interface's link.
    pub(crate) fn find(
        settings: NodeSettings,
        id: String,
        mac: Mac,
        address: std::net::Ipv4Addr,
        subnet: Ipv4Net,
    ) -> anyhow::Result<Self> {
        let mac = nodenet::Mac(mac.0);
        let link = Socket::open()?.link_by_mac(mac)?.ok_or_else(|| {
            anyhow::anyhow!(
                "no link has the primary interface's MAC {mac}: does the agent run in the \
                 node's own network namespace (hostNetwork)?"
            )
        })?;
        let link = link.link.name;
        let primary = EniFacts {
            id,
            card: 0,
            device: 0,
            mac,
            link,
            address,
            subnet,
            trunk: false,
        };
        Ok(Self { settings, primary })
    }

    /// The node's own part: MTU of the primary interface, rules 1024 and 1535.
    pub(crate) fn set_up_node(&self) -> anyhow::Result<()> {
        self.lay(None)?;
        Ok(())
    }

    /// One secondary interface, as soon as its link is there; returns what is laid. `None` for other
    /// calls.
    pub(crate) async fn set_up(
        &self,
        call: &Call,
        subnet: Ipv4Net,
    ) -> Result<Option<EniFacts>, Failure> {
        let Call::SetUp {
            eni,
            mac,
            device,
            primary,
            ..
        } = call
        else {
            return Ok(None);
        };
        let mac = nodenet::Mac(mac.0);
        let link = self.appears(mac).await?;
        let facts = EniFacts {
            id: eni.to_string(),
            card: 0,
            device: *device,
            mac,
            link,
            address: *primary,
            subnet,
            trunk: false,
        };
        self.lay(Some(facts.clone())).map_err(|error| Failure {
            action: "interface set-up",
            kind: FailureKind::Rejected,
            message: format!("{error:#}"),
        })?;
        Ok(Some(facts))
    }

    async fn appears(&self, mac: nodenet::Mac) -> Result<LinkName, Failure> {
        let fail = |kind, message| Failure {
            action: "interface set-up",
            kind,
            message,
        };
        let mut waited = Duration::ZERO;
        let mut pause = Duration::from_millis(2);
        loop {
            let found = Socket::open().and_then(|mut socket| socket.link_by_mac(mac));
            match found {
                Ok(Some(state)) => return Ok(state.link.name),
                Ok(None) if waited < APPEARS_WITHIN => {}
                Ok(None) => {
                    let text = format!(
                        "no link with MAC {mac} appeared within {}s: is it still attached?",
                        APPEARS_WITHIN.as_secs()
                    );
                    return Err(fail(FailureKind::NotFound, text));
                }
                Err(error) => return Err(fail(FailureKind::Rejected, error.to_string())),
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn lay(&self, eni: Option<EniFacts>) -> anyhow::Result<()> {
        let link = eni
            .as_ref()
            .map_or_else(|| self.primary.link.clone(), |eni| eni.link.clone());
        let enis = std::iter::once(self.primary.clone()).chain(eni).collect();
        let facts = NodeFacts {
            enis,
            pods: Vec::new(),
            settings: self.settings.clone(),
        };
        let want = nodenet::compile(&facts)?;
        let mut socket = Socket::open()?;
        let have = kernel::node::read_with(&mut socket)?;
        let mut diff = nodenet::diff(&want, &have, &Owned::by(&facts));
        diff.steps.retain(|step| is_about(step, &link));
        kernel::node::apply_with(&mut socket, &diff)?;
        Ok(())
    }
}

/// What may be changed for one interface: its own link, addresses and routes, and rules that are
/// missing. Rules that are too many may be other interfaces' and pods'.
fn is_about(step: &Step, link: &LinkName) -> bool {
    match step {
        Step::SetMtu { link: of, .. } | Step::SetUp { link: of, .. } => of == link,
        Step::AddAddr(addr) | Step::DelAddr(addr) => addr.link == *link,
        Step::PutNeighbour(neighbour) | Step::DelNeighbour(neighbour) => neighbour.link == *link,
        Step::PutRoute { route, .. } | Step::DelRoute(route) => route.link() == Some(link),
        Step::AddRule(_) => true,
        Step::DelRule(_) => false,
    }
}

/// Takes away the rules that an earlier pod left for an address. A failure is logged: the plugin
/// replaces them when the address is used again.
pub(crate) fn forget(address: Ipv4Addr) {
    let host = Some(nodenet::host(address));
    let forget = || -> kernel::Result<()> {
        let mut socket = Socket::open()?;
        for rule in socket.rules()? {
            use nodenet::layout::priority::{FROM_POD, TO_POD};
            let to_pod = rule.priority == TO_POD && rule.to == host;
            let from_pod = rule.priority == FROM_POD && rule.from == host;
            if to_pod || from_pod {
                socket.del_rule(&rule)?;
            }
        }
        Ok(())
    };
    if let Err(error) = forget() {
        tracing::warn!(%address, %error, "rules of a pod that is gone are left");
    }
}
