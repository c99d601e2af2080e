//! The HTTP API between a gateway and neuron, as types.
//!
//! The wire format is older than this project: either side may be of another make, so unknown fields are
//! ignored, missing ones take a default, and the golden tests fix every name, type and nullability.
//! Nothing here is heavier than serde and a hash.

mod discovery;
mod error;
mod health;
mod lifecycle;
mod model;
pub mod model_id;
pub mod prefix;
mod preflight;
mod watch;

pub use discovery::{Device, Discovery, Version, feature};
pub use error::{ApiError, ErrorBody, LoadError, LoadFailure, LoadFailureBody, Problem};
pub use health::{
    Activation, ActivationState, DeviceCondition, DeviceHealth, FailedActivation, Health, ModelLoad,
};
pub use lifecycle::{
    Capabilities, Defragged, Endpoint, Lease, LoadRequest, LoadResponse, StillNeeded, TokenCount, UnloadMode,
    UnloadRefused, UnloadRefusedBody, UnloadRequest, UnloadResponse,
};
pub use model::{Cost, Limit, ModelInfo, ModelStatus, Servable};
pub use preflight::Preflight;
pub use watch::{LoadFailed, LoadPhase, LoadProgress, Prefix, PrefixChanges, Snapshot, WatchEvent};
