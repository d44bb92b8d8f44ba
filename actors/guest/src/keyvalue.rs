//! Contract `wasmcloud:keyvalue`: text values, counters, lists and sets in a store that the operator links.
//!
//! The functions use the link named `default`; [`Store::linked`] uses another one. Needs the capability claim.

use crate::host::{call_provider, DEFAULT_LINK};
use crate::msgpack::{Decode, Encode, Reader, Record, Writer};
use crate::Result;

pub const CONTRACT: &str = "wasmcloud:keyvalue";

/// A key-value store, known to the actor only by the name of its link.
#[derive(Clone, Copy)]
pub struct Store<'n> {
    link: &'n str,
}

impl Default for Store<'_> {
    fn default() -> Self {
        Store::linked(DEFAULT_LINK)
    }
}

impl<'n> Store<'n> {
    pub fn linked(link: &'n str) -> Self {
        Store { link }
    }

    /// The value of `key`, or `None` if there is none.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let found: Found = self.call("KeyValue.Get", &key)?;
        Ok(if found.exists { Some(found.value) } else { None })
    }

    /// Set `key`. It expires after that many seconds; 0 means never.
    pub fn set(&self, key: &str, value: &str, expires: u32) -> Result<()> {
        self.call("KeyValue.Set", &Set { key, value, expires })
    }

    pub fn contains(&self, key: &str) -> Result<bool> {
        self.call("KeyValue.Contains", &key)
    }

    /// Remove `key`; true if it was there.
    pub fn del(&self, key: &str) -> Result<bool> {
        self.call("KeyValue.Del", &key)
    }

    /// Add `value` to the number at `key`, which is 0 if absent, and return the sum.
    pub fn increment(&self, key: &str, value: i32) -> Result<i32> {
        self.call("KeyValue.Increment", &Increment { key, value })
    }

    /// Append to a list; returns its new length.
    pub fn list_add(&self, list: &str, value: &str) -> Result<u32> {
        self.call("KeyValue.ListAdd", &Item { kind: "listName", name: list, value })
    }

    /// Remove the first `value` from a list; true if there was one.
    pub fn list_del(&self, list: &str, value: &str) -> Result<bool> {
        self.call("KeyValue.ListDel", &Item { kind: "listName", name: list, value })
    }

    /// Elements from `start` to `stop`, both included, counted from 0, or from the end if negative.
    pub fn list_range(&self, list: &str, start: i32, stop: i32) -> Result<Vec<String>> {
        self.call("KeyValue.ListRange", &Range { list, start, stop })
    }

    pub fn list_clear(&self, list: &str) -> Result<bool> {
        self.call("KeyValue.ListClear", &list)
    }

    /// Add to a set; returns how many were added, 0 or 1.
    pub fn set_add(&self, set: &str, value: &str) -> Result<u32> {
        self.call("KeyValue.SetAdd", &Item { kind: "setName", name: set, value })
    }

    /// Remove from a set; returns how many were removed, 0 or 1.
    pub fn set_del(&self, set: &str, value: &str) -> Result<u32> {
        self.call("KeyValue.SetDel", &Item { kind: "setName", name: set, value })
    }

    pub fn set_query(&self, set: &str) -> Result<Vec<String>> {
        self.call("KeyValue.SetQuery", &set)
    }

    pub fn set_intersection(&self, sets: &[&str]) -> Result<Vec<String>> {
        self.call("KeyValue.SetIntersection", &sets)
    }

    pub fn set_union(&self, sets: &[&str]) -> Result<Vec<String>> {
        self.call("KeyValue.SetUnion", &sets)
    }

    pub fn set_clear(&self, set: &str) -> Result<bool> {
        self.call("KeyValue.SetClear", &set)
    }

    fn call<R: for<'r> Decode<'r>>(&self, operation: &str, argument: &impl Encode) -> Result<R> {
        call_provider(CONTRACT, self.link, operation, argument)
    }
}

/// Add `value` to the number at `key` of the default store, and return the sum.
pub fn increment(key: &str, value: i32) -> Result<i32> {
    Store::default().increment(key, value)
}

/// The value of `key` in the default store, or `None` if there is none.
pub fn get(key: &str) -> Result<Option<String>> {
    Store::default().get(key)
}

/// Set `key` of the default store, for ever.
pub fn set(key: &str, value: &str) -> Result<()> {
    Store::default().set(key, value, 0)
}

#[derive(Default)]
struct Found {
    value: String,
    exists: bool,
}

impl<'a> Record<'a> for Found {
    const NAME: &'static str = "GetResponse";
    const FIELDS: &'static [&'static str] = &["value", "exists"];

    fn read(&mut self, field: usize, reader: &mut Reader<'a>) -> Result<()> {
        match field {
            0 => self.value = reader.text()?.into(),
            _ => self.exists = reader.boolean()?,
        }
        Ok(())
    }
}

impl<'a> Decode<'a> for Found {
    fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        reader.record()
    }
}

struct Set<'k> {
    key: &'k str,
    value: &'k str,
    expires: u32,
}

impl Encode for Set<'_> {
    fn encode(&self, out: &mut Writer) {
        out.map(3);
        out.text("key");
        out.text(self.key);
        out.text("value");
        out.text(self.value);
        out.text("expires");
        out.unsigned(self.expires.into());
    }
}

struct Increment<'k> {
    key: &'k str,
    value: i32,
}

impl Encode for Increment<'_> {
    fn encode(&self, out: &mut Writer) {
        out.map(2);
        out.text("key");
        out.text(self.key);
        out.text("value");
        out.integer(self.value.into());
    }
}

/// A value with the list or set that it belongs to.
struct Item<'k> {
    kind: &'static str,
    name: &'k str,
    value: &'k str,
}

impl Encode for Item<'_> {
    fn encode(&self, out: &mut Writer) {
        out.map(2);
        out.text(self.kind);
        out.text(self.name);
        out.text("value");
        out.text(self.value);
    }
}

struct Range<'k> {
    list: &'k str,
    start: i32,
    stop: i32,
}

impl Encode for Range<'_> {
    fn encode(&self, out: &mut Writer) {
        out.map(3);
        out.text("listName");
        out.text(self.list);
        out.text("start");
        out.integer(self.start.into());
        out.text("stop");
        out.integer(self.stop.into());
    }
}
