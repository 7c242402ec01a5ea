//! The `Authorization: Bearer` header (RFC 6750 section 2.1), the only place where a token is looked for.

use http::HeaderValue;

use super::Refusal;

/// Longest token that is looked at.
pub(super) const TOKEN_MAX_BYTES: usize = 16 * 1024;

/// What stands where the token does: untrusted, and not yet known to be one.
#[derive(Clone, Copy)]
pub struct Bearer<'a>(&'a [u8]);

impl std::fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer [redacted]")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BearerError {
    /// Not `Bearer`, spaces and one token: 400 `invalid_request`.
    Syntax,
    /// Something where the token stands that is none, or does not count: 401 `invalid_token`.
    Token(Refusal),
}

impl From<Refusal> for BearerError {
    fn from(refusal: Refusal) -> Self {
        Self::Token(refusal)
    }
}

impl<'a> Bearer<'a> {
    /// `None` for a header of another scheme, which counts as no credentials.
    pub fn parse(header: &'a HeaderValue) -> Result<Option<Self>, BearerError> {
        let value = header.as_bytes();
        let Some((scheme, rest)) = value.split_at_checked("bearer".len()) else { return Ok(None) };
        if !scheme.eq_ignore_ascii_case(b"bearer") {
            return Ok(None);
        }
        if rest.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)) {
            // The scheme's name goes on: another scheme.
            return Ok(None);
        }
        let token = rest.trim_ascii_end();
        let spaces = token.iter().take_while(|byte| **byte == b' ').count();
        let token = &token[spaces..];
        if spaces == 0 || token.is_empty() { Err(BearerError::Syntax) } else { Ok(Some(Self(token))) }
    }

    /// The token. What is the same as a token, byte for byte, need not be asked.
    pub fn text(self) -> Result<&'a str, BearerError> {
        let token = self.0;
        if token.len() <= TOKEN_MAX_BYTES && is_token68(token) {
            return std::str::from_utf8(token).map_err(|_| BearerError::Token(Refusal::Characters));
        }
        if token.iter().any(|byte| matches!(byte, b' ' | b'\t' | b',')) {
            return Err(BearerError::Syntax);
        }
        Err(BearerError::Token(if token.len() > TOKEN_MAX_BYTES { Refusal::TooLong } else { Refusal::Characters }))
    }

    pub(super) fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// RFC 9110 section 11.2: letters, digits, `-._~+/`, then any number of `=`.
fn is_token68(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let body = &token[..token.len() - padding];
    // Every byte is looked at, without a branch: that way many are compared at once.
    let letter = |byte: u8| (byte | 0x20).wrapping_sub(b'a') < 26;
    let minus_to_nine = |byte: u8| byte.wrapping_sub(b'-') <= b'9' - b'-';
    let fits = |byte: u8| letter(byte) | minus_to_nine(byte) | (byte == b'_') | (byte == b'~') | (byte == b'+');
    !body.is_empty() && body.iter().fold(true, |all, byte| all & fits(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b6_every_byte_is_one_of_a_token_or_is_not() {
        for byte in 0..=u8::MAX {
            let allowed = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            for place in 0..40 {
                let mut token = [b'a'; 40];
                token[place] = byte;
                let padding = byte == b'=' && place == 39;
                assert_eq!(is_token68(&token), allowed || padding, "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn b2_to_b6_the_header() {
        let token = |text: &'static str| Ok(Some(text));
        for (header, expected) in [
            ("Bearer abc.d-e_f~+/==", token("abc.d-e_f~+/==")),
            ("bearer abc", token("abc")),
            ("bEaReR    abc", token("abc")),
            ("Bearer abc  ", token("abc")),
            ("Basic YTpi", Ok(None)),
            ("Negotiate x", Ok(None)),
            ("Bear", Ok(None)),
            ("Bearer", Err(BearerError::Syntax)),
            ("Bearer  ", Err(BearerError::Syntax)),
            ("Bearer\tabc", Err(BearerError::Syntax)),
            ("Bearer=abc", Err(BearerError::Syntax)),
            ("Bearerabc", Ok(None)),
            ("Bearers abc", Ok(None)),
            ("Bearer a b", Err(BearerError::Syntax)),
            ("Bearer a,b", Err(BearerError::Syntax)),
            ("Bearer a, Bearer b", Err(BearerError::Syntax)),
            ("Bearer a,", Err(BearerError::Syntax)),
            ("Bearer a\"b", Err(BearerError::Token(Refusal::Characters))),
            ("Bearer =a", Err(BearerError::Token(Refusal::Characters))),
            ("Bearer ==", Err(BearerError::Token(Refusal::Characters))),
        ] {
            let value = HeaderValue::from_bytes(header.as_bytes()).expect("header");
            assert_eq!(Bearer::parse(&value).and_then(|b| b.map(Bearer::text).transpose()), expected, "{header:?}");
        }
        let long = HeaderValue::from_str(&format!("Bearer {}", "a".repeat(TOKEN_MAX_BYTES + 1))).expect("header");
        let long = Bearer::parse(&long).map(|bearer| bearer.map(Bearer::text));
        assert_eq!(long, Ok(Some(Err(BearerError::Token(Refusal::TooLong)))));
    }
}
