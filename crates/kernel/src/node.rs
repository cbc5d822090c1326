//! A namespace's network as one value: read it, apply a difference to it.

use std::collections::BTreeSet;

use nodenet::{Diff, NodeNet, Step, TableId};

use crate::netlink::{LinkState, Socket};
use crate::{Error, NetNs, Result};

/// Reads links, IPv4 addresses, permanent neighbours, routes of all tables and rules of a
/// namespace. Each list is consistent in itself; the five are read one after the other.
pub fn read(ns: &NetNs) -> Result<NodeNet> {
    read_with(&mut Socket::open_in(ns)?)
}

/// Like [`read`], with a socket in the namespace.
pub fn read_with(socket: &mut Socket) -> Result<NodeNet> {
    Ok(NodeNet {
        links: socket
            .links()?
            .into_iter()
            .map(|state| state.link)
            .collect(),
        addrs: socket.addrs()?.into_iter().collect(),
        neighbours: socket.neighbours()?.into_iter().collect(),
        routes: socket.routes()?.into_iter().collect(),
        rules: socket.rules()?.into_iter().collect(),
    })
}

/// Like [`read_with`], with links that were listed already, and the routes of these tables only:
/// other programs may have thousands elsewhere.
pub fn read_tables(
    socket: &mut Socket,
    links: &[LinkState],
    tables: impl IntoIterator<Item = TableId>,
) -> Result<NodeNet> {
    let mut routes = BTreeSet::new();
    for table in tables {
        routes.extend(socket.routes_of(table)?);
    }
    Ok(NodeNet {
        links: links.iter().map(|state| state.link.clone()).collect(),
        addrs: socket.addrs()?.into_iter().collect(),
        neighbours: socket.neighbours()?.into_iter().collect(),
        routes,
        rules: socket.rules()?.into_iter().collect(),
    })
}

/// Takes steps that do not depend on each other's success and returns the outcome of each. Those
/// that are done already are fine; nothing is taken back.
pub fn attempt(socket: &mut Socket, steps: &[Step]) -> Result<Vec<Result<()>>> {
    let outcomes = take(socket, steps)?.into_iter().zip(steps);
    let fine = |(outcome, step): (Result<()>, &Step)| match outcome {
        Err(error) if is_done(step, &error) => Ok(()),
        outcome => outcome,
    };
    Ok(outcomes.map(fine).collect())
}

/// Applies a difference to a namespace, in the order of its steps. Steps that are done already
/// (somebody else was faster) are fine. When one fails, those that were done are taken back in
/// reverse order and the first failure is returned. Missing links are not an error here.
pub fn apply(ns: &NetNs, diff: &Diff) -> Result<()> {
    apply_with(&mut Socket::open_in(ns)?, diff)
}

/// Like [`apply`], with a socket in the namespace.
pub fn apply_with(socket: &mut Socket, diff: &Diff) -> Result<()> {
    let mut done = Vec::with_capacity(diff.steps.len());
    let mut failure = None;
    for (step, outcome) in diff.steps.iter().zip(take(socket, &diff.steps)?) {
        match outcome {
            Ok(()) => done.push(step.inverse()),
            Err(error) if is_done(step, &error) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let Some(error) = failure else { return Ok(()) };
    done.reverse();
    let second = take(socket, &done).map(|outcomes| {
        outcomes
            .into_iter()
            .zip(&done)
            .find_map(|(o, s)| still_failed(o, s))
    });
    match second {
        Ok(None) => Err(error),
        Ok(Some(second)) | Err(second) => Err(Error::Unwind {
            error: Box::new(error),
            second: Box::new(second),
        }),
    }
}

/// Takes the steps in one batch and returns the outcome of each.
fn take(socket: &mut Socket, steps: &[Step]) -> Result<Vec<Result<()>>> {
    steps
        .iter()
        .fold(socket.batch(), |batch, step| match step {
            Step::SetMtu { link, mtu, .. } => batch.set_mtu(link, *mtu),
            Step::SetUp { link, up } => batch.set_up(link, *up),
            Step::DelAddr(addr) => batch.del_addr(addr),
            Step::AddAddr(addr) => batch.add_addr(addr),
            Step::PutNeighbour(neighbour) => batch.set_neighbour(neighbour),
            Step::DelNeighbour(neighbour) => batch.del_neighbour(neighbour),
            Step::PutRoute { route, .. } => batch.replace_route(route),
            Step::AddRule(rule) => batch.add_rule(rule),
            Step::DelRule(rule) => batch.del_rule(rule),
            Step::DelRoute(route) => batch.del_route(route),
        })
        .outcomes()
}

/// The failure says that the namespace is already as the step would have made it.
fn is_done(step: &Step, error: &Error) -> bool {
    match step {
        Step::AddAddr(_) | Step::AddRule(_) => error.is_exists(),
        Step::DelAddr(_) | Step::DelNeighbour(_) | Step::DelRule(_) | Step::DelRoute(_) => {
            error.is_absent()
        }
        _ => false,
    }
}

fn still_failed(outcome: Result<()>, step: &Step) -> Option<Error> {
    outcome.err().filter(|error| !is_done(step, error))
}
