//! What the plugin asks the two daemons of the node, in upstream's messages.

use std::net::Ipv4Addr;

use cni::rpc::backend::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, DeleteNpReply,
    DeleteNpRequest, EnforceNpReply, EnforceNpRequest, IpAllocationMetadata,
};
use cni::rpc::node::{
    Allocation, AttachmentKey, GetAllocationReply, ListAllocationsReply, StatusReply,
};
use cni::rpc::unary::{CallError, Channel, GrpcCode, Pending};
use cni::{Attachment, NetConf, rpc};
use nodenet::TableId;

use crate::failure::{Failure, of_refusal};
use crate::settings::Settings;

/// A connection to the address daemon.
pub(crate) struct AddressDaemon<'a> {
    channel: Channel,
    settings: &'a Settings,
}

/// One address of a pod, as the daemon handed it out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) device_number: i32,
    /// As the daemon wrote it: upstream's result repeats it.
    pub(crate) route_table_id: i32,
}

impl Lease {
    pub(crate) fn new(from: &IpAllocationMetadata) -> Result<Self, Failure> {
        if from.ipv4_addr.is_empty() && !from.ipv6_addr.is_empty() {
            return Err(Failure::NotBuilt {
                what: format!("IPv6 for pods ({})", from.ipv6_addr),
            });
        }
        let address = from.ipv4_addr.parse().map_err(|_| Failure::Answer {
            reason: format!("{:?} is not an IPv4 address", from.ipv4_addr),
        })?;
        Ok(Self {
            address,
            device_number: from.device_number,
            route_table_id: from.route_table_id,
        })
    }

    /// The table that the number means.
    pub(crate) fn table(&self) -> TableId {
        nodenet::layout::reply_table(u32::try_from(self.route_table_id).unwrap_or(0))
    }
}

/// How a DEL ended on the daemon's side.
pub(crate) enum Released {
    /// It released what the reply lists.
    Reply(DelNetworkReply),
    /// It never gave this attachment an address, or took it back before.
    UnknownPod,
}

impl<'a> AddressDaemon<'a> {
    pub(crate) fn connect(settings: &'a Settings) -> Result<Self, CallError> {
        let channel = Channel::connect(&settings.ipamd_socket, settings.deadline())?;
        Ok(Self { channel, settings })
    }

    /// Asks for an address; the answer is not waited for.
    pub(crate) fn ask(
        &mut self,
        conf: &NetConf,
        attachment: &Attachment,
        netns: &std::path::Path,
    ) -> Asked<'_> {
        let request = AddNetworkRequest {
            k8s_pod_name: attachment.pod.name.clone(),
            k8s_pod_namespace: attachment.pod.namespace.clone(),
            k8s_pod_infra_container_id: attachment.pod.infra_container_id.clone(),
            netns: netns.to_string_lossy().into_owned(),
            if_name: attachment.if_name.to_string(),
            network_name: conf.name.clone(),
            container_id: attachment.container_id.to_string(),
            client_version: rpc::CLIENT_VERSION.to_owned(),
            requires_multi_nic_attachment: conf.multi_nic,
            k8s_pod_uid: attachment.pod.uid.clone(),
        };
        let deadline = self.settings.deadline();
        Asked(self.channel.begin(rpc::ADD_NETWORK, &request, deadline))
    }

    /// Gives the attachment's addresses back.
    pub(crate) fn del(
        &mut self,
        conf: &NetConf,
        attachment: &Attachment,
        reason: &str,
    ) -> Result<Released, DelError> {
        self.release(conf, attachment, reason).answer()
    }

    /// Has the attachment's addresses given back; the answer is not waited for.
    pub(crate) fn release(
        &mut self,
        conf: &NetConf,
        attachment: &Attachment,
        reason: &str,
    ) -> Releasing<'_> {
        self.begin_release(&DelNetworkRequest {
            k8s_pod_name: attachment.pod.name.clone(),
            k8s_pod_namespace: attachment.pod.namespace.clone(),
            k8s_pod_infra_container_id: attachment.pod.infra_container_id.clone(),
            reason: reason.to_owned(),
            if_name: attachment.if_name.to_string(),
            network_name: conf.name.clone(),
            container_id: attachment.container_id.to_string(),
            client_version: rpc::CLIENT_VERSION.to_owned(),
            k8s_pod_uid: attachment.pod.uid.clone(),
        })
    }

    /// Gives back what an allocation of the daemon's list holds.
    pub(crate) fn del_allocation(&mut self, of: &Allocation) -> Result<Released, DelError> {
        let key = of.key.clone().unwrap_or_default();
        self.begin_release(&DelNetworkRequest {
            k8s_pod_name: of.k8s_pod_name.clone(),
            k8s_pod_namespace: of.k8s_pod_namespace.clone(),
            k8s_pod_infra_container_id: key.container_id.clone(),
            reason: rpc::REASON_GARBAGE.to_owned(),
            if_name: key.if_name,
            network_name: key.network_name,
            container_id: key.container_id,
            client_version: rpc::CLIENT_VERSION.to_owned(),
            k8s_pod_uid: of.k8s_pod_uid.clone(),
        })
        .answer()
    }

    fn begin_release(&mut self, request: &DelNetworkRequest) -> Releasing<'_> {
        let deadline = self.settings.deadline();
        Releasing(self.channel.begin(rpc::DEL_NETWORK, request, deadline))
    }

    /// Whether an ADD could be served. Upstream's daemon has no such call and is asked for its
    /// health instead.
    pub(crate) fn status(&mut self) -> Result<StatusReply, CallError> {
        let deadline = self.settings.deadline();
        match self.channel.call(rpc::NODE_STATUS, &(), deadline) {
            Err(CallError::Status {
                code: GrpcCode::UNIMPLEMENTED,
                ..
            }) => self.health(),
            answer => answer,
        }
    }

    fn health(&mut self) -> Result<StatusReply, CallError> {
        use rpc::health::{HealthCheckRequest, HealthCheckResponse};
        let request = HealthCheckRequest::default();
        let deadline = self.settings.deadline();
        let health: HealthCheckResponse =
            self.channel.call(rpc::HEALTH_CHECK, &request, deadline)?;
        let ready = health.status() == rpc::health::health_check_response::ServingStatus::Serving;
        let reason = format!(
            "the address daemon's health is {}",
            health.status().as_str_name()
        );
        Ok(StatusReply {
            ready,
            reason,
            ..StatusReply::default()
        })
    }

    /// Everything that is assigned.
    pub(crate) fn allocations(&mut self) -> Result<Vec<Allocation>, CallError> {
        let deadline = self.settings.deadline();
        let reply: ListAllocationsReply =
            self.channel
                .call(rpc::NODE_LIST_ALLOCATIONS, &(), deadline)?;
        Ok(reply.allocations)
    }

    /// The allocation of one attachment, if the daemon knows it.
    pub(crate) fn allocation(
        &mut self,
        conf: &NetConf,
        attachment: &Attachment,
    ) -> Result<Option<Allocation>, CallError> {
        let key = AttachmentKey {
            container_id: attachment.container_id.to_string(),
            if_name: attachment.if_name.to_string(),
            network_name: conf.name.clone(),
        };
        let deadline = self.settings.deadline();
        let reply: GetAllocationReply =
            self.channel
                .call(rpc::NODE_GET_ALLOCATION, &key, deadline)?;
        Ok(reply.allocation)
    }
}

/// An address that was asked for.
pub(crate) struct Asked<'c>(Pending<'c>);

impl Asked<'_> {
    /// Waits for what the daemon says.
    pub(crate) fn answer(self) -> Result<AddNetworkReply, Failure> {
        let reply: AddNetworkReply = self
            .0
            .answer()
            .map_err(|call| Failure::Daemon(Box::new(call)))?;
        if reply.success {
            return Ok(reply);
        }
        // Upstream's daemon fails without a word.
        let failure = reply.failure.unwrap_or_default();
        let reason = match failure.reason.as_str() {
            "" => {
                "the address daemon gave no reason; its log may (/var/log/aws-routed-eni/ipamd.log)"
            }
            reason => reason,
        };
        Err(Failure::NoAddress {
            kind: failure.kind(),
            code: of_refusal(failure.kind(), failure.cni_code),
            reason: reason.to_owned(),
        })
    }
}

/// Addresses that are to be given back.
pub(crate) struct Releasing<'c>(Pending<'c>);

impl Releasing<'_> {
    /// Waits for what the daemon says.
    pub(crate) fn answer(self) -> Result<Released, DelError> {
        let reply: DelNetworkReply = match self.0.answer() {
            Ok(reply) => reply,
            Err(CallError::Status { message, .. }) if message.contains(rpc::UNKNOWN_POD) => {
                return Ok(Released::UnknownPod);
            }
            Err(call) => return Err(DelError::NoAnswer(call)),
        };
        if reply.success {
            return Ok(Released::Reply(reply));
        }
        let failure = reply.failure.unwrap_or_default();
        let code = of_refusal(failure.kind(), failure.cni_code);
        let reason = match failure.reason.as_str() {
            "" => "no reason given",
            reason => reason,
        };
        Err(DelError::Refused(Failure::NotReleased {
            code,
            reason: reason.to_owned(),
        }))
    }
}

/// Why an address was not given back.
pub(crate) enum DelError {
    /// The daemon did not answer.
    NoAnswer(CallError),
    /// The daemon answered no.
    Refused(Failure),
}

impl DelError {
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::NoAnswer(call) => Failure::Daemon(Box::new(call)),
            Self::Refused(failure) => failure,
        }
    }
}

/// Has the policy daemon put a new pod under its policies. `mode` is what the address daemon's
/// reply says; the pod has `interfaces` interfaces.
pub(crate) fn enforce_policies(
    settings: &Settings,
    attachment: &Attachment,
    mode: &str,
    interfaces: usize,
) -> Result<(), Failure> {
    let failed = |call| Failure::Policy(Box::new(call));
    let mut channel =
        Channel::connect(&settings.npa_socket, settings.policy_dial_deadline()).map_err(failed)?;
    let request = EnforceNpRequest {
        k8s_pod_name: attachment.pod.name.clone(),
        k8s_pod_namespace: attachment.pod.namespace.clone(),
        network_policy_mode: mode.to_owned(),
        interface_count: i32::try_from(interfaces).unwrap_or(i32::MAX),
    };
    let reply: EnforceNpReply = channel
        .call(rpc::ENFORCE_NP_TO_POD, &request, settings.deadline())
        .map_err(failed)?;
    if reply.success {
        Ok(())
    } else {
        Err(Failure::PolicyRefused {
            mode: mode.to_owned(),
        })
    }
}

/// Has the policy daemon forget a pod.
pub(crate) fn forget_policies(
    settings: &Settings,
    attachment: &Attachment,
) -> Result<bool, CallError> {
    let mut channel = Channel::connect(&settings.npa_socket, settings.policy_dial_deadline())?;
    let request = DeleteNpRequest {
        k8s_pod_name: attachment.pod.name.clone(),
        k8s_pod_namespace: attachment.pod.namespace.clone(),
    };
    let reply: DeleteNpReply = channel.call(
        rpc::DELETE_POD_NP,
        &request,
        settings.policy_dial_deadline(),
    )?;
    Ok(reply.success)
}
