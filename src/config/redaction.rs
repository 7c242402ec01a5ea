//! Where secrets stand in the text of a configuration, found without understanding it: what is no TOML, or stands where
//! nothing belongs, is shown to people too. `reader` hides what it knows to be one; this is for the rest.

use std::ops::Range;

/// What stands on the right of these is a secret, unless it is a table that says where to find one.
const KEYS: [&str; 5] = ["value", "secret", "password", "token", "hash"];
/// What may be shown of a `hash`; anything else in its place may be the secret itself.
const HASHES: [&str; 2] = ["sha256:", "$argon2"];

/// The places of secrets, quotes included.
pub(super) fn secrets(text: &str) -> Vec<Range<usize>> {
    text.match_indices('=').filter_map(|(equals, _)| secret(text, equals)).collect()
}

fn secret(text: &str, equals: usize) -> Option<Range<usize>> {
    let before = text[..equals].trim_end_matches([' ', '\t']).trim_end_matches(['"', '\'']);
    let key = &before[before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-').len()..];
    let after = &text[equals + 1..];
    let start = text.len() - after.trim_start_matches([' ', '\t']).len();
    let value = &text[start..];
    let is_hash = key == "hash" && HASHES.iter().any(|hash| value.trim_start_matches(['"', '\'']).starts_with(hash));
    // `my_secret`, but not `end_with_token = true`.
    let is_key = KEYS.contains(&key)
        || KEYS.iter().any(|end| key.ends_with(end)) && !["true", "false"].iter().any(|flag| value.starts_with(flag));
    (is_key && !value.starts_with('{') && !is_hash).then(|| start..start + length(value))
}

/// How long the value is with which a text starts; of one that does not end, the rest of the line.
fn length(value: &str) -> usize {
    let line = value.find(['\n', '\r']).unwrap_or(value.len());
    for quotes in ["\"\"\"", "'''", "\"", "'"] {
        let Some(inside) = value.strip_prefix(quotes) else { continue };
        let (mut from, bound) = (0, if quotes.len() == 3 { inside.len() } else { inside.len().min(line) });
        while let Some(end) = inside[from..].find(quotes).map(|end| from + end).filter(|end| *end < bound) {
            let escapes = inside[..end].bytes().rev().take_while(|byte| *byte == b'\\').count();
            if quotes.starts_with('\'') || escapes % 2 == 0 {
                let end = end + 2 * quotes.len();
                // Nothing may follow; if something does, it belongs to it.
                return end + bare(&value[end..]);
            }
            from = end + 1;
        }
        return if quotes.len() == 3 { value.len() } else { line };
    }
    if value.starts_with('[') {
        return value.find(']').map_or(line, |end| end + 1);
    }
    bare(value)
}

fn bare(value: &str) -> usize {
    value.find([' ', '\t', ',', '}', ']', '#', '\n', '\r']).unwrap_or(value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_any_text() {
        for (text, found) in [
            (r#"token = { value = "a b" }"#, &[r#""a b""#][..]),
            (r#"password.value="a\"b" # c"#, &[r#""a\"b""#]),
            (r#"value = 'a\' , value = b}"#, &[r"'a\'", "b"]),
            ("value = \"\"\"a\nb\"\"\" x", &["\"\"\"a\nb\"\"\""]),
            ("value = \"a b\nname = \"c\"", &["\"a b"]),
            ("\"secret\" = hunter2, x", &["hunter2"]),
            ("password = [\"a\", \"b\"]", &["[\"a\", \"b\"]"]),
            (r#"hash = "hunter2" hash = "sha256:00""#, &[r#""hunter2""#]),
            (r#"secret = { file = "a" } token_prefix = "b" end_with_token = true ="#, &[]),
            (r#"my_token = "a" x.secret=b"#, &["\"a\"", "b"]),
            (r#"value = ""a"b, c"#, &[r#"""a"b"#]),
            ("value =", &[""]),
            ("\u{e9}\u{15214}token = \"a\"", &["\"a\""]),
        ] {
            let places = secrets(text);
            assert_eq!(places.iter().map(|place| &text[place.clone()]).collect::<Vec<_>>(), found, "{text}");
        }
    }
}
