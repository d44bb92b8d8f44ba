//! The functions that host and actor call in each other: the classic `wasmbus` interface of core modules.
//!
//! The host announces a call by two lengths; the actor fetches operation and payload, and hands back either a
//! response or an error text. All memory stays the actor's: the host copies before an import returns.

use crate::{joined, Error, Result};

#[link(wasm_import_module = "wasmbus")]
extern "C" {
    fn __guest_request(operation: *mut u8, payload: *mut u8);
    fn __guest_response(bytes: *const u8, len: usize);
    fn __guest_error(text: *const u8, len: usize);
    fn __host_call(
        binding: *const u8,
        binding_len: usize,
        namespace: *const u8,
        namespace_len: usize,
        operation: *const u8,
        operation_len: usize,
        payload: *const u8,
        payload_len: usize,
    ) -> i32;
    fn __host_response_len() -> usize;
    fn __host_response(to: *mut u8);
    fn __host_error_len() -> usize;
    fn __host_error(to: *mut u8);
}

const HEALTH: &str = "Actor.HealthRequest";

/// Fetch one call from the host, answer it with `handler`, and return what `__guest_call` returns: 1 or 0.
pub fn serve(
    operation_len: usize,
    payload_len: usize,
    handler: impl FnOnce(&str, &[u8]) -> Result<Vec<u8>>,
) -> i32 {
    let mut operation = vec![0; operation_len];
    let mut payload = vec![0; payload_len];
    // Sound: the host writes exactly the two lengths that it announced.
    unsafe { __guest_request(operation.as_mut_ptr(), payload.as_mut_ptr()) };
    let operation = text(operation);
    match handler(&operation, &payload) {
        Ok(response) => {
            unsafe { __guest_response(response.as_ptr(), response.len()) };
            1
        }
        Err(error) => {
            let text = joined(&["Guest call failed for method ", &operation, ": ", error.text()]);
            unsafe { __guest_error(text.as_ptr(), text.len()) };
            0
        }
    }
}

/// Answer an operation that the actor's table does not name: its health, or an error.
///
/// The health request is answered whatever its argument, as there is nothing in it to look at. The error texts are
/// those of classic actors, which tell an unknown service from an unknown method of a service that is there.
pub fn unlisted(operation: &str, listed: &[&str]) -> Result<Vec<u8>> {
    if operation == HEALTH {
        let mut out = crate::msgpack::Writer::new();
        out.map(1);
        out.text("healthy");
        out.boolean(true);
        return Ok(out.into_bytes());
    }
    let (service, method) = operation.rsplit_once('.').unwrap_or(("_", operation));
    let known = service == "Actor" || listed.iter().any(|name| name.rsplit_once('.').map(|n| n.0) == Some(service));
    Err(if known {
        Error::of(&["method not handled ", service, "::", method])
    } else {
        Error::of(&["method not handled ", service, ".", method, " - unknown method"])
    })
}

/// Ask the host, and wait for the answer. Returns its bytes, or the host's error text untouched.
pub fn host_call(
    binding: &str,
    namespace: &str,
    operation: &str,
    payload: &[u8],
) -> std::result::Result<Vec<u8>, String> {
    // Sound: each buffer has the length that the host names before it writes.
    unsafe {
        let status = __host_call(
            binding.as_ptr(),
            binding.len(),
            namespace.as_ptr(),
            namespace.len(),
            operation.as_ptr(),
            operation.len(),
            payload.as_ptr(),
            payload.len(),
        );
        if status == 1 {
            let mut response = vec![0; __host_response_len()];
            __host_response(response.as_mut_ptr());
            Ok(response)
        } else {
            let mut error = vec![0; __host_error_len()];
            __host_error(error.as_mut_ptr());
            Err(text(error))
        }
    }
}

/// `bytes` as text. If they are not UTF-8, every byte beyond ASCII becomes a question mark.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        error.as_bytes().iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect()
    })
}
