//! What leaves a cluster in a support file: no variable but the stack's own, no annotation, and no
//! text that looks like a credential, wherever it stands.
//!
//! Values that were dropped from objects are remembered while a file is made, and taken out of logs
//! and events too: a program may have printed its environment. What the snapshot holds anyway (a
//! region, the name of the VPC) is no secret, and is left where it stands.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// What stands in the place of what was taken out.
pub(crate) const REDACTED: &str = "[redacted]";
/// Shorter values (`true`, `1`, `info`) would blank out half of a log.
const SHORTEST: usize = 8;

/// Annotations that say who manages an object and are nobody's secret.
const KEPT: [&str; 5] = [
    "meta.helm.sh/release-name",
    "meta.helm.sh/release-namespace",
    "kubectl.kubernetes.io/default-container",
    "kubectl.kubernetes.io/restartedAt",
    "deprecated.daemonset.template.generation",
];

/// Words before a value that nobody else shall see.
const KEYS: [&str; 12] = [
    "password",
    "passwd",
    "secret",
    "secret_access_key",
    "secretaccesskey",
    "session_token",
    "sessiontoken",
    "token",
    "authorization",
    "api_key",
    "apikey",
    "private_key",
];

/// What was dropped so far.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    dropped: BTreeSet<String>,
    public: String,
}

impl Redactor {
    /// `public` is a text that holds no secret: the snapshot.
    pub(crate) fn new(public: String) -> Self {
        Self {
            public,
            ..Self::default()
        }
    }

    fn drop_value(&mut self, value: &Value) {
        if let Value::String(text) = value
            && text.len() >= SHORTEST
            && !self.public.contains(text.as_str())
        {
            self.dropped.insert(text.clone());
        }
    }

    /// Takes out of an object of the API what may be secret: annotations, managed fields, values of
    /// variables that are not the stack's.
    pub(crate) fn object(&mut self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.object(item)),
            Value::Object(map) => {
                map.remove("managedFields");
                if let Some(Value::Object(notes)) = map.get_mut("annotations") {
                    self.values(notes);
                }
                if let Some(Value::Array(variables)) = map.get_mut("env") {
                    variables.iter_mut().for_each(|v| self.variable(v));
                }
                map.values_mut().for_each(|inner| self.object(inner));
            }
            _ => {}
        }
    }

    fn values(&mut self, map: &mut Map<String, Value>) {
        let secret = map.iter_mut().filter(|(k, _)| !KEPT.contains(&k.as_str()));
        for (_, value) in secret {
            self.drop_value(value);
            *value = REDACTED.into();
        }
    }

    fn variable(&mut self, variable: &mut Value) {
        let name = variable["name"].as_str().unwrap_or_default();
        if settings::variable(name).is_some() {
            return;
        }
        if let Some(value) = variable.get_mut("value") {
            self.drop_value(value);
            *value = REDACTED.into();
        }
    }

    /// Takes credentials out of the texts of a document of ours; its keys and their values are ours.
    pub(crate) fn texts(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.texts(item)),
            Value::Object(map) => map.values_mut().for_each(|inner| self.texts(inner)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Takes credentials out of a text, line by line.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // The longer first: one may be a part of another.
        let mut dropped: Vec<&String> = self.dropped.iter().collect();
        dropped.sort_by_key(|d| std::cmp::Reverse(d.len()));
        for value in dropped {
            // In JSON the value stands with its escapes.
            let escaped = Value::from(value.as_str()).to_string();
            let escaped = escaped.trim_matches('"');
            for form in [value.as_str(), escaped] {
                if text.contains(form) {
                    text = text.replace(form, REDACTED);
                }
            }
        }
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            out.push_str(&credentials(line));
        }
        out
    }
}

/// A character that a credential can have in it.
fn part(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-+/=.~%:".contains(c)
}

/// A line without what looks like a credential.
fn credentials(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        if !part(first) {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out.push_str(&redact_word(word));
        rest = after;
        let key = word.trim_end_matches([':', '=']).to_ascii_lowercase();
        if is_key(&key) {
            let (kept, after) = value_after(word, rest);
            out.push_str(&kept);
            rest = after;
        }
    }
    out
}

fn is_key(word: &str) -> bool {
    let name = word.rsplit(['.', '/', '=']).next().unwrap_or(word);
    KEYS.iter().any(|key| {
        name == *key || name.ends_with(&format!("_{key}")) || name.ends_with(&format!("-{key}"))
    })
}

/// A word with its own value (`password=x`), or one that is a credential by its form.
fn redact_word(word: &str) -> String {
    if let Some((key, value)) = word.split_once(['=', ':'])
        && is_key(&key.to_ascii_lowercase())
        && !value.is_empty()
    {
        let sign = &word[key.len()..=key.len()];
        return format!("{key}{sign}{REDACTED}");
    }
    let letters = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    let key_id = word.len() == 20 && ["AKIA", "ASIA"].iter().any(|p| word.starts_with(p));
    let token = word.starts_with("eyJ") && word.matches('.').count() >= 2;
    let eks = word.starts_with("k8s-aws-v1.");
    match (key_id && letters(word)) || token || eks {
        true => REDACTED.to_owned(),
        false => word.to_owned(),
    }
}

/// What follows a key: `": "value"`, ` = value`, ` Bearer value`. A quoted value may have spaces.
fn value_after<'a>(word: &str, rest: &'a str) -> (String, &'a str) {
    let gap = rest
        .find(|c: char| !"\"'\\ :=\t".contains(c))
        .unwrap_or(rest.len());
    let (between, value) = rest.split_at(gap);
    let signed = word.ends_with([':', '=']) || between.contains([':', '=']);
    let nothing = ["null", "true", "false"]
        .iter()
        .any(|w| value.starts_with(w));
    if !signed || nothing || value.is_empty() || value.starts_with(['{', '[', '\n']) {
        return (String::new(), rest);
    }
    let quote = between.chars().rev().find(|c| *c == '"' || *c == '\'');
    let end = match quote.filter(|_| between.ends_with(['"', '\''])) {
        Some(quote) => value.find([quote, '\\', '\n']),
        None => {
            let scheme = ["Bearer ", "Basic "]
                .iter()
                .find(|s| value.starts_with(**s));
            let skip = scheme.map_or(0, |s| s.len());
            value[skip..].find(|c: char| !part(c)).map(|end| end + skip)
        }
    };
    let end = end.unwrap_or(value.len());
    (format!("{between}{REDACTED}"), &value[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_in_texts() {
        let redactor = Redactor::default();
        for (text, secret) in [
            ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "wJalr"),
            (r#"{"password": "hunter two", "n": 1}"#, "hunter"),
            (r#"{"msg":"got {\"token\":\"abc.def\"}"}"#, "abc.def"),
            ("Authorization: Bearer eyJhbGciOi.eyJzdWIi.c2ln", "eyJ"),
            ("used AKIAIOSFODNN7EXAMPLE twice", "AKIA"),
            ("db_password: s3cr3tvalue, next", "s3cr3t"),
            ("token k8s-aws-v1.aHR0cHM6Ly9zdHM was refused", "aHR0"),
            ("--session-token=FwoGZXIvYXdzE", "FwoG"),
        ] {
            let out = redactor.text(text);
            assert!(!out.contains(secret), "{text} -> {out}");
            assert!(out.contains(REDACTED), "{text} -> {out}");
        }
    }

    #[test]
    fn what_is_no_credential_stays() {
        let redactor = Redactor::default();
        for text in [
            "subnet subnet-0a1 has no free address (InsufficientFreeAddressesInSubnet)\n",
            r#"{"level":"info","eni":"eni-0a1b2c3d4e5f67890","address":"10.0.1.7/32"}"#,
            "2026-11-21T12:00:00Z rule 1536 from 10.0.0.9 lookup 2",
            "the token has expired",
            r#"{"token":null,"secret":{"name":"x"}}"#,
            "image 602401143452.dkr.ecr.us-west-2.amazonaws.com/amazon-k8s-cni:v1.18.2",
            "failed: secret \"default-token\" not found",
        ] {
            assert_eq!(redactor.text(text), text);
        }
    }

    #[test]
    fn dropped_values_are_dropped_everywhere() {
        let mut redactor = Redactor::new("the region is us-west-2".to_owned());
        let mut object = json!({
            "metadata": {"name": "aws-node", "annotations": {
                "who": "planted in an annotation", "meta.helm.sh/release-name": "aws-vpc-cni"}, "managedFields": [1]},
            "spec": {"template": {"metadata": {"annotations": {"x": "short"}}, "spec": {"containers": [{"env": [
                {"name": "WARM_IP_TARGET", "value": "2"},
                {"name": "DATABASE_URL", "value": "postgres://u:\"planted\"@h"},
                {"name": "REGION", "value": "us-west-2"},
                {"name": "FROM", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ]}]}}},
        });
        redactor.object(&mut object);
        let text = object.to_string();
        assert!(
            !text.contains("planted") && !text.contains("managedFields"),
            "{text}"
        );
        assert!(
            text.contains(r#""value":"2""#) && text.contains("secretKeyRef"),
            "{text}"
        );
        let log = "env: postgres://u:\"planted\"@h, planted in an annotation; short";
        let log = redactor.text(log);
        assert_eq!(log, "env: [redacted], [redacted]; short");
        assert_eq!(
            redactor.text("in us-west-2a"),
            "in us-west-2a",
            "everybody knows it"
        );
        let mut ours = json!({"AWS_SECRET_ACCESS_KEY": "withheld", "reason": ["token: abcdef"]});
        redactor.texts(&mut ours);
        assert_eq!(
            ours,
            json!({"AWS_SECRET_ACCESS_KEY": "withheld", "reason": ["token: [redacted]"]})
        );
        let json = json!({"msg": "postgres://u:\"planted\"@h"}).to_string();
        assert_eq!(redactor.text(&json), r#"{"msg":"[redacted]"}"#);
    }
}
