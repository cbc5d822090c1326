//! An environment to [`Settings`]: total, every row of the table read exactly once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::table::{OnInvalid, VARIABLES, Variable, variable};
use crate::{
    Admin, BindAddress, EniTags, Error, Errors, GroupDrift, GroupSync, Kubernetes, LogFile,
    LogLevel, Logs, NodeNetwork, Notice, Paths, PolicyMode, RandomizeSnat, Settings, WarmTargets,
    parse,
};

/// Settings, with what was read differently from how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Values that fell back; for the log.
    pub notices: Vec<Notice>,
}

impl Settings {
    /// Reads an environment; variables that [`VARIABLES`] does not name are left alone.
    ///
    /// # Errors
    /// All values that upstream refuses to start with, and all that ask for what is not built.
    pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Loaded, Errors>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let mut reader = Reader {
            values: pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            notices: Vec::new(),
            errors: Vec::new(),
        };
        let settings = reader.settings();
        reader.judge_targets(&settings);
        reader.refuse_unbuilt();
        reader.notice_idle();
        if reader.errors.is_empty() {
            Ok(Loaded {
                settings,
                notices: reader.notices,
            })
        } else {
            Err(Errors(reader.errors))
        }
    }
}

struct Reader {
    values: BTreeMap<String, String>,
    notices: Vec<Notice>,
    errors: Vec<Error>,
}

impl Reader {
    fn settings(&mut self) -> Settings {
        let eni_mtu = self.mtu("AWS_VPC_ENI_MTU", 9001);
        let pod_mtu = self.mtu("POD_MTU", eni_mtu);
        Settings {
            warm: WarmTargets {
                eni: self.count("WARM_ENI_TARGET", 0, 1),
                ip: self.count("WARM_IP_TARGET", 0, 0),
                minimum: self.count("MINIMUM_IP_TARGET", 0, 0),
                prefix: self.warm_prefixes(),
            },
            prefix_delegation: self.flag("ENABLE_PREFIX_DELEGATION"),
            subnet_discovery: self.flag("ENABLE_SUBNET_DISCOVERY"),
            provision: !self.flag("DISABLE_NETWORK_RESOURCE_PROVISIONING"),
            max_eni: match self.count("MAX_ENI", 1, 0) {
                0 => None,
                n => Some(n),
            },
            cooldown: self.cooldown(),
            group_sync: if self.flag("BRANCHLINE_GROUP_SYNC") {
                GroupSync::UntilConfirmed
            } else {
                GroupSync::AtStart
            },
            group_drift: self.group_drift(),
            repair: self.flag("BRANCHLINE_REPAIR"),
            manage_untagged: self.flag("MANAGE_UNTAGGED_ENI"),
            leaked_eni_cleanup: !self.flag("DISABLE_LEAKED_ENI_CLEANUP"),
            network: NodeNetwork {
                veth_prefix: self.veth_prefix(),
                eni_mtu,
                pod_mtu,
                external_snat: self.flag("AWS_VPC_K8S_CNI_EXTERNALSNAT"),
                exclude_snat: self.networks("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
                external_services: self.networks("AWS_EXTERNAL_SERVICE_CIDRS"),
                randomize_snat: self.randomize_snat(),
                node_port: self.flag("AWS_VPC_CNI_NODE_PORT_SUPPORT"),
                connmark: self.connmark(),
            },
            tags: EniTags {
                cluster: self.filled("CLUSTER_NAME"),
                additional: self.tags(),
            },
            paths: Paths {
                checkpoint: self.path("AWS_VPC_K8S_CNI_BACKING_STORE"),
                socket: self.path("AWS_VPC_CNI_IPAMD_SOCKET"),
                cni_bin: self.path("HOST_CNI_BIN_PATH"),
                cni_conf: self.path("HOST_CNI_CONFDIR_PATH"),
            },
            logs: self.logs(),
            admin: Admin {
                introspection: self.introspection(),
                metrics: !self.flag("DISABLE_METRICS"),
            },
            policy_mode: self.policy_mode(),
            manage_enis_cordoned: self.flag("AWS_MANAGE_ENIS_NON_SCHEDULABLE"),
            disable_tcp_early_demux: self.flag("DISABLE_TCP_EARLY_DEMUX"),
            kubernetes: Kubernetes {
                node_name: self.filled("MY_NODE_NAME"),
                pod_name: self.filled("MY_POD_NAME"),
                cluster_endpoint: self.cluster_endpoint(),
                service_host: self.filled("KUBERNETES_SERVICE_HOST"),
                service_port: self.service_port(),
                annotate_pod_ip: self.flag("ANNOTATE_POD_IP"),
            },
        }
    }

    /// The text of a variable, or its default from the table.
    fn text(&self, name: &'static str) -> (&'static Variable, String, bool) {
        let row = variable(name).expect("only rows of the table are read; a test reads them all");
        match self.values.get(name) {
            Some(value) => (row, value.clone(), true),
            None => (row, row.default.to_owned(), false),
        }
    }

    fn filled(&self, name: &'static str) -> Option<String> {
        let (_, value, _) = self.text(name);
        (!value.is_empty()).then_some(value)
    }

    /// A value outside its rule: an error or a notice, as the table says.
    fn refuse(&mut self, row: &'static Variable, value: String, used: impl ToString) {
        match row.on_invalid {
            OnInvalid::Abort => {
                self.errors.push(Error::Invalid {
                    variable: row.name,
                    value,
                    rule: row.rule,
                });
            }
            OnInvalid::Fallback | OnInvalid::NotBuilt | OnInvalid::NoEffect => {
                self.notices.push(Notice {
                    variable: row.name,
                    value,
                    rule: row.rule,
                    used: Some(used.to_string()),
                });
            }
        }
    }

    fn flag(&mut self, name: &'static str) -> bool {
        let (row, value, _) = self.text(name);
        let default = row.default == "true";
        match parse::boolean(&value) {
            Some(flag) => flag,
            None => {
                self.refuse(row, value, default);
                default
            }
        }
    }

    /// Upstream's reader of targets: what is no number, or below `least`, is the default.
    fn count(&mut self, name: &'static str, least: i64, default: u32) -> u32 {
        let (row, value, set) = self.text(name);
        if !set {
            return default;
        }
        match parse::integer(&value) {
            Some(n) if n >= least => u32::try_from(n).unwrap_or(u32::MAX),
            // The default as one would write it (MAX_ENI=-1) is no mistake.
            Some(_) if value == row.default => default,
            Some(_) | None => {
                self.refuse(row, value, row.default);
                default
            }
        }
    }

    /// Upstream's binary takes 0 for what it cannot use, its manifest says 1: unset, and what is no
    /// number, is the manifest's here; negative is 0 in both.
    fn warm_prefixes(&mut self) -> u32 {
        let (row, value, _) = self.text("WARM_PREFIX_TARGET");
        match parse::integer(&value) {
            Some(n @ 0..) => u32::try_from(n).unwrap_or(u32::MAX),
            Some(_) => {
                self.refuse(row, value, 0);
                0
            }
            None => {
                self.refuse(row, value, row.default);
                1
            }
        }
    }

    /// Targets that are fine alone and not together.
    fn judge_targets(&mut self, settings: &Settings) {
        let warm = settings.warm;
        let by_prefix = settings.prefix_delegation;
        if by_prefix && (warm.ip, warm.minimum, warm.prefix) == (0, 0, 0) {
            let (row, value, _) = self.text("WARM_PREFIX_TARGET");
            self.errors.push(Error::Invalid {
                variable: row.name,
                value,
                rule: "with ENABLE_PREFIX_DELEGATION one of WARM_PREFIX_TARGET, WARM_IP_TARGET and \
                       MINIMUM_IP_TARGET must be above 0",
            });
        }
        if warm.by_address() {
            let rule = "WARM_IP_TARGET or MINIMUM_IP_TARGET is set, and goes before it";
            self.notice_ignored("WARM_ENI_TARGET", rule);
            self.notice_ignored("WARM_PREFIX_TARGET", rule);
        } else if by_prefix {
            self.notice_ignored(
                "WARM_ENI_TARGET",
                "with ENABLE_PREFIX_DELEGATION it is WARM_PREFIX_TARGET that counts",
            );
        }
        if !by_prefix && !warm.by_address() {
            self.notice_ignored(
                "WARM_PREFIX_TARGET",
                "it means something with ENABLE_PREFIX_DELEGATION only",
            );
        }
        if warm.minimum > 0 && warm.minimum <= warm.ip {
            self.notice_ignored(
                "MINIMUM_IP_TARGET",
                "WARM_IP_TARGET holds as many in any case",
            );
        }
        if !settings.provision {
            self.notice_ignored(
                "MAX_ENI",
                "DISABLE_NETWORK_RESOURCE_PROVISIONING is set: no interface is created",
            );
        }
    }

    /// Notices a variable that another one makes useless, if it is set to something of its own.
    fn notice_ignored(&mut self, name: &'static str, rule: &'static str) {
        let (row, value, set) = self.text(name);
        if set && value != row.default {
            self.notices.push(Notice {
                variable: row.name,
                value,
                rule,
                used: None,
            });
        }
    }

    fn group_drift(&mut self) -> GroupDrift {
        let (row, value, _) = self.text("BRANCHLINE_GROUP_DRIFT");
        match value.as_str() {
            "repair" => GroupDrift::Repair,
            "report" => GroupDrift::Report,
            _ => {
                self.refuse(row, value, row.default);
                GroupDrift::Repair
            }
        }
    }

    fn cooldown(&mut self) -> Duration {
        let (row, value, _) = self.text("IP_COOLDOWN_PERIOD");
        match parse::integer(&value).and_then(|n| u64::try_from(n).ok()) {
            Some(seconds) => Duration::from_secs(seconds),
            None => {
                self.refuse(row, value, row.default);
                Duration::from_secs(30)
            }
        }
    }

    fn mtu(&mut self, name: &'static str, default: u16) -> u16 {
        let (row, value, set) = self.text(name);
        if !set {
            return default;
        }
        match parse::integer(&value).and_then(|n| u16::try_from(n).ok()) {
            Some(mtu @ 576..=9001) => mtu,
            _ => {
                self.refuse(row, value, default);
                default
            }
        }
    }

    fn veth_prefix(&mut self) -> String {
        let (row, value, _) = self.text("AWS_VPC_K8S_CNI_VETHPREFIX");
        let taken = matches!(value.as_str(), "eth" | "lo" | "vlan");
        let unfit = value
            .chars()
            .any(|c| c == '/' || c.is_whitespace() || c.is_control());
        if value.len() > 4 || taken || unfit {
            self.refuse(row, value.clone(), row.default);
        }
        value
    }

    fn networks(&mut self, name: &'static str) -> Vec<Ipv4Net> {
        let (row, value, _) = self.text(name);
        let (networks, dropped) = parse::cidrs(&value);
        for entry in dropped {
            self.refuse(row, entry, "nothing");
        }
        networks
    }

    fn randomize_snat(&mut self) -> RandomizeSnat {
        let (row, value, _) = self.text("AWS_VPC_K8S_CNI_RANDOMIZESNAT");
        match value.as_str() {
            "prng" => RandomizeSnat::Prng,
            "hashrandom" => RandomizeSnat::HashRandom,
            "none" => RandomizeSnat::None,
            _ => {
                self.refuse(row, value, row.default);
                RandomizeSnat::Prng
            }
        }
    }

    fn connmark(&mut self) -> u32 {
        let (row, value, _) = self.text("AWS_VPC_K8S_CNI_CONNMARK");
        match parse::integer_base0(&value).and_then(|n| u32::try_from(n).ok()) {
            Some(mark) if mark > 0 => mark,
            _ => {
                self.refuse(row, value, row.default);
                0x80
            }
        }
    }

    fn tags(&mut self) -> BTreeMap<String, String> {
        let (row, value, _) = self.text("ADDITIONAL_ENI_TAGS");
        let tags: BTreeMap<String, String> = match serde_json::from_str(&value) {
            Ok(tags) => tags,
            Err(_) => {
                self.refuse(row, value, row.default);
                return BTreeMap::new();
            }
        };
        let (reserved, kept): (BTreeMap<_, _>, _) = tags
            .into_iter()
            .partition(|(key, _)| key.contains("k8s.amazonaws.com"));
        for key in reserved.into_keys() {
            self.refuse(row, key, "nothing");
        }
        kept
    }

    /// As `https://host[:port]`; upstream's client takes a host alone too.
    fn cluster_endpoint(&mut self) -> Option<String> {
        let (row, value, _) = self.text("CLUSTER_ENDPOINT");
        let host = value.strip_prefix("https://").unwrap_or(&value);
        let host = host.strip_suffix('/').unwrap_or(host);
        let unfit = |c: char| c == '/' || c == '@' || c.is_whitespace() || c.is_control();
        if value.is_empty() {
            return None;
        }
        if host.is_empty() || host.contains(unfit) {
            self.refuse(row, value, "nothing");
            return None;
        }
        Some(format!("https://{host}"))
    }

    fn service_port(&mut self) -> u16 {
        let (row, value, _) = self.text("KUBERNETES_SERVICE_PORT");
        match parse::integer(&value).and_then(|n| u16::try_from(n).ok()) {
            Some(port) if port > 0 => port,
            _ => {
                self.refuse(row, value, row.default);
                443
            }
        }
    }

    fn path(&mut self, name: &'static str) -> PathBuf {
        let (row, value, _) = self.text(name);
        if value.is_empty() {
            self.refuse(row, value.clone(), row.default);
        }
        PathBuf::from(value)
    }

    fn logs(&mut self) -> Logs {
        let (_, agent_file, _) = self.text("AWS_VPC_K8S_CNI_LOG_FILE");
        let (row, plugin_file, _) = self.text("AWS_VPC_K8S_PLUGIN_LOG_FILE");
        if plugin_file == "stdout" {
            self.refuse(row, plugin_file.clone(), row.default);
        }
        self.level("AWS_VPC_K8S_PLUGIN_LOG_LEVEL");
        Logs {
            agent_file: match agent_file.as_str() {
                "stdout" => LogFile::Stdout,
                "stderr" | "" => LogFile::Stderr,
                path => LogFile::Path(path.into()),
            },
            agent_level: self.level("AWS_VPC_K8S_CNI_LOGLEVEL"),
            plugin_file,
            plugin_level: self.text("AWS_VPC_K8S_PLUGIN_LOG_LEVEL").1,
        }
    }

    fn level(&mut self, name: &'static str) -> LogLevel {
        let (row, value, _) = self.text(name);
        match value.to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            "error" | "fatal" => LogLevel::Error,
            _ => {
                self.refuse(row, value, row.default);
                LogLevel::Debug
            }
        }
    }

    fn introspection(&mut self) -> Option<BindAddress> {
        let disabled = self.flag("DISABLE_INTROSPECTION");
        let (row, value, _) = self.text("INTROSPECTION_BIND_ADDRESS");
        let address = match value.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Some(BindAddress::Unix(path.into())),
            Some(_) => None,
            None => value.parse().ok().map(BindAddress::Tcp),
        };
        if address.is_none() {
            self.refuse(row, value, row.default);
        }
        address.filter(|_| !disabled)
    }

    fn policy_mode(&mut self) -> Option<PolicyMode> {
        let (row, value, set) = self.text("NETWORK_POLICY_ENFORCING_MODE");
        if !set {
            return None;
        }
        match value.to_ascii_lowercase().as_str() {
            "none" => Some(PolicyMode::None),
            "standard" => Some(PolicyMode::Standard),
            "strict" => Some(PolicyMode::Strict),
            _ => {
                self.refuse(row, value, row.default);
                None
            }
        }
    }

    /// Somebody who sets what has no effect is told so.
    fn notice_idle(&mut self) {
        let idle = VARIABLES
            .iter()
            .filter(|row| row.on_invalid == OnInvalid::NoEffect);
        for row in idle {
            if let Some(value) = self.values.get(row.name).filter(|v| *v != row.default) {
                self.notices.push(Notice {
                    variable: row.name,
                    value: value.clone(),
                    rule: row.rule,
                    used: None,
                });
            }
        }
    }

    /// A feature that is not built answers with its name; `ENABLE_IPv4=false` leaves no family.
    fn refuse_unbuilt(&mut self) {
        for row in VARIABLES
            .iter()
            .filter(|row| row.on_invalid == OnInvalid::NotBuilt)
        {
            if self.flag(row.name) {
                let (_, value, _) = self.text(row.name);
                self.errors.push(Error::NotBuilt {
                    variable: row.name,
                    value,
                    feature: row.effect,
                });
            }
        }
        if !self.flag("ENABLE_IPv4") {
            let (row, value, _) = self.text("ENABLE_IPv4");
            self.errors.push(Error::NotBuilt {
                variable: row.name,
                value,
                feature: "a node without IPv4 pods",
            });
        }
    }
}
