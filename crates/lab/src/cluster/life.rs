//! One cluster from its creation to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde_json::json;
use tokio::sync::watch;
use vpcsim::eks::{AddonView, ClusterView};

use super::addons::{self, Surroundings};
use super::api::Api;
use super::flags::API_PORT;
use super::join::Joining;
use super::kubeconfig::Context;
use super::manager::Shared;
use super::manifests;
use super::pki::Pki;
use super::plane::{self, Front, Plane, PlaneSpec};
use super::stop::Stop;
use super::tools::Tools;
use super::webhook::{self, Authenticate, User, Webhook};
use crate::daemon::{Forward, blocking, forward};
use crate::error::Error;
use crate::image::{self, Programs};
use crate::state::ClusterState;

/// The lab's own user; its rights are in `boot.yaml`.
const LAB: &str = "branchline:lab";
/// The user of `lab env`, and the group of all administrators.
const ADMIN: &str = "branchline:operator";
const ADMINS: &str = "branchline:cluster-admins";
/// How long new rights may take until the API server knows them.
const RIGHTS: Duration = Duration::from_secs(10);

/// What runs for a cluster.
struct Cluster {
    plane: Arc<Plane>,
    spec: PlaneSpec,
    pki: Arc<Pki>,
    tools: Arc<Tools>,
    around: Surroundings,
    /// The directory with kubectl.
    programs: PathBuf,
    _webhook: Webhook,
    /// The port of the machine, unless the endpoint is private.
    forward: Option<Forward>,
    /// The last such port: kubeconfigs name it.
    port: Option<u16>,
    /// Generations of the add-ons as they were installed last; `None` is what EKS knows nothing of.
    installed: BTreeMap<&'static str, Option<u64>>,
}

/// Lives a cluster's life: ends when `views` says that the cluster is gone.
pub(super) async fn live(
    shared: Shared,
    view: ClusterView,
    mut views: watch::Receiver<Option<ClusterView>>,
) {
    let (name, host) = (view.name.clone(), view.host.clone());
    let mut cluster = None;
    match begin(&shared, &view).await {
        Ok(begun) => {
            let cluster = cluster.insert(begun);
            let mut now = Some(view);
            while let Some(view) = now {
                if let Err(error) = follow(&shared, cluster, &view).await {
                    trouble(&shared, &name, &error);
                }
                if views.changed().await.is_err() {
                    return;
                }
                now = views.borrow_and_update().clone();
            }
        }
        Err(error) => {
            let why = error.to_string();
            trouble(&shared, &name, &error);
            // That it was deleted meanwhile is heard below.
            if let Err(gone) = shared.sim.eks().set_cluster_failed(&name, &why) {
                tracing::info!(cluster = name, %gone, "a cluster failed and is gone");
            }
            if views.wait_for(Option::is_none).await.is_err() {
                return;
            }
        }
    }
    let plane = cluster.map(|c| c.plane);
    if let Err(error) = end(&shared, &host, &name, plane).await {
        trouble(&shared, &name, &error);
    }
}

fn trouble(shared: &Shared, cluster: &str, error: &Error) {
    tracing::error!(cluster, %error, "a cluster is in trouble");
    let text = format!("cluster {cluster}: {error}");
    shared.state.send_modify(|s| s.trouble = Some(text));
}

/// Everything up to a cluster that is ACTIVE.
async fn begin(shared: &Shared, view: &ClusterView) -> Result<Cluster, Error> {
    let name = &view.name;
    let (own, cluster) = (shared.clone(), name.clone());
    let (binaries, plane) = blocking(move || {
        let binaries = own.binaries()?;
        // Its nodes will need them when the control plane is there.
        image::prepare_aside(Programs::new(own.program.clone(), &binaries));
        let plane = Plane::boot(&own.place, &own.cgroups, &cluster, &own.program)?;
        Ok((binaries, Arc::new(plane)))
    })
    .await?;
    let netns = plane.netns().to_owned();
    shared
        .hosts
        .send_modify(|hosts| drop(hosts.insert(view.host.clone(), netns.clone())));
    let spec = spec(shared, view)?;
    let webhook = webhook::serve(name, &netns, authenticate(shared, name))?;
    let pki = plane::pki(&spec)?;
    let tools = {
        let (spec, pki, plane) = (spec.clone(), Arc::clone(&pki), Arc::clone(&plane));
        let (own, binaries) = (shared.clone(), binaries.clone());
        let start = move || {
            plane.configure(&spec.fronts, &own.stop)?;
            plane.start(&spec, &pki, &binaries)?;
            plane.await_ready(&spec, &pki, &own.stop)?;
            plane.start_controllers(&spec, &binaries)?;
            bootstrap(&own, &spec, &pki, &plane, &binaries)
        };
        Arc::new(blocking(start).await?)
    };
    let identity = pki.authority.client(LAB, &[])?;
    let ca_pem = pki.authority.cert_pem();
    let api = Api::new(name, &netns, &ca_pem, Some(&identity))?;
    let api = Arc::new(api);
    let (asked, stop) = (Arc::clone(&api), shared.stop.clone());
    blocking(move || await_rights(&asked, &stop)).await?;
    let joining = Joining {
        cluster: name.clone(),
        server: spec.server(),
        ca_pem,
        cluster_dns: spec.service(10),
        service_cidr: spec.services,
        bin_dir: binaries.dir().to_owned(),
        pki: Arc::clone(&pki),
        api,
        stop: shared.stop.clone(),
    };
    shared
        .joinable
        .send_modify(|all| drop(all.insert(name.clone(), Arc::new(joining))));
    tracing::info!(cluster = name, "a control plane is ready");
    Ok(Cluster {
        plane,
        around: Surroundings {
            server: spec.server(),
            dns: spec.service(10),
            region: shared.sim.region(),
            version: binaries.version().to_owned(),
        },
        programs: binaries.dir().to_owned(),
        spec,
        pki,
        tools,
        _webhook: webhook,
        forward: None,
        port: None,
        installed: BTreeMap::new(),
    })
}

fn spec(shared: &Shared, view: &ClusterView) -> Result<PlaneSpec, Error> {
    let desired = shared.sim.desired()?;
    let mut fronts = Vec::new();
    for eni in &view.enis {
        let subnet = desired.world.subnets.get(&eni.subnet);
        let length = subnet.map_or(32, |s| s.cidr.prefix_len());
        let address = Ipv4Net::new(eni.address, length).expect("at most 32");
        fronts.push(Front {
            eni: eni.id.clone(),
            address,
        });
    }
    Ok(PlaneSpec {
        cluster: view.name.clone(),
        fronts,
        services: view.service_cidr,
        issuer: view.issuer.clone(),
    })
}

/// The one moment of `system:masters`: makes what gives the lab and the administrators their rights.
fn bootstrap(
    shared: &Shared,
    spec: &PlaneSpec,
    pki: &Pki,
    plane: &Plane,
    binaries: &super::Binaries,
) -> Result<Tools, Error> {
    let cluster = &spec.cluster;
    let netns = plane.netns();
    let tools = Tools::new(&shared.place, cluster, netns, &shared.program, binaries)?;
    let masters = pki
        .authority
        .client("branchline:boot", &["system:masters"])?;
    let ca_pem = pki.authority.cert_pem();
    let boot = plane::beside(cluster, ca_pem.clone(), masters);
    tools.apply_as(boot, &manifests::boot(spec))?;
    let lab = pki.authority.client(LAB, &[])?;
    tools.identify(plane::beside(cluster, ca_pem, lab))?;
    Ok(tools)
}

/// Bindings reach the authorizer through a watch of its own.
fn await_rights(api: &Api, stop: &Stop) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match api.get("/api/v1/nodes?limit=1") {
            Ok(_) => return Ok(()),
            Err(_) if begun.elapsed() < RIGHTS => stop.pause(Duration::from_millis(10))?,
            Err(said) => {
                return Err(Error::Refused {
                    what: "the API server, asked for nodes by the lab".to_owned(),
                    message: said,
                });
            }
        }
    }
}

fn authenticate(shared: &Shared, cluster: &str) -> Authenticate {
    let (eks, cluster) = (shared.sim.eks(), cluster.to_owned());
    Arc::new(move |token| {
        let caller = eks
            .authenticate(token, &cluster)
            .map_err(|e| e.to_string())?;
        let user = eks.user(&caller, &cluster).map_err(|e| e.to_string())?;
        let user =
            user.ok_or_else(|| format!("{} has no access entry in cluster {cluster}", caller.arn))?;
        let mut groups = user.groups;
        for policy in &user.policies {
            match (&policy.namespaces, group_of(&policy.name)) {
                (None, Some(group)) => groups.push(group.to_owned()),
                // Fails closed: a right that cannot be given is not.
                _ => tracing::warn!(policy = policy.name, "an access policy has no effect here"),
            }
        }
        Ok(User {
            name: user.username,
            uid: user.uid,
            groups,
            extra: user.extra,
        })
    })
}

/// The group that stands for a policy of EKS; what it may is in `boot.yaml`.
fn group_of(policy: &str) -> Option<&'static str> {
    match policy {
        "AmazonEKSClusterAdminPolicy" => Some(ADMINS),
        "AmazonEKSAdminPolicy" => Some("branchline:admin"),
        "AmazonEKSEditPolicy" => Some("branchline:edit"),
        "AmazonEKSViewPolicy" => Some("branchline:view"),
        _ => None,
    }
}

/// Brings a cluster to what EKS says about it now.
async fn follow(shared: &Shared, cluster: &mut Cluster, view: &ClusterView) -> Result<(), Error> {
    publish(shared, cluster, view).await?;
    let own = !shared.furnished().contains(&view.name);
    for name in addons::NAMES {
        let wanted = view.addons.iter().find(|a| a.name == name);
        if own || wanted.is_some() || cluster.installed.contains_key(name) {
            install(shared, cluster, name, wanted).await?;
        }
    }
    // Those of the topology's clusters come one by one.
    if addons::NAMES
        .iter()
        .any(|n| !cluster.installed.contains_key(n))
    {
        return Ok(());
    }
    shared.state.send_if_modified(|s| {
        let Some(known) = s.clusters.get_mut(&view.name) else {
            return false;
        };
        !std::mem::replace(&mut known.ready, true)
    });
    Ok(())
}

/// Opens or closes the way from outside of the VPC, and tells everybody where the endpoint is.
async fn publish(shared: &Shared, cluster: &mut Cluster, view: &ClusterView) -> Result<(), Error> {
    match (&cluster.forward, view.public_access) {
        (None, true) => {
            let forward = forward(cluster.plane.netns(), API_PORT, cluster.port).await?;
            cluster.port = Some(forward.port);
            cluster.forward = Some(forward);
        }
        (Some(_), false) => cluster.forward = None,
        (known, _) => {
            let told = shared.state.borrow().clusters.contains_key(&view.name);
            if told && known.is_some() == view.public_access {
                return Ok(());
            }
        }
    }
    let port = cluster.forward.as_ref().map(|f| f.port);
    let endpoint = port.map_or_else(
        || cluster.spec.server(),
        |port| format!("https://127.0.0.1:{port}"),
    );
    let ca_pem = cluster.pki.authority.cert_pem();
    let ca = aws_smithy_types::base64::encode(&ca_pem);
    shared
        .sim
        .eks()
        .set_cluster_active(&view.name, &endpoint, &ca)?;
    let context = Context {
        name: view.name.clone(),
        server: endpoint.clone(),
        ca_pem: Some(ca_pem),
        identity: Some(cluster.pki.authority.client(ADMIN, &[ADMINS])?),
    };
    shared.set_context(&view.name, Some(context))?;
    let ca = cluster.plane.dir().join("pki/ca.crt");
    shared.state.send_modify(|s| {
        let known = s.clusters.get(&view.name).is_some_and(|c| c.ready);
        let entry = ClusterState {
            endpoint,
            port,
            version: cluster.around.version.clone(),
            ca,
            programs: cluster.programs.clone(),
            ready: known,
        };
        s.clusters.insert(view.name.clone(), entry);
    });
    Ok(())
}

/// Installs an add-on that is not there yet, as EKS does for a new cluster, or whose configuration
/// has changed, and removes one that was deleted. That it cannot be installed is told to EKS, where
/// its user looks, and is trouble of the lab's own when it never was.
async fn install(
    shared: &Shared,
    cluster: &mut Cluster,
    name: &'static str,
    wanted: Option<&AddonView>,
) -> Result<(), Error> {
    let known = cluster.installed.get(name).copied();
    let generation = wanted.map(|a| a.generation);
    if known == Some(generation) {
        return Ok(());
    }
    let configuration = wanted.map_or_else(|| json!({}), |a| a.configuration.clone());
    let (tools, around) = (Arc::clone(&cluster.tools), cluster.around.clone());
    let deleted = wanted.is_none() && known.is_some();
    let work = move || {
        if deleted {
            addons::remove(&tools, &around, name)
        } else {
            addons::install(&tools, &around, name, &configuration)
        }
    };
    let outcome = blocking(work).await;
    cluster.installed.insert(name, generation);
    if let Some(generation) = generation {
        let told = outcome.as_ref().copied().map_err(ToString::to_string);
        let eks = shared.sim.eks();
        if let Err(gone) = eks.report_addon(&cluster.spec.cluster, name, generation, told) {
            tracing::info!(addon = name, %gone, "an add-on was deleted while it was installed");
        }
    }
    match outcome {
        Err(error) if known.is_some() => {
            tracing::error!(addon = name, %error, "an add-on was not brought to its new state");
            Ok(())
        }
        outcome => outcome,
    }
}

/// Removes what a cluster had. Nodes of it are instances: they end with their instances.
async fn end(
    shared: &Shared,
    host: &str,
    cluster: &str,
    plane: Option<Arc<Plane>>,
) -> Result<(), Error> {
    shared.joinable.send_modify(|all| drop(all.remove(cluster)));
    shared
        .state
        .send_modify(|s| drop(s.clusters.remove(cluster)));
    shared.set_context(cluster, None)?;
    shared.hosts.send_modify(|hosts| drop(hosts.remove(host)));
    // The next one of this name is somebody else's.
    shared.furnished().remove(cluster);
    tracing::info!(cluster, "a cluster ended");
    let Some(plane) = plane.and_then(Arc::into_inner) else {
        return Ok(());
    };
    let (place, cgroups) = (shared.place.clone(), shared.cgroups.clone());
    blocking(move || plane.end(&place, &cgroups)).await
}
