//! What the server behind would read into a path that has one reading for everybody else.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    #[default]
    Generic,
    /// Path parameters: `;` in any spelling, even where the route opens it for others.
    Tomcat,
    /// Backslashes, trailing dots and spaces, alternate data streams, short names.
    Iis,
    /// A path that goes on behind a script (`/index.php/admin`), and trailing dots or spaces.
    Php,
}

impl Dialect {
    /// Whether the server might find something else under `path` (decoded) than what was matched.
    pub fn refuses(self, path: &str) -> bool {
        let mut segments = path.split('/');
        match self {
            Self::Generic => false,
            Self::Tomcat => path.contains([';', '\\']),
            Self::Iis => {
                path.contains(['\\', ':', '*', '|', '"', '<', '>'])
                    || segments.any(|segment| has_loose_end(segment) || has_short_name(segment))
            }
            Self::Php => {
                let script = |segment: &str| {
                    let lower = segment.to_ascii_lowercase();
                    [".php", ".phtml", ".phar", ".php5", ".php7"].iter().any(|ending| lower.ends_with(ending))
                };
                let mut segments = segments.peekable();
                while let Some(segment) = segments.next() {
                    if has_loose_end(segment) || (script(segment) && segments.peek().is_some()) {
                        return true;
                    }
                }
                false
            }
        }
    }
}

fn has_loose_end(segment: &str) -> bool {
    segment.ends_with(['.', ' '])
}

/// `PROGRA~1`
fn has_short_name(segment: &str) -> bool {
    segment.split_once('~').is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_9_dialects_only_add_refusals() {
        for (path, tomcat, iis, php) in [
            ("/a/b.c", false, false, false),
            ("/a;x/b", true, false, false),
            ("/a\\b", true, true, false),
            ("/admin.", false, true, true),
            ("/admin /x", false, true, true),
            ("/file::$DATA", false, true, false),
            ("/PROGRA~1/x", false, true, false),
            ("/~user", false, false, false),
            ("/index.php/admin", false, false, true),
            ("/index.PHP/", false, false, true),
            ("/index.php", false, false, false),
        ] {
            let refused = [Dialect::Tomcat, Dialect::Iis, Dialect::Php].map(|dialect| dialect.refuses(path));
            assert_eq!(refused, [tomcat, iis, php], "{path}");
            assert!(!Dialect::Generic.refuses(path));
        }
    }
}
