use std::fmt;

/// Why an operation failed, as one sentence. It reaches the caller as the error of its invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }

    pub(crate) fn of(parts: &[&str]) -> Self {
        Error(joined(parts))
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The text of `parts`, one after the other. (`format!` and `concat` would do, and each costs kilobytes.)
pub fn joined(parts: &[&str]) -> String {
    let mut text = String::new();
    for part in parts {
        text.push_str(part);
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Error::new(text)
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Error(text)
    }
}
