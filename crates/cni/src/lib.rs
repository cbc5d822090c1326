//! CNI specification types and error codes; the RPC between the plugin and the node's daemons.
//!
//! A request comes as environment ([`Command`]) and stdin ([`NetConf`]); an answer is a
//! [`CniResult`] or an [`ErrorObject`], each in the form of the request's [`SpecVersion`]. Parsing
//! is total: what comes out can be acted on, what cannot is an [`Error`] that names the object and
//! has a CNI [`Code`]. Source: the CNI specification 1.1.0 and its predecessors' result types;
//! where upstream (amazon-vpc-cni-k8s v1.23.1) reads more leniently than they say, upstream.

mod config;
pub mod deleted;
mod error;
pub mod introspect;
mod json;
pub mod log_file;
mod request;
mod result;
pub mod rpc;
mod version;

pub use config::{DEFAULT_DAEMON_WAIT, LogConf, NetConf, PrevResult, ValidAttachment, parse_wait};
pub use error::{Code, Error, ErrorObject};
pub use request::{Attachment, Command, ContainerId, PodArgs};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use version::SpecVersion;
