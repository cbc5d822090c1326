//! The registry of a node: the reading half of the registry protocol, on the node's loopback.
//!
//! Images are on every node from the beginning, but a pod whose image has the tag `latest`, or whose
//! policy is `Always`, makes the kubelet ask a registry even so. Every node's containerd is told that
//! this one stands for all of them. It serves the manifests that were imported, so containerd finds
//! every blob at home; an image that is not there is "not found" at once. `lab image load` adds to what
//! it serves, and the next pull on any node has it.

use std::fs::File;
use std::io::{Cursor, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;

use super::digest::Digest;
use super::error::ImageError;
use super::name::ImageName;
use super::store::Store;
use crate::error::Error;
use crate::http::{self, Answer, Request};
use crate::up::{Interrupt, runtime};

/// The port on the node's loopback.
pub const PORT: u16 = 61670;

/// Serves images until SIGTERM or SIGINT; the first store that has an image counts.
///
/// # Errors
/// When a store cannot be opened or the port is taken.
pub fn serve(stores: &[PathBuf]) -> Result<(), Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT));
    let listener = listener.map_err(|source| Error::Listen {
        what: format!("tcp/{PORT}"),
        source,
    })?;
    let stores = stores.to_vec();
    std::thread::spawn(move || accept(&stores, &listener));
    runtime()?.block_on(async {
        Interrupt::new()?.recv().await;
        Ok(())
    })
}

fn accept(stores: &[PathBuf], listener: &TcpListener) {
    for stream in listener.incoming().filter_map(Result::ok) {
        let stores = stores.to_vec();
        std::thread::spawn(move || {
            // The peer went away: nobody is left to be told.
            let _ = answer(&stores, stream);
        });
    }
}

fn answer(stores: &[PathBuf], stream: TcpStream) -> std::io::Result<()> {
    http::serve_one(stream, |request| match request {
        None => refuse(
            "400 Bad Request",
            "UNSUPPORTED",
            "this is no HTTP/1 request",
        ),
        Some(r) if r.method != "GET" && r.method != "HEAD" => refuse(
            "405 Method Not Allowed",
            "UNSUPPORTED",
            "nothing can be pushed here: use branchline lab image load",
        ),
        Some(request) => find(stores, request).unwrap_or_else(|error| {
            let said = error.to_string();
            refuse("500 Internal Server Error", "UNKNOWN", &said)
        }),
    })
}

type Body = Box<dyn Read>;

/// An error in the registry protocol's form.
fn refuse(status: &'static str, code: &str, message: &str) -> Answer<Body> {
    let error = serde_json::json!({"errors": [{"code": code, "message": message}]});
    bytes(status, "application/json", error.to_string().into_bytes())
}

fn bytes(status: &'static str, kind: &str, body: Vec<u8>) -> Answer<Body> {
    Answer {
        status,
        headers: vec![format!("content-type: {kind}")],
        body: (body.len() as u64, Box::new(Cursor::new(body))),
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// Whether this is a registry.
    Base,
    Named(ImageName),
    Manifest(Digest),
    Blob(Digest),
}

/// Reads `/v2/REPOSITORY/manifests/TAG?ns=REGISTRY` and its like; `None` is nothing there can be.
fn wanted(target: &str) -> Option<Wanted> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_prefix("/v2/")?;
    if path.is_empty() {
        return Some(Wanted::Base);
    }
    // The registry that containerd would have asked; a colon may be escaped.
    let registry = query.split('&').find_map(|q| q.strip_prefix("ns="));
    let registry = registry.map(|r| r.replace("%3A", ":"));
    if let Some((_, digest)) = path.rsplit_once("/blobs/") {
        return digest.parse().ok().map(Wanted::Blob);
    }
    let (repository, reference) = path.rsplit_once("/manifests/")?;
    if reference.contains(':') {
        return reference.parse().ok().map(Wanted::Manifest);
    }
    let name = ImageName::new(registry.as_deref(), repository, reference);
    name.ok().map(Wanted::Named)
}

fn find(stores: &[PathBuf], request: &Request) -> Result<Answer<Body>, ImageError> {
    let unknown = |code, what: &str| Ok(refuse("404 Not Found", code, what));
    let Some(wanted) = wanted(&request.target) else {
        return unknown("NAME_UNKNOWN", "no such image in this lab");
    };
    for dir in stores.iter().filter(|dir| dir.is_dir()) {
        let store = Store::open(dir)?;
        let (digest, is_manifest) = match &wanted {
            Wanted::Base => break,
            Wanted::Blob(digest) => (digest.clone(), false),
            Wanted::Manifest(digest) => (digest.clone(), true),
            Wanted::Named(name) => match store.images()?.remove(name) {
                Some(digest) => (digest, true),
                None => continue,
            },
        };
        if let Ok(file) = File::open(store.blob(&digest)) {
            let kind = match is_manifest {
                true => store.manifest(&digest)?.media_type,
                false => "application/octet-stream".to_owned(),
            };
            return Ok(blob(file, &digest, &kind));
        }
    }
    match wanted {
        Wanted::Base => Ok(bytes("200 OK", "application/json", b"{}".to_vec())),
        Wanted::Blob(digest) => unknown("BLOB_UNKNOWN", &digest.to_string()),
        Wanted::Manifest(digest) => unknown("MANIFEST_UNKNOWN", &digest.to_string()),
        Wanted::Named(name) => unknown(
            "MANIFEST_UNKNOWN",
            &format!("{name} is not in this lab: branchline lab image load FILE.tar adds one"),
        ),
    }
}

fn blob(file: File, digest: &Digest, kind: &str) -> Answer<Body> {
    let length = file.metadata().map_or(0, |m| m.len());
    Answer {
        status: "200 OK",
        headers: vec![
            format!("content-type: {kind}"),
            format!("docker-content-digest: {digest}"),
        ],
        body: (length, Box::new(file.take(length))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_asks_is_understood() {
        let name = |text: &str| Some(Wanted::Named(text.parse().unwrap()));
        assert_eq!(wanted("/v2/"), Some(Wanted::Base));
        assert_eq!(
            wanted("/v2/library/nginx/manifests/latest?ns=docker.io"),
            name("nginx")
        );
        assert_eq!(
            wanted("/v2/a/b/manifests/1?ns=localhost%3A5000"),
            name("localhost:5000/a/b:1")
        );
        let digest = Digest::of(b"");
        assert_eq!(
            wanted(&format!("/v2/pause/manifests/{digest}?ns=registry.k8s.io")),
            Some(Wanted::Manifest(digest.clone()))
        );
        assert_eq!(
            wanted(&format!("/v2/a/blobs/{digest}")),
            Some(Wanted::Blob(digest))
        );
        for text in [
            "/",
            "/v1/",
            "/v2/a",
            "/v2/a/blobs/sha256:../../../etc/passwd",
            "/v2/../x/manifests/1",
        ] {
            assert_eq!(wanted(text), None, "{text}");
        }
    }

    fn told(dir: &std::path::Path, request: &str) -> String {
        use std::io::Write as _;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let stores = [dir.join("none"), dir.to_owned()];
        std::thread::spawn(move || accept(&stores, &listener));
        let mut stream = TcpStream::connect(to).unwrap();
        write!(stream, "{request} HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn images_are_served_by_name_and_by_digest_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let text = br#"{"schemaVersion":2,"mediaType":"m","config":{"mediaType":"c","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
        let manifest = store.put("m", |out| {
            out.write_all(text).unwrap();
            Ok(())
        });
        let manifest = manifest.unwrap();
        store
            .tag(&["web:1".parse().unwrap()], &manifest, None)
            .unwrap();
        let head = told(dir.path(), "HEAD /v2/library/web/manifests/1?ns=docker.io");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: m\r\n"), "{head}");
        let digest = format!("docker-content-digest: {}\r\n", manifest.digest);
        assert!(head.contains(&digest), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        let got = told(dir.path(), &format!("GET /v2/x/blobs/{}", manifest.digest));
        assert!(got.as_bytes().ends_with(text), "{got}");
        for (request, status) in [
            ("GET /v2/library/web/manifests/2", "404"),
            ("GET /v2/web/manifests/1?ns=quay.io", "404"),
            ("GET /v2/", "200"),
            ("GET /etc/passwd", "404"),
            ("POST /v2/library/web/blobs/uploads/", "405"),
            ("GET v2", "400"),
        ] {
            let got = told(dir.path(), request);
            assert!(
                got.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {got}"
            );
        }
    }
}
