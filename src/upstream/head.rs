//! The head of a request for a server, and how HTTP/1.1 writes it.

use std::sync::{Arc, OnceLock};

use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::net::headers::Fields;

/// The head of a request for an upstream.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub target: PathAndQuery,
    /// Absent: the authority of the server that takes the request.
    pub host: Option<HeaderValue>,
    /// All but `Host` and `own`. Shared with whoever expects them to be sent again.
    pub fields: Arc<Block>,
    /// The field that no other request has.
    pub own: Option<(HeaderName, HeaderValue)>,
}

/// Fields as they are sent. Those that are sent more than once are written once.
#[derive(Debug, Default)]
pub struct Block {
    fields: Fields,
    written: OnceLock<Written>,
}

#[derive(Default)]
struct Written {
    text: Vec<u8>,
    /// Whether the length of a body is among them. It is never written with them.
    has_length: bool,
}

/// Without the text, which may hold secrets.
impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl From<Fields> for Block {
    fn from(fields: Fields) -> Self {
        Self { fields, written: OnceLock::new() }
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Head {
    /// All fields but `Host`.
    pub fn fields(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.fields.fields.iter().chain(&self.own)
    }

    /// What is said of the body is what will be sent, whatever the fields say.
    pub(super) fn write(&self, text: &mut Vec<u8>, host: &HeaderValue, length: Option<u64>) {
        text.extend_from_slice(self.method.as_str().as_bytes());
        text.push(b' ');
        text.extend_from_slice(self.target.as_str().as_bytes());
        text.extend_from_slice(b" HTTP/1.1\r\n");
        write_field(text, &header::HOST, host.as_bytes());
        let has_length = if Arc::strong_count(&self.fields) > 1 {
            let written = self.fields.written();
            text.extend_from_slice(&written.text);
            written.has_length
        } else {
            write_fields(text, &self.fields.fields)
        };
        if let Some((name, value)) = &self.own {
            write_field(text, name, value.as_bytes());
        }
        match length {
            // Of most requests nothing has to be said.
            Some(0) if !has_length => {}
            Some(length) => write_field(text, &header::CONTENT_LENGTH, length.to_string().as_bytes()),
            None => write_field(text, &header::TRANSFER_ENCODING, b"chunked"),
        }
        text.extend_from_slice(b"\r\n");
    }
}

impl Block {
    /// As they are written.
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
    }

    fn written(&self) -> &Written {
        self.written.get_or_init(|| {
            let mut text = Vec::with_capacity(self.bytes());
            let has_length = write_fields(&mut text, &self.fields);
            Written { text, has_length }
        })
    }
}

/// Writes all that do not frame the body. Gives whether its length was among them.
fn write_fields(text: &mut Vec<u8>, fields: &Fields) -> bool {
    let mut has_length = false;
    for (name, value) in fields.iter() {
        match name {
            &header::CONTENT_LENGTH => has_length = true,
            &header::TRANSFER_ENCODING => {}
            name => write_field(text, name, value.as_bytes()),
        }
    }
    has_length
}

fn write_field(text: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    text.extend_from_slice(name.as_str().as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_of_the_body_what_will_be_sent() {
        for (fields, length, said) in [
            (&[][..], Some(0), ""),
            (&[("content-length", "0")], Some(0), "content-length: 0\r\n"),
            (&[("content-length", "5")], Some(0), "content-length: 0\r\n"),
            (&[("content-length", "5")], Some(3), "content-length: 3\r\n"),
            (&[("content-length", "5"), ("transfer-encoding", "gzip")], None, "transfer-encoding: chunked\r\n"),
        ] {
            let mut lines = Fields::default();
            for (name, value) in fields {
                lines.push(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let head = Head {
                method: Method::POST,
                target: PathAndQuery::from_static("/a?b"),
                host: None,
                fields: Arc::new(lines.into()),
                own: Some((HeaderName::from_static("x"), HeaderValue::from_static("y"))),
            };
            // Written for itself, and for whoever sends it again.
            let expected = format!("POST /a?b HTTP/1.1\r\nhost: c\r\nx: y\r\n{said}\r\n");
            let write = || {
                let mut text = Vec::new();
                head.write(&mut text, &HeaderValue::from_static("c"), length);
                String::from_utf8(text).unwrap()
            };
            assert_eq!(write(), expected);
            let shared = Arc::clone(&head.fields);
            assert_eq!([write(), write()], [expected.clone(), expected]);
            drop(shared);
        }
    }
}
