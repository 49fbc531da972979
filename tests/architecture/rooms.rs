//! The rooms of `api/` and `engine/`, and which room may import which.
//!
//! `REMASK_SHOW_GRAPH=1 cargo test --test architecture` prints the arrows between the rooms of
//! every top module.

use crate::graph::{Graph, draw};
use crate::source::Source;
use std::collections::{BTreeMap, BTreeSet};

/// A file or folder of a house, and the rooms of the same house that it may import, itself always.
/// A room within a room has a line of its own where it may import more or less than the room around
/// it. `mod` is the file at the root of the house.
type Room = (&'static str, &'static [&'static str]);

const HOUSES: [(&str, &[Room]); 2] = [("api", &API), ("engine", &ENGINE)];

/// From the router down to what knows no other.
const API: [Room; 12] = [
    (
        "mod",
        &[
            "endpoints",
            "grpc",
            "openapi",
            "stream",
            "answer",
            "wire",
            "request",
            "state",
            "error",
            "schema",
            "protocol",
        ],
    ),
    ("endpoints", &["openapi", "stream", "answer", "wire", "request", "state", "error", "schema", "protocol"]),
    ("openapi", &["stream", "answer", "wire", "request", "state", "error", "schema"]),
    ("grpc", &["stream", "answer", "wire", "request", "state", "error", "schema", "protocol"]),
    ("stream", &["answer", "wire", "request", "state", "error", "schema", "protocol"]),
    ("answer", &["request", "state", "error", "schema"]),
    ("wire", &["request", "state", "error", "schema"]),
    ("request", &["state", "error", "schema", "protocol"]),
    ("state", &["error", "schema", "protocol"]),
    ("error", &["schema", "protocol"]),
    ("schema", &[]),
    ("protocol", &[]),
];

/// From the front door down to what knows no other.
const ENGINE: [Room; 31] = [
    (
        "mod",
        &[
            "start",
            "handle",
            "warm_up",
            "admission",
            "restart",
            "shared",
            "template",
            "event",
            "request",
            "occupancy",
            "origin",
            "clock",
        ],
    ),
    ("start", &["worker", "handle", "admission", "dispatch", "delivery", "tick", "restart", "shared", "pool", "clock"]),
    (
        "worker",
        &[
            "shared",
            "dispatch",
            "tick",
            "throughput",
            "restart",
            "delivery",
            "pool",
            "job",
            "event",
            "request",
            "pace",
            "clock",
        ],
    ),
    (
        "handle",
        &[
            "admission",
            "shared",
            "dispatch",
            "delivery",
            "mailbox",
            "job",
            "event",
            "request",
            "occupancy",
            "origin",
            "pace",
            "clock",
        ],
    ),
    ("warm_up", &[]),
    ("admission", &["biases", "job", "writing", "layout", "template", "event", "request", "origin"]),
    ("shared", &["dispatch", "pace", "clock"]),
    ("dispatch", &["delivery", "pool", "placement", "job"]),
    ("tick", &["batch_limit", "pool", "job", "event", "request"]),
    ("placement", &["pool", "places"]),
    ("pool", &["queue", "turns", "job", "event", "request", "pace", "origin"]),
    ("delivery", &["mailbox", "job", "event", "occupancy", "clock"]),
    ("queue", &["job", "origin"]),
    ("places", &["origin"]),
    ("turns", &["origin"]),
    ("throughput", &[]),
    ("restart", &["clock"]),
    ("job", &["writing", "biases", "layout", "likelihoods", "event", "request", "origin"]),
    ("writing", &["layout", "template", "event"]),
    ("layout", &["event", "request"]),
    ("likelihoods", &[]),
    ("biases", &[]),
    ("mailbox", &["event"]),
    ("event", &["request"]),
    ("template", &[]),
    ("request", &["occupancy", "origin"]),
    ("occupancy", &["origin"]),
    ("origin", &[]),
    ("pace", &["clock"]),
    ("batch_limit", &[]),
    ("clock", &[]),
];

/// The room of a file, by its name within the house: the one with the longest name that it lies in.
fn room<'a>(rooms: &'a [Room], file: &str) -> Option<&'a Room> {
    let file = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let holds =
        |(name, _): &&Room| file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    rooms.iter().filter(holds).max_by_key(|(name, _)| name.len())
}

/// Files without a room, and arrows from a room to one that it may not import.
pub(crate) fn room_faults(sources: &[Source]) -> Vec<String> {
    HOUSES.iter().flat_map(|(house, rooms)| house_faults(sources, house, rooms)).collect()
}

fn house_faults(sources: &[Source], house: &str, rooms: &[Room]) -> Vec<String> {
    let inside = |source: &Source| source.name.strip_prefix(house)?.strip_prefix('/').map(str::to_owned);
    let homeless = sources.iter().filter(|source| inside(source).is_some_and(|file| room(rooms, &file).is_none()));
    let mut faults: Vec<String> =
        homeless.map(|source| format!("{}: give it a place among the rooms of `{house}`", source.name)).collect();
    for ((from, to), names) in Graph::new(sources).arrows() {
        let (Some(from_file), Some(to_file)) = (inside(&sources[from]), inside(&sources[to])) else { continue };
        let (Some((from_room, sees)), Some((to_room, _))) = (room(rooms, &from_file), room(rooms, &to_file)) else {
            continue;
        };
        if from_room != to_room && !sees.contains(to_room) {
            let arrow = draw(sources, (from, to), &names);
            faults.push(format!("{arrow}: `{house}/{from_room}` may not import `{house}/{to_room}`"));
        }
    }
    faults
}

/// The arrows between the top modules, and between the files and folders of each.
pub(crate) fn show(sources: &[Source]) -> String {
    let mut shown: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for ((from, to), names) in Graph::new(sources).arrows() {
        let (from, to) = (parts(&sources[from].name), parts(&sources[to].name));
        let shared = from.iter().zip(&to).take_while(|(from, to)| from == to).count().min(1);
        let place = |parts: &[&str]| parts[..parts.len().min(shared + 1)].join("/");
        if place(&from) != place(&to) {
            shown.entry((place(&from), place(&to))).or_default().extend(names);
        }
    }
    let line = |((from, to), names): ((String, String), BTreeSet<String>)| {
        format!("{from} -> {to}: {}\n", names.into_iter().collect::<Vec<_>>().join(", "))
    };
    shown.into_iter().map(line).collect()
}

/// Names of the folders and the file, outermost first.
fn parts(file: &str) -> Vec<&str> {
    file.trim_end_matches(".rs").split('/').collect()
}

/// The faults of a house with these rooms in which `from` imports `to`.
#[track_caller]
fn check(from: &str, to: &str, expected: &[&str]) {
    const ROOMS: [Room; 5] =
        [("mod", &["desk", "desk/lamp"]), ("desk", &["floor"]), ("desk/lamp", &["oil"]), ("oil", &[]), ("floor", &[])];
    let path = to.trim_end_matches(".rs").replace('/', "::");
    let importing = format!("use crate::house::{path}::A;");
    let mut files = vec![("lib.rs", "mod house;"), ("house/mod.rs", "mod desk; mod oil; mod floor;")];
    files.extend([
        ("house/desk/mod.rs", "mod lamp; mod drawer;"),
        ("house/desk/lamp.rs", ""),
        ("house/desk/drawer.rs", ""),
    ]);
    files.extend([("house/oil.rs", ""), ("house/floor.rs", "")]);
    let sources: Vec<Source> = files
        .into_iter()
        .map(|(name, text)| {
            let imports = if name.strip_prefix("house/") == Some(from) { &importing } else { "" };
            Source::new(name, &format!("{text} {imports} pub struct A;"))
        })
        .collect();
    assert_eq!(house_faults(&sources, "house", &ROOMS), expected, "{from} -> {to}");
}

#[test]
fn an_arrow_that_runs_up_between_rooms_is_found() {
    check("mod.rs", "desk/lamp.rs", &[]);
    check("desk/drawer.rs", "floor.rs", &[]);
    check("desk/mod.rs", "desk/drawer.rs", &[]);
    check("desk/lamp.rs", "oil.rs", &[]);
    let fault = "house/floor.rs -> house/oil.rs: A: `house/floor` may not import `house/oil`";
    check("floor.rs", "oil.rs", &[fault]);
    let fault = "house/desk/drawer.rs -> house/oil.rs: A: `house/desk` may not import `house/oil`";
    check("desk/drawer.rs", "oil.rs", &[fault]);
    let fault = "house/desk/lamp.rs -> house/floor.rs: A: `house/desk/lamp` may not import `house/floor`";
    check("desk/lamp.rs", "floor.rs", &[fault]);
    let fault = "house/desk/mod.rs -> house/desk/lamp.rs: A: `house/desk` may not import `house/desk/lamp`";
    check("desk/mod.rs", "desk/lamp.rs", &[fault]);
}

#[test]
fn a_file_without_a_room_is_found() {
    let attic = [Source::new("house/attic/box.rs", "")];
    let fault = "house/attic/box.rs: give it a place among the rooms of `house`";
    assert_eq!(house_faults(&attic, "house", &[("floor", &[])]), [fault]);
    assert_eq!(house_faults(&attic, "house", &[("attic", &[])]), [""; 0]);
    assert_eq!(house_faults(&attic, "house", &[("att", &[])]), [fault]);
}

#[test]
fn the_tables_name_rooms_that_they_have() {
    for (house, rooms) in HOUSES {
        for room in rooms.iter().flat_map(|(_, sees)| *sees) {
            assert!(rooms.iter().any(|(name, _)| name == room), "{house}: there is no line for {room:?}");
        }
    }
}
