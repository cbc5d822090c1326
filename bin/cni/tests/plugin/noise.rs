//! Whatever comes in, a success or a valid error object comes out: never a panic, never a signal.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use proptest::prelude::*;

/// A namespace that nothing else uses; none without root.
static NODE: LazyLock<Option<kernel::NetNs>> = LazyLock::new(|| kernel::NetNs::create().ok());

/// A value of a variable: usual, unusual, or bytes.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let usual = prop::sample::select(vec![
        "ADD",
        "DEL",
        "CHECK",
        "GC",
        "STATUS",
        "VERSION",
        "eth0",
        "c1",
        "/run/netns/gone",
        "/dev/null",
        "K8S_POD_NAME=a;IgnoreUnknown=1",
        "K8S_POD_NAME=a=b",
        ";",
        "=",
    ])
    .prop_map(|text| text.as_bytes().to_vec());
    // The kernel takes no NUL in an environment.
    let bytes = prop::collection::vec(1u8.., 0..20);
    prop_oneof![4 => usual, 1 => bytes]
}

fn stdin() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[]}"#,
        r#"{"cniVersion":"0.4.0","name":"n","prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x","mac":"2"}],"ips":[{"interface":0,"address":"10.0.0.1/32"}]}}"#,
        r#"{"cniVersion":"0.2.0","name":"n","prevResult":{"ip4":{"ip":"10.0.0.1/32"}}}"#,
        r#"{"name":"n","prevResult":{"ips":[{"interface":18446744073709551615,"address":"::1/128"}]}}"#,
        "{}",
        "null",
        "[[[[[[[[",
        "\"",
        "{\"name\":\"n\",\"name\":null}",
    ]);
    let cut = (
        known,
        any::<prop::sample::Index>(),
        any::<u8>(),
        any::<bool>(),
    )
        .prop_map(|(text, at, byte, spoil)| {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            if spoil {
                bytes[at] = byte;
            }
            bytes
        });
    prop_oneof![3 => cut, 1 => prop::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_environment_and_any_stdin_are_answered(
        command in value(),
        container in value(),
        interface in value(),
        netns in value(),
        args in value(),
        stdin in stdin(),
    ) {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_aws-cni"));
        plugin
            .env_clear()
            .env("CNI_COMMAND", OsStr::from_bytes(&command))
            .env("CNI_CONTAINERID", OsStr::from_bytes(&container))
            .env("CNI_IFNAME", OsStr::from_bytes(&interface))
            .env("CNI_NETNS", OsStr::from_bytes(&netns))
            .env("CNI_ARGS", OsStr::from_bytes(&args))
            .env("AWS_VPC_CNI_IPAMD_SOCKET", "/nonexistent/ipamd.sock")
            .env("AWS_VPC_CNI_NPA_SOCKET", "/nonexistent/npa.sock")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // As root the plugin could change the machine's own rules; elsewhere it cannot.
        let spawned = match &*NODE {
            Some(node) => node.run(|| plugin.spawn()).expect("the namespace can be entered"),
            None => plugin.spawn(),
        };
        let mut child = spawned.expect("the plugin can be executed");
        let _ = child.stdin.take().expect("piped").write_all(&stdin);
        let output = child.wait_with_output().expect("the plugin ends");
        prop_assert_eq!(output.status.signal(), None, "{:?}", output);
        if !output.status.success() {
            let error: serde_json::Value = serde_json::from_slice(&output.stdout)
                .map_err(|error| TestCaseError::fail(format!("{error}: {output:?}")))?;
            prop_assert!(error["code"].as_u64().is_some_and(|code| code > 0), "{}", error);
            prop_assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{}", error);
            prop_assert!(error["cniVersion"].is_string(), "{}", error);
        }
    }
}
