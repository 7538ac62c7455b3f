//! Wire types of the BuildKit protocol, generated from `proto/`.
//!
//! One module per protobuf package, nested as the package names are. This crate knows names and numbers
//! only; what a value means, and whether it is legal, is decided by the crate that converts it.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::too_many_lines)]

/// gRPC status details.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
/// LLB.
pub mod pb {
    tonic::include_proto!("pb");
}
/// Typed error details.
pub mod errdefs {
    tonic::include_proto!("errdefs");
}
/// Stack traces in error details.
pub mod stack {
    tonic::include_proto!("stack");
}
pub mod fsutil {
    pub mod types {
        tonic::include_proto!("fsutil.types");
    }
}
pub mod moby {
    pub mod buildkit {
        pub mod v1 {
            tonic::include_proto!("moby.buildkit.v1");
            pub mod types {
                tonic::include_proto!("moby.buildkit.v1.types");
            }
            pub mod apicaps {
                tonic::include_proto!("moby.buildkit.v1.apicaps");
            }
            pub mod frontend {
                tonic::include_proto!("moby.buildkit.v1.frontend");
            }
            pub mod sourcepolicy {
                tonic::include_proto!("moby.buildkit.v1.sourcepolicy");
                pub mod policysession {
                    tonic::include_proto!("moby.buildkit.v1.sourcepolicy.policysession");
                }
            }
        }
        pub mod secrets {
            pub mod v1 {
                tonic::include_proto!("moby.buildkit.secrets.v1");
            }
        }
    }
    pub mod filesync {
        pub mod v1 {
            tonic::include_proto!("moby.filesync.v1");
        }
    }
    pub mod sshforward {
        pub mod v1 {
            tonic::include_proto!("moby.sshforward.v1");
        }
    }
    pub mod upload {
        pub mod v1 {
            tonic::include_proto!("moby.upload.v1");
        }
    }
    pub mod exporter {
        pub mod v1 {
            tonic::include_proto!("moby.exporter.v1");
        }
    }
}
pub mod containerd {
    pub mod services {
        pub mod content {
            pub mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
    }
}
pub mod grpc {
    pub mod health {
        pub mod v1 {
            tonic::include_proto!("grpc.health.v1");
        }
    }
}
/// OpenTelemetry's protocol, nested as generated code expects it.
pub mod opentelemetry {
    pub mod proto {
        pub mod common {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.common.v1");
            }
        }
        pub mod resource {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.resource.v1");
            }
        }
        pub mod trace {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.trace.v1");
            }
        }
        pub mod collector {
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
                }
            }
        }
    }
}
/// Traces: what the service takes, and what it is made of.
pub mod otlp {
    pub use super::opentelemetry::proto::collector::trace::v1::*;
    pub use super::opentelemetry::proto::common::v1::*;
    pub use super::opentelemetry::proto::resource::v1::Resource;
    pub use super::opentelemetry::proto::trace::v1::*;
}
/// What rbuildd offers beyond BuildKit's protocol.
pub mod rbuild {
    pub mod v1 {
        tonic::include_proto!("rbuild.v1");
    }
    pub mod filesync {
        pub mod v1 {
            tonic::include_proto!("rbuild.filesync.v1");
        }
    }
}
