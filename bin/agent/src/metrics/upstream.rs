//! The families that upstream's dashboards and its metrics helper know (v1.23), with its labels.

use std::collections::BTreeMap;

use ipam::{Call, Eni, SlotState};

use super::page::Page;
use super::{Metrics, Seen};

/// Upstream's words for what EC2 showed otherwise.
pub(super) const ENI_ADDED: &str = "eniReconcileAdd";
pub(super) const ENI_GONE: &str = "eniReconcileDel";

/// Upstream's word for a call that failed.
pub(super) fn error_of(call: &Call) -> Option<&'static str> {
    Some(match call {
        Call::CreateEni { .. } | Call::AttachEni { .. } => "increaseIPPoolAllocENI",
        Call::Assign { .. } => "increaseIPPoolAllocIPAddressesFailed",
        Call::SetUp { .. } => "increaseIPPoolsetupENIFailed",
        Call::DetachEni { .. } | Call::DeleteEni { .. } => "decreaseIPPoolFreeENIFailed",
        Call::Unassign { .. } => "decreaseIPPool",
        Call::Show { .. } => "reconcileFailedGetENIs",
        Call::SetDeleteOnTermination { .. }
        | Call::SetGroups { .. }
        | Call::ShowSubnets
        | Call::PrimaryGroups => return None,
    })
}

/// Reasons of refusals that mean what upstream counts: there is no address.
fn is_exhausted(word: &str) -> bool {
    !matches!(word, "not-ready" | "draining" | "deleted" | "unknown-pod")
}

fn pods(eni: &Eni) -> usize {
    let held = eni.slots.values();
    held.filter(|slot| matches!(slot.state, SlotState::Assigned(_)))
        .count()
}

impl Metrics {
    pub(super) fn upstream(&self, page: &mut Page, seen: &Seen<'_>) {
        self.pool_gauges(page, seen);
        self.counters(page, seen);
        self.starts(page);
        let version = [("version", env!("CARGO_PKG_VERSION")), ("goversion", "")];
        page.head("awscni_build_info", "gauge", "The build");
        page.line("awscni_build_info", &version, 1);
    }

    fn pool_gauges(&self, page: &mut Page, seen: &Seen<'_>) {
        let pool = seen.pool;
        let counts = pool.counts();
        let most = pool.most_addresses();
        let gauges = [
            (
                "awscni_eni_max",
                "Interfaces that pods may use",
                counts.interfaces_max,
            ),
            (
                "awscni_eni_allocated",
                "Interfaces in use",
                counts.interfaces,
            ),
            ("awscni_ip_max", "Addresses that pods may have", most),
            ("awscni_total_ip_addresses", "Addresses held", counts.total),
            (
                "awscni_assigned_ip_addresses",
                "Addresses of pods",
                counts.assigned,
            ),
            (
                "awscni_total_ipv4_prefixes",
                "Prefixes held",
                counts.prefixes,
            ),
        ];
        for (name, help, value) in gauges {
            page.value(name, "gauge", help, value);
        }
        page.by(
            (
                "awscni_assigned_ip_per_eni",
                "gauge",
                "Addresses of pods by interface",
            ),
            "eni",
            pool.enis().map(|eni| (eni.id.to_string(), pods(eni))),
        );
        let blocks = pool.enis().flat_map(ipam::Eni::by_block);
        let used = blocks.map(|(block, slots)| {
            let used = slots
                .iter()
                .filter(|(_, slot)| matches!(slot.state, SlotState::Assigned(_)));
            (block.to_string(), used.count())
        });
        page.by(
            (
                "awscni_assigned_ip_per_cidr",
                "gauge",
                "Addresses of pods by /32 or prefix, those in use",
            ),
            "cidr",
            used.filter(|(_, used)| *used > 0),
        );
        let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
        for call in pool.in_flight() {
            *calls.entry(call.action()).or_default() += 1;
        }
        let family = (
            "awscni_ipamd_action_inprogress",
            "gauge",
            "Calls without an answer",
        );
        page.by(family, "fn", calls);
        let none: [(&str, u64); 0] = [];
        let family = (
            "awscni_connmark_backend",
            "gauge",
            "Not built: translation of node ports' answers",
        );
        page.by(family, "backend", none);
    }

    fn counters(&self, page: &mut Page, seen: &Seen<'_>) {
        page.value("awscni_add_ip_req_count", "counter", "ADDs", self.adds);
        let family = ("awscni_del_ip_req_count", "counter", "DELs by reason");
        page.by(family, "reason", &self.dels);
        let none = self.refused.iter().filter(|(word, _)| is_exhausted(word));
        page.value(
            "awscni_no_available_ip_addresses",
            "counter",
            "ADDs refused for want of an address",
            none.map(|(_, n)| n).sum::<u64>(),
        );
        let mut errors = self.errors.clone();
        if seen.findings.checkpoint.errors > 0 {
            errors.insert("checkpoint", seen.findings.checkpoint.errors);
        }
        let family = (
            "awscni_ipamd_error_count",
            "counter",
            "What failed, by upstream's words",
        );
        page.by(family, "fn", errors);
        let family = (
            "awscni_reconcile_count",
            "counter",
            "What EC2 showed otherwise, by upstream's words",
        );
        page.by(family, "fn", &self.reconciled);
        page.value(
            "awscni_force_removed_enis",
            "counter",
            "Interfaces that EC2 showed no more while pods were on them",
            self.lost.0,
        );
        page.value(
            "awscni_force_removed_ips",
            "counter",
            "Addresses that EC2 showed no more while pods had them",
            self.lost.1,
        );
        let name = "awscni_aws_utils_error_count";
        page.head(
            name,
            "counter",
            "Reads of the node's identity that failed; /state has the reason",
        );
        let labels = [("fn", "identify"), ("error", "not-known")];
        page.line(name, &labels, self.not_identified);
        let none: [(&str, u64); 0] = [];
        let family = (
            "awscni_pod_eni_error_count",
            "counter",
            "Not built: security groups for pods",
        );
        page.by(family, "fn", none);
        let family = (
            "awscni_connmark_reconcile_total",
            "counter",
            "Not built: translation of node ports' answers",
        );
        page.by(family, "result", [("success", 0), ("error", 0)]);
    }

    fn starts(&self, page: &mut Page) {
        let name = "awscni_ipamd_startup_duration_seconds";
        let help = "From the start until the first pod can be served";
        page.head(name, "histogram", help);
        if let Some((took, with_api_server)) = &self.started {
            let labels = [
                ("success", "true"),
                (
                    "with_api_server",
                    if *with_api_server { "true" } else { "false" },
                ),
                ("failure_reason", ""),
            ];
            page.histogram(name, &labels, took);
        }
        let name = "awscni_ipamd_node_initialization_duration_seconds";
        let help = "From the start until the node is known; the failed attempts beside it";
        page.head(name, "histogram", help);
        page.histogram(name, &[("success", "true")], &self.identified);
        page.histogram(name, &[("success", "false")], &self.failed_to_identify);
    }
}
