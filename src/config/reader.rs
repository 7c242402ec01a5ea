//! From TOML values to the model, one value at a time: a wrong one is reported and left out, and reading goes on.
//!
//! `table!` declares a table of the model once and derives both how it is read and its JSON Schema, so that the two cannot
//! disagree on which keys there are.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Report, Span, closest};

/// Reads the values of one file into a [`Report`]'s problems and the model.
#[derive(Debug)]
pub(super) struct Reader<'r> {
    pub(super) report: &'r mut Report,
    pub(super) file: usize,
}

/// What can stand on the right side of a key.
pub(super) trait Read: Sized {
    /// What such a value is called: "a string".
    const KIND: &'static str;
    /// Whether a text in its place is a secret, right or wrong, that no message may show.
    const SECRET: bool = false;

    /// None: it is wrong, and that was reported.
    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self>;
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// One key of a table.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    /// It stands there with a value that was reported.
    Wrong {
        key: Span,
    },
    Set {
        key: Span,
        value: At<T>,
    },
}

/// An array. Elements that were wrong were reported and are missing.
#[derive(Clone, Debug)]
pub(super) struct List<T> {
    pub(super) items: Vec<At<T>>,
    pub(super) complete: bool,
}

/// A table whose keys are names that the operator gives, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Map<T>(pub(super) Vec<Named<T>>);

/// An entry of a [`Map`]; without a value when that was wrong, so that references to its name still hold.
#[derive(Clone, Debug)]
pub(super) struct Named<T> {
    pub(super) name: At<String>,
    pub(super) value: Option<At<T>>,
}

impl<T> Field<T> {
    pub(super) fn key(&self) -> Option<Span> {
        match self {
            Self::Absent => None,
            Self::Wrong { key } | Self::Set { key, .. } => Some(*key),
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(super) fn as_ref(&self) -> Option<&At<T>> {
        match self {
            Self::Set { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The value where it is there and right.
    pub(super) fn given(self) -> Option<At<T>> {
        match self {
            Self::Set { value, .. } => Some(value),
            _ => None,
        }
    }

    pub(super) fn or(self, default: T) -> T {
        self.given().map_or(default, |at| at.value)
    }

    /// The value of a key that must be there; `what` names it and `owner` is the table it should stand in.
    pub(super) fn required(self, report: &mut Report, owner: Span, what: &str, help: &str) -> Option<At<T>> {
        if self.is_absent() && !report.is_misspelled(owner, what) {
            report.error(owner, format!("`{what}` is missing"), help);
        }
        self.given()
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { items: Vec::new(), complete: true }
    }
}

impl<T> List<T> {
    /// Whether nothing at all was written between the brackets.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.complete
    }

    pub(super) fn into_values(self) -> Vec<T> {
        self.items.into_iter().map(|at| at.value).collect()
    }
}

impl<T> Default for Map<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Map<T> {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|named| named.name.value.as_str())
    }
}

impl<'r> Reader<'r> {
    pub(super) fn new(report: &'r mut Report, file: usize) -> Self {
        Self { report, file }
    }

    pub(super) fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span { file: self.file, start: range.start, end: range.end }
    }

    /// The table's entries in the order of the file.
    pub(super) fn entries<'v, 'i>(
        &self,
        table: &'v DeTable<'i>,
    ) -> impl Iterator<Item = (At<&'v str>, &'v DeValue<'i>, Span)> + use<'v, 'i> {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| {
                let key = At { value: key.get_ref().as_ref(), span: self.span(key.span()) };
                (key, value.get_ref(), self.span(value.span()))
            })
            .collect();
        entries.sort_by_key(|(key, ..)| key.span);
        entries.into_iter()
    }

    fn hide<T: Read>(&mut self, value: &DeValue<'_>, at: Span) {
        if T::SECRET && value.is_str() {
            self.report.hide(at);
        }
    }

    /// Reports a word that is none of a closed set.
    pub(super) fn unknown_word(&mut self, word: &str, at: Span, known: &[&str]) {
        let help = match closest(word, known.iter().copied()) {
            Some(meant) => format!("did you mean `\"{meant}\"`?"),
            None => {
                format!("write one of {}", known.iter().map(|w| format!("`\"{w}\"`")).collect::<Vec<_>>().join(", "))
            }
        };
        self.report.error(at, format!("`{word}` is not a value of this key"), help);
    }

    /// Reports a value of the wrong kind.
    pub(super) fn mismatch(&mut self, found: &DeValue<'_>, at: Span, expected: &str) {
        let text = self.report.text(at);
        let help = match found {
            DeValue::String(word) if matches!(word.as_ref(), "true" | "false") && expected == bool::KIND => {
                format!("write `{word}` without the quotes")
            }
            DeValue::String(word) if expected.contains("number") && word.parse::<u64>().is_ok() => {
                format!("write `{word}` without the quotes")
            }
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)
                if expected.starts_with("a string") =>
            {
                format!("write it in quotes: `\"{text}\"`")
            }
            DeValue::Array(_) | DeValue::Table(_) => format!("write {expected} instead"),
            _ if expected.starts_with("a list") => format!("write a list, even of one: `[{text}]`"),
            _ => format!("write {expected} instead"),
        };
        self.report.error(at, format!("expected {expected}, found {}", kind(found)), help);
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl<T: Read> Field<T> {
    pub(super) fn read(key: Span, value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Self {
        reader.hide::<T>(value, at);
        match T::read(value, at, reader) {
            Some(value) => Self::Set { key, value: At { value, span: at } },
            None => Self::Wrong { key },
        }
    }
}

impl Read for String {
    const KIND: &'static str = "a string";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::String(text) = value else {
            reader.mismatch(value, at, Self::KIND);
            return None;
        };
        Some(text.to_string())
    }
}

impl Read for bool {
    const KIND: &'static str = "`true` or `false`";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let read = value.as_bool();
        if read.is_none() {
            reader.mismatch(value, at, Self::KIND);
        }
        read
    }
}

impl Read for u64 {
    const KIND: &'static str = "a whole number, not negative";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let read = value.as_integer().and_then(|digits| Self::from_str_radix(digits.as_str(), digits.radix()).ok());
        if read.is_none() {
            reader.mismatch(value, at, Self::KIND);
        }
        read
    }
}

impl<T: Read> Read for List<T> {
    const KIND: &'static str = "a list";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Array(array) = value else {
            reader.mismatch(value, at, Self::KIND);
            return None;
        };
        let mut list = Self::default();
        for element in array.iter() {
            let span = reader.span(element.span());
            reader.hide::<T>(element.get_ref(), span);
            match T::read(element.get_ref(), span, reader) {
                Some(value) => list.items.push(At { value, span }),
                None => list.complete = false,
            }
        }
        Some(list)
    }
}

impl<T: Read> Read for Map<T> {
    const KIND: &'static str = "a table";
    const SECRET: bool = T::SECRET;

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = value else {
            reader.mismatch(value, at, Self::KIND);
            return None;
        };
        let mut map = Self::default();
        for (key, value, span) in reader.entries(table) {
            let name = At { value: key.value.to_owned(), span: key.span };
            reader.hide::<T>(value, span);
            let value = T::read(value, span, reader).map(|value| At { value, span });
            map.0.push(Named { name, value });
        }
        Some(map)
    }
}

/// In the schema a key is what it holds.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("List_of_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<T>::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for Map<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Map_of_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        std::collections::BTreeMap::<String, T>::json_schema(generator)
    }
}

/// Declares a table: the struct, how it is read, and its schema. Keys are named as in the file. A table that is `secret`
/// shows nothing of what stands in its place or at keys that it does not have.
macro_rules! table {
    ($(#[$meta:meta])* $name:ident, $kind:literal $(, secret = $secret:literal)? { $($(#[$doc:meta])* $key:ident: $type:ty,)* }) => {
        #[derive(Clone, Debug, Default, schemars::JsonSchema)]
        #[schemars(default, deny_unknown_fields)]
        $(#[$meta])*
        pub(super) struct $name {
            $($(#[$doc])* pub(super) $key: crate::config::reader::Field<$type>,)*
        }

        impl crate::config::reader::Read for $name {
            const KIND: &'static str = $kind;
            $(const SECRET: bool = $secret;)?

            #[allow(unused_mut, unused_variables, reason = "a table may have no keys")]
            fn read(
                value: &toml::de::DeValue<'_>,
                at: crate::config::diagnostic::Span,
                reader: &mut crate::config::reader::Reader<'_>,
            ) -> Option<Self> {
                let toml::de::DeValue::Table(table) = value else {
                    reader.mismatch(value, at, Self::KIND);
                    return None;
                };
                let mut read = Self::default();
                for (key, value, span) in reader.entries(table) {
                    match key.value {
                        $(stringify!($key) => {
                            read.$key = crate::config::reader::Field::read(key.span, value, span, reader);
                        })*
                        _ => {
                            if Self::SECRET && value.is_str() {
                                reader.report.hide(span);
                            }
                            reader.report.unknown_key(at, key.span, key.value, &[$(stringify!($key)),*]);
                        }
                    }
                }
                Some(read)
            }
        }
    };
}

/// Declares a closed set of words: the enum, how it is read, and its schema.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema)]
        pub(super) enum $name {
            $($(#[$doc])* #[schemars(rename = $word)] $variant,)*
        }

        impl crate::config::reader::Read for $name {
            const KIND: &'static str = "a string";

            fn read(
                value: &toml::de::DeValue<'_>,
                at: crate::config::diagnostic::Span,
                reader: &mut crate::config::reader::Reader<'_>,
            ) -> Option<Self> {
                match String::read(value, at, reader)?.as_str() {
                    $($word => Some(Self::$variant),)*
                    word => {
                        reader.unknown_word(word, at, &[$($word),*]);
                        None
                    }
                }
            }
        }
    };
}

pub(super) use {table, words};
