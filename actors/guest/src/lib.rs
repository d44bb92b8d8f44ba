//! What an actor needs to live in a lattice: entry points, msgpack, HTTP and key-value types, logging.
//!
//! An actor is a table of operations, each with the function that answers it:
//!
//! ```ignore
//! use guest::http::{Request, Response};
//!
//! guest::actor! {
//!     "HttpServer.HandleRequest" => hello,
//! }
//!
//! fn hello(request: Request) -> guest::Result<Response> {
//!     Ok(Response::text(200, &format!("hello from {}\n", request.path)))
//! }
//! ```
//!
//! `Actor.HealthRequest` is answered by the library unless the table names it. The library uses nothing but Rust's
//! own `std`, so one call of `rustc` builds an actor; `docs/actors.md` shows how.

pub mod abi;
pub mod base64;
mod error;
pub mod host;
pub mod http;
pub mod json;
pub mod keyvalue;
pub mod logging;
pub mod msgpack;
pub mod numbergen;

pub use error::{joined, Error, Result};

/// Declare the operations that this actor answers, and export its entry points.
///
/// A handler takes one argument (any [`msgpack::Decode`]; `()` for none) and returns `Result` of any
/// [`msgpack::Encode`]. An error becomes the error text of the invocation.
#[macro_export]
macro_rules! actor {
    ($($operation:literal => $handler:expr),+ $(,)?) => {
        #[no_mangle]
        pub extern "C" fn __guest_call(operation_len: usize, payload_len: usize) -> i32 {
            $crate::abi::serve(operation_len, payload_len, |operation, payload| match operation {
                $($operation => {
                    let argument = $crate::msgpack::decode(payload)?;
                    Ok($crate::msgpack::encode(&$handler(argument)?))
                })+
                _ => $crate::abi::unlisted(operation, &[$($operation),+]),
            })
        }

        /// The generation of the wasmbus interface, shown as `api_version` when the actor starts.
        #[no_mangle]
        pub extern "C" fn __wasmbus_rpc_version() -> u32 {
            1
        }
    };
}
