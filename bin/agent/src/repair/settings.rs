//! Settings under /proc/sys that the init container and the plugin write. The agent's own container
//! sees them read-only, so that a difference is mostly told and not repaired.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use ipam::Millis;
use kernel::sysctl;
use nodenet::{LinkName, NodeFacts};

use super::{Kind, Repairer, Round};

/// Replies to node ports come back by another interface than their requests went in by: the primary
/// interface takes a source that is reachable by any.
pub(crate) fn loose_source_check(primary: &LinkName) -> (String, String) {
    (format!("ipv4/conf/{primary}/rp_filter"), "2".to_owned())
}

/// `all/forwarding` writes the setting of every link there is: that is the node's to decide (Docker
/// and kubelets do), and no drift.
fn for_all_links(key: &str, is: &str) -> bool {
    let all = || sysctl::read_here("ipv6/conf/all/forwarding");
    key.starts_with("ipv6/")
        && key.ends_with("/forwarding")
        && matches!(all(), Ok(Some(all)) if all == is)
}

impl Repairer {
    /// Compares the settings of the primary interface and of pods' veths.
    pub(super) fn settings(&mut self, node: &NodeFacts, now: Millis, round: &mut Round) {
        let primary = node.enis.iter().find(|eni| eni.is_primary());
        let mut wanted: Vec<(String, String)> = Vec::new();
        wanted.extend(primary.map(|eni| loose_source_check(&eni.link)));
        for pod in &node.pods {
            // `compile` has refused what has no wiring.
            wanted.extend(
                nodenet::wiring(node, pod)
                    .into_iter()
                    .flat_map(|w| w.host.sysctls),
            );
        }
        // One difference of a hundred veths is told once.
        let mut told: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for (key, value) in wanted {
            match sysctl::read_here(&key) {
                Ok(None) => {}
                Ok(Some(is)) if is == value || for_all_links(&key, &is) => {}
                Ok(Some(is)) => {
                    let what = format!("net/{key} is {is}, not {value}");
                    if let Some(why) = self.set((&key, &value), &what, now, round) {
                        let name = key.rsplit('/').next().unwrap_or_default();
                        told.entry((name.to_owned(), why)).or_default().push(what);
                    }
                }
                Err(error) => round.fails(format!("net/{key}"), error.to_string()),
            }
        }
        for ((_, why), what) in told {
            let told = match what.as_slice() {
                [first, others @ ..] if !others.is_empty() => {
                    format!("{first}, and on {} more links", others.len())
                }
                what => what.concat(),
            };
            round.fails(told, why);
        }
    }

    /// Why a setting was not put right, if it was not.
    fn set(
        &mut self,
        (key, value): (&str, &str),
        what: &str,
        now: Millis,
        round: &mut Round,
    ) -> Option<String> {
        let object = format!("net/{key}");
        let mut paused = Round::default();
        if !self.may_repair(&object, what, now, &mut paused) {
            paused.again.into_iter().for_each(|at| round.again_at(at));
            return paused.failing.into_values().next();
        }
        match sysctl::write_here(key, value) {
            Ok(()) => {
                self.tried(Kind::Sysctl, (object, what.to_owned()), Ok(()), now, round);
                None
            }
            Err(kernel::Error::Sysctl { source, .. })
                if matches!(
                    source.kind(),
                    ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
                ) =>
            {
                Some(
                    "the agent may not write /proc/sys: what the init container sets, it sets again \
                     at the next start of aws-node's pod; the rest is the node's to set"
                        .to_owned(),
                )
            }
            Err(error) => Some(error.to_string()),
        }
    }
}
