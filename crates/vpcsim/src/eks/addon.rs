//! Add-ons of clusters. Source: EKS API reference, CreateAddon; EKS user guide, "Amazon EKS add-ons".

use ec2::eks::*;
use serde_json::Value;

use super::actions::{EksAction, arn, check_tags, page, role_name, uuid};
use super::catalog::{self, CATALOG};
use super::error::{in_use, invalid, not_found};
use super::store;
use super::update;
use super::{error, schema};
use crate::actions::Context;
use crate::error::{ApiError, ApiResult};

pub(super) fn no_addon(cluster: &str, name: &str) -> ApiError {
    not_found(format_args!("No addon: {name} found in cluster: {cluster}"))
}

/// The version of a request, or the add-on's default.
fn version(name: &str, wanted: Option<&str>) -> ApiResult<String> {
    let known = catalog::find(name)
        .ok_or_else(|| invalid(format_args!("Addon {name} specified is not supported")))?;
    match wanted {
        None => Ok(known.version.to_owned()),
        Some(wanted) if wanted == known.version => Ok(wanted.to_owned()),
        Some(wanted) => Err(invalid(format_args!(
            "Addon version specified is not supported: {wanted}; the lab has {} of {name}",
            known.version
        ))),
    }
}

/// The values of a request: JSON or YAML that the add-on's schema allows.
fn configuration(name: &str, text: Option<&str>) -> ApiResult<Value> {
    let nothing = || Value::Object(Default::default());
    let Some(text) = text.filter(|t| !t.trim().is_empty()) else {
        return Ok(nothing());
    };
    let refuse = |why: String| {
        invalid(format_args!(
            "ConfigurationValue provided in request is not supported: {why}"
        ))
    };
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|e| refuse(format!("it is neither JSON nor YAML: {e}")))?;
    let value = if value.is_null() { nothing() } else { value };
    let Some(known) = catalog::find(name) else {
        return Ok(value);
    };
    let problems = schema::check(&known.schema(), &value);
    match problems.is_empty() {
        true => Ok(value),
        false => Err(refuse(format!(
            "Json schema validation failed with error: [{}]",
            problems.join(", ")
        ))),
    }
}

fn check_conflicts(value: Option<&str>, known: &[&str]) -> ApiResult<()> {
    match value.filter(|v| !known.contains(v)) {
        Some(other) => Err(invalid(format_args!(
            "resolveConflicts is '{other}': expected one of {}.",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

impl EksAction for CreateAddonRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AddonAnswer> {
        let (cluster, name) = (&self.cluster_name, &self.addon_name);
        check_tags(&self.tags)?;
        check_conflicts(self.resolve_conflicts.as_deref(), &["NONE", "OVERWRITE"])?;
        if let Some(role) = &self.service_account_role_arn {
            role_name("serviceAccountRoleArn", role)?;
        }
        let record = cx.state.eks.active(cluster)?;
        if let Some(known) = record.addons.get(name) {
            if self.client_request_token.is_some() && known.token == self.client_request_token {
                return Ok(AddonAnswer {
                    addon: known.wire.clone(),
                });
            }
            return Err(in_use(format_args!(
                "Addon already exists: {name} in cluster {cluster}"
            )));
        }
        let addon_version = version(name, self.addon_version.as_deref())?;
        let configuration = configuration(name, self.configuration_values.as_deref())?;
        let id = uuid(&mut cx.state.rng);
        let wire = Addon {
            addon_name: name.clone(),
            cluster_name: cluster.clone(),
            status: "CREATING".into(),
            addon_version,
            health: Health::default(),
            addon_arn: arn(cx.state, "addon", format_args!("{cluster}/{name}/{id}")),
            created_at: Some(cx.now),
            modified_at: Some(cx.now),
            service_account_role_arn: self.service_account_role_arn.clone(),
            tags: self.tags.clone(),
            configuration_values: self.configuration_values.clone(),
        };
        let addon = store::Addon {
            wire: wire.clone(),
            configuration,
            generation: 1,
            token: self.client_request_token.clone(),
            update: None,
        };
        cx.state
            .eks
            .cluster_mut(cluster)?
            .addons
            .insert(name.clone(), addon);
        Ok(AddonAnswer { addon: wire })
    }
}

impl EksAction for DescribeAddonRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AddonAnswer> {
        let (cluster, name) = (&self.cluster_name, &self.addon_name);
        let addon = cx
            .state
            .eks
            .cluster(cluster)?
            .addons
            .get(name)
            .ok_or_else(|| no_addon(cluster, name))?;
        Ok(AddonAnswer {
            addon: addon.wire.clone(),
        })
    }
}

impl EksAction for UpdateAddonRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<UpdateAnswer> {
        let (cluster, name) = (&self.cluster_name, &self.addon_name);
        check_conflicts(
            self.resolve_conflicts.as_deref(),
            &["NONE", "OVERWRITE", "PRESERVE"],
        )?;
        if let Some(role) = &self.service_account_role_arn {
            role_name("serviceAccountRoleArn", role)?;
        }
        let known = cx
            .state
            .eks
            .active(cluster)?
            .addons
            .get(name)
            .ok_or_else(|| no_addon(cluster, name))?;
        if matches!(known.wire.status.as_str(), "CREATING" | "UPDATING") {
            return Err(in_use(format_args!(
                "Addon {name} cannot be updated as it is currently in {} state",
                known.wire.status
            )));
        }
        // What a request leaves out stays; an empty text is no configuration.
        let version = version(
            name,
            self.addon_version
                .as_deref()
                .or(Some(&known.wire.addon_version)),
        )?;
        let configuration = match &self.configuration_values {
            Some(text) => configuration(name, Some(text))?,
            None => known.configuration.clone(),
        };
        let mut params = vec![("AddonVersion", version.clone())];
        params.extend(
            self.service_account_role_arn
                .clone()
                .map(|r| ("ServiceAccountRoleArn", r)),
        );
        params.extend(
            self.resolve_conflicts
                .clone()
                .map(|r| ("ResolveConflicts", r)),
        );
        params.extend(
            self.configuration_values
                .clone()
                .map(|c| ("ConfigurationValues", c)),
        );
        let update = update::begun(cx, cluster, name, params)?;
        let now = cx.now;
        let addons = &mut cx.state.eks.cluster_mut(cluster)?.addons;
        let addon = addons
            .get_mut(name)
            .ok_or_else(|| no_addon(cluster, name))?;
        addon.wire.status = "UPDATING".into();
        addon.wire.addon_version = version;
        addon.wire.modified_at = Some(now);
        if let Some(text) = &self.configuration_values {
            addon.wire.configuration_values = Some(text.clone()).filter(|t| !t.trim().is_empty());
        }
        if let Some(role) = &self.service_account_role_arn {
            addon.wire.service_account_role_arn = Some(role.clone());
        }
        addon.configuration = configuration;
        addon.generation += 1;
        addon.update = Some(update.id.clone());
        Ok(UpdateAnswer { update })
    }
}

impl EksAction for ListAddonsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListAddonsResponse> {
        let names = cx.state.eks.cluster(&self.cluster_name)?.addons.keys();
        let (addons, next_token) = page(names, self.max_results, self.next_token.as_deref())?;
        Ok(ListAddonsResponse { addons, next_token })
    }
}

impl EksAction for DeleteAddonRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AddonAnswer> {
        let (cluster, name) = (&self.cluster_name, &self.addon_name);
        if self.preserve == Some(true) {
            return Err(error::unsupported(
                "Preserving the software of an add-on that is deleted",
            ));
        }
        let addons = &mut cx.state.eks.cluster_mut(cluster)?.addons;
        let gone = addons.remove(name).ok_or_else(|| no_addon(cluster, name))?;
        let addon = Addon {
            status: "DELETING".into(),
            ..gone.wire
        };
        Ok(AddonAnswer { addon })
    }
}

impl EksAction for DescribeAddonConfigurationRequest {
    fn run(&self, _: &mut Context<'_>) -> ApiResult<DescribeAddonConfigurationResponse> {
        let addon_version = version(&self.addon_name, Some(&self.addon_version))?;
        let known = catalog::find(&self.addon_name);
        let known =
            known.ok_or_else(|| not_found(format_args!("Addon {} not found", self.addon_name)))?;
        Ok(DescribeAddonConfigurationResponse {
            addon_name: self.addon_name.clone(),
            addon_version,
            configuration_schema: known.schema().to_string(),
        })
    }
}

impl EksAction for DescribeAddonVersionsRequest {
    fn run(&self, _: &mut Context<'_>) -> ApiResult<DescribeAddonVersionsResponse> {
        let infos: Vec<AddonInfo> = CATALOG.iter().map(catalog::Known::info).collect();
        let among =
            |wanted: &[String], value: &str| wanted.is_empty() || wanted.iter().any(|w| w == value);
        let fits = |info: &&AddonInfo| {
            self.addon_name
                .as_ref()
                .is_none_or(|n| *n == info.addon_name)
                && self
                    .kubernetes_version
                    .as_ref()
                    .is_none_or(|v| v == catalog::KUBERNETES_VERSION)
                && among(&self.types, &info.type_)
                && among(&self.publishers, &info.publisher)
                && among(&self.owners, &info.owner)
        };
        let names: Vec<String> = infos
            .iter()
            .filter(fits)
            .map(|i| i.addon_name.clone())
            .collect();
        let (names, next_token) = page(names.iter(), self.max_results, self.next_token.as_deref())?;
        let addons = infos
            .into_iter()
            .filter(|i| names.contains(&i.addon_name))
            .collect();
        Ok(DescribeAddonVersionsResponse { addons, next_token })
    }
}
