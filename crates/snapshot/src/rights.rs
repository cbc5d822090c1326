//! Which of the rights that answers need are there, what their absence costs, and the least that must
//! be granted. The API server is asked by SelfSubjectAccessReview, which creates nothing; EC2 by dry
//! runs.

use ec2::types as t;
use kube_view::facts::Kind;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kubernetes::Kube;

/// The schema's name.
pub const SCHEMA: &str = "branchline/rights/v1";

/// Where a right is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// By RBAC.
    Kubernetes,
    /// By IAM.
    Aws,
}

/// Whether a right is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum State {
    /// It is.
    Granted,
    /// It is not: what the system says.
    Missing(String),
    /// It could not be found out.
    Unknown(String),
}

/// One right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Right {
    /// Where it is granted.
    pub system: System,
    /// As `list pods` or `ec2:DescribeVpcs`.
    pub right: String,
    /// Whether it is there.
    #[serde(flatten)]
    pub state: State,
    /// What is UNKNOWN without it.
    pub costs: &'static str,
    /// Only some answers need it.
    pub optional: bool,
}

/// All rights, and who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rights {
    schema: &'static str,
    /// The user by the API server's word, if it tells.
    pub user: Option<String>,
    /// The cluster, if one is in reach.
    pub cluster: Option<String>,
    /// The rights.
    pub rights: Vec<Right>,
    /// The smallest ClusterRole that grants what is missing.
    pub cluster_role: Option<Value>,
    /// The smallest IAM policy that grants what is missing.
    pub iam_policy: Option<Value>,
}

impl Rights {
    /// Whether everything that is not optional is there.
    pub fn complete(&self) -> bool {
        self.rights
            .iter()
            .all(|r| r.optional || r.state == State::Granted)
    }
}

/// What an answer cannot say without a kind.
fn cost(kind: Kind) -> &'static str {
    match kind {
        Kind::Pod => "every question about pods, workloads and nodes' pods",
        Kind::Node => "which instance a pod runs on: every question about pods",
        Kind::Namespace => "nothing yet: names of namespaces in snapshots",
        Kind::ReplicaSet => "which pods belong to a Deployment: NAMESPACE/deploy/NAME",
        Kind::Deployment => "names of Deployments without pods, and their abbreviations",
        Kind::StatefulSet => "names of StatefulSets without pods, and their abbreviations",
        Kind::DaemonSet => "drift, and what nodes whose agent's pod is gone do with packets",
        Kind::Job => "names of Jobs without pods, and their abbreviations",
        Kind::Service => "NAMESPACE/svc/NAME and apiserver as destinations",
        Kind::EndpointSlice => "NAMESPACE/svc/NAME and apiserver as destinations",
    }
}

fn optional(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Namespace | Kind::Deployment | Kind::StatefulSet | Kind::Job
    )
}

/// Checks everything that the tool asks for.
pub async fn check(
    kube: Option<&Kube>,
    ec2: &ec2::Client,
    eks: Option<(&ec2::eks::Client, &str)>,
) -> Result<Rights, crate::Error> {
    let (kubernetes, aws, addon) = tokio::join!(
        async {
            match kube {
                Some(kube) => kube.rights().await,
                None => Ok(Vec::new()),
            }
        },
        aws(ec2),
        addon(eks),
    );
    let user = match kube {
        Some(kube) => kube.user().await,
        None => None,
    };
    let mut rights = kubernetes?;
    rights.extend(aws);
    rights.extend(addon);
    Ok(Rights {
        schema: SCHEMA,
        user,
        cluster: kube.map(|k| k.name.clone()),
        cluster_role: cluster_role(&rights),
        iam_policy: iam_policy(&rights),
        rights,
    })
}

impl Kube {
    async fn rights(&self) -> Result<Vec<Right>, crate::Error> {
        let mut asked = JoinSet::new();
        for kind in Kind::ALL {
            let kube = self.clone();
            asked.spawn(async move { (kind, kube.may_list(kind).await) });
        }
        let mut rights: Vec<(Kind, Right)> = Vec::new();
        for (kind, state) in asked.join_all().await {
            let right = Right {
                system: System::Kubernetes,
                right: format!("list {}", kind.resource()),
                state: state?,
                costs: cost(kind),
                optional: optional(kind),
            };
            rights.push((kind, right));
        }
        rights.sort_by_key(|(kind, _)| *kind);
        Ok(rights.into_iter().map(|(_, right)| right).collect())
    }

    async fn may_list(&self, kind: Kind) -> Result<State, crate::Error> {
        let (resource, group) = kind.plural_and_group();
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": "list", "group": group, "resource": resource}},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let status = match self.review(path, &review).await {
            Ok(answer) => answer["status"].clone(),
            Err(kube::Error::Api(status)) if status.code != 401 => {
                return Ok(State::Unknown(status.message.clone()));
            }
            Err(error) => return Err(self.fatal(&error)),
        };
        let reason = status["reason"].as_str().unwrap_or_default();
        Ok(match status["allowed"].as_bool() {
            Some(true) => State::Granted,
            Some(false) => State::Missing(match reason.is_empty() {
                true => "no role grants it in all namespaces".to_owned(),
                false => reason.to_owned(),
            }),
            None => State::Unknown("the review has no answer".to_owned()),
        })
    }

    /// Who the API server takes us for; `None` when it does not tell (before Kubernetes 1.28).
    async fn user(&self) -> Option<String> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer = self.review(path, &review).await.ok()?;
        answer["status"]["userInfo"]["username"]
            .as_str()
            .map(str::to_owned)
    }

    async fn review(&self, path: &str, review: &Value) -> Result<Value, kube::Error> {
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(review.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }
}

/// What is UNKNOWN without an action of EC2.
const ENIS: &str = "every question: who has which address and groups";
const GROUPS: &str = "every question that meets a security group";
const ROUTES: &str = "every question that leaves a subnet";
const OUTSIDE: &str = "questions whose way leads there";
const LISTS: &str = "rules and routes that name a prefix list";
const NEXT: &str = "places to come: the next ENI, the next node";

async fn aws(client: &ec2::Client) -> Vec<Right> {
    let mut asked = Asked {
        client,
        tasks: JoinSet::new(),
    };
    macro_rules! dry {
        ($request:ident { $($field:ident: $value:expr),* $(,)? }, $costs:expr, $optional:expr) => {
            asked.ask(t::$request { dry_run: Some(true), $($field: $value,)* ..Default::default() }, $costs, $optional)
        };
    }
    dry!(DescribeNetworkInterfacesRequest {}, ENIS, false);
    dry!(
        DescribeInstancesRequest {},
        "which node is which instance: every question about pods",
        false
    );
    dry!(DescribeVpcsRequest {}, ENIS, false);
    dry!(DescribeSubnetsRequest {}, ENIS, false);
    dry!(DescribeSecurityGroupsRequest {}, GROUPS, false);
    dry!(DescribeSecurityGroupRulesRequest {}, GROUPS, false);
    dry!(DescribeNetworkAclsRequest {}, ROUTES, false);
    dry!(DescribeRouteTablesRequest {}, ROUTES, false);
    dry!(DescribeInternetGatewaysRequest {}, OUTSIDE, true);
    dry!(DescribeNatGatewaysRequest {}, OUTSIDE, true);
    dry!(DescribeVpcPeeringConnectionsRequest {}, OUTSIDE, true);
    dry!(DescribeManagedPrefixListsRequest {}, LISTS, true);
    let no_list = Some("pl-00000000000000000".to_owned());
    dry!(
        GetManagedPrefixListEntriesRequest {
            prefix_list_id: no_list,
        },
        LISTS,
        true
    );
    let default = vec!["$Default".to_owned()];
    dry!(
        DescribeLaunchTemplateVersionsRequest { versions: default },
        NEXT,
        true
    );
    dry!(
        DescribeInstanceTypesRequest {},
        "places to come: the next ENI, the next node; capacity",
        true
    );
    dry!(
        DescribeTrunkInterfaceAssociationsRequest {},
        "branch ENIs of security groups for pods",
        true
    );
    let mut rights = asked.tasks.join_all().await;
    rights.sort_by_key(|(order, _)| *order);
    rights.into_iter().map(|(_, right)| right).collect()
}

/// Dry runs under way.
struct Asked<'a> {
    client: &'a ec2::Client,
    tasks: JoinSet<(usize, Right)>,
}

impl Asked<'_> {
    fn ask<R>(&mut self, request: R, costs: &'static str, optional: bool)
    where
        R: t::Operation + Send + Sync,
        R::Output: Send,
    {
        let (client, order) = (self.client.clone(), self.tasks.len());
        self.tasks
            .spawn(async move { (order, dry_run(&client, request, costs, optional).await) });
    }
}

async fn dry_run<R: t::Operation>(
    client: &ec2::Client,
    request: R,
    costs: &'static str,
    optional: bool,
) -> Right {
    let state = match client.call(request).await {
        Ok(_) => State::Granted,
        Err(error) if error.code() == Some("DryRunOperation") => State::Granted,
        // Whether one may is decided before whether the object is there.
        Err(error) if error.is_not_found() => State::Granted,
        Err(error) if error.is_denied() => State::Missing(error.to_string()),
        Err(error) => State::Unknown(error.to_string()),
    };
    Right {
        system: System::Aws,
        right: format!("ec2:{}", R::NAME),
        state,
        costs,
        optional,
    }
}

/// EKS has no dry runs: the call itself is made.
async fn addon(eks: Option<(&ec2::eks::Client, &str)>) -> Option<Right> {
    let (client, cluster) = eks?;
    let request = ec2::eks::DescribeAddonRequest {
        cluster_name: cluster.to_owned(),
        addon_name: "vpc-cni".to_owned(),
    };
    let state = match client.call(request).await {
        Ok(_) => State::Granted,
        Err(error) if error.code() == Some("ResourceNotFoundException") => State::Granted,
        Err(error) if error.is_denied() => State::Missing(error.to_string()),
        Err(error) => State::Unknown(error.to_string()),
    };
    Some(Right {
        system: System::Aws,
        right: "eks:DescribeAddon".to_owned(),
        state,
        costs: "drift: settings that live only in the DaemonSet (BL0108)",
        optional: true,
    })
}

fn missing(rights: &[Right], system: System) -> Vec<&str> {
    let is = |r: &&Right| r.system == system && matches!(r.state, State::Missing(_));
    rights.iter().filter(is).map(|r| r.right.as_str()).collect()
}

fn cluster_role(rights: &[Right]) -> Option<Value> {
    let missing = missing(rights, System::Kubernetes);
    let mut groups: std::collections::BTreeMap<&str, Vec<&str>> = Default::default();
    for kind in Kind::ALL {
        if missing
            .iter()
            .any(|right| *right == format!("list {}", kind.resource()))
        {
            let (plural, group) = kind.plural_and_group();
            groups.entry(group).or_default().push(plural);
        }
    }
    let rules: Vec<Value> = groups
        .into_iter()
        .map(|(group, resources)| json!({"apiGroups": [group], "resources": resources, "verbs": ["list"]}))
        .collect();
    (!rules.is_empty()).then(|| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "branchline-read"}, "rules": rules,
        })
    })
}

fn iam_policy(rights: &[Right]) -> Option<Value> {
    let actions = missing(rights, System::Aws);
    (!actions.is_empty()).then(|| {
        json!({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        })
    })
}
