//! What is missing is named, and never guessed.

use std::time::Instant;

use serde_json::json;
use vpcsim::knobs::{Deny, Knobs};

use crate::world;

#[test]
fn without_a_right_the_answer_is_unknown_and_names_it() {
    let world = world();
    let why = ["why", "dev/deploy/api", "rds/orders:5432"];
    // May list everything but ReplicaSets: which pods are the Deployment's cannot be said.
    world.tool("reader", &why).ends(3).says(&[
        "UNKNOWN",
        "list replicasets.apps",
        "cannot list resource",
    ]);
    // A pod can.
    world
        .tool(
            "reader",
            &[
                "why",
                "dev/pod/api-7c9-0",
                "rds/orders:5432",
                "--over",
                "running",
            ],
        )
        .ends(0);
    // May list nothing.
    world
        .tool("nobody", &why)
        .ends(3)
        .says(&["UNKNOWN", "list pods"]);
    world
        .tool("nobody", &["why", "dev/deploy/api", "dev/svc/web:80"])
        .ends(3)
        .says(&["list services"]);
    world
        .tool("nobody", &["why", "dev/deploy/api", "apiserver"])
        .ends(3);
    world
        .tool("nobody", &["why", "dev/pod/api-7c9-0", "rds/orders:5432"])
        .ends(3)
        .says(&["list pods"]);
}

#[test]
fn a_refused_token_and_a_silent_server_are_named_with_the_next_step() {
    let world = world();
    let why = ["why", "dev/deploy/api", "rds/orders:5432"];
    let expired = world
        .plane
        .kubeconfig("operator", "expired", &world.plane.server);
    world.tool_with(&expired, &why).ends(5).says(&[
        "refuses the credentials",
        "context \"dev\"",
        "aws eks update-kubeconfig",
    ]);
    let silent = world
        .plane
        .kubeconfig("operator", "silent", "https://127.0.0.1:9");
    let begun = Instant::now();
    world
        .tool_with(&silent, &why)
        .ends(5)
        .says(&["https://127.0.0.1:9 does not answer", "kubectl version"]);
    assert!(begun.elapsed().as_secs() < 30);
    world
        .tool(
            "operator",
            &[
                "why",
                "dev/deploy/api",
                "rds/orders:5432",
                "--context",
                "nope",
            ],
        )
        .ends(5)
        .says(&["no context \"nope\"", "dev"]);
    world
        .tool(
            "operator",
            &[
                "why",
                "dev/deploy/api",
                "rds/orders:5432",
                "--cluster",
                "blue",
            ],
        )
        .ends(5)
        .says(&["no cluster \"blue\""]);
    world
        .tool(
            "operator",
            &[
                "why",
                "dev/deploy/api",
                "rds/orders:5432",
                "--cluster",
                "dev",
            ],
        )
        .ends(1);
    let missing = world.plane.dir.path().join("nowhere");
    world
        .tool_with(&missing, &why)
        .ends(5)
        .says(&["KUBECONFIG"]);
}

#[test]
fn doctor_says_what_is_missing_what_it_costs_and_the_least_to_grant() {
    let world = world();
    let doctor = ["doctor", "--rights", "-o", "json"];
    let whole = world.tool("operator", &doctor).ends(0).json();
    assert_eq!(
        (&whole["user"], &whole["cluster_role"], &whole["iam_policy"]),
        (&json!("operator"), &json!(null), &json!(null))
    );
    let reader = world.tool("reader", &doctor).ends(3).json();
    assert_eq!(
        reader["cluster_role"]["rules"],
        json!([{"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]}])
    );
    let text = world.tool("reader", &["doctor", "--rights"]);
    text.ends(3).says(&[
        "✘ list replicasets.apps",
        "NAMESPACE/deploy/NAME",
        "--user=reader",
        "✔ ec2:DescribeSubnets",
    ]);
    // The role is enough.
    let mut role = reader["cluster_role"].clone();
    role["metadata"]["name"] = json!("granted");
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let binding = json!({"metadata": {"name": "granted"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "granted"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}]});
    let less = crate::objects::may_list(
        "agent",
        &crate::ALL.map(|r| if r == "replicasets.apps" { "pods" } else { r }),
    );
    crate::runtime().block_on(async {
        world.plane.create(less).await;
        world
            .plane
            .call("POST", &format!("{rbac}/clusterroles"), Some(&role))
            .await;
        world
            .plane
            .call(
                "POST",
                &format!("{rbac}/clusterrolebindings"),
                Some(&binding),
            )
            .await;
    });
    world.tool("agent", &doctor).ends(0);
}

#[test]
fn a_denied_action_of_ec2_is_named_with_its_statement() {
    let world = world();
    let denied = |action: &str| Knobs {
        denies: vec![Deny {
            principal: "*".to_owned(),
            action: action.to_owned(),
        }],
        ..Knobs::default()
    };
    let url = crate::runtime().block_on(async {
        // An account of its own: the other tests go on with theirs.
        let cloud = crate::cloud::Cloud::start().await;
        cloud.sim.set_knobs(denied("DescribeSecurityGroupRules"));
        cloud.url
    });
    let doctor = world
        .tool_at(&url, "operator", &["doctor", "--rights", "-o", "json"])
        .ends(3)
        .json();
    assert_eq!(
        doctor["iam_policy"]["Statement"][0]["Action"],
        json!(["ec2:DescribeSecurityGroupRules"])
    );
}

/// What EKS's authentication accepts is what the tool makes in place of `aws eks get-token`.
#[test]
fn a_token_made_here_is_one_that_the_cluster_believes() {
    crate::runtime().block_on(async {
        let cloud = crate::cloud::Cloud::start().await;
        cloud.addon("dev", "{}").await;
        let client = ec2::Client::builder().region("us-west-2");
        let mut caller = vpcsim::Caller::root("111122223333");
        caller.access_key = "AKIDME".to_owned();
        cloud.sim.add_access_key(caller, "secret");
        let keys = ec2::Credentials::new("AKIDME", "secret", None, None, "test");
        let client = client.credentials(keys);
        let token = client
            .build_eks()
            .unwrap()
            .token("dev", jiff::Timestamp::now())
            .await
            .unwrap();
        let who = cloud.sim.eks().authenticate(&token, "dev").unwrap();
        assert_eq!(who.account, "111122223333");
        assert!(
            cloud.sim.eks().authenticate(&token, "other").is_err(),
            "bound to its cluster"
        );
    });
}

#[test]
fn as_a_plugin_of_kubectl_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("kubectl-branchline");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_branchline"), &link).unwrap();
    let help = std::process::Command::new(&link)
        .args(["why", "--help"])
        .output()
        .unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("Usage: kubectl branchline why"), "{text}");
}
