//! The graph of files: an arrow leads from a file to each file that defines something it names.
//!
//! Re-exports are followed: `use crate::engine::Handle` is an arrow to `engine/handle.rs`. An
//! import of a module is no arrow, the paths that go through it are. A glob is an arrow to the file
//! of its module. `mod x;` is no arrow, and what is compiled for tests only is left out. A method
//! that is called on a value has no path, so it is no arrow either.

use crate::source::{Definition, Form, Module, Source, Words};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// From one file to another, by their indices, and the names that it has from there.
pub(crate) type Arrows = BTreeMap<(usize, usize), BTreeSet<String>>;

/// The modules of all files, by their paths.
pub(crate) struct Graph<'a> {
    sources: &'a [Source],
    /// With the index of the file of each.
    modules: HashMap<&'a [String], (usize, &'a Module)>,
    /// Paths of the modules that are compiled for tests only, in files of their own.
    tests: HashSet<&'a [String]>,
}

/// Where a path leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target<'a> {
    Module(&'a [String]),
    /// Something that is defined in this file, or brought into its scope from another crate.
    Item(usize),
}

/// Modules and names that a search is at: imports may lead back to themselves.
type Passed<'a> = HashSet<(&'a [String], String)>;

impl<'a> Graph<'a> {
    pub(crate) fn new(sources: &'a [Source]) -> Self {
        let mut modules = HashMap::new();
        for (file, source) in sources.iter().enumerate().filter(|(_, source)| source.name != "main.rs") {
            modules.extend(source.modules.iter().map(|module| (&module.path[..], (file, module))));
        }
        let tests = sources.iter().flat_map(|source| &source.tests).map(|path| &path[..]).collect();
        Self { sources, modules, tests }
    }

    pub(crate) fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (from, source) in self.sources.iter().enumerate() {
            for reference in &source.references {
                let module = &source.modules[reference.module].path[..];
                if source.name == "main.rs" || reference.in_test || self.is_test(module) {
                    continue;
                }
                let (targets, passed) = self.resolve(module, &reference.words, &mut Passed::new());
                for target in targets {
                    let (to, name) = match target {
                        Target::Item(file) => (file, &*reference.words[passed - 1]),
                        Target::Module(path) if reference.form == Form::Glob => (self.modules[path].0, "*"),
                        Target::Module(_) => continue,
                    };
                    if to != from {
                        arrows.entry((from, to)).or_default().insert(name.to_owned());
                    }
                }
            }
        }
        arrows
    }

    fn is_test(&self, module: &[String]) -> bool {
        (1..=module.len()).any(|length| self.tests.contains(&module[..length]))
    }

    /// Everything that a path in `module` may mean, and how many of its words lead there: a name
    /// may stand for a module and for a function at once, and what follows a type is its own.
    fn resolve(&self, module: &'a [String], words: &[String], passed: &mut Passed<'a>) -> (Vec<Target<'a>>, usize) {
        let mut targets = vec![Target::Module(module)];
        for (at, word) in words.iter().enumerate() {
            let is_item = |target: &Target<'_>| matches!(target, Target::Item(_));
            let modules: Vec<&'a [String]> = targets
                .iter()
                .filter_map(|target| match target {
                    Target::Module(module) => Some(*module),
                    Target::Item(_) => None,
                })
                .collect();
            let next: Vec<Target<'a>> = match word.as_str() {
                "crate" if at == 0 => vec![Target::Module(&[])],
                "self" if at == 0 => continue,
                "super" => modules.iter().filter_map(|module| self.parent(module)).collect(),
                word => modules.iter().flat_map(|module| self.find(module, word, passed)).collect(),
            };
            if !next.is_empty() {
                targets = next;
            } else if at == 0 {
                return (Vec::new(), 0); // another crate, or a local name
            } else if targets.iter().any(is_item) {
                targets.retain(is_item);
                return (targets, at);
            } else {
                // what a macro defines in a module
                let files = modules.iter().filter_map(|module| self.modules.get(module));
                return (files.map(|(file, _)| Target::Item(*file)).collect(), at + 1);
            }
        }
        (targets, words.len())
    }

    /// What a name means in the scope of a module.
    fn find(&self, module: &'a [String], name: &str, passed: &mut Passed<'a>) -> Vec<Target<'a>> {
        let Some(&(file, scope)) = self.modules.get(module) else { return Vec::new() };
        if !passed.insert((module, name.to_owned())) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (_, definition) in scope.names.iter().filter(|(known, _)| known == name) {
            match definition {
                Definition::Item => found.push(Target::Item(file)),
                Definition::Module => found.extend(self.child(module, name)),
                Definition::Import(words) => match self.resolve(module, words, passed).0 {
                    targets if targets.is_empty() => found.push(Target::Item(file)), // of another crate
                    targets => found.extend(targets),
                },
            }
        }
        if found.is_empty() {
            for target in scope.globs.iter().flat_map(|glob| self.resolve(module, glob, passed).0).collect::<Vec<_>>() {
                if let Target::Module(module) = target {
                    found.extend(self.find(module, name, passed));
                }
            }
        }
        passed.remove(&(module, name.to_owned()));
        found
    }

    fn parent(&self, module: &'a [String]) -> Option<Target<'a>> {
        let (_, up) = module.split_last()?;
        self.modules.contains_key(up).then_some(Target::Module(up))
    }

    fn child(&self, module: &[String], name: &str) -> Option<Target<'a>> {
        let path: Words = [module, &[name.to_owned()]].concat();
        self.modules.get_key_value(&path[..]).map(|(path, _)| Target::Module(path))
    }
}

/// Sets of files each of which reaches each other of its set by arrows.
pub(crate) fn circles(arrows: &Arrows) -> Vec<BTreeSet<usize>> {
    let reached = |from: usize| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            let onward = arrows.keys().filter(|(from, _)| *from == at).map(|(_, to)| *to);
            next.extend(onward.filter(|to| reached.insert(*to)));
        }
        reached
    };
    let reach: BTreeMap<usize, BTreeSet<usize>> = arrows.keys().map(|(from, _)| (*from, reached(*from))).collect();
    let is_back = |from: usize, to: usize| reach.get(&to).is_some_and(|reached| reached.contains(&from));
    let circles =
        reach.iter().map(|(from, reached)| reached.iter().copied().filter(|to| is_back(*from, *to)).collect());
    circles.filter(|circle: &BTreeSet<usize>| !circle.is_empty()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Every circle, with its files and the names that tie them.
pub(crate) fn circle_faults(sources: &[Source]) -> Vec<String> {
    let arrows = Graph::new(sources).arrows();
    let shown = |circle: &BTreeSet<usize>| {
        let inside = arrows.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
        let lines: Vec<String> = inside.map(|(arrow, names)| draw(sources, *arrow, names)).collect();
        format!("{} files import each other in a circle:\n  {}", circle.len(), lines.join("\n  "))
    };
    circles(&arrows).iter().map(shown).collect()
}

/// An arrow as people read it.
pub(crate) fn draw(sources: &[Source], (from, to): (usize, usize), names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    format!("{} -> {}: {}", sources[from].name, sources[to].name, names.join(", "))
}

fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(name, text)| Source::new(name, text)).collect()
}

/// The arrows of `a.rs`, among files that others of it may name.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let sources = sources(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", text),
        ("b/mod.rs", "mod deep; pub use deep::{Deep, go as leave}; pub use crate::c::*; pub fn helper() {}"),
        ("b/deep.rs", "use std::fmt; pub struct Deep; pub fn go() {} pub enum Kind { A, B }"),
        (
            "c.rs",
            "pub mod generated { include_proto!(); } pub struct C; pub fn d() {} pub mod inner { pub struct Inner; }",
        ),
        (
            "d.rs",
            "pub use self::d as e; pub fn d() {} pub use tokio::sync::Notify; pub use crate::d::f; pub use crate::d::f as g;",
        ),
    ]);
    let arrows = Graph::new(&sources).arrows();
    let drawn: Vec<String> = arrows
        .iter()
        .filter(|((from, _), _)| sources[*from].name == "a.rs")
        .map(|(arrow, names)| draw(&sources, *arrow, names).replace("a.rs -> ", ""))
        .collect();
    assert_eq!(drawn, expected, "{text}");
}

#[test]
fn an_import_is_an_arrow_to_the_file_that_defines_the_name() {
    check("use crate::b::helper;", &["b/mod.rs: helper"]);
    check("use crate::b::Deep;", &["b/deep.rs: Deep"]);
    check("use crate::b::leave;", &["b/deep.rs: leave"]);
    check("use crate::b::C;", &["c.rs: C"]);
    check("use super::{b::{helper, Deep as D}, c::C};", &["b/mod.rs: helper", "b/deep.rs: Deep", "c.rs: C"]);
    check("use crate::c::inner::Inner;", &["c.rs: Inner"]);
    check("use crate::d::{e, Notify};", &["d.rs: Notify, e"]);
    check("fn f() { use crate::c::C; }", &["c.rs: C"]);
    check("use self::own::A; mod own { pub struct A; }", &[]);
    check("use std::fmt; use tokio::sync::Notify; use crate::d::{f, g};", &["d.rs: f, g"]);
    check("use crate::c::generated::{self, message::A}; fn f(b: generated::B) {}", &["c.rs: B, message"]);
}

#[test]
fn a_module_is_no_arrow_and_what_is_named_through_it_is() {
    check("use crate::b;", &[]);
    check("use crate::{b, c}; fn f() { c::d(); }", &["c.rs: d"]);
    check("use crate::b::{self as other, C}; fn f(d: &other::Deep) {}", &["b/deep.rs: Deep", "c.rs: C"]);
    check("use crate::b::*;", &["b/mod.rs: *"]);
    check("use crate::b::*; fn f() { inner::Inner::new(); }", &["b/mod.rs: *", "c.rs: Inner"]);
    check("use super::*; fn f() { c::d(); }", &["lib.rs: *", "c.rs: d"]);
    check("use crate::c::C; use C::*;", &["c.rs: C"]);
}

#[test]
fn a_path_in_place_is_an_arrow() {
    check("fn f(a: Option<&crate::c::C>) {}", &["c.rs: C"]);
    check("fn f() -> usize { crate::b::Deep::new(1).len() }", &["b/deep.rs: Deep"]);
    check("impl From<u8> for super::c::C {}", &["c.rs: C"]);
    check(
        "fn f() { assert!(matches!(x, Some(crate::c::C::A { .. })), \"{}\", super::b::helper()); }",
        &["b/mod.rs: helper", "c.rs: C"],
    );
    check("#[schema(schema_with = crate::c::d)] struct A;", &["c.rs: d"]);
    check(
        "#[derive(crate::c::C)] struct A { #[arg(parser = super::b::helper)] a: u8 }",
        &["b/mod.rs: helper", "c.rs: C"],
    );
    check("/// [`crate::c::C`]\npub(in crate::c) struct A(&'static str); const B: &str = \"crate::c::C\";", &[]);
}

#[test]
fn tests_are_left_out() {
    check("#[cfg(test)] mod tests { use crate::c::C; fn f() { crate::b::helper(); } }", &[]);
    check("#[cfg(all(unix, test))] use crate::c::C; #[test] fn f() { crate::b::helper(); }", &[]);
    check("struct A; impl A { #[cfg(test)] fn f() { crate::b::helper(); } }", &[]);
    check(
        "#[cfg(not(test))] use crate::c::C; #[cfg(any(test, unix))] fn f() { crate::b::helper(); }",
        &["b/mod.rs: helper", "c.rs: C"],
    );
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "#[cfg(test)] mod tests; pub struct A;"),
        ("b.rs", "use crate::a::A; pub struct B;"),
    ];
    assert_eq!(circle_faults(&sources(&[&files[..], &[("a/tests.rs", "use crate::b::B;")]].concat())), [""; 0]);
    assert_eq!(
        circle_faults(&sources(
            &[&files[..], &[("a/tests.rs", "mod more;"), ("a/tests/more.rs", "use crate::b::B;")]].concat()
        )),
        [""; 0]
    );
}

#[test]
fn a_circle_is_found_with_the_names_that_tie_it() {
    let files = |c: &'static str| {
        sources(&[
            ("lib.rs", "mod a; mod c;"),
            ("a/mod.rs", "mod b; pub use b::B; pub(crate) struct A;"),
            ("a/b.rs", "use crate::c::C; pub struct B(C);"),
            ("c.rs", c),
        ])
    };
    assert_eq!(circle_faults(&files("pub struct C;")), [""; 0]);
    let two = "2 files import each other in a circle:\n  a/b.rs -> c.rs: C\n  c.rs -> a/b.rs: B";
    assert_eq!(circle_faults(&files("use crate::a::B; pub struct C;")), [two]);
    let three =
        "3 files import each other in a circle:\n  a/mod.rs -> a/b.rs: B\n  a/b.rs -> c.rs: C\n  c.rs -> a/mod.rs: A";
    assert_eq!(circle_faults(&files("use super::a; pub struct C(a::A);")), [three]);
    let own_root = sources(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod b; use b::B; struct A;"),
        ("a/b.rs", "use super::A; pub struct B;"),
    ]);
    assert_eq!(circle_faults(&own_root).len(), 1);
    let apart = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::a::A; pub struct B;"),
    ];
    let more = [("c.rs", "use crate::{a::A, d::D}; pub struct C;"), ("d.rs", "use crate::c::C; pub struct D;")];
    assert_eq!(circle_faults(&sources(&[&apart[..], &more[..]].concat())).len(), 2);
}
