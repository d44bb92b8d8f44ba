//! Counts requests per path in a key-value store: `{"counter":7}`.
//!
//! The key is `counter:` and the path with `:` for each `/`. `?amount=n` counts by n; anything that is not a whole
//! number of 32 bits counts 1. If the store fails, the answer is status 500 and `{"error":"…"}`.

use guest::http::{Request, Response};
use guest::{json, keyvalue};

guest::actor! {
    "HttpServer.HandleRequest" => count,
}

fn count(request: Request) -> guest::Result<Response> {
    let key = guest::joined(&["counter:", &request.path.replace('/', ":")]);
    let amount = request.query("amount").and_then(|text| text.parse().ok()).unwrap_or(1);
    Ok(match keyvalue::increment(&key, amount) {
        Ok(counter) => Response::json(200, json::Object::new().integer("counter", counter.into()).finish()),
        Err(error) => Response::json(500, json::Object::new().text("error", error.text()).finish()),
    })
}
