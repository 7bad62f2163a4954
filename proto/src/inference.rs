//! The generated messages of package `inference`: the Open Inference Protocol, version 2, that agents serve.
#![allow(missing_docs, unreachable_pub, clippy::all)] // generated code

tonic::include_proto!("inference");
