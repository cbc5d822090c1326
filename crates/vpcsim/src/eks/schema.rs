//! The part of JSON schema that the add-ons' schemas use: `type`, `enum`, `properties`, `additionalProperties`,
//! `required`, `minProperties`, `items`. Texts name the place as EKS does: `$.env.WARM_IP_TARGET`.

use serde_json::Value;

/// What `value` breaks of `schema`, in the order of its members; empty: nothing.
pub(super) fn check(schema: &Value, value: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    walk(schema, value, "$", &mut problems);
    problems
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn walk(schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
    let expected: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let found = kind(value);
    if !expected.is_empty() && !expected.contains(&found) {
        problems.push(format!(
            "{at}: {found} found, {} expected",
            expected.join(" or ")
        ));
        return;
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        let values: Vec<String> = values
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        problems.push(format!(
            "{at}: does not have a value in the enumeration [{}]",
            values.join(", ")
        ));
    }
    match value {
        Value::Object(members) => {
            for required in schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                if !members.contains_key(required) {
                    problems.push(format!("{at}.{required}: is missing but it is required"));
                }
            }
            let least = schema["minProperties"].as_u64().unwrap_or(0);
            if (members.len() as u64) < least {
                problems.push(format!("{at}: should have a minimum of {least} properties"));
            }
            for (name, value) in members {
                let at = format!("{at}.{name}");
                match (&schema["properties"][name.as_str()], &schema["additionalProperties"]) {
                    (Value::Null, Value::Bool(false)) => problems.push(format!(
                        "{at}: is not defined in the schema and the schema does not allow additional properties"
                    )),
                    (Value::Null, any @ Value::Object(_)) => walk(any, value, &at, problems),
                    (Value::Null, _) => {}
                    (own, _) => walk(own, value, &at, problems),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(&schema["items"], item, &format!("{at}[{index}]"), problems);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::catalog;
    use super::*;

    fn problems(addon: &str, value: Value) -> Vec<String> {
        check(&catalog::find(addon).unwrap().schema(), &value)
    }

    #[test]
    fn what_the_chart_takes_is_taken() {
        let value = json!({
            "env": {"WARM_IP_TARGET": "2", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "BRANCHLINE_GROUP_SYNC": "false"},
            "init": {"env": {"DISABLE_TCP_EARLY_DEMUX": "true"}},
            "enableNetworkPolicy": "true",
            "nodeAgent": {"enabled": true, "metricsBindAddr": "8162"},
            "eniConfig": {"create": true, "region": "us-west-2", "subnets": {"us-west-2a": {"id": "subnet-1", "securityGroups": ["sg-1"]}}},
            "resources": {"requests": {"cpu": "25m"}},
            "tolerations": [{"operator": "Exists"}],
        });
        assert_eq!(problems("vpc-cni", value), [""; 0]);
        assert_eq!(problems("coredns", json!({"replicaCount": 1})), [""; 0]);
        assert_eq!(problems("kube-proxy", json!({"mode": "nftables"})), [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        let undefined =
            "is not defined in the schema and the schema does not allow additional properties";
        let cases = [
            (
                "vpc-cni",
                json!({"enviroment": {}}),
                format!("$.enviroment: {undefined}"),
            ),
            (
                "vpc-cni",
                json!({"env": {"WARM_IP_TARGTE": "2"}}),
                format!("$.env.WARM_IP_TARGTE: {undefined}"),
            ),
            (
                "vpc-cni",
                json!({"env": {"WARM_IP_TARGET": 2}}),
                "$.env.WARM_IP_TARGET: integer found, string expected".into(),
            ),
            (
                "vpc-cni",
                json!({"env": {"MY_NODE_NAME": "x"}}),
                format!("$.env.MY_NODE_NAME: {undefined}"),
            ),
            (
                "vpc-cni",
                json!({"eniConfig": {"create": true, "region": "r", "subnets": {"a": {}}}}),
                "$.eniConfig.subnets.a.id: is missing but it is required".into(),
            ),
            (
                "vpc-cni",
                json!({"eniConfig": {"create": true, "region": "r", "subnets": {}}}),
                "$.eniConfig.subnets: should have a minimum of 1 properties".into(),
            ),
            (
                "vpc-cni",
                json!({"tolerations": [{"key": 1}]}),
                "$.tolerations[0].key: integer found, string expected".into(),
            ),
            (
                "kube-proxy",
                json!({"mode": "ebpf"}),
                "$.mode: does not have a value in the enumeration [iptables, ipvs, nftables]"
                    .into(),
            ),
            (
                "coredns",
                json!([]),
                "$: array found, object expected".into(),
            ),
        ];
        for (addon, value, expected) in cases {
            assert_eq!(problems(addon, value), [expected]);
        }
    }
}
