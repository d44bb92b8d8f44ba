//! Writing small JSON documents.

/// A JSON object, member by member, in the order of the calls.
pub struct Object {
    text: Vec<u8>,
}

impl Object {
    pub fn new() -> Self {
        let mut text = Vec::with_capacity(256);
        text.push(b'{');
        Object { text }
    }

    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        quote(value, &mut self.text);
        self
    }

    pub fn integer(mut self, name: &str, value: i64) -> Self {
        self.name(name);
        decimal(value, &mut self.text);
        self
    }

    pub fn boolean(mut self, name: &str, value: bool) -> Self {
        self.name(name);
        self.text.extend_from_slice(if value { &b"true"[..] } else { b"false" });
        self
    }

    /// The finished document, in UTF-8.
    pub fn finish(mut self) -> Vec<u8> {
        self.text.push(b'}');
        self.text
    }

    fn name(&mut self, name: &str) {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
        quote(name, &mut self.text);
        self.text.push(b':');
    }
}

impl Default for Object {
    fn default() -> Self {
        Object::new()
    }
}

/// Append `text` as a JSON string: quotes, backslashes and control characters escaped, the rest as it is.
pub fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..=0x1f => {
                out.extend(b"\\u00");
                out.extend([hexadecimal(byte >> 4), hexadecimal(byte & 0x0f)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn hexadecimal(digit: u8) -> u8 {
    if digit < 10 {
        b'0' + digit
    } else {
        b'a' + digit - 10
    }
}

/// Append the decimal digits of `value`.
fn decimal(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let mut digits = Vec::with_capacity(20);
    let mut left = value.unsigned_abs();
    while left > 9 {
        digits.push(b'0' + (left % 10) as u8);
        left /= 10;
    }
    digits.push(b'0' + left as u8);
    out.extend(digits.iter().rev());
}
