//! The address agent's introspection (`127.0.0.1:61679`), both halves: the agent writes it, the
//! operator's tool reads it, from our agent and from upstream's.
//!
//! `/v1/enis` is upstream's document with its Go-cased names: one pool per network card. Releases
//! without network cards print the pool at the top level; [`Enis`] reads both. `/state` is ours and
//! absent (404) on upstream's agent.

mod state;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use state::{
    Backoff, Ceiling, Checkpoint, Cluster, Denied, GroupSync, Interface, Leases, Numbers, Reason,
    Released, Repair, Repairs, State, Waiting,
};

/// Go prints an address without an unassignment as the zero time.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// `/v1/enis`: the pools by network card, as `"0"`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Enis(pub BTreeMap<String, Pool>);

impl<'de> Deserialize<'de> for Enis {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let document = serde_json::Value::deserialize(deserializer)?;
        let flat = document.get("ENIs").is_some();
        let pools = match flat {
            true => serde_json::from_value(document).map(|pool| [("0".to_owned(), pool)].into()),
            false => serde_json::from_value(document),
        };
        pools.map(Enis).map_err(D::Error::custom)
    }
}

/// The addresses of one network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pool {
    /// All pod addresses of its interfaces.
    #[serde(rename = "TotalIPs")]
    pub total_ips: usize,
    /// Those that pods have.
    #[serde(rename = "AssignedIPs")]
    pub assigned_ips: usize,
    /// Interfaces by id.
    #[serde(rename = "ENIs")]
    pub enis: BTreeMap<String, Eni>,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Eni {
    /// `eni-…`
    #[serde(rename = "ID")]
    pub id: String,
    /// Whether the instance was launched with it.
    pub is_primary: bool,
    /// Whether it carries branch interfaces.
    pub is_trunk: bool,
    /// Whether it is an elastic fabric adapter.
    #[serde(rename = "IsEFA")]
    pub is_efa: bool,
    /// Device index on its card.
    pub device_number: i64,
    /// `/32`s, or `/28` prefixes, by CIDR.
    #[serde(rename = "AvailableIPv4Cidrs")]
    pub available_ipv4_cidrs: BTreeMap<String, Cidr>,
    /// IPv6 prefixes by CIDR, in the same form.
    #[serde(rename = "IPv6Cidrs")]
    pub ipv6_cidrs: BTreeMap<String, Cidr>,
}

/// One range of addresses of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Cidr {
    /// Go's form of a network.
    pub cidr: IpNet,
    /// Addresses that are or were in use, by address.
    #[serde(rename = "IPAddresses")]
    pub ip_addresses: BTreeMap<String, Address>,
    /// Whether it is a delegated prefix.
    pub is_prefix: bool,
    /// Empty, `4` or `6`.
    pub address_family: String,
}

/// `net.IPNet` as Go's JSON prints it: the mask is base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpNet {
    /// The network's address.
    #[serde(rename = "IP")]
    pub ip: String,
    /// The mask's bytes, base64: `/////w==` is `/32`.
    #[serde(rename = "Mask")]
    pub mask: String,
}

/// One address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Address {
    /// The address.
    pub address: String,
    /// Whose it is; all empty when nobody's.
    #[serde(rename = "IPAMKey")]
    pub ipam_key: Key,
    /// The pod.
    #[serde(rename = "IPAMMetadata")]
    pub ipam_metadata: Metadata,
    /// When it was given away, RFC 3339, or [`NEVER`].
    pub assigned_time: String,
    /// When it came back, RFC 3339, or [`NEVER`].
    pub unassigned_time: String,
}

impl Address {
    /// Whether a pod has it now.
    pub fn assigned(&self) -> bool {
        !self.ipam_key.container_id.is_empty()
            || (!self.ipam_metadata.k8s_pod_name.is_empty() && self.unassigned_time == NEVER)
    }
}

/// The attachment that an address was given to. Upstream scrubs the container's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Key {
    /// `aws-cni`
    pub network_name: String,
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `eth0`
    pub if_name: String,
}

/// The pod that an address was given to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Its namespace.
    #[serde(rename = "k8sPodNamespace", skip_serializing_if = "String::is_empty")]
    pub k8s_pod_namespace: String,
    /// Its name.
    #[serde(rename = "k8sPodName", skip_serializing_if = "String::is_empty")]
    pub k8s_pod_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &str = r#"{"0":{"TotalIPs":10,"AssignedIPs":1,"ENIs":{"eni-0a1":{"ID":"eni-0a1",
      "IsPrimary":true,"IsTrunk":false,"IsEFA":false,"DeviceNumber":0,"AvailableIPv4Cidrs":{
      "10.0.1.5/32":{"Cidr":{"IP":"10.0.1.5","Mask":"/////w=="},"IPAddresses":{"10.0.1.5":{
      "Address":"10.0.1.5","IPAMKey":{"networkName":"aws-cni","containerID":"","ifName":"eth0"},
      "IPAMMetadata":{"k8sPodNamespace":"default","k8sPodName":"api-1"},
      "AssignedTime":"2026-01-01T00:00:00Z","UnassignedTime":"0001-01-01T00:00:00Z"}},
      "IsPrefix":false,"AddressFamily":""}},"IPv6Cidrs":{}}}}}"#;

    #[test]
    fn reads_pools_by_card_and_the_older_flat_form() {
        let by_card: Enis = serde_json::from_str(UPSTREAM).unwrap();
        let inner: serde_json::Value = serde_json::from_str(UPSTREAM).unwrap();
        let flat: Enis = serde_json::from_value(inner["0"].clone()).unwrap();
        assert_eq!(by_card, flat);
        let cidr = &by_card.0["0"].enis["eni-0a1"].available_ipv4_cidrs["10.0.1.5/32"];
        assert!(cidr.ip_addresses["10.0.1.5"].assigned());
    }

    #[test]
    fn writes_what_upstream_writes() {
        let enis: Enis = serde_json::from_str(UPSTREAM).unwrap();
        let written: serde_json::Value = serde_json::to_value(&enis).unwrap();
        let upstream: serde_json::Value = serde_json::from_str(UPSTREAM).unwrap();
        assert_eq!(written, upstream);
    }
}
