//! Reads a Rust file into what the rules need: the modules it holds, the paths it names and some
//! facts about it.

use proc_macro2::{TokenStream, TokenTree};
use std::path::Path;
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, ItemUse, Macro, Meta, Token, UseTree};

/// A path of names, such as `["crate", "engine", "Handle"]`.
pub(crate) type Words = Vec<String>;

/// A file, named by its path below the directory that was read.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    /// The module that is the file, then those written in place.
    pub(crate) modules: Vec<Module>,
    /// Paths of the modules it declares for tests only, in files of their own.
    pub(crate) tests: Vec<Words>,
    pub(crate) references: Vec<Reference>,
    /// Whether there is a `cfg(feature = ..)` of any form.
    pub(crate) has_feature: bool,
    /// Whether anything is called `is_cpu`.
    pub(crate) has_is_cpu: bool,
}

/// A module and the names in its scope.
pub(crate) struct Module {
    /// Where it lies in the crate, outermost first.
    pub(crate) path: Words,
    pub(crate) names: Vec<(String, Definition)>,
    /// Paths of which everything is imported.
    pub(crate) globs: Vec<Words>,
}

/// What a name in a module stands for.
pub(crate) enum Definition {
    /// A type, function, constant, trait or macro that is defined there.
    Item,
    /// A module below it, in a file of its own or in place.
    Module,
    /// What the path of a `use` leads to.
    Import(Words),
}

/// A path that is named somewhere.
pub(crate) struct Reference {
    /// Index into the modules of the file.
    pub(crate) module: usize,
    pub(crate) words: Words,
    pub(crate) form: Form,
    pub(crate) in_test: bool,
}

/// Where a path stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In a `use`.
    Import,
    /// In a `use` that ends in `*`.
    Glob,
    /// In an expression, a type, a pattern, an attribute or the arguments of a macro.
    Inline,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let path = match name.trim_end_matches(".rs").trim_end_matches("/mod") {
            "lib" | "main" => Words::new(),
            path => path.split('/').map(str::to_owned).collect(),
        };
        let source = Self {
            name: name.to_owned(),
            text: text.to_owned(),
            modules: vec![Module::new(path)],
            tests: Vec::new(),
            references: Vec::new(),
            has_feature: false,
            has_is_cpu: false,
        };
        let mut reader = Reader { source, module: 0, in_test: false };
        reader.visit_file(&file);
        reader.source
    }

    /// Every Rust file below `root`.
    pub(crate) fn all(root: &Path) -> Vec<Self> {
        let mut files = Vec::new();
        find_files(root, root, "rs", &mut files);
        files.iter().map(|(name, text)| Self::new(name, text)).collect()
    }

    /// The module at the top of the crate that the file belongs to; of a root of the crate, its own
    /// name.
    pub(crate) fn top(&self) -> &str {
        self.modules[0].path.first().map_or(self.name.trim_end_matches(".rs"), String::as_str)
    }

    /// Whether it is the root of the library or of the program, which may import everything.
    pub(crate) fn is_root(&self) -> bool {
        ["lib.rs", "main.rs"].contains(&self.name.as_str())
    }

    /// A reference's path from the root of the crate, or as written if it starts with a name in
    /// scope.
    pub(crate) fn absolute<'a>(&'a self, reference: &'a Reference) -> Vec<&'a str> {
        let words: Vec<&str> = reference.words.iter().map(String::as_str).collect();
        let relative = words.iter().take_while(|word| ["self", "super"].contains(word)).count();
        if relative == 0 {
            return words;
        }
        let supers = words[..relative].iter().filter(|word| **word == "super").count();
        let module: Vec<&str> = self.modules[reference.module].path.iter().map(String::as_str).collect();
        [&["crate"], &module[..module.len().saturating_sub(supers)], &words[relative..]].concat()
    }
}

/// Adds name and text of every file below `dir` with this extension; build outputs and hidden
/// directories are left out.
pub(crate) fn find_files(dir: &Path, root: &Path, extension: &str, files: &mut Vec<(String, String)>) {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules"].contains(&&*name) {
                find_files(&path, root, extension, files);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

impl Module {
    const fn new(path: Words) -> Self {
        Self { path, names: Vec::new(), globs: Vec::new() }
    }
}

/// Walks the syntax tree of one file.
struct Reader {
    source: Source,
    /// Index of the module that is being read.
    module: usize,
    /// Whether what is being read is compiled for tests only.
    in_test: bool,
}

impl Reader {
    fn refer(&mut self, words: Words, form: Form) {
        let Self { module, in_test, .. } = *self;
        self.source.references.push(Reference { module, words, form, in_test });
    }

    /// A path in place. One name alone is in scope already: its import is what counts.
    fn refer_in_place(&mut self, words: Words) {
        if words.len() > 1 {
            self.refer(words, Form::Inline);
        }
    }

    fn define(&mut self, name: String, definition: Definition) {
        self.source.modules[self.module].names.push((name, definition));
    }

    /// Reads something that has attributes.
    fn read_below(&mut self, attributes: &[Attribute], read: impl FnOnce(&mut Self)) {
        let in_test = self.in_test;
        self.in_test |= attributes.iter().any(is_test);
        read(self);
        self.in_test = in_test;
    }

    /// Takes apart a `use`: one reference and one name for each of its leaves.
    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let joined = |name: &syn::Ident| [before, &[plain(name)]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &joined(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before)),
            UseTree::Glob(_) => {
                self.source.modules[self.module].globs.push(before.to_vec());
                self.refer(before.to_vec(), Form::Glob);
            }
            UseTree::Name(name) if name.ident == "self" => self.import_as(before.to_vec(), before.last().cloned()),
            UseTree::Name(name) => self.import_as(joined(&name.ident), Some(plain(&name.ident))),
            UseTree::Rename(renamed) if renamed.ident == "self" => {
                self.import_as(before.to_vec(), Some(plain(&renamed.rename)));
            }
            UseTree::Rename(renamed) => self.import_as(joined(&renamed.ident), Some(plain(&renamed.rename))),
        }
    }

    fn import_as(&mut self, words: Words, name: Option<String>) {
        self.define(name.unwrap_or_default(), Definition::Import(words.clone()));
        self.refer(words, Form::Import);
    }

    /// Finds paths, and what the rules ask about, among tokens whose meaning is a macro's or an
    /// attribute's.
    fn scan(&mut self, tokens: TokenStream) {
        let (mut words, mut colons, mut is_cfg) = (Words::new(), 0, false);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    self.visit_ident(&ident);
                    is_cfg = ident == "cfg";
                    if colons != 2 {
                        self.refer_in_place(std::mem::take(&mut words));
                    }
                    words.push(plain(&ident));
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Punct(punct) => {
                    is_cfg &= punct.as_char() == '!';
                    self.refer_in_place(std::mem::take(&mut words));
                    colons = 0;
                }
                TokenTree::Group(group) => {
                    self.refer_in_place(std::mem::take(&mut words));
                    self.source.has_feature |= is_cfg && has_feature(group.stream());
                    self.scan(group.stream());
                    (colons, is_cfg) = (0, false);
                }
                TokenTree::Literal(_) => {
                    self.refer_in_place(std::mem::take(&mut words));
                    (colons, is_cfg) = (0, false);
                }
            }
        }
        self.refer_in_place(words);
    }
}

impl Visit<'_> for Reader {
    fn visit_item(&mut self, item: &Item) {
        self.read_below(attributes(item), |reader| {
            let name = match item {
                Item::Const(item) => Some(&item.ident),
                Item::Enum(item) => Some(&item.ident),
                Item::Fn(item) => Some(&item.sig.ident),
                Item::Macro(item) => item.ident.as_ref(),
                Item::Static(item) => Some(&item.ident),
                Item::Struct(item) => Some(&item.ident),
                Item::Trait(item) => Some(&item.ident),
                Item::Type(item) => Some(&item.ident),
                Item::Union(item) => Some(&item.ident),
                _ => None,
            };
            if let Some(name) = name {
                reader.define(plain(name), Definition::Item);
            }
            visit::visit_item(reader, item);
        });
    }

    fn visit_impl_item(&mut self, item: &ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        self.read_below(attributes, |reader| visit::visit_impl_item(reader, item));
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        let name = plain(&item.ident);
        let path = [&self.source.modules[self.module].path[..], std::slice::from_ref(&name)].concat();
        self.define(name, Definition::Module);
        if let Some((_, items)) = &item.content {
            self.source.modules.push(Module::new(path));
            let outer = std::mem::replace(&mut self.module, self.source.modules.len() - 1);
            items.iter().for_each(|item| self.visit_item(item));
            self.module = outer;
        } else if self.in_test {
            self.source.tests.push(path);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.refer_in_place(path.segments.iter().map(|segment| plain(&segment.ident)).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &Macro) {
        self.visit_path(&called.path);
        self.source.has_feature |= called.path.is_ident("cfg") && has_feature(called.tokens.clone());
        self.scan(called.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        let is_cfg = ["cfg", "cfg_attr"].iter().any(|name| attribute.path().is_ident(name));
        match &attribute.meta {
            Meta::List(list) => {
                self.visit_path(&list.path);
                self.source.has_feature |= is_cfg && has_feature(list.tokens.clone());
                self.scan(list.tokens.clone());
            }
            meta => visit::visit_meta(self, meta),
        }
    }

    /// `pub(in crate::engine)` names a module without a need of it.
    fn visit_visibility(&mut self, _: &syn::Visibility) {}

    fn visit_ident(&mut self, ident: &syn::Ident) {
        self.source.has_is_cpu |= ident == "is_cpu";
    }
}

/// A name as it is imported, without `r#`.
fn plain(ident: &syn::Ident) -> String {
    ident.unraw().to_string()
}

fn has_feature(tokens: TokenStream) -> bool {
    let mut after_name = false;
    tokens.into_iter().any(|token| {
        let is_value = after_name && matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '=');
        after_name = matches!(&token, TokenTree::Ident(ident) if ident == "feature");
        is_value || matches!(token, TokenTree::Group(group) if has_feature(group.stream()))
    })
}

/// Whether what has this attribute is compiled for tests only.
fn is_test(attribute: &Attribute) -> bool {
    let is_cfg = attribute.path().is_ident("cfg");
    attribute.path().is_ident("test") || (is_cfg && attribute.parse_args().is_ok_and(|meta| needs_test(&meta)))
}

fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => {
            let all = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
            all.is_ok_and(|all| all.iter().any(needs_test))
        }
        Meta::List(_) | Meta::NameValue(_) => false,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
