//! Contract `wasmcloud:builtin:numbergen`: random numbers from the host. Needs the capability claim, but no link.

use crate::host::{call_provider, DEFAULT_LINK};
use crate::msgpack::{Encode, Writer};
use crate::Result;

pub const CONTRACT: &str = "wasmcloud:builtin:numbergen";

/// A new version 4 UUID, lower case with dashes.
pub fn guid() -> Result<String> {
    call_provider(CONTRACT, DEFAULT_LINK, "NumberGen.GenerateGuid", &())
}

pub fn random_32() -> Result<u32> {
    call_provider(CONTRACT, DEFAULT_LINK, "NumberGen.Random32", &())
}

/// A number from `min` to `max`, both included.
pub fn random_in_range(min: u32, max: u32) -> Result<u32> {
    call_provider(CONTRACT, DEFAULT_LINK, "NumberGen.RandomInRange", &Range { min, max })
}

struct Range {
    min: u32,
    max: u32,
}

impl Encode for Range {
    fn encode(&self, out: &mut Writer) {
        out.map(2);
        out.text("min");
        out.unsigned(self.min.into());
        out.text("max");
        out.unsigned(self.max.into());
    }
}
