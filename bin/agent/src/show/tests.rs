//! Pages of a pool with addresses and a prefix, as upstream prints them and as `State` reads them.

use std::time::Duration;

use cni::introspect::State;
use ipam::{
    Answer, Attached, AttachmentId, Call, Config, Effect, EniView, Event, Failure, FailureKind,
    Key as IpamKey, Limits, NodeFacts, OpId, Pod, Ticket, View, step,
};

use super::*;
use crate::metrics::Metrics;

/// A node with one interface: two addresses, and a prefix.
pub(crate) struct Bed {
    pub(crate) pool: Pool,
    now: Millis,
    settings: Settings,
    findings: Findings,
}

impl Bed {
    pub(crate) fn new(variables: &[(&str, &str)]) -> Self {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = Settings::from_env(variables).unwrap().settings;
        let mut bed = Self {
            pool: Pool::new(Config::new(&settings, 7)),
            now: Millis(1_700_000_000_000),
            settings,
            findings: Findings::default(),
        };
        let facts = NodeFacts {
            instance: "i-0a1".parse().unwrap(),
            subnet: "subnet-0a1".parse().unwrap(),
            prefixes: true,
            limits: Limits {
                interfaces: 2,
                ipv4_per_interface: 6,
            },
        };
        let effects = bed.step(Event::Node(facts));
        bed.answer(
            &effects,
            "DescribeNetworkInterfaces",
            Ok(Answer::Shown(shown())),
        );
        bed
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.now = self.now.after(Duration::from_secs(1));
        step(&mut self.pool, event, self.now)
    }

    /// Answers the call of an action among the effects.
    fn answer(
        &mut self,
        effects: &[Effect],
        action: &str,
        result: Result<Answer, Failure>,
    ) -> Vec<Effect> {
        let op = effects.iter().find_map(|effect| match effect {
            Effect::Call(op, call) if call.action() == action => Some(*op),
            _ => None,
        });
        let op: OpId = op.unwrap_or_else(|| panic!("no {action} in {effects:?}"));
        self.step(Event::Answered { op, result })
    }

    pub(crate) fn add(&mut self, name: &str) -> Vec<Effect> {
        self.step(Event::Add {
            ticket: Ticket(self.now.0),
            key: IpamKey {
                network: "aws-cni".to_owned(),
                container: format!("c-{name}"),
                ifname: "eth0".to_owned(),
            },
            pod: Pod {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                uid: String::new(),
            },
        })
    }

    fn page(&self, path: &str) -> Option<Value> {
        let (to, _) = tokio::sync::mpsc::channel(1);
        let voice = Voice::start(&self.settings, &to, self.now);
        let told = Told {
            now: self.now,
            started: Millis(1_700_000_000_000),
            refused: &Metrics::default().refused,
            findings: &self.findings,
            checkpoint: Checkpoint::default(),
        };
        page(path, &self.pool, &self.settings, &voice, &told)
    }

    fn state(&self) -> State {
        serde_json::from_value(self.page("/state").unwrap()).unwrap()
    }
}

pub(crate) fn shown() -> View {
    let primary = EniView {
        id: "eni-0a1".parse().unwrap(),
        mac: "02:00:00:00:00:01".parse().unwrap(),
        subnet: "subnet-0a1".parse().unwrap(),
        primary: [10, 0, 1, 4].into(),
        secondary: vec![[10, 0, 1, 5].into(), [10, 0, 1, 6].into()],
        prefixes: vec!["10.0.1.16/28".parse().unwrap()],
        groups: vec!["sg-0a1".parse().unwrap()],
        attachment: Some(Attached {
            id: AttachmentId("eni-attach-1".to_owned()),
            device: 0,
            delete_on_termination: true,
        }),
        ours: false,
        hands_off: None,
    };
    View {
        enis: vec![primary],
    }
}

#[test]
fn addresses_and_prefixes_are_shown_as_upstream_shows_them() {
    let mut bed = Bed::new(&[("WARM_ENI_TARGET", "0")]);
    bed.add("api-1");
    let enis = bed.page("/v1/enis").unwrap();
    let pool = &enis["0"];
    assert_eq!(
        (&pool["TotalIPs"], &pool["AssignedIPs"]),
        (&json!(18), &json!(1))
    );
    let eni = &pool["ENIs"]["eni-0a1"];
    assert_eq!(
        (&eni["IsPrimary"], &eni["DeviceNumber"]),
        (&json!(true), &json!(0))
    );
    let cidrs = eni["AvailableIPv4Cidrs"].as_object().unwrap();
    let names: Vec<&str> = cidrs.keys().map(String::as_str).collect();
    assert_eq!(names, ["10.0.1.16/28", "10.0.1.5/32", "10.0.1.6/32"]);
    let prefix = &cidrs["10.0.1.16/28"];
    assert_eq!(
        prefix["Cidr"],
        json!({"IP": "10.0.1.16", "Mask": "////8A=="})
    );
    assert_eq!(prefix["IsPrefix"], json!(true));
    assert_eq!(cidrs["10.0.1.5/32"]["Cidr"]["Mask"], json!("/////w=="));
    let used: Vec<&Value> = cidrs
        .values()
        .filter_map(|cidr| cidr["IPAddresses"].as_object())
        .flat_map(serde_json::Map::values)
        .collect();
    let [address] = used.as_slice() else {
        panic!("one address is used: {used:?}");
    };
    assert_eq!(
        address["IPAMMetadata"],
        json!({"k8sPodNamespace": "shop", "k8sPodName": "api-1"})
    );
    assert_eq!(address["UnassignedTime"], json!(NEVER));
    assert!(
        address["AssignedTime"]
            .as_str()
            .unwrap()
            .starts_with("2023-11-14T22:13:")
    );
}

#[test]
fn the_state_says_why_the_next_pod_gets_no_address() {
    let mut bed = Bed::new(&[
        ("WARM_ENI_TARGET", "0"),
        ("ENABLE_PREFIX_DELEGATION", "true"),
    ]);
    let state = bed.state();
    assert!(state.ready && state.obstacle.is_none(), "{state:?}");
    assert_eq!((state.pool.total, state.pool.prefixes), (18, 1));
    let ceilings: Vec<(&str, u32, u32)> = state
        .ceilings
        .iter()
        .map(|c| (c.name.as_str(), c.used, c.limit))
        .collect();
    assert_eq!(ceilings, [("interfaces", 1, 2), ("addresses", 0, 160)]);
    let mut effects = Vec::new();
    for n in 0..19 {
        effects.extend(bed.add(&format!("p{n}")));
    }
    // The nineteenth waits for more addresses; EC2 denies them.
    let denied = Failure {
        action: "AssignPrivateIpAddresses",
        kind: FailureKind::Denied,
        message: "UnauthorizedOperation".to_owned(),
    };
    let call = Call::Show { leftovers: false };
    bed.findings.called(&call, None, bed.now);
    bed.findings
        .denied("AssignPrivateIpAddresses", denied.message.clone(), bed.now);
    bed.answer(&effects, "AssignPrivateIpAddresses", Err(denied));
    let state = bed.state();
    assert_eq!(
        state.obstacle.as_ref().map(|o| o.code.as_str()),
        Some("denied"),
        "{state:?}"
    );
    assert!(
        state
            .backoffs
            .iter()
            .any(|b| b.code == "denied" && b.seconds > 0),
        "{:?}",
        state.backoffs
    );
    assert_eq!(state.denied[0].action, "ec2:AssignPrivateIpAddresses");
    assert!(!state.denied[0].without.is_empty());
    // Whoever waits is refused at once or shown; nobody waits without a reason.
    assert!(
        state
            .waiting
            .iter()
            .all(|pod| !pod.reason.message.is_empty())
    );
}

#[test]
fn every_page_that_is_listed_is_there() {
    let bed = Bed::new(&[]);
    let list = bed.page("/").unwrap();
    let paths = list["AvailableCommands"].as_array().unwrap();
    assert_eq!(paths.len(), PATHS.len());
    for path in paths {
        assert!(bed.page(path.as_str().unwrap()).is_some(), "{path}");
    }
    assert_eq!(bed.page("/v1/pods"), None);
}
