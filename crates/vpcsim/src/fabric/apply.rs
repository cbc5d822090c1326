//! From one state of the network to the next, touching only what differs.
//!
//! Order within one change, so that packets never meet a half-made state that is more open than both ends of it:
//! links and routes that go, then the flows of addresses that changed hands, then the rules in one transaction per
//! namespace, then links and routes that come. An unrelated interface is in none of these steps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use kernel::{LinkEnd, NetNs, NsId, Socket};
use nodenet::{Addr, LinkName, Route, TableId};
use vpc::facts::{NatId, VpcId};

use super::plan::{Cable, End, Place, Plan, plan};
use super::space::Space;
use super::{Desired, FabricError, HostId, Report, compile};

/// The packet plane of one lab. Everything it makes is pinned or owned below its directory, and stays when the
/// value is dropped: traffic goes on without this process.
pub struct Fabric {
    pins: PathBuf,
    spaces: BTreeMap<Place, Space>,
    /// Cables as laid, with the namespace of the far end.
    cables: BTreeMap<(Place, LinkName), (Cable, NsId)>,
    /// Public addresses as applied.
    public: BTreeMap<(Place, Ipv4Addr), Ipv4Addr>,
    /// False until the first change succeeded, and after one that failed: the kernel has to be read.
    known: bool,
}

impl Fabric {
    /// A fabric whose namespaces are pinned in `<dir>/netns`. Changes nothing yet; what an earlier process left
    /// there is adopted by the first [`Fabric::apply`].
    pub fn new(dir: &Path) -> Result<Self, FabricError> {
        let pins = dir.join("netns");
        std::fs::create_dir_all(&pins).map_err(|source| FabricError::Directory {
            path: pins.clone(),
            source,
        })?;
        Ok(Self {
            pins,
            spaces: BTreeMap::new(),
            cables: BTreeMap::new(),
            public: BTreeMap::new(),
            known: false,
        })
    }

    /// Makes the network what is desired. Idempotent; after an error the next call repairs what the failed one left.
    pub fn apply(&mut self, desired: &Desired) -> Result<Report, FabricError> {
        let known = std::mem::replace(&mut self.known, false);
        if !known {
            self.find()?;
        }
        let report = self.change(desired, known)?;
        self.known = true;
        Ok(report)
    }

    /// Where the namespace of a VPC's router is pinned.
    pub fn router_path(&self, vpc: &VpcId) -> PathBuf {
        self.pins.join(vpc.as_str())
    }

    /// Removes every namespace and link of the fabric below `dir`, whoever made them. What is not there is fine.
    pub fn teardown(dir: &Path) -> Result<(), FabricError> {
        let mut fabric = Self::new(dir)?;
        fabric.find()?;
        fabric.remove_spaces(&Plan::default())
    }

    /// Finds the namespaces that are pinned, so that what is not wanted any more can be removed.
    fn find(&mut self) -> Result<(), FabricError> {
        let failed = |source| FabricError::Directory {
            path: self.pins.clone(),
            source,
        };
        self.spaces.clear();
        self.cables.clear();
        self.public.clear();
        for entry in std::fs::read_dir(&self.pins).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(place) = entry.file_name().to_str().and_then(pinned_place) else {
                continue;
            };
            match Space::adopt(&entry.path()) {
                Ok(space) => drop(self.spaces.insert(place, space)),
                // The file of an attempt that was interrupted between creating and mounting.
                Err(FabricError::Kernel(kernel::Error::NotANamespace { .. })) => {
                    NetNs::unpin(entry.path())?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn change(&mut self, desired: &Desired, known: bool) -> Result<Report, FabricError> {
        let (hosts, gone) = open_hosts(desired);
        let mut plan = plan(desired, &gone);
        if let Some((link, first, second)) = plan.collisions.pop() {
            return Err(FabricError::PortName {
                link,
                first,
                second,
            });
        }
        let rules = compile::rulesets(&desired.world, &mut plan);
        let mut report = Report::default();
        self.remove_spaces(&plan)?;
        self.make_spaces(&plan)?;
        if !known {
            self.adopt_cables(&plan, &hosts)?;
        }
        let mut released = self.remove_cables(&plan, &hosts, &mut report)?;
        for (place, want) in &plan.spaces {
            if let Some(space) = self.spaces.get_mut(place) {
                let (count, networks) = space.remove(want)?;
                report.routes_changed += count;
                released.extend(networks.into_iter().map(|network| (place.clone(), network)));
            }
        }
        report.flows_ended = self.end_flows(&plan, &released)?;
        for (place, ruleset) in rules {
            if let Some(space) = self.spaces.get_mut(&place)
                && space.set_rules(ruleset)?
            {
                report.nft_transactions += 1;
            }
        }
        self.lay_cables(&plan, &hosts, &mut report)?;
        for (place, want) in &plan.spaces {
            if let Some(space) = self.spaces.get_mut(place) {
                report.routes_changed += space.add(want)?;
            }
        }
        self.public = plan.public;
        report.plugged = plan.plugged.into_keys().collect();
        report.not_plugged = plan.not_plugged;
        report.dropped = plan.dropped;
        Ok(report)
    }

    fn make_spaces(&mut self, plan: &Plan) -> Result<(), FabricError> {
        for place in plan.spaces.keys() {
            if let (Some(pin), false) = (place.pin(), self.spaces.contains_key(place)) {
                let space = Space::create(place, &self.pins.join(pin))?;
                self.spaces.insert(place.clone(), space);
            }
        }
        Ok(())
    }

    /// Removes namespaces that nothing wants, their links first: a namespace ends some time after its last holder,
    /// and a host must not see a dead link until then.
    fn remove_spaces(&mut self, plan: &Plan) -> Result<(), FabricError> {
        let gone: Vec<Place> = self
            .spaces
            .keys()
            .filter(|place| !plan.spaces.contains_key(place))
            .cloned()
            .collect();
        for place in gone {
            let Some(mut space) = self.spaces.remove(&place) else {
                continue;
            };
            for link in space.socket.links()? {
                if link.link.kind == nodenet::LinkKind::Veth {
                    absent_is_fine(space.socket.del_link(&link.link.name))?;
                    self.forget_cable(&place, &link.link.name);
                }
            }
            if let Some(pin) = place.pin() {
                NetNs::unpin(self.pins.join(pin))?;
            }
        }
        Ok(())
    }

    /// Drops what is remembered about a cable that has one end here; the kernel has removed the rest.
    fn forget_cable(&mut self, place: &Place, link: &LinkName) {
        let key = self.cables.iter().find_map(|(key, (cable, _))| {
            let here = |end: &End| end.place == *place && end.link == *link;
            (here(&cable.near) || here(&cable.far)).then(|| key.clone())
        });
        if let Some((cable, _)) = key.and_then(|key| self.cables.remove(&key)) {
            for end in [&cable.near, &cable.far] {
                if let Some(space) = self.spaces.get_mut(&end.place) {
                    space.link_gone(&end.link);
                }
            }
        }
    }

    /// Deletes cables that are not wanted, or lead into a namespace that is another one now.
    fn remove_cables(
        &mut self,
        plan: &Plan,
        hosts: &BTreeMap<HostId, NetNs>,
        report: &mut Report,
    ) -> Result<Vec<(Place, Ipv4Net)>, FabricError> {
        let stays = |(key, (cable, far)): &(&(Place, LinkName), &(Cable, NsId))| {
            let same_host = match &cable.far.place {
                Place::Host(host) => hosts.get(host).is_some_and(|ns| ns.id() == *far),
                other => self
                    .spaces
                    .get(other)
                    .is_some_and(|space| space.ns.id() == *far),
            };
            plan.cables.get(key) == Some(cable) && same_host
        };
        let gone: Vec<_> = self
            .cables
            .iter()
            .filter(|c| !stays(c))
            .map(|(key, _)| key.clone())
            .collect();
        let mut released = Vec::new();
        for (place, link) in gone {
            if let Some(space) = self.spaces.get_mut(&place) {
                absent_is_fine(space.socket.del_link(&link))?;
                let networks = space.networks_through(&link);
                released.extend(networks.into_iter().map(|network| (place.clone(), network)));
            }
            self.forget_cable(&place, &link);
            report.links_changed += 1;
        }
        Ok(released)
    }

    fn lay_cables(
        &mut self,
        plan: &Plan,
        hosts: &BTreeMap<HostId, NetNs>,
        report: &mut Report,
    ) -> Result<(), FabricError> {
        let mut ports: BTreeMap<&Place, Vec<String>> = BTreeMap::new();
        for (key, cable) in &plan.cables {
            if self.cables.contains_key(key) {
                continue;
            }
            let Some((far, far_id)) = self.namespace(&cable.far.place, hosts)? else {
                continue;
            };
            let near = link_end(&cable.near, cable.mtu).up();
            let peer = link_end(&cable.far, cable.mtu).in_ns(&far);
            if let Some(space) = self.spaces.get_mut(&cable.near.place) {
                space.socket.add_veth(&near, &peer)?;
            }
            configure(&cable.far, &far)?;
            let delay = format!("ipv4/neigh/{}/proxy_delay", cable.near.link);
            ports.entry(&cable.near.place).or_default().push(delay);
            self.cables.insert(key.clone(), (cable.clone(), far_id));
            report.links_changed += 1;
        }
        for (place, delays) in ports {
            if let Some(space) = self.spaces.get(place) {
                let settings: Vec<_> = delays.iter().map(|delay| (delay.as_str(), "0")).collect();
                kernel::sysctl::write_all(&space.ns, &settings)?;
            }
        }
        Ok(())
    }

    fn namespace(
        &self,
        place: &Place,
        hosts: &BTreeMap<HostId, NetNs>,
    ) -> Result<Option<(NetNs, NsId)>, FabricError> {
        let ns = match place {
            Place::Host(host) => hosts.get(host),
            other => self.spaces.get(other).map(|space| &space.ns),
        };
        ns.map(|ns| Ok((ns.try_clone()?, ns.id()))).transpose()
    }

    /// After a crash: takes over the cables that are exactly as planned, and cuts the others.
    fn adopt_cables(
        &mut self,
        plan: &Plan,
        hosts: &BTreeMap<HostId, NetNs>,
    ) -> Result<(), FabricError> {
        for (key, cable) in &plan.cables {
            let Some((far, far_id)) = self.namespace(&cable.far.place, hosts)? else {
                continue;
            };
            let Some(space) = self.spaces.get_mut(&cable.near.place) else {
                continue;
            };
            let near = space.socket.link(&cable.near.link)?;
            let there = Socket::open_in(&far)?.link(&cable.far.link)?;
            if let (Some(near), Some(there)) = (near, there)
                && (near.peer, there.peer) == (Some(there.index), Some(near.index))
                && there.link.mac == Some(nodenet::Mac(cable.far.mac.0))
                && there.link.mtu == cable.mtu
            {
                self.cables.insert(key.clone(), (cable.clone(), far_id));
            }
        }
        let ends = |(cable, _): &(Cable, NsId)| {
            [&cable.near, &cable.far].map(|end| (end.place.clone(), end.link.clone()))
        };
        let kept: BTreeSet<_> = self.cables.values().flat_map(ends).collect();
        for (place, space) in &mut self.spaces {
            for link in space.socket.links()? {
                let name = link.link.name;
                let cable = link.link.kind == nodenet::LinkKind::Veth;
                if cable && !kept.contains(&(place.clone(), name.clone())) {
                    absent_is_fine(space.socket.del_link(&name))?;
                    space.link_gone(&name);
                }
            }
        }
        Ok(())
    }

    /// Ends flows of addresses that changed hands, where they may be tracked: in the VPC's router, in those of its
    /// peers, and in its NAT gateways. Another VPC may use the same addresses for something else.
    fn end_flows(&self, plan: &Plan, released: &[(Place, Ipv4Net)]) -> Result<usize, FabricError> {
        let mut per_space: BTreeMap<&Place, BTreeSet<Ipv4Net>> = BTreeMap::new();
        for (place, network) in released {
            for near in self.neighbourhood(place) {
                per_space.entry(near).or_default().insert(*network);
            }
        }
        for ((place, public), private) in &self.public {
            if plan.public.get(&(place.clone(), *public)) != Some(private)
                && let Some((place, _)) = self.spaces.get_key_value(place)
            {
                per_space.entry(place).or_default().insert((*public).into());
            }
        }
        let mut count = 0;
        for (place, networks) in per_space {
            if let Some(space) = self.spaces.get(place) {
                count += space.end_flows(&networks)?;
            }
        }
        Ok(count)
    }

    /// A router, and the fabric's own namespaces that a cable connects to it; not the internet, which sees public
    /// addresses only.
    fn neighbourhood<'a>(&'a self, place: &'a Place) -> BTreeSet<&'a Place> {
        let across = self.cables.values().filter_map(|(cable, _)| {
            let (near, far) = (&cable.near.place, &cable.far.place);
            let other = if near == place { far } else { near };
            let here = near == place || far == place;
            (here && matches!(other, Place::Router(_) | Place::Nat(_))).then_some(other)
        });
        across.chain([place]).collect()
    }
}

/// The place that a pin stands for; `None` for pins of others in the same directory.
fn pinned_place(name: &str) -> Option<Place> {
    if name == "internet" {
        return Some(Place::Internet);
    }
    let router = name.parse::<VpcId>().ok().map(Place::Router);
    router.or_else(|| name.parse::<NatId>().ok().map(Place::Nat))
}

/// Opens the namespaces of hosts with interfaces; those that cannot be opened are gone.
fn open_hosts(desired: &Desired) -> (BTreeMap<HostId, NetNs>, BTreeSet<HostId>) {
    let used: BTreeSet<&HostId> = desired.plugs.values().map(|plug| &plug.host).collect();
    let (mut open, mut gone) = (BTreeMap::new(), BTreeSet::new());
    for (host, path) in desired.hosts.iter().filter(|(host, _)| used.contains(host)) {
        match NetNs::open(path) {
            Ok(ns) => drop(open.insert(host.clone(), ns)),
            Err(error) => {
                tracing::warn!(%host, %error, "host without a network namespace");
                gone.insert(host.clone());
            }
        }
    }
    (open, gone)
}

fn link_end(end: &End, mtu: u32) -> LinkEnd<'_> {
    LinkEnd::new(&end.link)
        .mac(nodenet::Mac(end.mac.0))
        .mtu(mtu)
}

/// Sets a far end up (the kernel cannot create it so), and does what DHCP would do in the host: address, subnet
/// route, default route.
fn configure(end: &End, ns: &NetNs) -> Result<(), FabricError> {
    if !end.up {
        return Ok(());
    }
    let mut socket = Socket::open_in(ns)?;
    let mut batch = socket.batch().set_up(&end.link, true);
    if let Some(lease) = &end.lease {
        let default = Route::default_via(TableId::MAIN, lease.router, end.link.clone());
        batch = batch
            .set_up(&LinkName::loopback(), true)
            .add_addr(&Addr::new(end.link.clone(), lease.address))
            .replace_route(&default);
    }
    Ok(batch.commit()?)
}

fn absent_is_fine(result: kernel::Result<()>) -> Result<(), FabricError> {
    match result {
        Err(error) if error.is_absent() => Ok(()),
        other => Ok(other?),
    }
}
