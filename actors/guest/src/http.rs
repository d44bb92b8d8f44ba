//! Contract `wasmcloud:httpserver`: the request that the provider sends, the response that it expects.

use crate::msgpack::{Decode, Encode, Reader, Record, Writer};
use crate::Result;
use std::borrow::Cow;

/// An HTTP request, read completely.
#[derive(Default)]
pub struct Request<'a> {
    /// Upper case.
    pub method: &'a str,
    /// As received: not decoded, without the query.
    pub path: &'a str,
    /// Without the question mark; empty if there is none.
    pub query_string: &'a str,
    pub header: Headers<'a>,
    pub body: Cow<'a, [u8]>,
}

impl<'a> Request<'a> {
    /// The first value of a query parameter, as it stands in the address (percent signs are not decoded).
    pub fn query(&self, name: &str) -> Option<&'a str> {
        self.query_string
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

impl<'a> Record<'a> for Request<'a> {
    const NAME: &'static str = "HttpRequest";
    const FIELDS: &'static [&'static str] = &["method", "path", "queryString", "header", "body"];

    fn read(&mut self, field: usize, reader: &mut Reader<'a>) -> Result<()> {
        match field {
            0 => self.method = reader.text()?,
            1 => self.path = reader.text()?,
            2 => self.query_string = reader.text()?,
            3 => self.header = Headers { map: reader.raw()? },
            _ => self.body = reader.bytes()?,
        }
        Ok(())
    }
}

impl<'a> Decode<'a> for Request<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        reader.record()
    }
}

/// Request headers, read only when an actor asks for one. Names are lower case.
#[derive(Default, Clone, Copy)]
pub struct Headers<'a> {
    map: &'a [u8],
}

impl<'a> Headers<'a> {
    /// The first value of the header with this lower-case name.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.all(name).first().copied()
    }

    /// All values of the header with this lower-case name; none if it is absent.
    pub fn all(&self, name: &str) -> Vec<&'a str> {
        self.find(name).unwrap_or_default()
    }

    fn find(&self, name: &str) -> Result<Vec<&'a str>> {
        let mut reader = Reader::new(self.map);
        for _ in 0..reader.map()? {
            if reader.text()? == name {
                return Vec::decode(&mut reader);
            }
            reader.skip()?;
        }
        Ok(Vec::new())
    }
}

/// An HTTP response.
#[derive(Default)]
pub struct Response {
    pub status_code: u16,
    pub header: Vec<(String, Vec<String>)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status_code: u16, body: Vec<u8>) -> Self {
        Response { status_code, header: Vec::new(), body }
    }

    pub fn text(status_code: u16, body: &str) -> Self {
        Response::new(status_code, body.into()).with("content-type", "text/plain; charset=utf-8")
    }

    /// `body` is a finished JSON document, for instance of [`crate::json::Object`].
    pub fn json(status_code: u16, body: Vec<u8>) -> Self {
        Response::new(status_code, body).with("content-type", "application/json")
    }

    /// The same response with one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.header.push((name.into(), vec![value.into()]));
        self
    }
}

impl Encode for Response {
    fn encode(&self, out: &mut Writer) {
        out.map(3);
        out.text("statusCode");
        out.unsigned(self.status_code.into());
        out.text("header");
        out.map(self.header.len());
        for (name, values) in &self.header {
            out.text(name);
            values.encode(out);
        }
        out.text("body");
        out.bytes(&self.body);
    }
}
