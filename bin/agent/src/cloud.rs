//! EC2, as the agent of one instance uses it. What is asked and what answers mean is [`translate`](crate::translate)'s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use ec2::types as t;
use ipam::{Answer, Call, Failure, FailureKind};
use ipnet::Ipv4Net;
use vpc::facts::SubnetId;

use crate::translate::{Request, Response, Translator, failure};

/// EC2 and who calls it.
#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    pub(crate) ec2: ec2::Client,
    pub(crate) translator: Translator,
    /// The blocks of subnets, which never change: asked once, not for every interface.
    pub(crate) blocks: Arc<Mutex<BTreeMap<SubnetId, Ipv4Net>>>,
}

impl Cloud {
    /// Makes a call; what is the kernel's or instance metadata's is not made here.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, Failure> {
        let action = call.action();
        let requests = self.translator.requests(call);
        if requests.is_empty() {
            return Err(Failure {
                action,
                kind: FailureKind::Rejected,
                message: "it is not EC2's".to_owned(),
            });
        }
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            let response = self.ask(request).await;
            responses.push(response.map_err(|error| failure(action, &error))?);
        }
        let answer = self.translator.answer(call, responses);
        if let Ok(Answer::Subnets(subnets)) = &answer {
            let known = subnets
                .iter()
                .map(|subnet| (subnet.id.clone(), subnet.cidr));
            self.blocks().extend(known);
        }
        answer
    }

    /// Which of these calls EC2 would deny. Nothing is done: all are dry runs, one after the other so
    /// that a fleet's start is no burst.
    pub(crate) async fn denied(&self, calls: &[Call]) -> Vec<Failure> {
        let mut denied = Vec::new();
        for call in calls {
            let requests = self.translator.requests(call);
            for request in requests.into_iter().filter_map(Request::dry) {
                // Every other answer says that the right is there, or nothing of it.
                if let Err(error) = self.ask(request).await
                    && error.is_denied()
                {
                    denied.push(failure(call.action(), &error));
                }
            }
        }
        denied
    }

    async fn ask(&self, request: Request) -> Result<Response, ec2::Error> {
        let ec2 = &self.ec2;
        Ok(match request {
            Request::Create(r) => Response::Created(Box::new(ec2.call(*r).await?)),
            Request::Attach(r) => Response::Attached(Box::new(ec2.call(*r).await?)),
            Request::Assign(r) => Response::Assigned(Box::new(ec2.call(*r).await?)),
            Request::Describe(r) => Response::Described(Box::new(ec2.call_all(*r).await?)),
            Request::Subnets(r) => Response::Subnets(Box::new(ec2.call_all(*r).await?)),
            Request::Modify(r) => done(ec2.call(*r).await?),
            Request::Unassign(r) => done(ec2.call(*r).await?),
            Request::Detach(r) => done(ec2.call(*r).await?),
            Request::Delete(r) => done(ec2.call(*r).await?),
        })
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<SubnetId, Ipv4Net>> {
        // A map of constants is whole whatever happened to whoever held it.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The IPv4 block of a subnet other than the primary interface's.
    pub(crate) async fn subnet_cidr(&self, subnet: &SubnetId) -> anyhow::Result<Ipv4Net> {
        let known = self.blocks().get(subnet).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let request = t::DescribeSubnetsRequest {
            subnet_ids: vec![subnet.to_string()],
            ..Default::default()
        };
        let answer = self.ec2.call(request).await?;
        let cidr = answer
            .subnets
            .first()
            .and_then(|subnet| subnet.cidr_block.as_deref());
        let cidr = cidr.with_context(|| format!("EC2 shows no CidrBlock of {subnet}"))?;
        let cidr: Ipv4Net = cidr
            .parse()
            .with_context(|| format!("the CidrBlock {cidr:?} of {subnet}"))?;
        self.blocks().insert(subnet.clone(), cidr);
        Ok(cidr)
    }
}

fn done(_: t::Done) -> Response {
    Response::Done
}

#[cfg(test)]
mod tests;
