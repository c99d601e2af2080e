//! The contract as Rust, generated from wit/. All worlds share the types of the first.

pub(super) mod any {
    wasmtime::component::bindgen!({ world: "policy", path: "../wit" });
}

/// Arguments are borrowed: a decision copies nothing but what crosses into the guest.
pub(super) mod routing {
    wasmtime::component::bindgen!({
        world: "routing-policy",
        path: "../wit",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "cortex:policy/types": super::any::cortex::policy::types,
            "cortex:policy/host": super::any::cortex::policy::host,
        },
    });
}

pub(super) mod learning {
    wasmtime::component::bindgen!({
        world: "learning-routing-policy",
        path: "../wit",
        with: {
            "cortex:policy/types": super::any::cortex::policy::types,
            "cortex:policy/host": super::any::cortex::policy::host,
        },
    });
}

pub(super) mod eviction {
    wasmtime::component::bindgen!({
        world: "eviction-policy",
        path: "../wit",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "cortex:policy/types": super::any::cortex::policy::types,
            "cortex:policy/host": super::any::cortex::policy::host,
        },
    });
}

pub(super) mod translation {
    wasmtime::component::bindgen!({
        world: "translation-policy",
        path: "../wit",
        with: {
            "cortex:policy/types": super::any::cortex::policy::types,
            "cortex:policy/host": super::any::cortex::policy::host,
        },
    });
}

pub(super) mod upstream {
    wasmtime::component::bindgen!({
        world: "upstream-policy",
        path: "../wit",
        with: {
            "cortex:policy/types": super::any::cortex::policy::types,
            "cortex:policy/host": super::any::cortex::policy::host,
        },
    });
}

pub(super) use any::cortex::policy::{host, types};
