//! The one list of variables: name, default, unit, rule and what it does.

/// What a variable's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Go's `ParseBool` words.
    Boolean,
    /// A whole number of things.
    Count,
    /// Whole seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A path on the node.
    Path,
    /// Comma-separated IPv4 networks.
    Networks,
    /// One of a few words.
    Word,
    /// A JSON object of strings.
    Json,
    /// Free text.
    Text,
}

/// What happens to a value outside the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInvalid {
    /// The default (or what the rule says) is used, with a notice.
    Fallback,
    /// The start is refused.
    Abort,
    /// The value asks for a feature that is not built; the start is refused.
    NotBuilt,
    /// No value changes what this stack does; any but the default is noticed.
    NoEffect,
}

/// One variable of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// What an unset variable means, as one would write it.
    pub default: &'static str,
    /// What the text is.
    pub unit: Unit,
    /// What is accepted.
    pub rule: &'static str,
    /// What happens otherwise.
    pub on_invalid: OnInvalid,
    /// What it does.
    pub effect: &'static str,
}

/// The row of a variable.
pub fn variable(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|v| v.name == name)
}

const BOOLEAN: &str = "1 t T TRUE true True or 0 f F FALSE false False; empty is the default";
const MTU: &str = "a whole number from 576 to 9001";

const fn row(
    name: &'static str,
    default: &'static str,
    unit: Unit,
    rule: &'static str,
    on_invalid: OnInvalid,
    effect: &'static str,
) -> Variable {
    Variable {
        name,
        default,
        unit,
        rule,
        on_invalid,
        effect,
    }
}

const fn flag(name: &'static str, default: &'static str, effect: &'static str) -> Variable {
    row(
        name,
        default,
        Unit::Boolean,
        BOOLEAN,
        OnInvalid::Fallback,
        effect,
    )
}

const fn unbuilt(name: &'static str, default: &'static str, effect: &'static str) -> Variable {
    row(
        name,
        default,
        Unit::Boolean,
        BOOLEAN,
        OnInvalid::NotBuilt,
        effect,
    )
}

/// A variable of upstream's that changes nothing here; `rule` says why.
const fn idle(
    name: &'static str,
    default: &'static str,
    unit: Unit,
    rule: &'static str,
    effect: &'static str,
) -> Variable {
    row(name, default, unit, rule, OnInvalid::NoEffect, effect)
}

const WITH_ENI_CONFIG: &str =
    "any value; it means something with AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG only";
const WITH_POD_ENI: &str = "any value; it means something with ENABLE_POD_ENI only";
const WITH_IPV6: &str = "any value; it means something with ENABLE_IPv6 only";
const NO_EGRESS_PLUGIN: &str = "any value; no egress-cni is installed that could write it";
const NO_OP: &str = "any value; upstream does not read it any more";

use OnInvalid::{Abort, Fallback};

/// Every variable that the stack reads, in the order of vpc-cni.md §1.
#[rustfmt::skip]
pub const VARIABLES: &[Variable] = &[
    row("WARM_ENI_TARGET", "1", Unit::Count, "a whole number; negative is 1", Fallback,
        "interfaces' worth of free addresses to keep; ignored when an address target is set"),
    row("WARM_IP_TARGET", "0", Unit::Count, "a whole number; negative is 0; 0 is off", Fallback,
        "free addresses to keep; overrides WARM_ENI_TARGET"),
    row("MINIMUM_IP_TARGET", "0", Unit::Count, "a whole number; negative is 0; 0 is off", Fallback,
        "addresses to hold at least, used or free; alone it makes the free target 0"),
    row("WARM_PREFIX_TARGET", "1", Unit::Count, "a whole number; negative is 0", Fallback,
        "whole /28 prefixes to keep free with prefix delegation; ignored when an address target is set"),
    flag("ENABLE_PREFIX_DELEGATION", "false", "/28 prefixes instead of single addresses; needs a Nitro or bare-metal type"),
    flag("ENABLE_SUBNET_DISCOVERY", "true",
        "new interfaces in subnets of the zone with the tag kubernetes.io/role/cni too; false: in the primary interface's alone"),
    flag("DISABLE_NETWORK_RESOURCE_PROVISIONING", "false", "somebody else gives the node its interfaces and addresses; the agent asks EC2, and changes nothing there"),
    row("MAX_ENI", "-1", Unit::Count, "a whole number; below 1 is the instance's limit", Fallback,
        "interfaces to use at most; the instance's limit bounds it"),
    row("IP_COOLDOWN_PERIOD", "30", Unit::Seconds, "whole seconds, 0 or more", Abort,
        "rest of a released address before another pod gets it"),
    flag("MANAGE_UNTAGGED_ENI", "true", "interfaces without this instance's tag belong to the pool"),
    flag("DISABLE_LEAKED_ENI_CLEANUP", "false", "leave interfaces that an earlier start created and did not attach"),
    flag("BRANCHLINE_GROUP_SYNC", "true",
         "repeat the primary interface's security groups on every other one until EC2 shows them; false copies them once, at start, as upstream did before 1.7.2"),
    flag("BRANCHLINE_REPAIR", "true",
        "links, addresses, routes and rules of the node that are the agent's are put right when something changes them; false only tells of them (metrics, /state)"),
    row("BRANCHLINE_GROUP_DRIFT", "repair", Unit::Word, "repair or report", Fallback,
        "what happens to groups set by hand on another interface than the primary: set back, or reported only"),
    row("AWS_VPC_K8S_CNI_VETHPREFIX", "eni", Unit::Text, "at most 4 characters, not eth, lo or vlan, no '/' or white space; empty is an empty prefix", Abort,
        "start of every host-side veth name; the policy agent knows eni and vlan only"),
    row("AWS_VPC_ENI_MTU", "9001", Unit::Bytes, MTU, Abort, "MTU of the interfaces, and of pods unless POD_MTU is set"),
    row("POD_MTU", "AWS_VPC_ENI_MTU", Unit::Bytes, MTU, Abort, "MTU of pods"),
    flag("AWS_VPC_K8S_CNI_EXTERNALSNAT", "false", "true: the node does not translate traffic that leaves the VPC"),
    row("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "", Unit::Networks, "comma-separated IPv4 networks; others are dropped", Fallback,
        "destinations outside the VPC that see the pod's address; ignored with external SNAT"),
    row("AWS_EXTERNAL_SERVICE_CIDRS", "", Unit::Networks, "comma-separated IPv4 networks; others are dropped", Fallback,
        "destinations looked up in the main table, rule 1535"),
    row("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng", Unit::Word, "prng, hashrandom or none", Fallback,
        "how source ports are chosen when the node translates"),
    flag("AWS_VPC_CNI_NODE_PORT_SUPPORT", "true", "replies to node ports leave by the primary interface, rule 1024"),
    row("AWS_VPC_K8S_CNI_CONNMARK", "0x80", Unit::Count, "1 to 4294967295; 0x, 0o, 0b and leading 0 give the base", Fallback,
        "conntrack mark of that traffic"),
    row("AWS_VPC_K8S_CNI_BACKING_STORE", "/var/run/aws-node/ipam.json", Unit::Path, "a path, not empty", Abort,
        "the checkpoint, format vpc-cni-ipam/1"),
    row("AWS_VPC_CNI_IPAMD_SOCKET", "/var/run/aws-node/ipamd.sock", Unit::Path, "a path, not empty", Abort,
        "where the agent listens; the plugin reads the same variable"),
    row("HOST_CNI_BIN_PATH", "/host/opt/cni/bin", Unit::Path, "a path, not empty", Abort, "where the runtime looks for plugins"),
    row("HOST_CNI_CONFDIR_PATH", "/host/etc/cni/net.d", Unit::Path, "a path, not empty", Abort, "where the runtime looks for network lists"),
    row("AWS_VPC_K8S_CNI_LOG_FILE", "/host/var/log/aws-routed-eni/ipamd.log", Unit::Path, "a path, stdout or stderr; empty is stderr", Fallback,
        "the agent's log"),
    row("AWS_VPC_K8S_CNI_LOGLEVEL", "debug", Unit::Word, "debug, info, warn, error or fatal, in any case", Fallback, "the agent's log level"),
    row("AWS_VPC_K8S_PLUGIN_LOG_FILE", "/var/log/aws-routed-eni/plugin.log", Unit::Path, "a path or stderr, not stdout (it carries the CNI result); empty is stderr", Abort,
        "the plugin's log, written into the network list"),
    row("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "Debug", Unit::Word, "debug, info, warn, error or fatal, in any case", Fallback,
        "the plugin's log level, written into the network list"),
    row("INTROSPECTION_BIND_ADDRESS", "127.0.0.1:61679", Unit::Text, "an address with a port, or unix:<path>", Abort,
        "where the pool is shown as JSON"),
    flag("DISABLE_INTROSPECTION", "false", "do not serve introspection"),
    flag("DISABLE_METRICS", "false", "do not serve metrics on port 61678"),
    row("NETWORK_POLICY_ENFORCING_MODE", "", Unit::Word, "none, standard or strict in any case, or unset; not empty", Abort,
        "handed to the plugin, which then waits for the policy agent; unset: it never calls it"),
    row("CLUSTER_NAME", "", Unit::Text, "any text; empty is unset", Fallback, "tags interfaces with the cluster"),
    row("ADDITIONAL_ENI_TAGS", "{}", Unit::Json, "a JSON object of strings; keys with k8s.amazonaws.com are dropped", Fallback, "more tags for new interfaces"),
    flag("AWS_MANAGE_ENIS_NON_SCHEDULABLE", "false", "attach and detach interfaces of a cordoned node too"),
    flag("DISABLE_TCP_EARLY_DEMUX", "false", "init container: true writes net/ipv4/tcp_early_demux=0, false 1"),
    row("MY_NODE_NAME", "", Unit::Text, "any text; empty is unset", Fallback, "this node's name; the DaemonSet sets it"),
    row("MY_POD_NAME", "", Unit::Text, "any text; empty is unset", Fallback, "this pod's name, for events; the DaemonSet sets it"),
    row("CLUSTER_ENDPOINT", "", Unit::Text, "https://host[:port] or a host; empty is unset", Abort,
        "where the API server is reached instead of its service address, which needs kube-proxy"),
    row("KUBERNETES_SERVICE_HOST", "", Unit::Text, "a host; empty is unset", Fallback, "the API server's service address; the kubelet sets it"),
    row("KUBERNETES_SERVICE_PORT", "443", Unit::Count, "a port", Fallback, "its port; the kubelet sets it"),
    flag("ANNOTATE_POD_IP", "false", "keep the annotation vpc.amazonaws.com/pod-ips on pods; needs the right to patch pods"),
    flag("ENABLE_IPv4", "true", "pods get IPv4 addresses; upstream's binary says false, its manifest true"),
    unbuilt("ENABLE_IPv6", "false", "IPv6 pods"),
    unbuilt("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "false", "custom networking by ENIConfig"),
    unbuilt("ENABLE_POD_ENI", "false", "security groups for pods on branch interfaces"),
    unbuilt("ENABLE_MULTI_NIC", "false", "pods on several network cards"),
    unbuilt("ENABLE_IMDS_ONLY_MODE", "false", "an agent that reads instance metadata only"),
    unbuilt("ENABLE_V6_EGRESS", "false", "IPv6 connections from IPv4 pods, by egress-cni"),
    unbuilt("ENABLE_BANDWIDTH_PLUGIN", "false", "the limits of the annotations kubernetes.io/ingress-bandwidth and egress-bandwidth"),
    unbuilt("DISABLE_POD_V6", "false", "pods whose links have IPv6 switched off, by the tuning plugin"),
    idle("POD_SECURITY_GROUP_ENFORCING_MODE", "strict", Unit::Word, WITH_POD_ENI, "how traffic of pods with security groups of their own is filtered"),
    idle("ENI_CONFIG_ANNOTATION_DEF", "k8s.amazonaws.com/eniConfig", Unit::Text, WITH_ENI_CONFIG, "the node's annotation that names its ENIConfig"),
    idle("ENI_CONFIG_LABEL_DEF", "k8s.amazonaws.com/eniConfig", Unit::Text, WITH_ENI_CONFIG, "the node's label that names its ENIConfig"),
    idle("ENABLE_V4_EGRESS", "true", Unit::Boolean, WITH_IPV6, "IPv4 connections from IPv6 pods, by egress-cni"),
    idle("AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE", "/var/log/aws-routed-eni/egress-v4-plugin.log", Unit::Path, NO_EGRESS_PLUGIN, "a log of egress-cni"),
    idle("AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE", "/var/log/aws-routed-eni/egress-v6-plugin.log", Unit::Path, NO_EGRESS_PLUGIN, "a log of egress-cni"),
    idle("HTTP_TIMEOUT", "10", Unit::Seconds, "any value; a call of EC2 has a deadline of its own", "how long upstream waits for an answer of EC2"),
    idle("AWS_EC2_ENDPOINT", "", Unit::Text, "any value; upstream does not call it either: AWS_ENDPOINT_URL_EC2 does", "another address of EC2"),
    idle("VPC_CNI_VERSION", "", Unit::Text, "any value", "the version that upstream tells EC2 in its user agent"),
    idle("AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER", "true", Unit::Boolean, NO_OP, "nothing"),
    idle("ENABLE_NFTABLES", "false", Unit::Boolean, NO_OP, "nothing"),
];
