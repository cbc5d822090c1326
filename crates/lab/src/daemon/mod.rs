//! The daemon of a lab: the embedded EC2, the fabric, the launcher of nodes.
//!
//! It only changes things. Packets are carried by the kernel and pods are looked after by their
//! nodes, so traffic goes on while the daemon is stopped.

mod agent_env;
mod forward;

use crate::error::Error;
use crate::place::Place;
use crate::up::UpOptions;
/// x
pub fn serve(_place: &Place, _options: &UpOptions, _background: bool) -> Result<(), Error> {
    Err(Error::NoCommand)
}
