//! The embedded EC2 alone, without packets: for the conformance tests and for trying clients.
//!
//! Prints the API's port on a line of its own and serves until its standard input ends, so that it
//! never outlives what started it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use vpcsim::{Caller, Config, Sim};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sim = Sim::new(Config::default());
    // A caller whose secret is known, for tokens and strict signatures.
    let caller = Caller {
        arn: "arn:aws:iam::111122223333:user/known".into(),
        access_key: "AKIDKNOWN".into(),
        ..Caller::root(&sim.account())
    };
    sim.add_access_key(caller, "secret");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    std::thread::spawn(|| {
        let mut ignored = [0; 64];
        while matches!(std::io::stdin().read(&mut ignored), Ok(n) if n > 0) {}
        std::process::exit(0);
    });
    sim.serve_api(listener, true).await?;
    Ok(())
}
