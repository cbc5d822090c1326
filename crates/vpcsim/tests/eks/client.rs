//! Our own client of EKS and STS against the API on a real socket.

use ec2::Credentials;
use ec2::eks::*;

use crate::{api, builder, lab};

#[tokio::test]
async fn our_client_of_eks_and_sts() {
    let lab = lab().await;
    let endpoint = api(&lab.sim).await;
    let me = lab.user("me");
    let eks = builder(&endpoint, me.clone()).build_eks().unwrap();
    let made = eks.call(lab.request("dev")).await.unwrap().cluster;
    assert_eq!(
        (made.name.as_str(), made.status.as_str()),
        ("dev", "CREATING")
    );
    assert!(
        made.client_request_token.is_some(),
        "the client fills in a token"
    );
    let missing = eks
        .call(DescribeClusterRequest {
            name: "nope".into(),
        })
        .await
        .unwrap_err();
    assert!(missing.is_not_found());
    assert_eq!(
        missing.to_string(),
        "eks:DescribeCluster: ResourceNotFoundException: No cluster found for name: nope."
    );
    let arn = "arn:aws:iam::111122223333:role/a/b c";
    let entry = CreateAccessEntryRequest {
        cluster_name: "dev".into(),
        principal_arn: arn.into(),
        ..Default::default()
    };
    eks.call(entry).await.unwrap();
    let request = DescribeAccessEntryRequest {
        cluster_name: "dev".into(),
        principal_arn: arn.into(),
    };
    assert_eq!(
        eks.call(request).await.unwrap().access_entry.principal_arn,
        arn
    );
    let denies =
        serde_json::from_str(r#"{"denies":[{"principal":"*user/me","action":"eks:List*"}]}"#)
            .unwrap();
    lab.sim.set_knobs(denies);
    let denied = eks.call(ListClustersRequest::default()).await.unwrap_err();
    assert!(denied.is_denied(), "{denied}");
    assert!(
        denied
            .to_string()
            .ends_with("(the IAM policy must allow eks:ListClusters)"),
        "{denied}"
    );
    assert_eq!(denied.iam_action().as_deref(), Some("eks:ListClusters"));

    lab.sim
        .set_knobs(serde_json::from_str(r#"{"strict_signatures":true}"#).unwrap());
    assert_eq!(
        eks.call(ListClustersRequest::default())
            .await
            .unwrap()
            .clusters,
        ["dev"]
    );
    let request = DescribeAccessEntryRequest {
        cluster_name: "dev".into(),
        principal_arn: arn.into(),
    };
    assert!(
        eks.call(request).await.is_ok(),
        "a path with escapes is signed as it is sent"
    );
    let sts = builder(&endpoint, me).build_sts().unwrap();
    let identity = sts.caller_identity().await.unwrap();
    assert_eq!(identity.arn, "arn:aws:iam::111122223333:user/me");
    assert!(identity.user_id.starts_with("AIDA"), "{}", identity.user_id);
    let wrong = Credentials::new("AKIDME", "wrong", None, None, "test");
    let refused = builder(&endpoint, wrong)
        .build_sts()
        .unwrap()
        .caller_identity()
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some("SignatureDoesNotMatch"));
}
