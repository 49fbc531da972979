//! How policies are written in JSON: a rule's name, or an object with the name and the rule's
//! knobs. Names, knobs, ranges and schemas come from the registry of rules.

use super::field::{Fraction, OneOf, count_within, fraction, number_to};
use crate::api::schema;
use crate::diffusion::policy::{COUNT_MAX, Choice, Kind, Knob, Range, Rule, Setting, Settings, knobs, rules};
use serde::de::{DeserializeSeed, Error, Expected, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, Object, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{RefOr, Schema};

/// `unmasking`: an order with its knobs, and the knobs of paces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unmasking {
    pub(super) order: Option<&'static Rule>,
    pub(super) of_order: Settings,
    pub(super) pace: Settings,
}

pub(super) fn unmasking<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Unmasking>, D::Error> {
    let of_orders = knobs(Kind::Order);
    let is_of_order = |name: &str| of_orders.iter().any(|knob| knob.name == name);
    let all = of_orders.iter().copied().chain(knobs(Kind::Pace)).collect();
    let read = input.deserialize_any(Field { name: "order", kind: Kind::Order, knobs: all })?;
    Ok(read.map(|(order, settings)| {
        let (of_order, pace) = settings.parted(is_of_order);
        Unmasking { order, of_order, pace }
    }))
}

/// `remasking`: a rule and its knobs, unchecked.
pub(super) fn remasking<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Choice>, D::Error> {
    choice("policy", Kind::Remasking, input)
}

/// `cache`: a rule and its knobs, unchecked.
pub(super) fn cache<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Choice>, D::Error> {
    choice("policy", Kind::Cache, input)
}

/// A rule, whose name is in the field `name` where it comes with knobs.
fn choice<'de, D: Deserializer<'de>>(name: &'static str, kind: Kind, input: D) -> Result<Option<Choice>, D::Error> {
    match input.deserialize_any(Field { name, kind, knobs: knobs(kind) })? {
        None => Ok(None),
        Some((None, _)) => {
            let names = OneOf { what: "variant", words: &names(kind), or: "" };
            let expected: &dyn Expected = &names;
            Err(D::Error::custom(format!("missing field `{name}`, expected {expected}")))
        }
        Some((Some(rule), settings)) => Ok(Some(Choice { rule, settings })),
    }
}

/// Reads a rule's name, an object of the name and of knobs, or null: the rule, and the knobs that
/// are not null.
struct Field {
    name: &'static str,
    kind: Kind,
    knobs: Vec<&'static Knob>,
}

impl Field {
    fn or(&self) -> String {
        format!(", or an object of `{}` and knobs", self.name)
    }
}

impl<'de> Visitor<'de> for Field {
    type Value = Option<(Option<&'static Rule>, Settings)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        OneOf { what: "variant", words: &names(self.kind), or: &self.or() }.expecting(formatter)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
        let or = self.or();
        Ok(Some((rule(self.kind, |names| OneOf { or: &or, ..names }.visit_str(word))?, Settings::EMPTY)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let names: Vec<&'static str> = [self.name].into_iter().chain(self.knobs.iter().map(|knob| knob.name)).collect();
        let (mut named, mut settings, mut seen) = (None, Settings::EMPTY, vec![false; names.len()]);
        while let Some(Some(index)) = object.next_key_seed(OneOf { what: "field", words: &names, or: "" })? {
            if std::mem::replace(&mut seen[index], true) {
                return Err(A::Error::custom(format!("duplicate field `{}`", names[index])));
            }
            match index.checked_sub(1).map(|knob| self.knobs[knob]) {
                None => named = rule(self.kind, |names| object.next_value_seed(names))?,
                Some(knob) => {
                    if let Some(value) = object.next_value_seed(Value(knob.range))? {
                        settings = settings.try_with(knob.name, value).map_err(A::Error::custom)?;
                    }
                }
            }
        }
        Ok(Some((named, settings)))
    }
}

/// The rule that `read` finds among the names of a kind of rule.
fn rule<E>(kind: Kind, read: impl FnOnce(OneOf<'_>) -> Result<Option<usize>, E>) -> Result<Option<&'static Rule>, E> {
    let index = read(OneOf { what: "variant", words: &names(kind), or: "" })?;
    Ok(index.map(|index| rules(kind)[index]))
}

/// A knob's value, or null.
struct Value(Range);

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Option<Setting>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            Range::Count { min } => Ok(count_within(input, min, COUNT_MAX)?.map(Setting::Count)),
            Range::Fraction => Ok(fraction(input)?.map(Setting::Number)),
            Range::Number { max } => Ok(number_to(input, max)?.map(Setting::Number)),
            range @ Range::Span => {
                let Some(ends) = Option::<Vec<Fraction>>::deserialize(input)? else { return Ok(None) };
                match ends[..] {
                    [Fraction(from), Fraction(until)] => Ok(Some(Setting::Span([from, until]))),
                    _ => Err(D::Error::custom(format!("given an array of {}; give {range}", ends.len()))),
                }
            }
        }
    }
}

/// An order by name, or an object with the knobs of a pace.
pub(super) fn unmasking_schema() -> RefOr<Schema> {
    let description = "Which blank is filled first; default `confidence`. With a `threshold`, a step fills \
                       every blank of at least this confidence, instead of an even share.";
    orders(knob_schema, description)
}

/// The same for a text that is there already: it has no pace.
pub(super) fn order_schema() -> RefOr<Schema> {
    orders(|_| schema::null(), "The order in which erased cells are filled again.")
}

fn orders(of_pace: fn(&Knob) -> RefOr<Schema>, description: &str) -> RefOr<Schema> {
    let names = schema::words(names(Kind::Order));
    let object = with_knobs("order", schema::either([names.clone(), schema::null()]), Kind::Order, knob_schema);
    let with_pace = |mut object: Object, knob: &'static Knob| {
        object.properties.insert(knob.name.to_owned(), of_pace(knob));
        object
    };
    let object = knobs(Kind::Pace).into_iter().fold(object, with_pace);
    schema::either_or_null([names, object.into()], description)
}

/// A remasking by name, or an object with the knobs that go with its name.
pub(super) fn remasking_schema() -> RefOr<Schema> {
    let description = "Which filled cells may be erased or replaced; default: those of quality below 0.5 if the model has a head, \
                       else none. `quality` needs a head.";
    choice_schema(Kind::Remasking, description)
}

/// A cache by name, or an object with the knobs that go with its name.
pub(super) fn cache_schema() -> RefOr<Schema> {
    let description = "Which keys and values of earlier passes a pass uses; default `off`, and `prefix` where the model is \
                       block-causal, which changes nothing there.";
    choice_schema(Kind::Cache, description)
}

/// The rules of a kind by name, or as objects: those with the same knobs are one form.
fn choice_schema(kind: Kind, description: &str) -> RefOr<Schema> {
    let mut groups: Vec<(&'static [&'static Knob], Vec<&str>)> = Vec::new();
    let named = |knobs: &[&Knob]| knobs.iter().map(|knob| knob.name).collect::<Vec<_>>();
    for rule in rules(kind) {
        match groups.iter_mut().find(|(knobs, _)| named(knobs) == named(rule.knobs)) {
            Some((_, names)) => names.push(rule.name),
            None => groups.push((rule.knobs, vec![rule.name])),
        }
    }
    groups.sort_by_key(|(knobs, _)| knobs.is_empty()); // stable: "off" comes last
    let group = |(own, names): (&[&Knob], Vec<&str>)| {
        let is_own = |knob: &Knob| named(own).contains(&knob.name);
        let knob = |knob: &Knob| if is_own(knob) { knob_schema(knob) } else { schema::null() };
        let mut object = with_knobs("policy", schema::words(names), kind, knob);
        object.required.push("policy".to_owned());
        RefOr::from(object)
    };
    let forms = [schema::words(names(kind))].into_iter().chain(groups.into_iter().map(group));
    schema::either_or_null(forms, description)
}

fn names(kind: Kind) -> Vec<&'static str> {
    rules(kind).iter().map(|rule| rule.name).collect()
}

/// An object of a field and all knobs of a kind of rule, each with the schema `of_knob`.
fn with_knobs(field: &str, value: RefOr<Schema>, kind: Kind, of_knob: impl Fn(&Knob) -> RefOr<Schema>) -> Object {
    let object = ObjectBuilder::new().schema_type(Type::Object).property(field, value);
    let object = knobs(kind).into_iter().fold(object, |object, knob| object.property(knob.name, of_knob(knob)));
    object.additional_properties(Some(AdditionalProperties::FreeForm(false))).build()
}

fn knob_schema(knob: &Knob) -> RefOr<Schema> {
    let nullable = |number| {
        let kind = SchemaType::from_iter([number, Type::Null]);
        ObjectBuilder::new().schema_type(kind).description(Some(knob.help))
    };
    match knob.range {
        Range::Count { min } => {
            let format = SchemaFormat::KnownFormat(KnownFormat::UInt32);
            let max = COUNT_MAX;
            nullable(Type::Integer).format(Some(format)).maximum(Some(max)).minimum(Some(min)).into()
        }
        Range::Fraction => {
            let format = SchemaFormat::KnownFormat(KnownFormat::Float);
            nullable(Type::Number).format(Some(format)).maximum(Some(1)).minimum(Some(0)).into()
        }
        Range::Number { max } => {
            let format = SchemaFormat::KnownFormat(KnownFormat::Float);
            nullable(Type::Number).format(Some(format)).maximum(Some(max)).minimum(Some(0)).into()
        }
        Range::Span => {
            let fraction = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(1));
            schema::either_or_null([schema::list(fraction.into(), 2, Some(2))], knob.help)
        }
    }
}
