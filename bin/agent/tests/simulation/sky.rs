//! EC2 above the node: the lab's state machine in virtual time, what strikes single calls, and what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use branchline_agent::translate::{Place, Request, Response, Translator};
use ec2::types as t;
use ec2::wire::ErrorResponse;
use ec2::{AnyRequest, Operation};
use ipam::{EniView, ImdsEni, addresses_of};
use jiff::Timestamp;
use settings::EniTags;
use vpc::facts::{EniId, SgId};
use vpcsim::addrs::Placement;
use vpcsim::knobs::Fault;
use vpcsim::{Action, ApiError, Caller, Clockless, Config, Quotas, Timing};

use crate::rng::Rng;

/// What strikes one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strike {
    Throttled,
    Denied,
    Rejected,
    AccountLimit,
    /// An internal error, nothing done.
    ErrorBefore,
    /// An internal error, done.
    ErrorAfter,
    /// No answer, nothing done.
    SilentBefore,
    /// No answer, done.
    SilentAfter,
    /// Done with an internal error, and the client repeats it.
    Repeated,
    /// Fewer addresses than asked for.
    Partial,
}

pub(crate) const STRIKES: [Strike; 10] = [
    Strike::Throttled,
    Strike::Denied,
    Strike::Rejected,
    Strike::AccountLimit,
    Strike::ErrorBefore,
    Strike::ErrorAfter,
    Strike::SilentBefore,
    Strike::SilentAfter,
    Strike::Repeated,
    Strike::Partial,
];

impl Strike {
    /// Whether EC2 has such a thing for an action.
    pub(crate) fn fits(self, action: &str) -> bool {
        let elsewhere = matches!(action, "interface set-up" | "instance metadata");
        match self {
            Self::AccountLimit => action == "CreateNetworkInterface",
            Self::Partial => action == "AssignPrivateIpAddresses",
            // The client repeats nothing that could be done twice; only EC2 is called by it.
            Self::Repeated => action != "AssignPrivateIpAddresses" && !elsewhere,
            // Kernel and metadata know no accounts.
            Self::Throttled | Self::Denied => !elsewhere,
            _ => true,
        }
    }

    fn fault(self, action: &str) -> Option<Fault> {
        let (code, after, hang_ms) = match self {
            Self::Throttled => ("RequestLimitExceeded", false, 0),
            Self::Denied => ("UnauthorizedOperation", false, 0),
            Self::Rejected => ("OperationNotPermitted", false, 0),
            Self::AccountLimit => ("NetworkInterfaceLimitExceeded", false, 0),
            Self::ErrorBefore => ("InternalError", false, 0),
            Self::ErrorAfter | Self::Repeated => ("InternalError", true, 0),
            Self::SilentBefore => ("InternalError", false, 60_000),
            Self::SilentAfter => ("InternalError", true, 60_000),
            Self::Partial => return None,
        };
        Some(Fault {
            action: action.to_owned(),
            code: code.to_owned(),
            message: String::new(),
            count: Some(1),
            probability: 1.0,
            from: None,
            until: None,
            hang_ms,
            after,
        })
    }
}

/// One interface, as it truly is.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) view: EniView,
    /// Its link is on the node.
    pub(crate) linked: bool,
}

impl Fact {
    pub(crate) fn device(&self) -> Option<u32> {
        self.view.attachment.as_ref().map(|a| a.device)
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let prefixes = self.view.prefixes.iter().flat_map(|p| addresses_of(*p));
        self.view.secondary.iter().copied().chain(prefixes)
    }
}

pub(crate) type Truth = BTreeMap<EniId, Fact>;

/// What an account has at the start.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) instance_type: &'static str,
    /// Blocks of the zone's subnets; the instance is in the first one.
    pub(crate) subnets: Vec<&'static str>,
    pub(crate) placement: Placement,
    pub(crate) timing: Timing,
    pub(crate) interfaces: usize,
    /// Secondary addresses that the instance starts with.
    pub(crate) secondary: u32,
}

pub(crate) struct Sky {
    pub(crate) ec2: Clockless,
    pub(crate) translator: Translator,
    pub(crate) caller: Caller,
    pub(crate) subnets: Vec<String>,
    pub(crate) groups: Vec<Vec<SgId>>,
    /// Interfaces of other people.
    pub(crate) foreign: BTreeSet<EniId>,
    /// What other people took from us: addresses that may no longer be on an interface.
    pub(crate) taken: BTreeSet<Ipv4Addr>,
    truth: (u64, Truth),
}

pub(crate) fn time(ms: u64) -> Timestamp {
    Timestamp::from_millisecond(ms as i64).unwrap()
}

impl Sky {
    pub(crate) fn new(plan: &Plan, now: u64) -> Self {
        let at = time(now);
        let mut ec2 = Clockless::new(Config {
            seed: plan.seed,
            placement: plan.placement,
            timing: plan.timing,
            quotas: Quotas {
                interfaces: plan.interfaces,
                ..Quotas::default()
            },
            ..Config::default()
        });
        let vpc = t::CreateVpcRequest {
            cidr_block: Some("10.0.0.0/16".into()),
            ..Default::default()
        };
        let vpc = ec2.call(&vpc, at).unwrap().vpc.unwrap().vpc_id.unwrap();
        let mut subnets = Vec::new();
        for (i, block) in plan.subnets.iter().enumerate() {
            let tag = |key: &str| t::Tag {
                key: Some(key.into()),
                value: Some("1".into()),
            };
            let request = t::CreateSubnetRequest {
                vpc_id: Some(vpc.clone()),
                cidr_block: Some((*block).into()),
                availability_zone: Some("us-west-2a".into()),
                tag_specifications: match i {
                    0 => Vec::new(),
                    _ => vec![t::TagSpecification {
                        resource_type: Some("subnet".into()),
                        tags: vec![tag("kubernetes.io/role/cni")],
                    }],
                },
                ..Default::default()
            };
            let subnet = ec2.call(&request, at).unwrap().subnet.unwrap();
            subnets.push(subnet.subnet_id.unwrap());
        }
        let mut ids: Vec<SgId> = Vec::new();
        for name in ["a", "b", "c"] {
            let request = t::CreateSecurityGroupRequest {
                group_name: Some(name.into()),
                description: Some(name.into()),
                vpc_id: Some(vpc.clone()),
                ..Default::default()
            };
            let id = ec2.call(&request, at).unwrap().group_id.unwrap();
            ids.push(id.parse().unwrap());
        }
        let mut two = vec![ids[0].clone(), ids[1].clone()];
        two.sort();
        let groups = vec![vec![ids[0].clone()], two, vec![ids[2].clone()]];
        let run = t::RunInstancesRequest {
            image_id: Some("ami-0123456789abcdef0".into()),
            instance_type: Some(plan.instance_type.into()),
            min_count: Some(1),
            max_count: Some(1),
            subnet_id: Some(subnets[0].clone()),
            security_group_ids: vec![ids[0].to_string()],
            ..Default::default()
        };
        let instance = ec2.call(&run, at).unwrap().instances.remove(0);
        let id = instance.instance_id.unwrap();
        let translator = Translator {
            instance: id.parse().unwrap(),
            tags: EniTags::default(),
            place: Place {
                vpc: vpc.parse().unwrap(),
                zone: "us-west-2a".into(),
                subnet: subnets[0].parse().unwrap(),
            },
        };
        let caller = Caller {
            account: "111122223333".into(),
            arn: format!("arn:aws:sts::111122223333:assumed-role/node/{id}"),
            access_key: "ASIAEXAMPLE".into(),
        };
        let mut sky = Self {
            ec2,
            translator,
            caller,
            subnets,
            groups,
            foreign: BTreeSet::new(),
            taken: BTreeSet::new(),
            truth: (0, Truth::new()),
        };
        if plan.secondary > 0 {
            let eni = sky.primary(now).view.id;
            let more = t::AssignPrivateIpAddressesRequest {
                network_interface_id: Some(eni.to_string()),
                secondary_private_ip_address_count: Some(plan.secondary as i32),
                ..Default::default()
            };
            sky.ec2.call(&more, at).unwrap();
        }
        sky
    }

    // ------------------------------------------------ the node's calls

    /// Sends one request, as the agent's client does.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        strike: Option<Strike>,
        now: u64,
    ) -> Result<Response, ec2::Error> {
        let action = request.action();
        let fault = strike.and_then(|strike| strike.fault(action));
        if let Some(fault) = fault {
            self.ec2.turn(|knobs| knobs.faults = vec![fault]);
        }
        let admitted = self.ec2.admit(&self.caller, action, time(now));
        if strike.is_some() {
            self.ec2.turn(|knobs| knobs.faults.clear());
        }
        let admitted = admitted.map_err(|error| answered(action, &error))?;
        let Some(fault) = admitted.fault else {
            return self.perform(request, strike, now);
        };
        if fault.after {
            let done = self.perform(request, None, now);
            if strike == Some(Strike::Repeated) {
                return match done {
                    // The client tries once more what had an internal error.
                    Ok(_) => self.perform(request, None, now),
                    Err(error) => Err(error),
                };
            }
        }
        if fault.hang_ms > 0 {
            return Err(ec2::Error::Timeout {
                action,
                endpoint: "EC2".to_owned(),
                waited: std::time::Duration::from_secs(10),
                attempts: 1,
                sent: true,
            });
        }
        Err(answered(action, &fault.error()))
    }

    fn perform(
        &mut self,
        request: &Request,
        strike: Option<Strike>,
        now: u64,
    ) -> Result<Response, ec2::Error> {
        use AnyRequest as A;
        Ok(match request.clone() {
            Request::Create(r) => Response::Created(Box::new(
                self.call::<t::CreateNetworkInterfaceRequest>(&A::CreateNetworkInterface(r), now)?,
            )),
            Request::Attach(r) => Response::Attached(Box::new(
                self.call::<t::AttachNetworkInterfaceRequest>(&A::AttachNetworkInterface(r), now)?,
            )),
            Request::Assign(mut r) => {
                if strike == Some(Strike::Partial) {
                    let fewer = |n: &mut Option<i32>| *n = n.map(|n| (n / 2).max(1));
                    fewer(&mut r.secondary_private_ip_address_count);
                    fewer(&mut r.ipv4_prefix_count);
                }
                let eni = r.network_interface_id.clone().unwrap_or_default();
                let request = A::AssignPrivateIpAddresses(r);
                let answer = self.call::<t::AssignPrivateIpAddressesRequest>(&request, now)?;
                let new = answer.assigned_private_ip_addresses.iter();
                let new = new.filter_map(|a| a.private_ip_address.as_ref()?.parse().ok());
                let prefixes = answer.assigned_ipv4_prefixes.iter();
                let prefixes = prefixes.filter_map(|p| p.ipv4_prefix.as_ref()?.parse().ok());
                let new: Vec<Ipv4Addr> = new.chain(prefixes.flat_map(addresses_of)).collect();
                // EC2 gives addresses to an interface, too, that somebody just took away from here.
                let here = |f: &Fact| f.view.id.as_str() == eni && f.view.attachment.is_some();
                if self.truth(now).values().any(here) {
                    self.taken.retain(|a| !new.contains(a));
                } else {
                    self.taken.extend(new);
                }
                Response::Assigned(Box::new(answer))
            }
            Request::Describe(r) => {
                Response::Described(Box::new(self.call::<t::DescribeNetworkInterfacesRequest>(
                    &A::DescribeNetworkInterfaces(r),
                    now,
                )?))
            }
            Request::Subnets(r) => Response::Subnets(Box::new(
                self.call::<t::DescribeSubnetsRequest>(&A::DescribeSubnets(r), now)?,
            )),
            Request::Modify(r) => {
                let request = A::ModifyNetworkInterfaceAttribute(r);
                self.call::<t::ModifyNetworkInterfaceAttributeRequest>(&request, now)?;
                Response::Done
            }
            Request::Unassign(r) => {
                let request = A::UnassignPrivateIpAddresses(r);
                self.call::<t::UnassignPrivateIpAddressesRequest>(&request, now)?;
                Response::Done
            }
            Request::Detach(r) => {
                let request = A::DetachNetworkInterface(r);
                self.call::<t::DetachNetworkInterfaceRequest>(&request, now)?;
                Response::Done
            }
            Request::Delete(r) => {
                let request = A::DeleteNetworkInterface(r);
                self.call::<t::DeleteNetworkInterfaceRequest>(&request, now)?;
                Response::Done
            }
        })
    }

    fn call<O: Operation>(
        &mut self,
        request: &AnyRequest,
        now: u64,
    ) -> Result<O::Output, ec2::Error> {
        let answer = self.ec2.perform::<O>(&self.caller, request, time(now));
        answer.map_err(|error| answered(O::NAME, &error))
    }

    /// Instance metadata, read as the agent reads it.
    pub(crate) fn metadata(&mut self, now: u64) -> BTreeMap<EniId, ImdsEni> {
        let instance = self.translator.instance.to_string();
        let mut get = |path: &str| {
            let at = format!("meta-data/network/interfaces/macs/{path}");
            self.ec2.metadata(&instance, &at, time(now))
        };
        let mut seen = BTreeMap::new();
        for mac in get("").unwrap_or_default().lines() {
            let mac = mac.trim_end_matches('/');
            let Some(id) = get(&format!("{mac}/interface-id")) else {
                continue;
            };
            let groups = get(&format!("{mac}/security-group-ids")).unwrap_or_default();
            let mut groups: Vec<SgId> = groups.lines().map(|g| g.parse().unwrap()).collect();
            groups.sort();
            seen.insert(id.parse().unwrap(), ImdsEni { groups });
        }
        seen
    }

    /// The primary interface's groups in it.
    pub(crate) fn primary_groups(&mut self, now: u64) -> Option<Vec<SgId>> {
        let primary = self.primary(now).view.id;
        self.metadata(now).remove(&primary).map(|seen| seen.groups)
    }

    // ------------------------------------------------ what is true

    /// The interfaces that are attached to the instance or carry its tag.
    pub(crate) fn truth(&mut self, now: u64) -> &Truth {
        self.ec2.settle(time(now));
        let version = self.ec2.version();
        if self.truth.0 != version {
            let all = t::DescribeNetworkInterfacesRequest::default();
            let all = self.ec2.call(&all, time(now)).unwrap();
            let mut truth = Truth::new();
            for eni in &all.network_interfaces {
                let view = self.translator.view(eni).unwrap();
                let here = eni.attachment.as_ref().is_some_and(|a| {
                    a.instance_id.as_deref() == Some(self.translator.instance.as_str())
                });
                let status = eni.attachment.as_ref().and_then(|a| a.status.as_deref());
                if here || view.ours {
                    let linked = here && status == Some("attached");
                    truth.insert(view.id.clone(), Fact { view, linked });
                }
            }
            self.truth = (version, truth);
        }
        &self.truth.1
    }

    pub(crate) fn primary(&mut self, now: u64) -> Fact {
        let primary = |fact: &&Fact| fact.device() == Some(0);
        self.truth(now).values().find(primary).cloned().unwrap()
    }

    /// Whether EC2 would do a request now: asked with DryRun.
    pub(crate) fn would(&mut self, request: &Request, now: u64) -> bool {
        let mut request = request.clone();
        match &mut request {
            Request::Create(r) => {
                r.dry_run = Some(true);
                r.client_token = None;
            }
            Request::Assign(r) => {
                // It has no DryRun: named addresses aside, it is what a create would be given.
                let like = t::CreateNetworkInterfaceRequest {
                    subnet_id: self
                        .truth(now)
                        .values()
                        .find(|f| Some(f.view.id.as_str()) == r.network_interface_id.as_deref())
                        .map(|f| f.view.subnet.to_string()),
                    secondary_private_ip_address_count: r
                        .secondary_private_ip_address_count
                        .map(|n| n - 1),
                    ipv4_prefix_count: r.ipv4_prefix_count,
                    dry_run: Some(true),
                    ..Default::default()
                };
                request = Request::Create(Box::new(like));
            }
            _ => return true,
        }
        match self.perform(&request, None, now) {
            Err(error) => error.code() == Some("DryRunOperation"),
            Ok(_) => true,
        }
    }

    /// A call of somebody who owns the account; what EC2 refuses them does not happen.
    pub(crate) fn owner<R: Action>(&mut self, request: &R, now: u64) -> Option<R::Output> {
        self.ec2.call(request, time(now)).ok()
    }

    /// Some strike that fits an action.
    pub(crate) fn strike(rng: &mut Rng, action: &str, favourite: Option<Strike>) -> Strike {
        let favourite = favourite.filter(|strike| strike.fits(action));
        if let Some(strike) = favourite.filter(|_| rng.chance(65)) {
            return strike;
        }
        loop {
            let strike = *rng.pick(&STRIKES);
            if strike.fits(action) {
                return strike;
            }
        }
    }
}

fn answered(action: &'static str, error: &ApiError) -> ec2::Error {
    let answer = ErrorResponse {
        code: error.code.to_string(),
        message: error.message.clone(),
        request_id: "0".to_owned(),
    };
    ec2::Error::of_answer(action, "EC2", error.status(), answer, 3)
}
