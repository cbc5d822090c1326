//! Decoders of foreign bytes answer with a value or an error, whatever the bytes.

use crate::fill::Filler;
use ec2::AnyRequest;
use ec2::wire::{form, xml};
use proptest::prelude::*;

/// Also called by a fuzzer where one is at hand.
fn decode_everything(bytes: &[u8]) {
    let _ = AnyRequest::decode(bytes);
    let _ = xml::decode_error(bytes);
    for action in ["DescribeInstances", "DeleteVpc", "DescribeSecurityGroups"] {
        let mut answer = AnyRequest::empty(action).unwrap().empty_output();
        let _ = xml::decode_into(action, answer.as_mut(), bytes);
    }
}

/// A valid message of an action, and a place to damage it.
fn message(action: &str, seed: u64, answer: bool) -> Vec<u8> {
    let mut request = AnyRequest::empty(action).unwrap();
    let mut filler = Filler::new(seed, false);
    if answer {
        let mut output = request.empty_output();
        filler.shape(output.as_mut());
        xml::encode(action, output.as_ref(), "r").into_bytes()
    } else {
        filler.shape(request.shape_mut());
        form::encode(action, request.shape()).into_bytes()
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        decode_everything(&bytes);
    }

    #[test]
    fn nearly_xml(parts in prop::collection::vec(prop::sample::select(vec![
        "<DescribeInstancesResponse>", "</DescribeInstancesResponse>", "<reservationSet>", "</reservationSet>",
        "<item>", "</item>", "<item/>", "<instancesSet>", "text", "&lt;", "&#0;", "&#xFFFFFFFF;", "&x;", "<![CDATA[",
        "]]>", "<!--", "-->", "<?xml?>", "<launchTime>", "</launchTime>", "<!DOCTYPE a [<!ENTITY b \"c\">]>", "\u{0}",
    ]), 0..40)) {
        let mut text = parts.concat();
        decode_everything(text.as_bytes());
        text.insert_str(0, "<DescribeInstancesResponse>");
        decode_everything(text.as_bytes());
    }

    #[test]
    fn nearly_forms(parts in prop::collection::vec(prop::sample::select(vec![
        "Action=RunInstances&", "NetworkInterface", ".1", ".", "..", ".18446744073709551616", "=", "&", "%", "%ff", "+",
        "TagSpecification", ".Tag", ".Key", "MinCount", "-1", "true", "NetworkInterface.1.PrivateIpAddresses.1.Primary",
    ]), 0..40)) {
        decode_everything(parts.concat().as_bytes());
        decode_everything(format!("Action=RunInstances&{}", parts.concat()).as_bytes());
    }

    #[test]
    fn damaged_messages(
        action in prop::sample::select(AnyRequest::ACTIONS.to_vec()),
        (seed, answer, at, byte, cut) in any::<(u64, bool, prop::sample::Index, u8, bool)>(),
    ) {
        let mut bytes = message(action, seed, answer);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        let request = AnyRequest::empty(action).unwrap();
        let mut output = request.empty_output();
        let _ = xml::decode_into(action, output.as_mut(), &bytes);
        decode_everything(&bytes);
    }
}

#[test]
fn depth_is_bounded() {
    for unit in [
        "<item>",
        "<a>",
        "<reservationSet><item><instancesSet><item>",
    ] {
        let deep = format!("<DescribeInstancesResponse>{}", unit.repeat(100_000));
        decode_everything(deep.as_bytes());
    }
    let deep = format!(
        "Action=RunInstances&{}=1",
        ["NetworkInterface"; 100_000].join(".")
    );
    assert_eq!(
        AnyRequest::decode(deep.as_bytes()).unwrap_err().code(),
        "UnknownParameter"
    );
}
