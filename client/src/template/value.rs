use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;

use indexmap::IndexMap;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TemplateError;

/// What a template works on: JSON whose objects keep their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Value>),
    Map(Map),
    /// Never read from JSON.
    #[serde(skip_deserializing)]
    Shown(Shown),
}

/// An object, in the order in which it was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Map(IndexMap<String, Value>);

impl Deref for Map {
    type Target = IndexMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Map {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl IntoIterator for Map {
    type Item = (String, Value);
    type IntoIter = indexmap::map::IntoIter<String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, Value)> for Map {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(fields: T) -> Self {
        Self(fields.into_iter().collect())
    }
}

// Not by indexmap's feature `serde`: for these lines everything that uses indexmap would be built with it.
impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Map;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Map, A::Error> {
                let mut map = Map::default();
                while let Some((key, value)) = fields.next_entry()? {
                    map.insert(key, value);
                }
                Ok(map)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A value that prints as a text of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Shown {
    #[serde(skip)]
    pub(crate) text: String,
    pub(crate) value: Box<Value>,
}

/// Fields of Go's structures that JSON leaves out when they are empty.
const KNOWN: [&str; 54] = [
    "additionalspdxs",
    "annotations",
    "architecture",
    "argsescaped",
    "artifacttype",
    "author",
    "cmd",
    "comment",
    "config",
    "created",
    "createdby",
    "data",
    "diffids",
    "digest",
    "emptylayer",
    "entrypoint",
    "env",
    "exposedports",
    "healthcheck",
    "history",
    "image",
    "interval",
    "labels",
    "layers",
    "manifest",
    "manifests",
    "mediatype",
    "name",
    "onbuild",
    "os",
    "osfeatures",
    "osversion",
    "platform",
    "provenance",
    "retries",
    "rootfs",
    "sbom",
    "schemaversion",
    "shell",
    "size",
    "slsa",
    "spdx",
    "startinterval",
    "startperiod",
    "stopsignal",
    "subject",
    "test",
    "timeout",
    "type",
    "urls",
    "user",
    "variant",
    "volumes",
    "workingdir",
];

/// Those of them that are lists, and those that are maps: so they print when they are empty.
const LISTS: [&str; 9] =
    ["cmd", "diffids", "entrypoint", "env", "history", "onbuild", "osfeatures", "shell", "urls"];
const MAPS: [&str; 4] = ["annotations", "exposedports", "labels", "volumes"];

static EMPTY_LIST: Value = Value::List(Vec::new());
static EMPTY_MAP: LazyLock<Value> = LazyLock::new(|| Value::Map(Map::default()));

/// The name of a field as Go and JSON agree on it: `OSVersion` is `os.version`, `CreatedBy` is `created_by`.
pub(super) fn plain_name(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '.' | '-')).flat_map(char::to_lowercase).collect()
}

fn is_known(name: &str) -> bool {
    KNOWN.contains(&plain_name(name).as_str())
}

impl Value {
    /// A list or map of its own, past [`Value::Shown`].
    pub(super) fn inner(&self) -> &Self {
        match self {
            Self::Shown(shown) => shown.value.inner(),
            other => other,
        }
    }

    /// A field. `Ok(None)`: a field that is empty and therefore not there.
    pub(super) fn field(&self, name: &str) -> Result<Option<&Self>, TemplateError> {
        let plain = plain_name(name);
        let known = match self.inner() {
            Self::Null => return Ok(None),
            Self::Map(map) => {
                let found = map.get(name).or_else(|| {
                    map.iter().find(|(key, _)| is_known(key) && plain_name(key) == plain).map(|(_, v)| v)
                });
                // A map of structures is by platform: who asks for a field of an image forgot which.
                let is_by_name = !map.is_empty()
                    && !is_structure(map)
                    && map.values().all(|value| matches!(value, Self::Map(_)));
                if found.is_some() || !(is_structure(map) || is_by_name) {
                    return Ok(found);
                }
                if is_known(name) && !is_by_name {
                    return Ok(empty(&plain));
                }
                map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            }
            _ => "a plain value".to_owned(),
        };
        Err(TemplateError::Field { field: name.to_owned(), known })
    }

    /// What `if` goes by: everything but empty values.
    pub(super) fn is_true(&self) -> bool {
        match self.inner() {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Number(number) => number.as_f64() != Some(0.0),
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Shown(_) => true,
        }
    }

    /// As Go's `fmt.Print` shows it. Errors: [`TemplateError::Structure`].
    pub(super) fn print(&self) -> Result<String, TemplateError> {
        Ok(match self {
            Self::Null => String::new(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(list) => {
                let items: Result<Vec<_>, _> = list.iter().map(Self::print).collect();
                format!("[{}]", items?.join(" "))
            }
            Self::Map(map) if is_structure(map) => return Err(TemplateError::Structure),
            Self::Map(map) => {
                let mut keys: Vec<_> = map.iter().collect();
                keys.sort_by_key(|(key, _)| *key);
                let pairs: Result<Vec<_>, TemplateError> =
                    keys.iter().map(|(key, value)| Ok(format!("{key}:{}", value.print()?))).collect();
                format!("map[{}]", pairs?.join(" "))
            }
            Self::Shown(shown) => shown.text.clone(),
        })
    }
}

fn empty(plain_name: &str) -> Option<&'static Value> {
    if LISTS.contains(&plain_name) {
        return Some(&EMPTY_LIST);
    }
    MAPS.contains(&plain_name).then(|| &*EMPTY_MAP)
}

/// Whether an object stands for one of Go's structures rather than for a map with keys of the user's.
fn is_structure(map: &Map) -> bool {
    !map.is_empty() && map.keys().all(|key| is_known(key))
}
