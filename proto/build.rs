//! Compiles the schema with protox, so that no `protoc` is needed on the machine.

/// The calls that move files.
const FILES: [&str; 3] = ["ImportModel", "ExportArtifact", "ImportWeights"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "reconvene/v1/types.proto",
        "reconvene/v1/session.proto",
        "reconvene/v1/artifact.proto",
        "reconvene/v1/operator.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    // The operator's messages are what `-o json|yaml` prints; the others, and those of files, never leave the wire.
    let mut build = tonic_prost_build::configure();
    for message in descriptors.file.iter().filter(|f| f.name() == "reconvene/v1/operator.proto") {
        let is_of_file = |name: &str| FILES.iter().any(|call| name.starts_with(call));
        let printed = message.message_type.iter().filter(|message| !is_of_file(message.name()));
        for message in printed {
            let path = format!("reconvene.v1.{}", message.name());
            build = build.type_attribute(&path, "#[derive(serde::Serialize)]");
            build = build.type_attribute(&path, "#[serde(rename_all = \"camelCase\")]");
        }
    }
    build.compile_fds(descriptors)?;
    Ok(())
}
