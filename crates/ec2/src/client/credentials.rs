//! Credentials and region by AWS's own chain, built when first needed and kept until shortly before they expire.
//!
//! The order is that of every AWS SDK: environment, profile, web identity (IRSA), container endpoint (pod identity),
//! instance metadata.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;

use crate::client::transport::Transport;
use crate::error::Error;

/// Replaced this long before they expire. Instance metadata offers new ones at least 5 minutes before.
const EARLY: Duration = Duration::from_secs(240);

/// Where credentials come from.
pub(crate) struct Source {
    provider: Mutex<State>,
    transport: Transport,
    profile: Option<String>,
}

#[derive(Default)]
struct State {
    provider: Option<SharedCredentialsProvider>,
    current: Option<Credentials>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl Source {
    pub(crate) fn new(
        transport: Transport,
        provider: Option<SharedCredentialsProvider>,
        profile: Option<String>,
    ) -> Self {
        let state = State {
            provider,
            current: None,
        };
        Self {
            provider: Mutex::new(state),
            transport,
            profile,
        }
    }

    fn config(&self) -> ProviderConfig {
        ProviderConfig::without_region().with_http_client(self.transport.clone())
    }

    /// The region of the environment, the profile or instance metadata, in this order.
    pub(crate) async fn region(&self) -> Result<String, Error> {
        let set = |name| std::env::var(name).ok().filter(|region| !region.is_empty());
        if let Some(region) = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")) {
            return Ok(region);
        }
        let config = self.config();
        let mut profile = ProfileFileRegionProvider::builder().configure(&config);
        if let Some(name) = &self.profile {
            profile = profile.profile_name(name);
        }
        if let Some(region) = profile.build().region().await {
            return Ok(region.to_string());
        }
        let metadata = ImdsRegionProvider::builder().configure(&config).build();
        metadata
            .region()
            .await
            .map(|region| region.to_string())
            .ok_or(Error::Region)
    }

    /// Credentials that are good for some minutes. Concurrent callers wait for one read.
    pub(crate) async fn get(&self, region: &str) -> Result<Credentials, Error> {
        let mut state = self.provider.lock().await;
        if let Some(current) = state
            .current
            .as_ref()
            .filter(|c| is_fresh(c, SystemTime::now()))
        {
            return Ok(current.clone());
        }
        let provider = match &state.provider {
            Some(provider) => provider.clone(),
            None => {
                let provider = SharedCredentialsProvider::new(Box::pin(self.chain(region)).await);
                state.provider.insert(provider).clone()
            }
        };
        let credentials = provider
            .provide_credentials()
            .await
            .map_err(|source| Error::Credentials { source })?;
        state.current = Some(credentials.clone());
        Ok(credentials)
    }

    /// EC2 refused these: read them again.
    pub(crate) async fn forget(&self) {
        self.provider.lock().await.current = None;
    }

    async fn chain(&self, region: &str) -> DefaultCredentialsChain {
        let region = aws_config::Region::new(region.to_owned());
        let mut chain = DefaultCredentialsChain::builder()
            .configure(self.config())
            .region(region);
        if let Some(profile) = &self.profile {
            chain = chain.profile_name(profile);
        }
        chain.build().await
    }
}

fn is_fresh(credentials: &Credentials, now: SystemTime) -> bool {
    credentials
        .expiry()
        .is_none_or(|expiry| expiry > now + EARLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced_before_they_expire() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let until = |left: Option<u64>| {
            let expiry = left.map(|seconds| now + Duration::from_secs(seconds));
            is_fresh(
                &Credentials::new("AKID", "secret", None, expiry, "test"),
                now,
            )
        };
        assert!(until(None));
        assert!(until(Some(300)));
        assert!(!until(Some(200)));
        assert!(!until(Some(0)));
    }
}
