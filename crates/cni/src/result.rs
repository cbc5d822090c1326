//! The result of an ADD, in the form of every version of the specification.
//!
//! One type holds what the newest version can say; writing for an older version leaves out what it
//! cannot, reading accepts the form of any version whatever the configuration's version is, because
//! runtimes convert `prevResult` between them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::json::Object;
use crate::{Error, SpecVersion};

/// What a plugin did for a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Interfaces on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// Addresses of the container.
    pub ips: Vec<IpConfig>,
    /// Routes of the container.
    pub routes: Vec<Route>,
    /// Resolver settings.
    pub dns: Dns,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address; up to 0.4.0 upstream puts table and VLAN numbers here.
    pub mac: Option<String>,
    /// Its MTU in bytes (1.1.0).
    pub mtu: Option<u32>,
    /// The namespace's path for one in the container; absent on the host. Upstream's dummy
    /// interface has the device number here.
    pub sandbox: Option<String>,
    /// (1.1.0)
    pub socket_path: Option<String>,
    /// (1.1.0)
    pub pci_id: Option<String>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Index into [`CniResult::interfaces`].
    pub interface: Option<usize>,
    /// The address with its prefix length.
    pub address: IpNet,
    /// Its default gateway.
    pub gateway: Option<IpAddr>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    pub gw: Option<IpAddr>,
    /// (1.1.0)
    pub mtu: Option<u32>,
    /// (1.1.0)
    pub advmss: Option<u32>,
    /// (1.1.0)
    pub priority: Option<u32>,
    /// (1.1.0)
    pub table: Option<u32>,
    /// (1.1.0)
    pub scope: Option<u32>,
}

impl Route {
    /// A plain route.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// Resolver settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Addresses of the resolvers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CniResult {
    /// Reads a result in the form of any version. `version` is the configuration's; a
    /// `cniVersion` of the result's own must be known, too.
    pub(crate) fn from_object(from: &Object, version: SpecVersion) -> Result<Self, Error> {
        match from.text("cniVersion")?.as_deref() {
            None | Some("") => version,
            Some(own) => own.parse()?,
        };
        let mut result = Self {
            interfaces: read_each(from, "interfaces", Interface::from_object)?,
            ips: read_each(from, "ips", IpConfig::from_object)?,
            routes: read_each(from, "routes", Route::from_object)?,
            dns: from
                .object("dns")?
                .map(|dns| Dns::from_object(&dns))
                .transpose()?
                .unwrap_or_default(),
        };
        for family in ["ip4", "ip6"] {
            if let Some(ip) = from.object(family)? {
                result.ips.push(IpConfig {
                    interface: None,
                    address: ip.prefix("ip")?,
                    gateway: ip.address("gateway")?,
                });
                result
                    .routes
                    .extend(read_each(&ip, "routes", Route::from_object)?);
            }
        }
        Ok(result)
    }

    /// The container's address on the interface at `index`.
    pub fn addresses_of(&self, index: usize) -> impl Iterator<Item = IpNet> {
        let on = move |ip: &&IpConfig| ip.interface == Some(index);
        self.ips.iter().filter(on).map(|ip| ip.address)
    }

    /// What `other` has, behind what is here, its interface indices moved accordingly.
    pub fn append(&mut self, other: Self) {
        let moved_by = self.interfaces.len();
        self.interfaces.extend(other.interfaces);
        self.ips.extend(other.ips.into_iter().map(|ip| IpConfig {
            interface: ip.interface.map(|index| index + moved_by),
            ..ip
        }));
        self.routes.extend(other.routes);
        if self.dns.is_empty() {
            self.dns = other.dns;
        }
    }

    /// The result as it is printed: four spaces, no final newline, and up to 0.4.0 byte for byte
    /// what Go's CNI library 1.3 prints (upstream's `dns` is there even when empty).
    pub fn to_json(&self, version: SpecVersion) -> Vec<u8> {
        match version {
            SpecVersion::V0_1_0 | SpecVersion::V0_2_0 => {
                crate::json::pretty(&Flat::of(self, version))
            }
            _ => crate::json::pretty(&Listed::of(self, version)),
        }
    }
}

fn read_each<T>(
    from: &Object,
    key: &str,
    read: impl Fn(&Object) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    from.objects(key)?.iter().map(read).collect()
}

impl Interface {
    fn from_object(from: &Object) -> Result<Self, Error> {
        Ok(Self {
            name: from.text("name")?.unwrap_or_default(),
            mac: filled(from, "mac")?,
            mtu: from.number("mtu")?,
            sandbox: filled(from, "sandbox")?,
            socket_path: filled(from, "socketPath")?,
            pci_id: filled(from, "pciID")?,
        })
    }
}

fn filled(from: &Object, key: &str) -> Result<Option<String>, Error> {
    Ok(from.text(key)?.filter(|text| !text.is_empty()))
}

impl IpConfig {
    fn from_object(from: &Object) -> Result<Self, Error> {
        Ok(Self {
            interface: from.number("interface")?,
            address: from.prefix("address")?,
            gateway: from.address("gateway")?,
        })
    }
}

impl Route {
    fn from_object(from: &Object) -> Result<Self, Error> {
        Ok(Self {
            dst: from.prefix("dst")?,
            gw: from.address("gw")?,
            mtu: from.number("mtu")?,
            advmss: from.number("advmss")?,
            priority: from.number("priority")?,
            table: from.number("table")?,
            scope: from.number("scope")?,
        })
    }
}

impl Dns {
    fn from_object(from: &Object) -> Result<Self, Error> {
        Ok(Self {
            nameservers: from.texts("nameservers")?,
            domain: from.text("domain")?.unwrap_or_default(),
            search: from.texts("search")?,
            options: from.texts("options")?,
        })
    }
}

/// The form of 0.1.0 and 0.2.0: the first address of each family.
#[derive(Serialize)]
struct Flat<'a> {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<FlatIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<FlatIp>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct FlatIp {
    ip: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<PlainRoute>,
}

#[derive(Serialize)]
struct PlainRoute {
    dst: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

impl<'a> Flat<'a> {
    fn of(result: &'a CniResult, version: SpecVersion) -> Self {
        let family = |v4: bool| {
            let ip = result.ips.iter().find(|ip| is_v4(&ip.address) == v4)?;
            let routes = result.routes.iter().filter(|route| is_v4(&route.dst) == v4);
            let routes = routes
                .map(|route| PlainRoute {
                    dst: route.dst,
                    gw: route.gw,
                })
                .collect();
            Some(FlatIp {
                ip: ip.address,
                gateway: ip.gateway,
                routes,
            })
        };
        Self {
            version: version.as_str(),
            ip4: family(true),
            ip6: family(false),
            dns: &result.dns,
        }
    }
}

/// The form since 0.3.0, members in the order of Go's CNI library.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<ListedInterface<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<ListedIp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<ListedRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a Dns>,
}

#[derive(Serialize)]
struct ListedInterface<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
    #[serde(rename = "socketPath", skip_serializing_if = "Option::is_none")]
    socket_path: Option<&'a str>,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pci_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ListedIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

#[derive(Serialize)]
struct ListedRoute {
    #[serde(flatten)]
    plain: PlainRoute,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<u32>,
}

impl<'a> Listed<'a> {
    fn of(result: &'a CniResult, version: SpecVersion) -> Self {
        // What only 1.1.0 can say is left out before it.
        let newest = version >= SpecVersion::V1_1_0;
        let interface = |from: &'a Interface| ListedInterface {
            name: &from.name,
            mac: from.mac.as_deref(),
            mtu: from.mtu.filter(|_| newest),
            sandbox: from.sandbox.as_deref(),
            socket_path: from.socket_path.as_deref().filter(|_| newest),
            pci_id: from.pci_id.as_deref().filter(|_| newest),
        };
        let ip = |from: &IpConfig| ListedIp {
            version: (version < SpecVersion::V1_0_0).then_some(if is_v4(&from.address) {
                "4"
            } else {
                "6"
            }),
            interface: from.interface,
            address: from.address,
            gateway: from.gateway,
        };
        let route = |from: &Route| ListedRoute {
            plain: PlainRoute {
                dst: from.dst,
                gw: from.gw,
            },
            mtu: from.mtu.filter(|_| newest),
            advmss: from.advmss.filter(|_| newest),
            priority: from.priority.filter(|_| newest),
            table: from.table.filter(|_| newest),
            scope: from.scope.filter(|_| newest),
        };
        Self {
            version: version.as_str(),
            interfaces: result.interfaces.iter().map(interface).collect(),
            ips: result.ips.iter().map(ip).collect(),
            routes: result.routes.iter().map(route).collect(),
            dns: (version < SpecVersion::V1_0_0 || !result.dns.is_empty()).then_some(&result.dns),
        }
    }
}
