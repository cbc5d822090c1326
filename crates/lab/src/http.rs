//! As much of HTTP/1 as two small servers of the lab need: one request per connection, no body read.
//!
//! They run in containers and nodes by the hundred, where a thread per connection costs less than an
//! event loop that mostly idles.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// How long a client may take for its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// The longest request that is read, in bytes.
const LONGEST_REQUEST: u64 = 16 * 1024;

/// The first line of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, as sent.
    pub(crate) target: String,
}

/// What is answered.
pub(crate) struct Answer<R> {
    /// Number and words.
    pub(crate) status: &'static str,
    /// `name: value` of additional headers.
    pub(crate) headers: Vec<String>,
    /// Its length in bytes, and where it is read from.
    pub(crate) body: (u64, R),
}

/// Reads a request and gives `answer` what it says, or `None` when it is no request.
pub(crate) fn serve_one<R: Read>(
    mut stream: TcpStream,
    answer: impl FnOnce(Option<&Request>) -> Answer<R>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_WITHIN))?;
    let mut input = BufReader::new(stream.try_clone()?).take(LONGEST_REQUEST);
    let mut first = String::new();
    input.read_line(&mut first)?;
    let mut line = String::new();
    while input.read_line(&mut line)? > 2 {
        line.clear();
    }
    let request = parse(&first);
    let Answer {
        status,
        headers,
        body: (length, mut body),
    } = answer(request.as_ref());
    let more: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nserver: branchline\r\n{more}content-length: {length}\r\n\
         connection: close\r\n\r\n"
    )?;
    if request.is_none_or(|r| r.method != "HEAD") {
        io::copy(&mut body, &mut stream)?;
    }
    stream.flush()?;
    // What the client still sends (a body) must not become a reset that eats the answer.
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut input.into_inner(), &mut io::sink()).map(drop)
}

fn parse(line: &str) -> Option<Request> {
    let mut words = line.split_whitespace();
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let good = version.starts_with("HTTP/1.") && target.starts_with('/');
    good.then(|| Request {
        method: method.to_owned(),
        target: target.to_owned(),
    })
}
