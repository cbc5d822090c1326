//! Compiles `proto/` with protox, so that no `protoc` binary is needed on the build machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["rpc.proto", "node.proto", "health.proto"];
    for file in files {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    let set = protox::compile(files, ["proto"])?;
    let services = std::env::var_os("CARGO_FEATURE_TONIC").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .compile_fds(set)?;
    Ok(())
}
