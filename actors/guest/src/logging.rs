//! Contract `wasmcloud:builtin:logging`: lines for the host's log. Needs the capability claim, but no link.

use crate::host::{call_provider, DEFAULT_LINK};
use crate::msgpack::{Encode, Writer};
use crate::Result;

pub const CONTRACT: &str = "wasmcloud:builtin:logging";

pub fn debug(text: &str) -> Result<()> {
    write("debug", text)
}

pub fn info(text: &str) -> Result<()> {
    write("info", text)
}

pub fn warn(text: &str) -> Result<()> {
    write("warn", text)
}

pub fn error(text: &str) -> Result<()> {
    write("error", text)
}

struct Line<'t> {
    level: &'t str,
    text: &'t str,
}

impl Encode for Line<'_> {
    fn encode(&self, out: &mut Writer) {
        out.map(2);
        out.text("level");
        out.text(self.level);
        out.text("text");
        out.text(self.text);
    }
}

fn write(level: &str, text: &str) -> Result<()> {
    call_provider(CONTRACT, DEFAULT_LINK, "Logging.WriteLog", &Line { level, text })
}
