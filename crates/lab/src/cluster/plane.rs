//! A control plane: namespaces of its own with two interfaces in the VPC, and the four programs.
//!
//! It is booted like a node, so its first process keeps the programs running and all of it ends and
//! is found as a node's does. The fabric plugs the interfaces; addresses of the second one and the
//! rules that let an answer leave by the interface of its address are set here.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use kernel::{NetNs, Socket};
use nodenet::{Addr, LinkName, Route, Rule, TableId};
use vpc::facts::EniId;

use super::api::Api;
use super::binaries::Binaries;
use super::flags::{self, API_PORT, AUTHENTICATION, Settings, WEBHOOK_PORT};
use super::kubeconfig::{self, Context};
use super::pki::{Identity, Pki, write};
use super::stop::Stop;
use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::node::{Answer, Boot, Node, NodeStatus, Request, ServiceAction};
use crate::place::Place;

/// Tables of the interfaces' own routes: the first one's is this, the second one's the next.
const FIRST_TABLE: u32 = 101;
/// Before the main table.
const RULE: u32 = 1000;
/// How long the programs may take. They take about four seconds on two idle cores.
const PATIENCE: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_millis(25);

/// One interface of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Front {
    pub(super) eni: EniId,
    /// Its address, with the subnet's prefix length.
    pub(super) address: Ipv4Net,
}

/// What a control plane is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlaneSpec {
    pub(super) cluster: String,
    pub(super) fronts: Vec<Front>,
    pub(super) services: Ipv4Net,
    /// Issuer of service accounts' tokens: an `https` URL.
    pub(super) issuer: String,
}

impl PlaneSpec {
    pub(super) fn addresses(&self) -> Vec<Ipv4Addr> {
        self.fronts.iter().map(|f| f.address.addr()).collect()
    }

    /// Address number `n` of the Services.
    pub(super) fn service(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.services.network()) + n)
    }

    /// The API server's URL inside of the VPC.
    pub(super) fn server(&self) -> String {
        let address = self.fronts.first().map(|f| f.address.addr());
        format!(
            "https://{}:{API_PORT}",
            address.unwrap_or(Ipv4Addr::UNSPECIFIED)
        )
    }
}

/// A control plane that was booted.
#[derive(Debug)]
pub(super) struct Plane {
    node: Node,
    dir: PathBuf,
    data: PathBuf,
}

impl Plane {
    /// Makes the namespaces, without interfaces and programs.
    pub(super) fn boot(
        place: &Place,
        cgroups: &Cgroups,
        cluster: &str,
        program: &Path,
    ) -> Result<Self, Error> {
        let name = Place::plane(cluster);
        let boot = Boot {
            name: name.clone(),
            hostname: name.clone(),
            program: program.to_owned(),
            cluster: None,
        };
        Ok(Self {
            dir: place.node_dir(&name),
            data: place.node_disk(&name).join("etcd"),
            node: Node::boot(place, cgroups, &boot)?,
        })
    }

    pub(super) fn netns(&self) -> &Path {
        self.node.netns()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sets up the interfaces once the fabric has plugged them.
    pub(super) fn configure(&self, fronts: &[Front], stop: &Stop) -> Result<(), Error> {
        let netns = NetNs::open(self.netns())?;
        // It is a host, not a router between its subnets.
        kernel::sysctl::write(&netns, "ipv4/ip_forward", "0")?;
        let mut socket = Socket::open_in(&netns)?;
        for (number, front) in (0_u32..).zip(fronts) {
            let link: LinkName = format!("eth{number}").parse().expect("a valid link name");
            let begun = Instant::now();
            while socket.link(&link)?.is_none() {
                if begun.elapsed() > PATIENCE {
                    return Err(Error::NotFound {
                        what: "interface of a control plane",
                        name: format!("{link} ({})", front.eni),
                        known: Vec::new(),
                    });
                }
                stop.pause(STEP)?;
            }
            let table = TableId(FIRST_TABLE + number);
            let mut batch = socket.batch().set_up(&link, true);
            if number > 0 {
                // The fabric configures a host's primary interface.
                batch = batch.add_addr(&Addr::new(link.clone(), front.address));
            }
            let router = Ipv4Addr::from(u32::from(front.address.network()) + 1);
            let own = Ipv4Net::from(front.address.addr());
            batch
                .replace_route(&Route::direct(table, front.address, link.clone()))
                .replace_route(&Route::default_via(table, router, link))
                .add_rule(&Rule::lookup(RULE + number, table).from(own))
                .commit()?;
        }
        Ok(())
    }

    /// Writes the files of the programs and starts the API server with its etcd.
    pub(super) fn start(
        &self,
        spec: &PlaneSpec,
        pki: &Pki,
        binaries: &Binaries,
    ) -> Result<(), Error> {
        pki.write(&self.dir.join("pki"))?;
        fs::create_dir_all(&self.data).at(&self.data)?;
        write(&self.dir.join("authentication.yaml"), AUTHENTICATION, 0o644)?;
        let ca_pem = pki.authority.cert_pem();
        let own = |user: &str, groups: &[&str]| {
            Ok::<_, Error>(Context {
                name: spec.cluster.clone(),
                server: format!("https://127.0.0.1:{API_PORT}"),
                ca_pem: Some(ca_pem.clone()),
                identity: Some(pki.authority.client(user, groups)?),
            })
        };
        for program in ["controller-manager", "scheduler"] {
            let context = own(&format!("system:kube-{program}"), &[])?;
            let path = self.dir.join(format!("{program}.kubeconfig"));
            kubeconfig::save(&path, &[context])?;
        }
        let webhook = Context {
            name: "token-webhook".to_owned(),
            server: format!("http://127.0.0.1:{WEBHOOK_PORT}/authenticate"),
            ca_pem: None,
            identity: None,
        };
        kubeconfig::save(&self.dir.join("token-webhook.kubeconfig"), &[webhook])?;
        let settings = self.settings(spec, binaries);
        self.node.start_service(settings.etcd())?;
        self.node.start_service(settings.apiserver())
    }

    /// Starts the programs that need the API server: one that is not ready ends them.
    pub(super) fn start_controllers(
        &self,
        spec: &PlaneSpec,
        binaries: &Binaries,
    ) -> Result<(), Error> {
        let settings = self.settings(spec, binaries);
        self.node.start_service(settings.controller_manager())?;
        self.node.start_service(settings.scheduler())
    }

    fn settings<'a>(&'a self, spec: &'a PlaneSpec, binaries: &'a Binaries) -> Settings<'a> {
        let first = spec.fronts.first().map(|f| f.address.addr());
        Settings {
            cluster: &spec.cluster,
            binaries,
            address: first.unwrap_or(Ipv4Addr::UNSPECIFIED),
            services: spec.services,
            issuer: &spec.issuer,
            data: &self.data,
        }
    }

    /// Waits until the API server is ready. That a program ends on the way is an error, since
    /// nothing of its surroundings will change.
    pub(super) fn await_ready(
        &self,
        spec: &PlaneSpec,
        pki: &Pki,
        stop: &Stop,
    ) -> Result<(), Error> {
        let ca_pem = pki.authority.cert_pem();
        let api = Api::new(&spec.cluster, self.netns(), &ca_pem, None)?;
        let begun = Instant::now();
        loop {
            let answer = match api.readyz() {
                Ok(()) => return Ok(()),
                Err(answer) => answer,
            };
            for component in ["etcd", "kube-apiserver"] {
                self.must_run(&spec.cluster, component)?;
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::NotReady {
                    cluster: spec.cluster.clone(),
                    seconds: PATIENCE.as_secs(),
                    answer,
                    log: self.log("kube-apiserver"),
                });
            }
            stop.pause(STEP)?;
        }
    }

    fn log(&self, component: &str) -> PathBuf {
        self.dir.join(format!("{component}.log"))
    }

    fn must_run(&self, cluster: &str, component: &str) -> Result<(), Error> {
        let status = self.status()?;
        let Some(how) = status
            .services
            .get(component)
            .and_then(|s| s.last_exit.clone())
        else {
            return Ok(());
        };
        let said = fs::read_to_string(self.log(component)).unwrap_or_default();
        Err(Error::ComponentEnded {
            cluster: cluster.to_owned(),
            component: component.to_owned(),
            how,
            said: last_words(&said),
        })
    }

    /// How the programs are.
    pub(super) fn status(&self) -> Result<NodeStatus, Error> {
        match self.node.ask(&Request::Status)? {
            Answer::Node(status) => Ok(status),
            _ => Ok(NodeStatus::default()),
        }
    }

    /// Ends it with everything in it.
    pub(super) fn end(self, place: &Place, cgroups: &Cgroups) -> Result<(), Error> {
        let Self { node, dir, data } = self;
        node.end(place, cgroups)?;
        crate::teardown::remove_dir(&data)?;
        crate::teardown::remove_dir(&dir)
    }
}

/// Stops or starts a program of a running control plane.
///
/// # Errors
/// When there is no such cluster or program.
pub fn act(
    place: &Place,
    cluster: &str,
    component: &str,
    action: ServiceAction,
) -> Result<(), Error> {
    let name = Place::plane(cluster);
    if !place.node_dir(&name).exists() {
        return Err(Error::NotFound {
            what: "cluster",
            name: cluster.to_owned(),
            known: names(place),
        });
    }
    if !flags::COMPONENTS.contains(&component) {
        return Err(Error::NotFound {
            what: "component",
            name: component.to_owned(),
            known: flags::COMPONENTS.map(str::to_owned).into(),
        });
    }
    let order = Request::Service {
        service: component.to_owned(),
        action,
    };
    crate::node::ask(&place.node_socket(&name), &order).map(drop)
}

/// The clusters that have a control plane.
fn names(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.clusters_dir()).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The lines of a log in which a program of Kubernetes says why it ends, else the last ones.
fn last_words(log: &str) -> String {
    let telling = |line: &&str| {
        let fatal = line.starts_with('F') || line.starts_with('E');
        let klog = fatal && line.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        klog || line.starts_with("Error:") || line.contains(r#""level":"fatal""#)
    };
    let told: Vec<&str> = log.lines().filter(telling).collect();
    if told.is_empty() {
        crate::up::tail(log)
    } else {
        crate::up::tail(&told.join("\n"))
    }
}

/// A client of the API server that stands beside it.
pub(super) fn beside(cluster: &str, ca_pem: String, identity: Identity) -> Context {
    Context {
        name: cluster.to_owned(),
        server: format!("https://127.0.0.1:{API_PORT}"),
        ca_pem: Some(ca_pem),
        identity: Some(identity),
    }
}

/// The authority and its certificates, for a control plane.
pub(super) fn pki(spec: &PlaneSpec) -> Result<Arc<Pki>, Error> {
    let pki = Pki::new(&spec.cluster, &spec.addresses(), spec.service(1))?;
    Ok(Arc::new(pki))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_dying_program_are_found() {
        let log =
            "I1 starting\nE1121 15:00:00 run.go:72] \"command failed\" err=\"bind\"\nI2 bye\n";
        assert!(last_words(log).contains("bind") && !last_words(log).contains("bye"));
        let flag = "Error: unknown flag: --x\nUsage:\n  a\n  b\n  c\n  d\n  e\n  f\n";
        assert_eq!(last_words(flag), "Error: unknown flag: --x");
        assert_eq!(last_words("panic: no"), "panic: no");
    }
}
