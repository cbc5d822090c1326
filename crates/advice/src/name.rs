//! Names for people: a group by its name, where the name says which one it is.

use std::collections::BTreeSet;

use vpc::facts::{Eni, EniId, SgId, World};

/// A group's name, with its id where another group has the same name.
pub fn group(world: &World, id: &SgId) -> String {
    match world.groups.get(id) {
        None => id.to_string(),
        Some(group) => match world
            .groups
            .values()
            .filter(|g| g.name == group.name)
            .count()
        {
            1 => group.name.clone(),
            _ => format!("{}({id})", group.name),
        },
    }
}

/// Names of groups, in the order of names.
pub fn groups(world: &World, ids: &BTreeSet<SgId>) -> Vec<String> {
    let mut names: Vec<String> = ids.iter().map(|id| group(world, id)).collect();
    names.sort();
    names
}

/// What an interface is on its node: `primary`, `device 1`.
pub fn device(eni: &Eni) -> String {
    match eni.attachment.as_ref() {
        Some(a) if a.device_index == 0 => "primary".to_owned(),
        Some(a) => format!("device {}", a.device_index),
        None => "not attached".to_owned(),
    }
}

/// What people call the object that decides about packets: an interface by its name, others by id.
pub fn object(world: &World, id: &str) -> String {
    match id.parse::<EniId>() {
        Ok(eni_id) => eni(world, &eni_id),
        Err(_) => id.to_owned(),
    }
}

/// What people call an interface: its name if it has one, and its id.
pub fn eni(world: &World, id: &EniId) -> String {
    match world.enis.get(id) {
        Some(eni) if eni.name() != id.as_str() && eni.instance().is_none() => {
            format!("{} ({id})", eni.name())
        }
        _ => id.to_string(),
    }
}
