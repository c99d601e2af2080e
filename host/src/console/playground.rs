//! What an operator tries out goes the way of every request, under the operator's name.

use crate::admin::Operator;
use crate::config::Key;
use crate::gateway::Gateway;
use crate::request::{self, Sender};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

const PREFIX: &str = "/admin/try";

pub(super) async fn serve(
    State(gateway): State<Arc<Gateway>>,
    Extension(operator): Extension<Operator>,
    mut request: Request,
) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let Ok(uri) = path.strip_prefix(PREFIX).unwrap_or("/").parse::<Uri>() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    *request.uri_mut() = uri;
    // The operator's, who is known.
    for name in [header::AUTHORIZATION, header::COOKIE, header::ORIGIN, header::REFERER] {
        request.headers_mut().remove(name);
    }
    let name = operator.key.as_ref().map_or("console".to_owned(), |key| format!("console:{}", key.name));
    let caller = Arc::new(Key { name, ..Key::default() });
    request::serve(gateway, Sender::Known(caller), request).await.map(Body::new)
}
