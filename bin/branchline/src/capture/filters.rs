//! What a capture looks for at each point: filters of pcap.

use std::net::Ipv4Addr;

use reach::Inputs;
use reach::facts::Node;
use reach::noun::{Noun, Service};
use reach::resolve::{Destination, destination};
use reach::target::{Target, service_of};
use vpc::facts::Eni;

/// What to look for. Empty: everything of the pod.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// What the pod sends to: a Service's own address, else the targets.
    front: Vec<String>,
    /// What the VPC sees: the targets.
    back: Vec<String>,
    targets: Vec<Target>,
    pub(super) unknown: Vec<String>,
}

impl Filters {
    pub(super) fn to(
        inputs: &Inputs,
        noun: &Noun,
        asked: Option<Service>,
    ) -> Result<Self, reach::Error> {
        let named = matches!(noun, Noun::Service { .. } | Noun::ApiServer);
        let ported = named || asked.is_some();
        let service = match ported {
            true => service_of(inputs, noun, asked)?,
            // An address is the same at every port.
            false => Service::Tcp(443),
        };
        let found = destination(inputs, noun, service)?;
        Ok(Self::of(found, ported))
    }

    fn of(found: Destination, ported: bool) -> Self {
        let term = |address, service| term(address, Some(service).filter(|_| ported));
        let back: Vec<_> = found
            .targets
            .iter()
            .map(|t| term(t.address, t.service))
            .collect();
        let via = found.via.as_ref();
        let front = via.and_then(|v| Some(vec![term(v.cluster_ip?, v.port)]));
        let mut unknown = found.unknown;
        if back.is_empty() {
            unknown.push(format!(
                "{} has no address that packets could go to",
                found.label
            ));
        }
        Self {
            front: front.unwrap_or_else(|| back.clone()),
            back,
            targets: found.targets,
            unknown,
        }
    }

    /// At the veth: the node's rules have rewritten nothing yet.
    pub(super) fn at_pod(&self, pod: Ipv4Addr) -> String {
        both(Some(pod), &self.front)
    }

    /// At the ENI: kube-proxy has chosen the endpoint, and `outside` the VPC the address may be the node's.
    pub(super) fn at_eni(&self, pod: Ipv4Addr, outside: bool) -> String {
        both((!outside).then_some(pod), &self.back)
    }

    /// Whether a target lies outside the interface's VPC.
    pub(super) fn outside(&self, inputs: &Inputs, eni: &Eni) -> bool {
        let vpc = inputs.world.vpcs.get(&eni.vpc);
        let inside =
            |t: &Target| vpc.is_none_or(|v| v.cidrs.iter().any(|c| c.contains(&t.address)));
        !self.targets.iter().all(inside)
    }

    pub(super) fn notes(&self, inputs: &Inputs, node: &Node, eni: &Eni) -> Vec<String> {
        let mut notes = Vec::new();
        if self.outside(inputs, eni) {
            let enis = inputs.world.enis_of(&node.instance);
            let primary = enis
                .first()
                .map_or_else(String::new, |e| format!(" {}", e.id));
            notes.push(format!(
                "outside the VPC: where the node translates (EXTERNALSNAT=false) the packets leave with its address by the primary ENI{primary}"
            ));
        }
        let here = |t: &&Target| {
            let owner = t.eni.as_ref().and_then(|id| inputs.world.enis.get(id));
            owner.and_then(|e| e.instance()) == Some(&node.instance)
        };
        for target in self.targets.iter().filter(here) {
            notes.push(format!(
                "{} is on the same node: no ENI sees packets to it",
                target.label
            ));
        }
        notes
    }
}

fn term(address: Ipv4Addr, service: Option<Service>) -> String {
    match service {
        None => format!("host {address}"),
        Some(Service::Tcp(port)) => format!("host {address} and tcp port {port}"),
        Some(Service::Udp(port)) => format!("host {address} and udp port {port}"),
        Some(Service::Icmp) => format!("host {address} and icmp"),
    }
}

/// A filter of pcap: the pod's packets that are of one of these.
fn both(pod: Option<Ipv4Addr>, terms: &[String]) -> String {
    let pod = pod.map(|p| format!("host {p}"));
    let any = match terms {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("(({}))", many.join(") or ("))),
    };
    let parts: Vec<_> = pod.into_iter().chain(any).collect();
    parts.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(last: u8, port: u16) -> Target {
        Target {
            label: format!("dev/web-{last}"),
            address: Ipv4Addr::new(10, 0, 2, last),
            service: Service::Tcp(port),
            eni: None,
            node: None,
        }
    }

    fn found(targets: Vec<Target>, via: Option<reach::target::Via>) -> Destination {
        Destination {
            label: "dev/svc/web".into(),
            address: Ipv4Addr::new(10, 0, 2, 1),
            eni: None,
            via,
            targets,
            unknown: Vec::new(),
        }
    }

    const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 5);

    #[test]
    fn without_a_destination_all_of_the_pod_is_shown() {
        let all = Filters::default();
        assert_eq!(all.at_pod(POD), "host 10.0.1.5");
        assert_eq!(all.at_eni(POD, false), "host 10.0.1.5");
    }

    #[test]
    fn a_service_has_its_own_address_at_the_pod_and_its_endpoints_at_the_eni() {
        let via = reach::target::Via {
            service: kube_view::facts::ObjectName::new("dev", "web"),
            cluster_ip: Some(Ipv4Addr::new(172, 20, 0, 9)),
            port: Service::Tcp(80),
            not_ready: 0,
            local: false,
        };
        let to = Filters::of(
            found(vec![target(7, 8080), target(8, 8081)], Some(via)),
            true,
        );
        assert_eq!(
            to.at_pod(POD),
            "host 10.0.1.5 and host 172.20.0.9 and tcp port 80"
        );
        assert_eq!(
            to.at_eni(POD, false),
            "host 10.0.1.5 and ((host 10.0.2.7 and tcp port 8080) or (host 10.0.2.8 and tcp port 8081))"
        );
        assert!(to.unknown.is_empty());
    }

    #[test]
    fn outside_the_vpc_the_address_may_be_the_nodes() {
        let to = Filters::of(found(vec![target(7, 443)], None), false);
        assert_eq!(to.at_pod(POD), "host 10.0.1.5 and host 10.0.2.7");
        assert_eq!(to.at_eni(POD, true), "host 10.0.2.7");
    }

    #[test]
    fn a_service_without_endpoints_is_unknown() {
        let to = Filters::of(found(Vec::new(), None), true);
        assert_eq!(to.unknown.len(), 1, "{to:?}");
    }
}
