//! Alternatives that are told apart by what they begin with. Out of scope: which can be kept.

use crate::engine::Shape;

/// One of several shapes. Objects begin with a member that tells them apart, if they have one.
pub(super) fn either(shapes: Vec<Shape>) -> Shape {
    let mut all = Vec::new();
    for shape in shapes {
        match shape {
            Shape::Either(inner) => all.extend(inner),
            // each of them is an alternative
            Shape::OneOf(options) => all.extend(options.into_iter().map(Shape::Constant)),
            shape => all.push(shape),
        }
    }
    if all.len() == 1
        && let Some(only) = all.pop()
    {
        return only;
    }
    set_apart(&mut all);
    Shape::Either(all)
}

/// Moves the member that tells objects apart to their front.
fn set_apart(shapes: &mut [Shape]) {
    let objects: Vec<&Vec<(String, Shape)>> = shapes.iter().filter_map(members).collect();
    let Some((first, others)) = objects.split_first() else { return };
    let is_tag = |name: &&String| {
        let values: Option<Vec<Vec<&str>>> =
            objects.iter().map(|members| values(&members.iter().find(|(own, _)| own == *name)?.1)).collect();
        let all: Vec<&str> = values.into_iter().flatten().flatten().collect();
        !all.is_empty() && all.iter().enumerate().all(|(at, value)| !all[..at].contains(value))
    };
    let tag = first.iter().map(|(name, _)| name).find(is_tag).filter(|_| !others.is_empty()).cloned();
    let names: Vec<Option<String>> = match tag {
        Some(tag) => objects.iter().map(|_| Some(tag.clone())).collect(),
        None => {
            let is_own = |at: usize, name: &String| {
                let mut others = objects.iter().enumerate().filter(|(other, _)| *other != at);
                !others.any(|(_, members)| members.iter().any(|(own, _)| own == name))
            };
            let own = |(at, members): (usize, &&Vec<(String, Shape)>)| {
                members.iter().map(|(name, _)| name).find(|name| is_own(at, name)).cloned()
            };
            objects.iter().enumerate().map(own).collect()
        }
    };
    let members = shapes.iter_mut().filter_map(|shape| match shape {
        Shape::Object(members) => Some(members),
        _ => None,
    });
    for (members, name) in members.zip(names) {
        if let Some(at) = members.iter().position(|(own, _)| Some(own) == name.as_ref()) {
            members[..=at].rotate_right(1);
        }
    }
}

fn members(shape: &Shape) -> Option<&Vec<(String, Shape)>> {
    match shape {
        Shape::Object(members) => Some(members),
        _ => None,
    }
}

/// The values of a shape, if it lists them.
fn values(shape: &Shape) -> Option<Vec<&str>> {
    match shape {
        Shape::Constant(value) => Some(vec![value]),
        Shape::OneOf(values) => Some(values.iter().map(String::as_str).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(members: &[(&str, &str)]) -> Shape {
        let constant =
            |value: &str| if value.is_empty() { Shape::OneOf(vec![]) } else { Shape::Constant(value.into()) };
        let text = Shape::Text { cells: None, least: 0, characters: None };
        let shape = |value: &str| if value == "text" { text.clone() } else { constant(value) };
        Shape::Object(members.iter().map(|(name, value)| ((*name).to_owned(), shape(value))).collect())
    }

    #[test]
    fn objects_begin_with_what_tells_them_apart() {
        let tagged = either(vec![object(&[("a", "text"), ("k", "1")]), object(&[("k", "2"), ("a", "text")])]);
        let expected = [object(&[("k", "1"), ("a", "text")]), object(&[("k", "2"), ("a", "text")])];
        assert_eq!(tagged, Shape::Either(expected.into()));
        let named = either(vec![object(&[("a", "text"), ("b", "text")]), object(&[("a", "text"), ("c", "text")])]);
        let expected = [object(&[("b", "text"), ("a", "text")]), object(&[("c", "text"), ("a", "text")])];
        assert_eq!(named, Shape::Either(expected.into()));
        let inner = object(&[("a", "text"), ("b", "text")]);
        let smaller = either(vec![object(&[("a", "text")]), inner]);
        let expected = [object(&[("a", "text")]), object(&[("b", "text"), ("a", "text")])];
        assert_eq!(smaller, Shape::Either(expected.into()));
    }
}
