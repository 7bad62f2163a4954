//! Compiles the schemas with protox, so that no `protoc` is needed on the machine.

/// The calls that move files.
const FILES: [&str; 4] = ["ImportModel", "ExportArtifact", "ImportWeights", "Backup"];

/// What the Open Inference Protocol's REST form says in the words of its gRPC form.
const SAID_IN_JSON: [&str; 10] = [
    "ServerMetadataResponse",
    "ModelMetadataResponse",
    "ModelMetadataResponse.TensorMetadata",
    "StatisticDuration",
    "InferStatistics",
    "InferBatchStatistics",
    "ModelStatistics",
    "ModelStatisticsResponse",
    "RepositoryIndexResponse.ModelIndex",
    "RepositoryIndexResponse",
];

const SERIALIZE: &str = "#[derive(serde::Serialize)]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "reconvene/v1/types.proto",
        "reconvene/v1/session.proto",
        "reconvene/v1/artifact.proto",
        "reconvene/v1/operator.proto",
        "reconvene/v1/enrollment.proto",
        "reconvene/v1/worker.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let mut build = tonic_prost_build::configure();
    // The operator's messages are what `-o json|yaml` prints; the others, and those of files, never leave the wire.
    for message in descriptors.file.iter().filter(|f| f.name() == "reconvene/v1/operator.proto") {
        let is_of_file = |name: &str| FILES.iter().any(|call| name.starts_with(call));
        let printed = message.message_type.iter().filter(|message| !is_of_file(message.name()));
        for message in printed {
            let path = format!("reconvene.v1.{}", message.name());
            build = build.type_attribute(&path, SERIALIZE);
            build = build.type_attribute(&path, "#[serde(rename_all = \"camelCase\")]");
        }
    }
    build.compile_fds(descriptors)?;
    compile_inference()
}

/// The protocol that agents serve. Tensors are not copied out of the request that they came in, and a request is looked at
/// before it is decoded.
fn compile_inference() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["inference/grpc_service.proto"], ["proto"])?;
    let mut build = tonic_prost_build::configure().bytes(".inference").codec_path("crate::frugal::Codec");
    for message in SAID_IN_JSON {
        build = build.type_attribute(format!("inference.{message}"), SERIALIZE);
    }
    build.compile_fds(descriptors)?;
    Ok(())
}
