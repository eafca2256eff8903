//! A JSON object and the rows that say what its keys take: typed values, each checked and with its
//! default filled in.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::document::{ConfigError, Node, decoded, place};
use crate::config::hints;
use crate::config::key::{Fallback, Key, Takes, Word, words};
use crate::pool::settings::Choices;

/// An object whose keys are known; the values are not read yet.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    /// The object itself, or for a section that was left out the object it belongs into: the place
    /// of what is missing.
    node: Node<'a>,
    keys: &'static [Key],
    /// By row.
    values: Vec<Option<Node<'a>>>,
}

impl<'a> Object<'a> {
    /// Takes an object that has no keys but these, each at most once.
    #[inline(never)]
    pub(crate) fn read(node: &Node<'a>, keys: &'static [Key]) -> Result<Object<'a>, ConfigError> {
        let document = node.document;
        let mut values: Vec<Option<Node<'a>>> = vec![None; keys.len()];
        for (key_raw, value) in entries_of(node)? {
            let offset = document.offset(key_raw);
            let key = decoded(key_raw).map_err(|reason| {
                let what = format!("has a key that is not a valid string: {reason}");
                document.error_at(offset, node.path.clone(), what, String::new())
            })?;
            let path = node.child_path(&key);
            let Some(row) = keys.iter().position(|row| row.name == key) else {
                let hint = hints::about_unknown(&node.path, &key, keys, document.form);
                return Err(document.error_at(offset, path, "is not a known key".to_owned(), hint));
            };
            if let Some(first) = &values[row] {
                let (line, column) = place(&document.text, document.offset(first.raw));
                return Err(document.error_at(
                    offset,
                    path,
                    "is given twice".to_owned(),
                    format!("keep one, the first value is at line {line}, column {column}"),
                ));
            }
            values[row] = Some(document.node(value, path));
        }
        Ok(Object {
            node: node.clone(),
            keys,
            values,
        })
    }

    /// The value as it was given.
    #[inline(never)]
    pub(crate) fn given(&self, key: &str) -> Option<&Node<'a>> {
        self.values[self.row(key)].as_ref()
    }

    /// The value of a key that has one or a default.
    #[inline(never)]
    pub(crate) fn value(&self, key: &str) -> Result<Node<'a>, ConfigError> {
        self.optional(key).ok_or_else(|| {
            let mut place = self.node.clone();
            place.path = self.node.child_path(key);
            place.error("is missing", format!("must be {}", self.wanted(key)))
        })
    }

    /// The value as it was given, or the default if it has one.
    #[inline(never)]
    pub(crate) fn optional(&self, key: &str) -> Option<Node<'a>> {
        let row = self.row(key);
        let default = || match self.keys[row].default {
            Fallback::Value(json) => Some(Node {
                document: self.node.document,
                raw: json,
                path: self.node.child_path(key),
            }),
            Fallback::Required | Fallback::Nothing(_) => None,
        };
        self.values[row].clone().or_else(default)
    }

    /// The path of a key.
    pub(crate) fn path_of(&self, key: &str) -> String {
        self.node.child_path(key)
    }

    /// What the key takes.
    #[cfg(feature = "simulate")]
    pub(crate) fn takes(&self, key: &str) -> Takes {
        self.keys[self.row(key)].takes
    }

    /// What the key takes, to follow "must be".
    pub(crate) fn wanted(&self, key: &str) -> String {
        self.keys[self.row(key)].takes.wanted()
    }

    /// A value as `parse` understands it; where that is not at all, the error says what the key
    /// takes.
    pub(crate) fn parsed<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let node = self.value(key)?;
        parse(&node).ok_or_else(|| node.not(&self.wanted(key)))
    }

    /// The same for a key without a default.
    pub(crate) fn optional_parsed<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.given(key) {
            Some(_) => self.parsed(key, parse).map(Some),
            None => Ok(None),
        }
    }

    #[inline(never)]
    pub(crate) fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        self.parsed(key, Node::boolean)
    }

    #[inline(never)]
    pub(crate) fn integer<T: TryFrom<u64>>(&self, key: &str) -> Result<T, ConfigError> {
        let bounds = match self.keys[self.row(key)].takes {
            Takes::Integer(least, most) => least..=most,
            _ => panic!("the row of {key} says that it takes no integer"),
        };
        self.parsed(key, |node| {
            let number = node.raw.parse().ok().filter(|it| bounds.contains(it));
            number.and_then(|number| T::try_from(number).ok())
        })
    }

    pub(crate) fn optional_integer<T: TryFrom<u64>>(
        &self,
        key: &str,
    ) -> Result<Option<T>, ConfigError> {
        self.given(key).map(|_| self.integer(key)).transpose()
    }

    #[inline(never)]
    pub(crate) fn duration(&self, key: &str) -> Result<Duration, ConfigError> {
        let bounds = match self.keys[self.row(key)].takes {
            Takes::Duration(least, most) => least..=most,
            _ => panic!("the row of {key} says that it takes no duration"),
        };
        self.parsed(key, |node| {
            let duration = parse_duration(&node.text()?)?;
            bounds.contains(&duration).then_some(duration)
        })
    }

    /// One of the words for the values of `T`.
    pub(crate) fn word<T: Choices>(&self, key: &str) -> Result<T, ConfigError> {
        self.value(key)?.word(&self.wanted(key))
    }

    /// The same for a key without a default.
    pub(crate) fn optional_word<T: Choices>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        self.given(key).map(|_| self.word(key)).transpose()
    }

    /// An object below this one; all its keys are missing when it was left out.
    #[inline(never)]
    pub(crate) fn section(&self, key: &str) -> Result<Object<'a>, ConfigError> {
        let Takes::Object(keys) = self.keys[self.row(key)].takes else {
            panic!("the row of {key} says that it takes no object");
        };
        if let Some(node) = self.given(key) {
            return Object::read(node, keys);
        }
        let mut node = self.node.clone();
        node.path = self.node.child_path(key);
        Ok(Object {
            node,
            keys,
            values: vec![None; keys.len()],
        })
    }

    #[inline(never)]
    fn row(&self, key: &str) -> usize {
        self.keys
            .iter()
            .position(|row| row.name == key)
            .unwrap_or_else(|| panic!("{key} has no row in {:?}", self.node.path))
    }
}

pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let ms = number.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    Some(Duration::from_millis(ms))
}

#[cfg(feature = "simulate")]
impl<'a> Node<'a> {
    /// The values of an object whose keys may be any, each with its key and the key's place.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Node<'a>, Node<'a>)>, ConfigError> {
        let mut named: Vec<(String, Node<'a>, Node<'a>)> = Vec::new();
        for (key_raw, value) in entries_of(self)? {
            let mut place = self.clone();
            place.raw = key_raw;
            let key = decoded(key_raw).map_err(|reason| place.error(reason, ""))?;
            place.path = self.child_path(&key);
            if named.iter().any(|(known, ..)| *known == key) {
                return Err(place.error("is given twice", "keep one"));
            }
            let value = self.document.node(value, place.path.clone());
            named.push((key.into_owned(), place, value));
        }
        Ok(named)
    }
}

impl Node<'_> {
    /// One of the words for the values of `T`; `wanted` is what must be there.
    pub(crate) fn word<T: Choices>(&self, wanted: &str) -> Result<T, ConfigError> {
        let row = self.word_row(&words::<T>(), T::NOT_BUILT, wanted)?;
        Ok(T::ALL[row].value)
    }

    #[inline(never)]
    fn word_row(
        &self,
        words: &[Word],
        not_built: &[&str],
        wanted: &str,
    ) -> Result<usize, ConfigError> {
        let text = self.text().ok_or_else(|| self.not(wanted))?;
        if let Some(row) = words.iter().position(|word| word.name == text) {
            return Ok(row);
        }
        if not_built.contains(&&*text) {
            let what = format!("is {}, which is not built yet", self.found());
            return Err(self.error(what, format!("must be {wanted}")));
        }
        Err(match hints::about_word(&text, words) {
            Some(name) => self.error(
                format!("is {}", self.found()),
                format!("did you mean {name:?}? It must be {wanted}"),
            ),
            None => self.not(wanted),
        })
    }
}

fn entries_of<'a>(node: &Node<'a>) -> Result<Vec<(&'a str, &'a RawValue)>, ConfigError> {
    if !node.raw.starts_with('{') {
        return Err(node.not("an object"));
    }
    entries(node.raw).map_err(|error| node.error(format!("is no object: {error}"), ""))
}

/// The keys and values of an object in the order of the text, repeated ones included.
pub(crate) fn entries(text: &str) -> Result<Vec<(&str, &RawValue)>, serde_json::Error> {
    serde_json::from_str(text).map(|entries: Entries<'_>| entries.0)
}

struct Entries<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                // The key is kept raw too: its place is the place of a key that is unknown or
                // repeated.
                while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    entries.push((key.get(), value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
