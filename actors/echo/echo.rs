//! Answers each HTTP request with what it saw of it, as JSON.

use guest::http::{Request, Response};
use guest::{base64, json};

guest::actor! {
    "HttpServer.HandleRequest" => echo,
}

/// The body is text. One that is not UTF-8 comes as base64, and `bodyEncoding` says so.
fn echo(request: Request) -> guest::Result<Response> {
    let seen = json::Object::new()
        .text("method", request.method)
        .text("path", request.path)
        .text("queryString", request.query_string);
    let seen = match std::str::from_utf8(&request.body) {
        Ok(text) => seen.text("body", text),
        Err(_) => seen.text("body", &base64::encode(&request.body)).text("bodyEncoding", "base64"),
    };
    Ok(Response::json(200, seen.finish()))
}
