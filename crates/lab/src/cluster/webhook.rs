//! The token webhook of a control plane: who made the token of `aws eks get-token`.
//!
//! The protocol is that of aws-iam-authenticator: the API server posts a TokenReview
//! (`authentication.k8s.io/v1`) and is told user and groups, or that nobody is known by this token.
//! It is served on the control plane's own loopback, which nothing else can reach.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use kernel::NetNs;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::flags::WEBHOOK_PORT;
use crate::error::{Error, IoContext as _};

/// A user of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    /// More about the caller, by key: what the audit log of EKS shows.
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// Tells who made a token, or why nobody is believed.
pub(super) type Authenticate = Arc<dyn Fn(&str) -> Result<User, String> + Send + Sync>;

/// The served webhook; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Webhook(JoinHandle<()>);

impl Drop for Webhook {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the webhook in a control plane's namespace.
pub(super) fn serve(
    cluster: &str,
    netns: &Path,
    authenticate: Authenticate,
) -> Result<Webhook, Error> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, WEBHOOK_PORT));
    let failed = |source| Error::Listen {
        what: format!("the token webhook of cluster {cluster}"),
        source,
    };
    let listener = NetNs::open(netns)?.run(bind)?.map_err(failed)?;
    listener
        .set_nonblocking(true)
        .doing("serve the token webhook")?;
    let listener = tokio::net::TcpListener::from_std(listener).doing("serve the token webhook")?;
    let router = Router::new()
        .route("/authenticate", post(answer))
        .with_state(authenticate);
    let cluster = cluster.to_owned();
    Ok(Webhook(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(cluster, %error, "the token webhook ended");
        }
    })))
}

async fn answer(
    State(authenticate): State<Authenticate>,
    Json(review): Json<Value>,
) -> Json<Value> {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let status = match authenticate(token) {
        Ok(user) => json!({
            "authenticated": true,
            "user": {
                "username": user.name,
                "uid": user.uid,
                "groups": user.groups,
                "extra": user.extra,
            },
        }),
        Err(why) => {
            // The client is told only that it is nobody.
            tracing::info!(why, "a token was refused");
            json!({"authenticated": false, "error": why})
        }
    };
    Json(json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": status,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_names_the_user_or_nobody() {
        let authenticate: Authenticate = Arc::new(|token: &str| match token {
            "good" => Ok(User {
                name: "arn:aws:iam::1:user/a".into(),
                uid: "u".into(),
                groups: vec!["g".into()],
                extra: BTreeMap::from([("arn".into(), vec!["arn:aws:iam::1:user/a".into()])]),
            }),
            _ => Err("expired".into()),
        });
        let ask = async |token: &str| {
            let review = json!({"kind": "TokenReview", "spec": {"token": token}});
            answer(State(Arc::clone(&authenticate)), Json(review))
                .await
                .0
        };
        let good = ask("good").await;
        assert_eq!(good["status"]["user"]["groups"][0], "g");
        let arn = &good["status"]["user"]["extra"]["arn"][0];
        assert_eq!(arn, "arn:aws:iam::1:user/a");
        assert_eq!(good["apiVersion"], "authentication.k8s.io/v1");
        let bad = ask("bad").await;
        assert_eq!(bad["status"]["authenticated"], false);
        assert!(bad["status"].get("user").is_none());
        assert_eq!(bad["status"]["error"], "expired");
    }
}
