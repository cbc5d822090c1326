//! encode ∘ decode is the identity for every request and every answer of the model.

use std::collections::BTreeSet;

use crate::fill::Filler;
use ec2::AnyRequest;
use ec2::wire::{form, xml};

fn fillers() -> impl Iterator<Item = Filler> {
    (0..12).map(|seed| Filler::new(seed, seed == 0))
}

#[test]
fn requests() {
    for action in AnyRequest::ACTIONS {
        for mut filler in fillers() {
            let mut request = AnyRequest::empty(action).unwrap();
            filler.shape(request.shape_mut());
            let body = form::encode(action, request.shape());
            assert_eq!(
                AnyRequest::decode(body.as_bytes()),
                Ok(request),
                "{action}: {body}"
            );
        }
    }
}

#[test]
fn answers() {
    for action in AnyRequest::ACTIONS {
        let request = AnyRequest::empty(action).unwrap();
        for mut filler in fillers() {
            let (mut answer, mut decoded) = (request.empty_output(), request.empty_output());
            filler.shape(answer.as_mut());
            let body = xml::encode(action, answer.as_ref(), "id-1");
            let id = xml::decode_into(action, decoded.as_mut(), body.as_bytes())
                .unwrap_or_else(|error| panic!("{action}: {error}: {body}"));
            assert_eq!(id.as_deref(), Some("id-1"));
            assert_eq!(decoded.as_ref(), answer.as_ref(), "{action}: {body}");
        }
    }
}

#[test]
fn both_ways_meet_every_structure_of_the_model() {
    let mut seen = BTreeSet::new();
    for action in AnyRequest::ACTIONS {
        let mut request = AnyRequest::empty(action).unwrap();
        let mut filler = Filler::new(1, true);
        filler.shape(request.empty_output().as_mut());
        filler.shape(request.shape_mut());
        seen.extend(filler.seen);
    }
    seen.remove("Done");
    let model: serde_json::Value =
        serde_json::from_str(include_str!("../../model/ec2.trim.json")).unwrap();
    let shapes = model["shapes"].as_object().unwrap();
    let structures = shapes.iter().filter(|(_, shape)| shape["t"] == "structure");
    let structures: BTreeSet<&str> = structures.map(|(name, _)| name.as_str()).collect();
    assert_eq!(seen, structures);
    assert_eq!((AnyRequest::ACTIONS.len(), structures.len()), (143, 617));
}
