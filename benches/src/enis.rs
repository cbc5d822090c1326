//! What one more network interface costs when there are many already: created, attached, and packets
//! following, as the lab's daemon does it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ec2::types::{
    CreateNetworkInterfaceRequest, CreateSecurityGroupRequest, CreateSubnetRequest,
    CreateVpcRequest,
};
use kernel::NetNs;
use vpc::facts::EniId;
use vpcsim::fabric::{Desired, Fabric, HostId, Plug};
use vpcsim::{Config, Sim};

use crate::figure::{Goal, Samples, row, section};

/// Where the cost is taken, and over how many interfaces.
const AT: [usize; 4] = [10, 100, 250, 500];
const OVER: usize = 10;

pub(crate) fn run() -> anyhow::Result<()> {
    section("one more network interface, with so many there already");
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let mut bed = runtime.block_on(Bed::new())?;
    let mut first: Option<Costs> = None;
    for at in AT {
        while bed.plugged < at {
            runtime.block_on(bed.one_more())?;
        }
        let mut costs = Costs::default();
        for _ in 0..OVER {
            let (api, world, packets) = runtime.block_on(bed.one_more())?;
            costs.api.0.push(api);
            costs.world.0.push(world);
            costs.packets.0.push(packets);
        }
        let all = costs.api.plus(&costs.world).plus(&costs.packets);
        row(
            &format!("{at} interfaces"),
            &all,
            match &first {
                None => Goal::None,
                Some(ten) => Goal::Times(&ten.all, 1.5),
            },
        );
        for (what, samples) in [
            ("EC2 API: create, attach", &costs.api),
            ("the network as facts", &costs.world),
            ("namespaces, links, nft", &costs.packets),
        ] {
            row(&format!("  {what}"), samples, Goal::None);
        }
        costs.all = all;
        first.get_or_insert(costs);
    }
    let (fabric, hosts) = bed.clear()?;
    row("the fabric taken down", &Samples(vec![fabric]), Goal::None);
    row(
        "its hosts' namespaces unpinned",
        &Samples(vec![hosts]),
        Goal::None,
    );
    Ok(())
}

#[derive(Default)]
struct Costs {
    api: Samples,
    world: Samples,
    packets: Samples,
    all: Samples,
}

/// An EC2 and a fabric in a directory of their own.
struct Bed {
    sim: Sim,
    fabric: Fabric,
    dir: tempfile::TempDir,
    subnet: String,
    group: String,
    hosts: BTreeMap<HostId, PathBuf>,
    plugged: usize,
}

impl Bed {
    async fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("hosts"))?;
        let sim = Sim::new(Config::default());
        let vpc = CreateVpcRequest {
            cidr_block: Some("10.0.0.0/16".to_owned()),
            ..Default::default()
        };
        let vpc = sim.call(&vpc).await?.vpc.and_then(|v| v.vpc_id);
        let subnet = CreateSubnetRequest {
            vpc_id: vpc.clone(),
            cidr_block: Some("10.0.0.0/20".to_owned()),
            ..Default::default()
        };
        let subnet = sim.call(&subnet).await?.subnet.and_then(|s| s.subnet_id);
        let group = CreateSecurityGroupRequest {
            vpc_id: vpc,
            group_name: Some("bench".to_owned()),
            description: Some("bench".to_owned()),
            ..Default::default()
        };
        let group = sim.call(&group).await?.group_id;
        Ok(Self {
            fabric: Fabric::new(dir.path())?,
            sim,
            dir,
            subnet: subnet.context("a subnet")?,
            group: group.context("a group")?,
            hosts: BTreeMap::new(),
            plugged: 0,
        })
    }

    /// One more host with one more interface. The host's namespace is there beforehand.
    async fn one_more(&mut self) -> anyhow::Result<(Duration, Duration, Duration)> {
        let host = format!("host-{}", self.plugged);
        let path = self.dir.path().join("hosts").join(&host);
        NetNs::create_pinned(&path)?;
        self.hosts.insert(HostId(host.clone()), path);
        let create = CreateNetworkInterfaceRequest {
            subnet_id: Some(self.subnet.clone()),
            groups: vec![self.group.clone()],
            ..Default::default()
        };
        let begun = Instant::now();
        let made = self.sim.call(&create).await?.network_interface;
        let id = made
            .and_then(|e| e.network_interface_id)
            .context("an interface")?;
        self.sim
            .attach_managed(&id.parse::<EniId>()?, &host, "bench")
            .await?;
        let called = Instant::now();
        let known = self.sim.desired()?;
        let plugs = known.attachments.iter().filter_map(|(eni, at)| {
            let plug = Plug {
                host: HostId(at.host.clone()),
                link: format!("eth{}", at.device).parse().ok()?,
                mac: known.world.enis.get(eni)?.mac,
                mtu: 9001,
                configure: true,
            };
            Some((eni.clone(), plug))
        });
        let desired = Desired {
            plugs: plugs.collect(),
            world: known.world.clone(),
            hosts: self.hosts.clone(),
            ..Default::default()
        };
        let known = Instant::now();
        let report = self.fabric.apply(&desired)?;
        let applied = Instant::now();
        self.plugged += 1;
        anyhow::ensure!(
            report.plugged.len() == self.plugged,
            "{} of {} interfaces carry packets: {:?}",
            report.plugged.len(),
            self.plugged,
            report.not_plugged
        );
        Ok((called - begun, known - called, applied - known))
    }

    /// Takes all down; returns how long the fabric and the hosts took.
    fn clear(mut self) -> anyhow::Result<(Duration, Duration)> {
        let begun = Instant::now();
        Fabric::teardown(self.dir.path())?;
        let fabric = begun.elapsed();
        let hosts = std::mem::take(&mut self.hosts);
        hosts.values().try_for_each(NetNs::unpin)?;
        Ok((fabric, begun.elapsed() - fabric))
    }
}

impl Drop for Bed {
    /// After an error: nothing may stay behind.
    fn drop(&mut self) {
        if let Err(error) = Fabric::teardown(self.dir.path()) {
            eprintln!("error: take the fabric down: {error}");
        }
        for path in self.hosts.values() {
            if let Err(error) = NetNs::unpin(path) {
                eprintln!("error: {error}");
            }
        }
    }
}
