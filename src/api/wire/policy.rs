//! How policies are written in JSON: a rule's name, or an object with the name and the rule's
//! knobs. Names, knobs, ranges and schemas come from the registry of rules.

use super::field::{Number, OneOf, count, number};
use crate::api::schema;
use crate::diffusion::policy::{Choice, Kind, Knob, Range, Rule, Setting, Settings, knobs, rules};
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, Object, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{RefOr, Schema};

/// `unmasking`: an order, and the knobs of paces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unmasking {
    pub(super) order: Option<Choice>,
    pub(super) pace: Settings,
}

/// `remasking`: a rule and its knobs, unchecked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remasking(pub(super) Choice);

/// `unmasking` as a word.
pub(super) struct OrderName(&'static Rule);

/// `remasking` as a word.
pub(super) struct RemaskingName(&'static Rule);

impl<'de> Deserialize<'de> for OrderName {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        named(Kind::Order, input).map(Self)
    }
}

impl<'de> Deserialize<'de> for RemaskingName {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        named(Kind::Remasking, input).map(Self)
    }
}

/// A rule by its name.
fn named<'de, D: Deserializer<'de>>(kind: Kind, input: D) -> Result<&'static Rule, D::Error> {
    let rules = rules(kind);
    let names: Vec<_> = rules.iter().map(|rule| rule.name).collect();
    Ok(rules[OneOf { what: "variant", words: &names }.deserialize(input)?])
}

impl From<OrderName> for Unmasking {
    fn from(OrderName(rule): OrderName) -> Self {
        Self { order: Some(Choice::of(rule)), ..Self::default() }
    }
}

impl From<RemaskingName> for Remasking {
    fn from(RemaskingName(rule): RemaskingName) -> Self {
        Self(Choice::of(rule))
    }
}

impl<'de> Deserialize<'de> for Unmasking {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let fields = Fields { name: "order", kind: Kind::Order, knobs: knobs(Kind::Pace) };
        let (order, pace) = input.deserialize_map(fields)?;
        Ok(Self { order: order.map(Choice::of), pace })
    }
}

impl<'de> Deserialize<'de> for Remasking {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let fields = Fields { name: "policy", kind: Kind::Remasking, knobs: knobs(Kind::Remasking) };
        let (rule, settings) = input.deserialize_map(fields)?;
        let rule = rule.ok_or_else(|| D::Error::missing_field("policy"))?;
        Ok(Self(Choice { rule, settings }))
    }
}

/// Reads an object of a rule's name and of knobs: the rule, and the knobs that are not null.
struct Fields {
    name: &'static str,
    kind: Kind,
    knobs: Vec<&'static Knob>,
}

impl<'de> Visitor<'de> for Fields {
    type Value = (Option<&'static Rule>, Settings);

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let names: Vec<&'static str> = [self.name].into_iter().chain(self.knobs.iter().map(|knob| knob.name)).collect();
        let (mut rule, mut settings, mut seen) = (None, Settings::EMPTY, vec![false; names.len()]);
        while let Some(index) = object.next_key_seed(OneOf { what: "field", words: &names })? {
            if std::mem::replace(&mut seen[index], true) {
                return Err(A::Error::custom(format!("duplicate field `{}`", names[index])));
            }
            match index.checked_sub(1).map(|knob| self.knobs[knob]) {
                None if self.kind == Kind::Order => rule = object.next_value::<Option<OrderName>>()?.map(|name| name.0),
                None => rule = Some(object.next_value::<RemaskingName>()?.0),
                Some(knob) => {
                    if let Some(value) = object.next_value_seed(Value(knob.range))? {
                        settings = settings.try_with(knob.name, value).map_err(A::Error::custom)?;
                    }
                }
            }
        }
        Ok((rule, settings))
    }
}

/// A knob's value, or null.
struct Value(Range);

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Option<Setting>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            Range::Count { .. } => Ok(count(input)?.map(Setting::Count)),
            Range::Fraction => Ok(number(input)?.map(Setting::Fraction)),
            Range::Span => {
                let ends = Option::<[Number; 2]>::deserialize(input)?;
                Ok(ends.map(|ends| Setting::Span(ends.map(|Number(end)| end))))
            }
        }
    }
}

/// An order by name, or an object with the knobs of a pace.
pub(super) fn unmasking_schema() -> RefOr<Schema> {
    let description = "Which blank is filled first; default `confidence`. With a `threshold`, a step fills \
                       every blank of at least this confidence, instead of an even share.";
    let order = schema::either([names(Kind::Order), schema::null()]);
    schema::either_or_null([names(Kind::Order), with_knobs("order", order, Kind::Pace).into()], description)
}

/// The same for a text that is there already: it has no pace.
pub(super) fn order_schema() -> RefOr<Schema> {
    let order = schema::either([names(Kind::Order), schema::null()]);
    let mut object = with_knobs("order", order, Kind::Pace);
    object.properties.extend(knobs(Kind::Pace).iter().map(|knob| (knob.name.to_owned(), schema::null())));
    let description = "The order in which erased cells are filled again.";
    schema::either_or_null([names(Kind::Order), object.into()], description)
}

/// A remasking by name, or an object with the knobs that go with its name.
pub(super) fn remasking_schema() -> RefOr<Schema> {
    let description = "Which filled cells may be erased; default: those of quality below 0.5 if the model has a head, \
                       else none. `quality` needs a head.";
    let mut groups: Vec<(&'static [&'static Knob], Vec<&str>)> = Vec::new();
    let named = |knobs: &[&Knob]| knobs.iter().map(|knob| knob.name).collect::<Vec<_>>();
    for rule in rules(Kind::Remasking) {
        match groups.iter_mut().find(|(knobs, _)| named(knobs) == named(rule.knobs)) {
            Some((_, names)) => names.push(rule.name),
            None => groups.push((rule.knobs, vec![rule.name])),
        }
    }
    groups.sort_by_key(|(knobs, _)| knobs.is_empty()); // stable: "off" comes last
    let group = |(own, names): (&[&Knob], Vec<&str>)| {
        let mut object = with_knobs("policy", schema::words(names), Kind::Remasking);
        let foreign = knobs(Kind::Remasking).into_iter().filter(|knob| !named(own).contains(&knob.name));
        object.properties.extend(foreign.map(|knob| (knob.name.to_owned(), schema::null())));
        object.required.push("policy".to_owned());
        RefOr::from(object)
    };
    let forms = [names(Kind::Remasking)].into_iter().chain(groups.into_iter().map(group));
    schema::either_or_null(forms, description)
}

fn names(kind: Kind) -> RefOr<Schema> {
    schema::words(rules(kind).iter().map(|rule| rule.name))
}

/// An object of a field and all knobs of a kind of rule.
fn with_knobs(field: &str, value: RefOr<Schema>, kind: Kind) -> Object {
    let object = ObjectBuilder::new().schema_type(Type::Object).property(field, value);
    let object = knobs(kind).into_iter().fold(object, |object, knob| object.property(knob.name, knob_schema(knob)));
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
            let max = crate::diffusion::policy::COUNT_MAX;
            nullable(Type::Integer).format(Some(format)).maximum(Some(max)).minimum(Some(min)).into()
        }
        Range::Fraction => {
            let format = SchemaFormat::KnownFormat(KnownFormat::Float);
            nullable(Type::Number).format(Some(format)).maximum(Some(1)).minimum(Some(0)).into()
        }
        Range::Span => {
            let fraction = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(1));
            schema::either_or_null([schema::list(fraction.into(), 2, Some(2))], knob.help)
        }
    }
}
