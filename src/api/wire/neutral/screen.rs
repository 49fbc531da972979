//! Reads an object without its neutral fields: those of its tables are checked and taken off.

use super::value::Neutral;
use crate::api::schema::{self, NamedSchemas, SchemaRef};
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use std::borrow::Cow;
use std::fmt;
use utoipa::{PartialSchema, ToSchema};

/// A type whose JSON object may also have the fields of some tables.
pub(crate) trait Tables {
    const TABLES: &'static [&'static [Neutral]];
}

/// A `T`, read from an object from which the fields of its tables are taken off.
#[derive(Debug)]
pub(crate) struct Screened<T>(pub(crate) T);

impl<'de, T: Deserialize<'de> + Tables> Deserialize<'de> for Screened<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        T::deserialize(Screen { input, tables: T::TABLES }).map(Self)
    }
}

type TableList = &'static [&'static [Neutral]];

/// Passes on what a struct is read from, and takes off the fields of the tables.
struct Screen<D> {
    input: D,
    tables: TableList,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Screen<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.input.deserialize_struct(name, fields, ScreenVisitor { visitor, fields, tables: self.tables })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.input.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct ScreenVisitor<V> {
    visitor: V,
    fields: &'static [&'static str],
    tables: TableList,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ScreenVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let Self { visitor, fields, tables } = self;
        visitor.visit_map(ScreenMap { map, fields, tables, seen: Vec::new() })
    }
}

struct ScreenMap<A> {
    map: A,
    fields: &'static [&'static str],
    tables: TableList,
    /// The fields of the tables that were given; each at most once.
    seen: Vec<&'static str>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ScreenMap<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        loop {
            let key = KeySeed { fields: self.fields, tables: self.tables };
            match self.map.next_key_seed(key)? {
                None => return Ok(None),
                Some(Key::Own(name)) => return seed.deserialize(name.into_deserializer()).map(Some),
                Some(Key::Neutral(field)) => {
                    if self.seen.contains(&field.name) {
                        return Err(Error::custom(format!("duplicate field `{}`", field.name)));
                    }
                    self.seen.push(field.name);
                    self.map.next_value_seed(field)?;
                }
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

enum Key {
    /// A field of the struct.
    Own(&'static str),
    Neutral(&'static Neutral),
}

struct KeySeed {
    fields: &'static [&'static str],
    tables: TableList,
}

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Key, D::Error> {
        let name = Cow::<'_, str>::deserialize(input)?;
        let neutral = || self.tables.iter().copied().flatten();
        if let Some(own) = self.fields.iter().find(|field| **field == name) {
            return Ok(Key::Own(own));
        }
        if let Some(field) = neutral().find(|field| field.name == name) {
            return Ok(Key::Neutral(field));
        }
        // not those of other servers: there are many, and none of them does anything
        let known: Vec<String> = self.fields.iter().map(|name| format!("`{name}`")).collect();
        Err(Error::custom(format!("unknown field `{name}`, expected one of {}", known.join(", "))))
    }
}

impl<T: PartialSchema + Tables> PartialSchema for Screened<T> {
    fn schema() -> SchemaRef {
        let mut object = schema::object::<T>();
        let fields = T::TABLES.iter().copied().flatten();
        object.properties.extend(fields.map(|field| (field.name.to_owned(), field.schema())));
        object.into()
    }
}

impl<T: ToSchema + Tables> ToSchema for Screened<T> {
    fn name() -> Cow<'static, str> {
        T::name()
    }

    fn schemas(schemas: &mut NamedSchemas) {
        T::schemas(schemas);
    }
}
