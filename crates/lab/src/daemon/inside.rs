//! What answers inside a VPC: instance metadata and the EC2 API, as listeners in its router.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use kernel::NetNs;
use tokio::task::JoinHandle;
use vpc::facts::VpcId;
use vpcsim::Sim;

use crate::error::{Error, IoContext as _};

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The interface endpoint of the EC2 API.
const EC2: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 249);

/// The services of one VPC; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Inside(Vec<JoinHandle<()>>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Opens the listeners in a router's namespace and serves on them.
pub(super) fn listen(sim: &Sim, vpc: &VpcId, router: &Path) -> Result<Inside, Error> {
    let netns = NetNs::open(router)?;
    let open = |address: Ipv4Addr| {
        let listener = netns.run(|| TcpListener::bind((address, 80)))?;
        listener.doing("open a port inside a VPC")
    };
    let (metadata, api) = (open(METADATA)?, open(EC2)?);
    let (imds, ec2, of) = (sim.clone(), sim.clone(), vpc.clone());
    let metadata = tokio::spawn(async move {
        if let Err(error) = imds.serve_imds(metadata, of).await {
            tracing::error!(%error, "instance metadata ended");
        }
    });
    let api = tokio::spawn(async move {
        // Without the knobs: instances get what EC2 has, nothing of the lab's.
        if let Err(error) = ec2.serve_api(api, false).await {
            tracing::error!(%error, "the EC2 endpoint ended");
        }
    });
    Ok(Inside(vec![metadata, api]))
}
