//! `branchline capture POD [DST]`: where on the node a pod's packets pass, and ready tcpdump commands.

use std::net::Ipv4Addr;

use anyhow::Context;
use clap::Args;
use nodenet::layout::{self, PodName};
use reach::Inputs;
use reach::facts::Node;
use reach::noun::{Noun, Service, parse_destination};
use reach::resolve::{Destination, Sender, Senders, destination, senders};
use reach::target::{Target, service_of};
use serde::Serialize;
use vpc::facts::Eni;

use crate::read::{HOLDS, Live, Output, Sources, UNKNOWN};

/// Where on the node do a pod's packets pass? Prints ready tcpdump commands; runs none.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline capture dev/deploy/api                        one of its pods
  branchline capture dev/deploy/api rds/orders:5432 --all  only packets to and from the database
  branchline capture dev/pod/api-7c9-x dev/svc/web -c 10

Commands use the node's own tcpdump: by SSM, by kubectl debug, in a lab by branchline lab.

Exit codes:
  0 every name is known   2 wrong usage   3 a name is unknown   5 the tool failed")]
pub(crate) struct CaptureArgs {
    /// A pod, or a workload, Service or node with pods.
    what: String,
    /// Only packets to and from there; the port may be left out.
    destination: Option<String>,
    /// Every pod, not only the first.
    #[arg(long)]
    all: bool,
    /// End after this many packets.
    #[arg(short, long, value_name = "N")]
    count: Option<u32>,
    /// The image that kubectl debug runs; it needs chroot only.
    #[arg(long, default_value = "busybox")]
    image: String,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    pods: Vec<Place>,
    /// Pods that match and are not shown.
    more: usize,
    unknown: Vec<String>,
}

/// Where a pod's packets pass.
#[derive(Debug, Serialize)]
struct Place {
    pod: String,
    address: Ipv4Addr,
    node: String,
    instance: String,
    /// On its node's network: no veth, and packets carry the node's address.
    host_network: bool,
    /// The host end of its veth.
    veth: Option<Point>,
    /// The interface that owns its address.
    eni: Option<EniPoint>,
    notes: Vec<String>,
}

/// A link of the node to listen at.
#[derive(Debug, Serialize)]
struct Point {
    link: String,
    filter: String,
    commands: Vec<Command>,
}

/// What the link is called is the image's choice (eth1, ens6): commands find it by its MAC.
#[derive(Debug, Serialize)]
struct EniPoint {
    id: String,
    device: Option<u32>,
    mac: String,
    filter: String,
    commands: Vec<Command>,
}

#[derive(Debug, Serialize)]
struct Command {
    /// `ssm`, `kubectl` or `lab`.
    by: &'static str,
    command: String,
}

pub(crate) async fn run(args: CaptureArgs) -> anyhow::Result<u8> {
    let noun: Noun = args.what.parse()?;
    let to = args.destination.as_deref().map(parse_destination);
    let to = to.transpose()?;
    let inputs = args.sources.read().await?;
    let found = senders(&inputs, &noun)?;
    let to = to.map(|(noun, port)| Filters::to(&inputs, &noun, port));
    let filters = to.transpose()?.unwrap_or_default();
    let document = document(&inputs, &args, &noun, found, &filters)?;
    match args.sources.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&document)?),
        Output::Text => print(&document),
    }
    Ok(match document.unknown.is_empty() {
        true => HOLDS,
        false => UNKNOWN,
    })
}

fn document(
    inputs: &Inputs,
    args: &CaptureArgs,
    noun: &Noun,
    found: Senders,
    filters: &Filters,
) -> anyhow::Result<Document> {
    let shown = if args.all { found.running.len() } else { 1 };
    let mut document = Document {
        schema: "branchline/capture/v1",
        more: found.running.len().saturating_sub(shown),
        pods: Vec::new(),
        unknown: found.unknown,
    };
    document.unknown.extend(filters.unknown.clone());
    if found.running.is_empty() && document.unknown.is_empty() {
        anyhow::bail!("{noun} has no running pod with an address");
    }
    for sender in found.running.iter().take(shown) {
        let place = place(inputs, args, noun, sender, filters, &mut document.unknown)?;
        document.pods.extend(place);
    }
    Ok(document)
}

fn place(
    inputs: &Inputs,
    args: &CaptureArgs,
    noun: &Noun,
    sender: &Sender,
    filters: &Filters,
    unknown: &mut Vec<String>,
) -> anyhow::Result<Option<Place>> {
    let Some(pod) = &sender.pod else {
        return Err(reach::Error::WrongSide {
            noun: noun.to_string(),
            role: "a pod",
            why: "no pod that is known has the address: name a pod, a workload or a node",
        }
        .into());
    };
    let known = |name: &String| inputs.nodes.get_key_value(name);
    let Some((_, node)) = sender.node.as_ref().and_then(known) else {
        unknown.push(format!("{}: the node it runs on was not read", pod.label()));
        return Ok(None);
    };
    let eni = sender.eni.as_ref().and_then(|id| inputs.world.enis.get(id));
    let by = Ways {
        live: &args.sources.live,
        node,
        image: &args.image,
        count: args.count,
        lab: std::env::var_os("BRANCHLINE_EXEC").is_some(),
    };
    let mut place = Place {
        pod: pod.label(),
        address: sender.address,
        node: node.name.clone(),
        instance: node.instance.to_string(),
        host_network: sender.host,
        veth: None,
        eni: None,
        notes: Vec::new(),
    };
    if eni.is_none() {
        unknown.push(format!(
            "the interfaces of {}: EC2 lists {} on no ENI of {} (a pod with security groups of its own?)",
            place.pod, sender.address, node.name
        ));
    } else if !sender.host {
        match veth(node, &PodName::new(&pod.namespace, &pod.name)) {
            Ok(link) => {
                let filter = filters.at_pod(sender.address);
                place.veth = Some(Point {
                    commands: by.commands(&link, &filter)?,
                    link,
                    filter,
                });
            }
            Err(why) => unknown.push(format!("the veth of {}: {why}", place.pod)),
        }
    }
    if let Some(eni) = eni {
        place.notes = filters.notes(inputs, node, eni);
        let outside = filters.outside(inputs, eni);
        let filter = filters.at_eni(sender.address, outside);
        place.eni = Some(EniPoint {
            id: eni.id.to_string(),
            device: eni.attachment.as_ref().map(|a| a.device_index),
            mac: eni.mac.to_string(),
            commands: by.commands(&link_of(eni), &filter)?,
            filter,
        });
    }
    Ok(Some(place))
}

/// The host end of a pod's veth, by the prefix that the node's agent is told.
fn veth(node: &Node, pod: &PodName) -> Result<String, String> {
    let settings = match (&node.settings, &node.unclear) {
        (Some(settings), _) => settings,
        (None, Some(why)) => return Err(why.clone()),
        (None, None) => {
            return Err(format!(
                "AWS_VPC_K8S_CNI_VETHPREFIX of the agent on {} was not read: it is read from the cluster (--kubeconfig)",
                node.name
            ));
        }
    };
    let link = layout::host_veth(&settings.veth_prefix, pod, 0).to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match link.chars().all(plain) {
        true => Ok(link),
        // What is pasted into a shell must mean itself there.
        false => Err(format!("its name {link:?} is no plain word of a shell")),
    }
}

/// An ENI's link on its node, as a shell finds it.
fn link_of(eni: &Eni) -> String {
    format!(
        "$(grep -l {} /sys/class/net/*/address | cut -d/ -f5)",
        eni.mac
    )
}

/// What to look for. Empty: everything of the pod.
#[derive(Debug, Default)]
struct Filters {
    /// What the pod sends to: a Service's own address, else the targets.
    front: Vec<String>,
    /// What the VPC sees: the targets.
    back: Vec<String>,
    targets: Vec<Target>,
    unknown: Vec<String>,
}

impl Filters {
    fn to(inputs: &Inputs, noun: &Noun, asked: Option<Service>) -> Result<Self, reach::Error> {
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
    fn at_pod(&self, pod: Ipv4Addr) -> String {
        both(Some(pod), &self.front)
    }

    /// At the ENI: kube-proxy has chosen the endpoint, and `outside` the VPC the address may be the node's.
    fn at_eni(&self, pod: Ipv4Addr, outside: bool) -> String {
        both((!outside).then_some(pod), &self.back)
    }

    /// Whether a target lies outside the interface's VPC.
    fn outside(&self, inputs: &Inputs, eni: &Eni) -> bool {
        let vpc = inputs.world.vpcs.get(&eni.vpc);
        let inside =
            |t: &Target| vpc.is_none_or(|v| v.cidrs.iter().any(|c| c.contains(&t.address)));
        !self.targets.iter().all(inside)
    }

    fn notes(&self, inputs: &Inputs, node: &Node, eni: &Eni) -> Vec<String> {
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

/// The ways to a node.
struct Ways<'a> {
    live: &'a Live,
    node: &'a Node,
    image: &'a str,
    count: Option<u32>,
    lab: bool,
}

impl Ways<'_> {
    /// One line each, for the user's shell.
    fn commands(&self, link: &str, filter: &str) -> anyhow::Result<Vec<Command>> {
        let count = self.count.map(|n| format!(" -c {n}")).unwrap_or_default();
        let tcpdump = format!("tcpdump -nnl -i {link}{count} \"{filter}\"");
        let shell = serde_json::json!({"command": [format!("sudo {tcpdump}")]});
        let shell = serde_json::to_string(&shell).context("write the parameters of SSM")?;
        let target = &self.node.instance;
        let mut commands = vec![Command {
            by: "ssm",
            command: self.live.aws(&format!(
                "ssm start-session --target {target} --document-name AWS-StartNonInteractiveCommand --parameters '{shell}'"
            )),
        }];
        if let Some(name) = &self.node.kubernetes {
            let command = format!(
                "debug node/{} -it --profile=sysadmin --image={} -- chroot /host sh -c '{tcpdump}'",
                word(name),
                word(self.image)
            );
            commands.push(Command {
                by: "kubectl",
                command: self.live.kubectl(&command),
            });
        }
        if self.lab {
            let name = word(&self.node.name);
            commands.push(Command {
                by: "lab",
                command: format!("branchline lab node exec {name} -- sh -c '{tcpdump}'"),
            });
        }
        Ok(commands)
    }
}

/// A text as one word of a shell.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn print(document: &Document) {
    for place in &document.pods {
        anstream::println!(
            "{}  {} on {} ({})",
            place.pod,
            place.address,
            place.node,
            place.instance
        );
        for note in &place.notes {
            anstream::println!("  note  {note}");
        }
        if place.host_network {
            anstream::println!(
                "  no veth: it is on the node's network, and its address is the node's"
            );
        }
        if let Some(veth) = &place.veth {
            anstream::println!("\n  veth {}: what the pod sends and gets", veth.link);
            lines(&veth.commands);
        }
        if let Some(eni) = &place.eni {
            let device = match eni.device {
                Some(0) => "primary".to_owned(),
                Some(n) => format!("device {n}"),
                None => "not attached".to_owned(),
            };
            anstream::println!(
                "\n  {} {device}, {}: what leaves the node for the VPC and comes back",
                eni.id,
                eni.mac
            );
            lines(&eni.commands);
        }
        anstream::println!();
    }
    if document.more > 0 {
        anstream::println!("{} more pods match: --all", document.more);
    }
    for need in &document.unknown {
        anstream::println!("UNKNOWN  {need}");
    }
}

fn lines(commands: &[Command]) {
    for command in commands {
        anstream::println!("    {}", command.command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Process;

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

    fn node(settings: Option<nodenet::NodeSettings>) -> Node {
        Node {
            name: "ip-10-0-1-11".into(),
            instance: "i-0123456789abcdef0".parse().expect("an id"),
            kubernetes: Some("ip-10-0-1-11.us-west-2.compute.internal".into()),
            pods: Vec::new(),
            host_pods: Vec::new(),
            settings,
            unclear: None,
            groups: reach::facts::GroupSync::Unknown,
            agent: "upstream".into(),
            runs_otherwise: Vec::new(),
            packs: false,
            told: None,
            silent: None,
        }
    }

    #[test]
    fn the_veth_has_upstreams_name_and_the_nodes_prefix() {
        let pod = PodName::new("kube-system", "coredns-57ff979f67-qqbdh");
        let with = |prefix: &str| {
            let veth_prefix = prefix.parse().expect("a prefix");
            let settings = nodenet::NodeSettings {
                veth_prefix,
                ..Default::default()
            };
            veth(&node(Some(settings)), &pod)
        };
        assert_eq!(with("eni").as_deref(), Ok("enib5faff8a083"));
        assert_eq!(with("ab").as_deref(), Ok("abb5faff8a083"));
        // What would run as a command in the user's shell is not printed.
        assert!(with("$(w)").is_err());
        let unread = veth(&node(None), &pod).expect_err("the prefix is not known");
        assert!(unread.contains("VETHPREFIX"), "{unread}");
    }

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        live: Live,
    }

    /// The arguments that a shell gives `program` in a line.
    fn arguments(program: &str, line: &str) -> Vec<String> {
        let script = format!("{program}() {{ printf '%s\\n' \"$@\"; }}\n{line}");
        let done = Process::new("sh").args(["-c", &script]).output();
        let done = done.expect("a shell");
        assert!(done.status.success(), "{line}: {done:?}");
        let text = String::from_utf8(done.stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_shell_takes_each_line_as_it_is_meant() {
        let Only { live } = clap::Parser::parse_from(["x"]);
        let node = node(None);
        let ways = Ways {
            live: &live,
            node: &node,
            image: "busybox",
            count: Some(3),
            lab: true,
        };
        let filter = "host 10.0.1.5 and ((host 10.0.2.7) or (host 10.0.2.8))";
        // A shell that is not the node's must not look for the link.
        let link = "$(echo eth1)";
        let commands = ways.commands(link, filter).expect("commands");
        let meant = ["-nnl", "-i", "eth1", "-c", "3", filter];
        let [ssm, kubectl, lab] = &commands[..] else {
            panic!("three ways: {commands:?}")
        };
        assert!(commands.iter().all(|c| !c.command.contains('\n')));

        let words = arguments("aws", &ssm.command);
        let (last, before) = words.split_last().expect("words");
        assert_eq!(
            before.join(" "),
            "ssm start-session --target i-0123456789abcdef0 --document-name AWS-StartNonInteractiveCommand --parameters"
        );
        let parameters: serde_json::Value = serde_json::from_str(last).expect("JSON");
        let on_node = parameters["command"][0].as_str().expect("a command");
        assert!(on_node.contains(link), "{on_node}");
        let words = arguments("sudo", on_node);
        assert_eq!(words[0], "tcpdump");
        assert_eq!(words[1..], meant);

        for (program, line) in [("kubectl", kubectl), ("branchline", lab)] {
            let words = arguments(program, &line.command);
            let [.., sh, c, on_node] = &words[..] else {
                panic!("{words:?}")
            };
            assert_eq!((sh.as_str(), c.as_str()), ("sh", "-c"));
            assert_eq!(arguments("tcpdump", on_node), meant);
        }
    }

    #[test]
    fn odd_names_are_one_word() {
        assert_eq!(word("ip-10-0-1-11"), "ip-10-0-1-11");
        let odd = "a b'$(c)";
        assert_eq!(arguments("f", &format!("f {}", word(odd))), [odd]);
    }
}
