//! The generated messages of package `reconvene.v1`. Nothing past the border of either side should hold one.
#![allow(missing_docs, unreachable_pub, clippy::all)] // generated code

tonic::include_proto!("reconvene.v1");
