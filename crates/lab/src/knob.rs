//! Knobs of the embedded EC2: latencies, faults, lags. Read and set over its own port.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use serde_json::{Map, Value};

use crate::error::{Error, IoContext as _};
use crate::state::State;

const PATH: &str = "/_lab/knobs";

/// All knobs, as JSON.
///
/// # Errors
/// When the lab's daemon does not answer.
pub fn get(state: &State) -> Result<String, Error> {
    request(state, "GET", "")
}

/// Sets the knobs that the JSON object names; returns all.
///
/// # Errors
/// When the daemon does not answer or does not know one of them.
pub fn set(state: &State, json: &str) -> Result<String, Error> {
    let read = |text: &str, what: &str| {
        serde_json::from_str::<Map<String, Value>>(text).map_err(|source| Error::Message {
            what: what.to_owned(),
            source,
        })
    };
    let mut all = read(&get(state)?, "the lab's daemon")?;
    all.extend(read(json, "the command line")?);
    request(state, "PUT", &Value::Object(all).to_string())
}

/// One HTTP/1.1 exchange on loopback.
fn request(state: &State, method: &str, body: &str) -> Result<String, Error> {
    const WHAT: &str = "talk to the lab's daemon";
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, state.port)).doing(WHAT)?;
    let length = body.len();
    let head = format!(
        "{method} {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).doing(WHAT)?;
    stream.write_all(body.as_bytes()).doing(WHAT)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).doing(WHAT)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("no status");
    if status == "200" {
        Ok(body.to_owned())
    } else {
        let message = format!("{status}: {}", body.trim());
        Err(Error::Refused {
            what: format!("{method} {PATH}"),
            message,
        })
    }
}
