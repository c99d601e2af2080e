//! The console: a page on the admin listener that shows the fleet as it is and takes what operators want of it.

mod assets;
mod events;
mod items;
mod playground;

pub(crate) use events::Feed;

use crate::admin::Operator;
use crate::config::Role;
use crate::gateway::Gateway;
use axum::extract::State;
use axum::response::Redirect;
use axum::routing::{any, get};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;

/// The page and its files, for everybody: they hold nothing but themselves.
pub(crate) fn pages() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/", get(async || Redirect::to("/console/")))
        .route("/console", get(async || Redirect::to("/console/")))
        .route("/console/", get(assets::index))
        .route("/console/{file}", get(assets::file))
}

/// `GET /admin/events`: what is shown, and from then on what changes of it.
pub(crate) fn seen() -> Router<Arc<Gateway>> {
    Router::new().route("/admin/events", get(events::events))
}

/// `/admin/try/…`: what clients ask, from an operator.
pub(crate) fn done() -> Router<Arc<Gateway>> {
    Router::new().route("/admin/try/{*path}", any(playground::serve))
}

/// `GET /admin/whoami`, for whoever has any role.
pub(crate) fn known() -> Router<Arc<Gateway>> {
    Router::new().route("/admin/whoami", get(whoami))
}

async fn whoami(
    State(gateway): State<Arc<Gateway>>,
    Extension(operator): Extension<Operator>,
) -> Json<Value> {
    let roles = [Role::Viewer, Role::Operator, Role::PolicyUpload];
    let roles: Vec<Role> = roles.into_iter().filter(|role| operator.may(*role)).collect();
    let name = operator.key.as_ref().map(|key| key.name.clone());
    Json(json!({
        "name": name, "roles": roles, "open": gateway.config.load().admin_keys.is_empty(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}
