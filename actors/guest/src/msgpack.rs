//! The part of msgpack that contracts use, read tolerantly and written strictly.
//!
//! Reading follows what peers are known to send: any integer width, text where bytes are expected and the other way
//! round, bytes as an array of small integers, structures as arrays in the order of their definition, members that
//! are missing, nil or unknown. Writing uses the shortest form, `bin` for bytes and maps for structures.

use crate::{Error, Result};
use std::borrow::Cow;

/// A value that can be read from msgpack. It may borrow text and bytes from the message.
pub trait Decode<'a>: Sized {
    fn decode(reader: &mut Reader<'a>) -> Result<Self>;

    /// The value that zero bytes stand for. Only operations without argument or result allow them.
    fn from_nothing() -> Result<Self> {
        Err(Error::from("deserialization: the message is empty"))
    }
}

/// A value that can be written as msgpack.
pub trait Encode {
    fn encode(&self, out: &mut Writer);
}

/// A structure: a map keyed by member name. Missing members keep their default.
pub trait Record<'a>: Default {
    const NAME: &'static str;
    /// Member names in the order of the interface definition.
    const FIELDS: &'static [&'static str];

    /// Read the member with this position in `FIELDS`.
    fn read(&mut self, field: usize, reader: &mut Reader<'a>) -> Result<()>;
}

/// Read a whole message.
pub fn decode<'a, T: Decode<'a>>(bytes: &'a [u8]) -> Result<T> {
    if bytes.is_empty() {
        return T::from_nothing();
    }
    T::decode(&mut Reader::new(bytes))
}

/// Write a whole message.
pub fn encode(value: &impl Encode) -> Vec<u8> {
    let mut out = Writer::new();
    value.encode(&mut out);
    out.into_bytes()
}

enum Head {
    Nil,
    Boolean(bool),
    Integer(i64),
    /// An integer beyond the signed 64 bits.
    Huge(u64),
    Text(usize),
    Bytes(usize),
    Array(usize),
    Map(usize),
    /// A value of no use to contracts, with this many bytes to pass over.
    Other(usize),
}

impl Head {
    fn name(&self) -> &'static str {
        match self {
            Head::Nil => "nil",
            Head::Boolean(_) => "a boolean",
            Head::Integer(_) | Head::Huge(_) => "an integer",
            Head::Text(_) => "text",
            Head::Bytes(_) => "bytes",
            Head::Array(_) => "a list",
            Head::Map(_) => "a map",
            Head::Other(_) => "a number with a fraction or an extension",
        }
    }
}

/// A position in a msgpack message.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn integer(&mut self) -> Result<i64> {
        match self.head()? {
            Head::Integer(value) => Ok(value),
            Head::Huge(_) => Err(too_big()),
            other => Err(unexpected(&other, "an integer")),
        }
    }

    pub fn unsigned(&mut self) -> Result<u64> {
        match self.head()? {
            Head::Integer(value) => narrow(value),
            Head::Huge(value) => Ok(value),
            other => Err(unexpected(&other, "an integer")),
        }
    }

    pub fn boolean(&mut self) -> Result<bool> {
        match self.head()? {
            Head::Boolean(value) => Ok(value),
            other => Err(unexpected(&other, "a boolean")),
        }
    }

    pub fn text(&mut self) -> Result<&'a str> {
        match self.head()? {
            Head::Text(len) | Head::Bytes(len) => {
                std::str::from_utf8(self.take(len)?).map_err(|_| Error::from("text is not UTF-8"))
            }
            other => Err(unexpected(&other, "text")),
        }
    }

    pub fn bytes(&mut self) -> Result<Cow<'a, [u8]>> {
        match self.head()? {
            Head::Bytes(len) | Head::Text(len) => Ok(Cow::Borrowed(self.take(len)?)),
            Head::Array(len) => {
                // Each element takes a byte at least, so a lying length cannot reserve more than the message.
                let mut bytes = Vec::with_capacity(len.min(self.rest.len()));
                for _ in 0..len {
                    bytes.push(narrow(self.integer()?)?);
                }
                Ok(Cow::Owned(bytes))
            }
            other => Err(unexpected(&other, "bytes")),
        }
    }

    /// The number of elements that follow.
    pub fn array(&mut self) -> Result<usize> {
        match self.head()? {
            Head::Array(len) => Ok(len),
            other => Err(unexpected(&other, "a list")),
        }
    }

    /// The number of keys with values that follow.
    pub fn map(&mut self) -> Result<usize> {
        match self.head()? {
            Head::Map(len) => Ok(len),
            other => Err(unexpected(&other, "a map")),
        }
    }

    /// Consume a nil if the next value is one.
    pub fn nil(&mut self) -> bool {
        match self.rest {
            [0xc0, rest @ ..] => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    pub fn record<T: Record<'a>>(&mut self) -> Result<T> {
        self.members().map_err(|error| {
            Error::of(&["deserialization: '", T::NAME, "': deserialization: ", error.text()])
        })
    }

    fn members<T: Record<'a>>(&mut self) -> Result<T> {
        let mut record = T::default();
        match self.head()? {
            Head::Map(len) => {
                for _ in 0..len {
                    let key = self.text()?;
                    match T::FIELDS.iter().position(|name| *name == key) {
                        Some(field) => self.member(&mut record, field)?,
                        None => self.skip()?,
                    }
                }
            }
            Head::Array(len) => {
                for field in 0..len {
                    if field < T::FIELDS.len() {
                        self.member(&mut record, field)?;
                    } else {
                        self.skip()?;
                    }
                }
            }
            other => return Err(unexpected(&other, "a map")),
        }
        Ok(record)
    }

    fn member<T: Record<'a>>(&mut self, record: &mut T, field: usize) -> Result<()> {
        if self.nil() {
            return Ok(());
        }
        record.read(field, self).map_err(|error| Error::of(&[T::FIELDS[field], ": ", error.text()]))
    }

    /// Pass over one value, however deep, without recursion.
    pub fn skip(&mut self) -> Result<()> {
        let mut left: u64 = 1;
        while left > 0 {
            left -= 1;
            match self.head()? {
                Head::Text(len) | Head::Bytes(len) | Head::Other(len) => {
                    self.take(len)?;
                }
                Head::Array(len) => left += len as u64,
                Head::Map(len) => left += 2 * len as u64,
                Head::Nil | Head::Boolean(_) | Head::Integer(_) | Head::Huge(_) => {}
            }
        }
        Ok(())
    }

    /// Pass over one value and return its bytes, to be read later.
    pub fn raw(&mut self) -> Result<&'a [u8]> {
        let start = self.rest;
        self.skip()?;
        Reader::new(start).take(start.len() - self.rest.len())
    }

    fn head(&mut self) -> Result<Head> {
        let first = self.number(1)? as u8;
        Ok(match first {
            0x00..=0x7f => Head::Integer(i64::from(first)),
            0x80..=0x8f => Head::Map(usize::from(first & 0x0f)),
            0x90..=0x9f => Head::Array(usize::from(first & 0x0f)),
            0xa0..=0xbf => Head::Text(usize::from(first & 0x1f)),
            0xc0 => Head::Nil,
            0xc2 | 0xc3 => Head::Boolean(first == 0xc3),
            0xc4 => Head::Bytes(self.length(1)?),
            0xc5 => Head::Bytes(self.length(2)?),
            0xc6 => Head::Bytes(self.length(4)?),
            // Extensions: a type byte, then the data.
            0xc7 => Head::Other(self.length(1)?.saturating_add(1)),
            0xc8 => Head::Other(self.length(2)?.saturating_add(1)),
            0xc9 => Head::Other(self.length(4)?.saturating_add(1)),
            0xca => Head::Other(4),
            0xcb => Head::Other(8),
            0xcc => Head::Integer(self.number(1)? as i64),
            0xcd => Head::Integer(self.number(2)? as i64),
            0xce => Head::Integer(self.number(4)? as i64),
            0xcf => {
                let value = self.number(8)?;
                i64::try_from(value).map_or(Head::Huge(value), Head::Integer)
            }
            0xd0 => Head::Integer(i64::from(self.number(1)? as i8)),
            0xd1 => Head::Integer(i64::from(self.number(2)? as i16)),
            0xd2 => Head::Integer(i64::from(self.number(4)? as i32)),
            0xd3 => Head::Integer(self.number(8)? as i64),
            0xd4..=0xd8 => Head::Other(1 + (1 << (first - 0xd4))),
            0xd9 => Head::Text(self.length(1)?),
            0xda => Head::Text(self.length(2)?),
            0xdb => Head::Text(self.length(4)?),
            0xdc => Head::Array(self.length(2)?),
            0xdd => Head::Array(self.length(4)?),
            0xde => Head::Map(self.length(2)?),
            0xdf => Head::Map(self.length(4)?),
            0xc1 => return Err(Error::from("wrong msgpack marker Reserved")),
            0xe0..=0xff => Head::Integer(i64::from(first as i8)),
        })
    }

    fn length(&mut self, width: usize) -> Result<usize> {
        Ok(self.number(width)? as usize)
    }

    fn number(&mut self, width: usize) -> Result<u64> {
        Ok(self.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        match (self.rest.get(..len), self.rest.get(len..)) {
            (Some(taken), Some(rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            _ => Err(Error::from("the message ends too early")),
        }
    }
}

fn unexpected(found: &Head, wanted: &str) -> Error {
    Error::of(&["invalid type: ", found.name(), ", expected ", wanted])
}

fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T> {
    T::try_from(value).map_err(|_| too_big())
}

fn too_big() -> Error {
    Error::from("invalid value: the integer does not fit")
}

/// A msgpack message under construction.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Writer { bytes: Vec::with_capacity(256) }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn nil(&mut self) {
        self.bytes.push(0xc0);
    }

    pub fn boolean(&mut self, value: bool) {
        self.bytes.push(0xc2 | u8::from(value));
    }

    pub fn integer(&mut self, value: i64) {
        if value >= 0 {
            self.unsigned(value as u64);
        } else if value >= -32 {
            self.bytes.push(value as u8);
        } else if value >= i64::from(i8::MIN) {
            self.number(0xd0, value as u64, 1);
        } else if value >= i64::from(i16::MIN) {
            self.number(0xd1, value as u64, 2);
        } else if value >= i64::from(i32::MIN) {
            self.number(0xd2, value as u64, 4);
        } else {
            self.number(0xd3, value as u64, 8);
        }
    }

    pub fn unsigned(&mut self, value: u64) {
        match value {
            0..=0x7f => self.bytes.push(value as u8),
            0x80..=0xff => self.number(0xcc, value, 1),
            0x100..=0xffff => self.number(0xcd, value, 2),
            0x1_0000..=0xffff_ffff => self.number(0xce, value, 4),
            _ => self.number(0xcf, value, 8),
        }
    }

    pub fn text(&mut self, value: &str) {
        match value.len() {
            len @ 0..=31 => self.bytes.push(0xa0 | len as u8),
            len => self.sized(len, &[(0xd9, 1), (0xda, 2), (0xdb, 4)]),
        }
        self.bytes.extend_from_slice(value.as_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.sized(value.len(), &[(0xc4, 1), (0xc5, 2), (0xc6, 4)]);
        self.bytes.extend_from_slice(value);
    }

    /// Begin a list; exactly `len` elements must follow.
    pub fn array(&mut self, len: usize) {
        match len {
            0..=15 => self.bytes.push(0x90 | len as u8),
            _ => self.sized(len, &[(0xdc, 2), (0xdd, 4)]),
        }
    }

    /// Begin a map; exactly `len` keys with their values must follow.
    pub fn map(&mut self, len: usize) {
        match len {
            0..=15 => self.bytes.push(0x80 | len as u8),
            _ => self.sized(len, &[(0xde, 2), (0xdf, 4)]),
        }
    }

    /// Write `len` with the first of `forms` (marker, width) that holds it; the last one always does on wasm32.
    fn sized(&mut self, len: usize, forms: &[(u8, usize)]) {
        for (marker, width) in forms {
            if *width >= 4 || len >> (8 * width) == 0 {
                return self.number(*marker, len as u64, *width);
            }
        }
    }

    fn number(&mut self, marker: u8, value: u64, width: usize) {
        self.bytes.push(marker);
        for place in (0..width).rev() {
            self.bytes.push((value >> (8 * place)) as u8);
        }
    }
}

/// No argument, or no result: zero bytes. Whatever a peer sends instead is ignored.
impl<'a> Decode<'a> for () {
    fn decode(_: &mut Reader<'a>) -> Result<Self> {
        Ok(())
    }

    fn from_nothing() -> Result<Self> {
        Ok(())
    }
}

impl Encode for () {
    fn encode(&self, _: &mut Writer) {}
}

impl<'a> Decode<'a> for &'a str {
    fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        reader.text()
    }
}

impl<'a> Decode<'a> for String {
    fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        reader.text().map(String::from)
    }
}

impl Encode for str {
    fn encode(&self, out: &mut Writer) {
        out.text(self);
    }
}

impl Encode for &str {
    fn encode(&self, out: &mut Writer) {
        out.text(self);
    }
}

impl Encode for String {
    fn encode(&self, out: &mut Writer) {
        out.text(self);
    }
}

impl<'a> Decode<'a> for bool {
    fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        reader.boolean()
    }
}

impl Encode for bool {
    fn encode(&self, out: &mut Writer) {
        out.boolean(*self);
    }
}

macro_rules! integers {
    ($($type:ty),+) => {$(
        impl<'a> Decode<'a> for $type {
            fn decode(reader: &mut Reader<'a>) -> Result<Self> {
                narrow(reader.integer()?)
            }
        }

        impl Encode for $type {
            fn encode(&self, out: &mut Writer) {
                out.integer(i64::from(*self));
            }
        }
    )+};
}

integers!(u8, u16, u32, i8, i16, i32, i64);

impl<'a> Decode<'a> for u64 {
    fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        reader.unsigned()
    }
}

impl Encode for u64 {
    fn encode(&self, out: &mut Writer) {
        out.unsigned(*self);
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Vec<T> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        let len = reader.array()?;
        (0..len).map(|_| T::decode(reader)).collect()
    }
}

impl<T: Encode> Encode for [T] {
    fn encode(&self, out: &mut Writer) {
        out.array(self.len());
        for value in self {
            value.encode(out);
        }
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut Writer) {
        self.as_slice().encode(out);
    }
}

impl<T: Encode> Encode for &[T] {
    fn encode(&self, out: &mut Writer) {
        (**self).encode(out);
    }
}
