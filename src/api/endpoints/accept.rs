//! Headers by which a client says what it takes: names with weights (RFC 9110, section 12.4.2).

use axum::http::{HeaderMap, HeaderName};

/// The names of a header such as `Accept`, each with its weight from 0 to 1, in their order. What
/// is no weight counts as 0. Parameters other than `q` are left out.
pub(super) fn weights(headers: &HeaderMap, header: HeaderName) -> impl Iterator<Item = (&str, f32)> {
    let values = headers.get_all(header).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|one| {
        let (name, parameters) = one.split_once(';').unwrap_or((one, ""));
        let weight = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
        (name.trim(), weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0)))
    })
}

/// How much a client wants the media type `TYPE/SUBTYPE`: the weight of the most specific range of
/// `Accept` that includes it, 0 if none does.
pub(super) fn wish(headers: &HeaderMap, (kind, subtype): (&str, &str)) -> f32 {
    let ranges = weights(headers, axum::http::header::ACCEPT).filter_map(|(range, weight)| {
        let (its_kind, its_subtype) = range.split_once('/')?;
        let is_kind = its_kind.eq_ignore_ascii_case(kind);
        let rank = match (its_kind, its_subtype) {
            ("*", "*") => 0_u8,
            (_, "*") if is_kind => 1,
            _ if is_kind && its_subtype.eq_ignore_ascii_case(subtype) => 2,
            _ => return None,
        };
        Some((rank, weight))
    });
    ranges.max_by_key(|(rank, _)| *rank).map_or(0.0, |(_, weight)| weight)
}
