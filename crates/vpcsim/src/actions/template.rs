//! Launch templates and their versions.

use std::collections::BTreeMap;

use ec2::types::*;

use super::{Action, Context, Field, Query, one, parse, required, tag, template_view};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::page::Sizes;
use crate::store::{State, Template, TemplateVersion};

/// The version of a template that a launch uses.
pub(super) struct Chosen {
    pub(super) id: TemplateId,
    pub(super) number: i64,
    pub(super) data: RequestLaunchTemplateData,
}

fn find(state: &State, id: &Option<String>, name: &Option<String>) -> ApiResult<TemplateId> {
    match (id, name) {
        (Some(_), Some(_)) => Err(ApiError::combination(
            "Specify either a launch template ID or name, not both.",
        )),
        (Some(text), None) => Ok(state.templates.find(text)?.0),
        (None, Some(name)) => {
            let found = state
                .templates
                .iter()
                .find(|(_, t)| t.name == *name)
                .map(|(id, _)| *id);
            found.ok_or_else(|| {
                ApiError::new(
                    "InvalidLaunchTemplateName.NotFoundException",
                    format_args!(
                        "The specified launch template, with template name {name}, does not exist."
                    ),
                )
            })
        }
        (None, None) => Err(ApiError::missing("LaunchTemplateId")),
    }
}

/// A version by number, `$Default` or `$Latest`.
fn version(template: &Template, id: TemplateId, text: &str) -> ApiResult<i64> {
    let number = match text {
        "$Default" | "" => template.default_version,
        "$Latest" => latest(template),
        number => parse(number, "version", "a version number, $Default or $Latest")?,
    };
    match template.versions.contains_key(&number) {
        true => Ok(number),
        false => Err(ApiError::new(
            "InvalidLaunchTemplateId.VersionNotFound",
            format_args!("Could not find launch template version {number} of {id}"),
        )),
    }
}

pub(super) fn latest(template: &Template) -> i64 {
    template.versions.keys().next_back().copied().unwrap_or(1)
}

/// What a launch takes from a template.
pub(super) fn of_launch(state: &State, spec: &LaunchTemplateSpecification) -> ApiResult<Chosen> {
    let id = find(state, &spec.launch_template_id, &spec.launch_template_name)?;
    let template = &state.templates[&id];
    let number = version(template, id, spec.version.as_deref().unwrap_or("$Default"))?;
    Ok(Chosen {
        id,
        number,
        data: template.versions[&number].data.clone(),
    })
}

fn data(data: &Option<RequestLaunchTemplateData>) -> ApiResult<RequestLaunchTemplateData> {
    data.clone()
        .ok_or_else(|| ApiError::missing("LaunchTemplateData"))
}

impl Action for CreateLaunchTemplateRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateLaunchTemplateResult> {
        let name = required(&self.launch_template_name, "LaunchTemplateName")?;
        let tags = tag::of_spec(&self.tag_specifications, "launch-template")?;
        let data = data(&self.launch_template_data)?;
        if cx.state.templates.values().any(|t| t.name == name) {
            return Err(ApiError::new(
                "InvalidLaunchTemplateName.AlreadyExistsException",
                format_args!("Launch template name already in use: {name}."),
            ));
        }
        let id: TemplateId = cx.state.fresh();
        let created_by = cx.caller.arn.clone();
        let version = TemplateVersion {
            description: self.version_description.clone(),
            created: cx.now,
            created_by: created_by.clone(),
            data,
        };
        let template = Template {
            name: name.to_owned(),
            created: cx.now,
            created_by,
            default_version: 1,
            versions: BTreeMap::from([(1, version)]),
        };
        cx.state.templates.insert(id, template);
        tag::put(cx.state, id, tags);
        Ok(CreateLaunchTemplateResult {
            launch_template: Some(template_view::template(cx.state, id)),
            warning: None,
        })
    }
}

impl Action for CreateLaunchTemplateVersionRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateLaunchTemplateVersionResult> {
        let id = find(
            cx.state,
            &self.launch_template_id,
            &self.launch_template_name,
        )?;
        let template = &cx.state.templates[&id];
        let mut new = data(&self.launch_template_data)?;
        if let Some(source) = &self.source_version {
            let base = version(template, id, source)?;
            new = template_view::overlay(template.versions[&base].data.clone(), new);
        }
        let number = latest(template) + 1;
        let record = TemplateVersion {
            description: self.version_description.clone(),
            created: cx.now,
            created_by: cx.caller.arn.clone(),
            data: new,
        };
        if let Some(template) = cx.state.templates.get_mut(&id) {
            template.versions.insert(number, record);
        }
        Ok(CreateLaunchTemplateVersionResult {
            launch_template_version: Some(template_view::version(cx.state, id, number)),
            warning: None,
        })
    }
}

impl Action for ModifyLaunchTemplateRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ModifyLaunchTemplateResult> {
        let id = find(
            cx.state,
            &self.launch_template_id,
            &self.launch_template_name,
        )?;
        let number = version(
            &cx.state.templates[&id],
            id,
            required(&self.default_version, "SetDefaultVersion")?,
        )?;
        if let Some(template) = cx.state.templates.get_mut(&id) {
            template.default_version = number;
        }
        let launch_template = Some(template_view::template(cx.state, id));
        Ok(ModifyLaunchTemplateResult { launch_template })
    }
}

impl Action for DeleteLaunchTemplateRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DeleteLaunchTemplateResult> {
        let id = find(
            cx.state,
            &self.launch_template_id,
            &self.launch_template_name,
        )?;
        let launch_template = Some(template_view::template(cx.state, id));
        cx.state.templates.remove(&id);
        cx.state.drop_tags(id);
        Ok(DeleteLaunchTemplateResult { launch_template })
    }
}

const FIELDS: &[Field<TemplateId, Template>] = &[
    ("launch-template-id", |_, id, _| one(id)),
    ("launch-template-name", |_, _, t| one(&t.name)),
    ("create-time", |_, _, t| one(format!("{:.3}", t.created))),
];

impl Action for DescribeLaunchTemplatesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeLaunchTemplatesResult> {
        let mut ids = self.launch_template_ids.clone();
        for name in &self.launch_template_names {
            ids.push(find(cx.state, &None, &Some(name.clone()))?.to_string());
        }
        let query = Query::new(&ids, &self.filters).sizes(Sizes(1, 200));
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.templates, FIELDS)?;
        let launch_templates = ids
            .into_iter()
            .map(|id| template_view::template(cx.state, id))
            .collect();
        Ok(DescribeLaunchTemplatesResult {
            launch_templates,
            next_token,
        })
    }
}

impl Action for DescribeLaunchTemplateVersionsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeLaunchTemplateVersionsResult> {
        if let Some(filter) = self.filters.first() {
            let name = filter.name.as_deref().unwrap_or("");
            return Err(ApiError::unsupported(format_args!("The filter {name}")));
        }
        let mut selected = Vec::new();
        if self.launch_template_id.is_none() && self.launch_template_name.is_none() {
            // Without a template, $Latest and $Default mean those of every template.
            if self.versions.is_empty() {
                return Err(ApiError::missing("LaunchTemplateId"));
            }
            for (id, template) in cx.state.templates.iter() {
                for text in &self.versions {
                    selected.push((*id, version(template, *id, text)?));
                }
            }
        } else {
            let id = find(
                cx.state,
                &self.launch_template_id,
                &self.launch_template_name,
            )?;
            let template = &cx.state.templates[&id];
            let bound = |text: &Option<String>| {
                text.as_deref()
                    .map(|t| parse::<i64>(t, "version", "a number"))
                    .transpose()
            };
            let least = bound(&self.min_version)?.unwrap_or(i64::MIN);
            let most = bound(&self.max_version)?.unwrap_or(i64::MAX);
            if self.versions.is_empty() {
                let all = template
                    .versions
                    .keys()
                    .filter(|v| (least..=most).contains(*v));
                selected.extend(all.map(|v| (id, *v)));
            }
            for text in &self.versions {
                selected.push((id, version(template, id, text)?));
            }
        }
        selected.sort();
        selected.dedup();
        let query = Query::new(&[], &[]).sizes(Sizes(1, 200));
        let query = query.paged(self.max_results, &self.next_token);
        let (selected, next_token) = query.page(selected, |(id, v)| format!("{id} {v:020}"))?;
        let launch_template_versions = selected
            .into_iter()
            .map(|(id, v)| template_view::version(cx.state, id, v))
            .collect();
        Ok(DescribeLaunchTemplateVersionsResult {
            launch_template_versions,
            next_token,
        })
    }
}
