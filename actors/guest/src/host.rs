//! Calls from this actor to providers and to other actors.

use crate::abi;
use crate::msgpack::{self, Decode, Encode};
use crate::{Error, Result};

/// The link name that is meant when none is given.
pub const DEFAULT_LINK: &str = "default";

/// Call `operation` of the provider that this actor is linked to for `contract` under `link`.
///
/// The error names operation, contract and link, then says what the host or the provider said.
pub fn call_provider<R: for<'r> Decode<'r>>(
    contract: &str,
    link: &str,
    operation: &str,
    argument: &impl Encode,
) -> Result<R> {
    let about = |text: &str| Error::of(&[operation, " (", contract, ", link ", link, "): ", text]);
    let reply = abi::host_call(link, contract, operation, &msgpack::encode(argument)).map_err(|text| about(&text))?;
    msgpack::decode(&reply).map_err(|error| about(error.text()))
}

/// Call `operation` of another actor, named by its public key (`M…`) or by its call alias.
pub fn call_actor<R: for<'r> Decode<'r>>(actor: &str, operation: &str, argument: &impl Encode) -> Result<R> {
    let about = |text: &str| Error::of(&[operation, " (actor ", actor, "): ", text]);
    let reply = abi::host_call("", actor, operation, &msgpack::encode(argument)).map_err(|text| about(&text))?;
    msgpack::decode(&reply).map_err(|error| about(error.text()))
}
