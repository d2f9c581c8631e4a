//! What the modules of a crate import, read from their sources by `syn`: `use` trees, paths in expressions, types,
//! patterns and attributes, and what macros are given and made of.
//!
//! It reads; it does not compile. What only a compiler knows (names that a glob or another crate's macro brings) it
//! does not see.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Sources by their paths, `/` between the parts.
pub type Files = BTreeMap<String, String>;
/// A module or an item, from the crate's root: no part is the root itself.
pub type Place = Vec<String>;

/// One mention of a place of this crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    pub file: String,
    pub line: usize,
    /// The module it is in.
    pub from: Place,
    pub to: Place,
    /// All that is there (`::*`).
    pub glob: bool,
    /// Compiled for tests only.
    pub test: bool,
    /// By a name that a `use` of the same module has brought: that is an import of its own.
    pub by_name: bool,
    /// Passed on (`pub use`).
    pub passed_on: bool,
}

#[derive(Debug, Default)]
pub struct Module {
    pub file: String,
    pub test: bool,
    /// Names that `use` brings, and what they stand for.
    names: BTreeMap<String, Place>,
    children: BTreeSet<String>,
}

/// The modules below one root file.
#[derive(Debug, Default)]
pub struct Crate {
    pub modules: BTreeMap<Place, Module>,
    pub imports: Vec<Import>,
}

impl Crate {
    /// Reads `root`, `src/lib.rs` for one, and every module below it. Other crates call it `name`.
    ///
    /// # Panics
    /// A file that does not parse, or is declared and is not there.
    pub fn read(files: &Files, root: &str, name: &str) -> Crate {
        let mut krate = Crate::default();
        let mut mentions = Vec::new();
        let mut waiting =
            vec![Waiting { file: root.to_owned(), module: Place::new(), test: false, like_mod: true }];
        while let Some(Waiting { file, module, test, like_mod }) = waiting.pop() {
            let text = files.get(&file).unwrap_or_else(|| panic!("{file} is declared, and is not there"));
            let parsed = syn::parse_file(text).unwrap_or_else(|error| {
                panic!("{file}:{}: {error}", error.span().start().line);
            });
            let mut reader = Reader {
                name,
                files,
                folder: if like_mod { parent(&file) } else { file.trim_end_matches(".rs") }.to_owned(),
                file,
                module: module.clone(),
                test,
                passed_on: false,
                krate: &mut krate,
                mentions: &mut mentions,
                waiting: &mut waiting,
            };
            reader.enter(module);
            reader.visit_file(&parsed);
        }
        for mention in mentions {
            krate.imports.extend(krate.resolved(mention));
        }
        krate.imports.sort();
        krate.imports.dedup();
        krate
    }

    /// The module in which `place` is defined: re-exports are followed, to their end.
    pub fn home(&self, place: &[String]) -> Place {
        let (mut module, mut rest) = (Place::new(), place.to_vec());
        for _ in 0..MANY {
            let Some(known) = self.modules.get(&module) else { break };
            let Some(first) = rest.first().cloned() else { break };
            if known.children.contains(&first) {
                module.push(first);
                rest.remove(0);
            } else if let Some(target) = known.names.get(&first) {
                rest.splice(..1, target.iter().cloned());
                module.clear();
            } else {
                break;
            }
        }
        module
    }

    /// What a path in a module means, if that is a place of this crate.
    fn resolved(&self, mention: Mention) -> Option<Import> {
        let Mention { file, line, module, path, glob, test, passed_on } = mention;
        let first = path.first()?;
        let known = &self.modules[&module];
        let (to, by_name) = match first.as_str() {
            "crate" | "self" | "super" => (absolute(&module, &path), false),
            child if known.children.contains(child) => ([&module[..], &path].concat(), false),
            name => {
                let target = known.names.get(name)?;
                ([target, &path[1..]].concat(), !target.is_empty())
            }
        };
        Some(Import { file, line, from: module, to, glob, test, by_name, passed_on })
    }
}

/// More steps than re-exports have.
const MANY: usize = 100;

/// A path as it is written.
struct Mention {
    file: String,
    line: usize,
    module: Place,
    path: Vec<String>,
    glob: bool,
    test: bool,
    passed_on: bool,
}

/// A module's file that has not been read.
struct Waiting {
    file: String,
    module: Place,
    test: bool,
    /// Its children are beside it, as those of a `mod.rs` are.
    like_mod: bool,
}

struct Reader<'a> {
    name: &'a str,
    files: &'a Files,
    file: String,
    /// Where the files of this module's children are.
    folder: String,
    module: Place,
    test: bool,
    passed_on: bool,
    krate: &'a mut Crate,
    mentions: &'a mut Vec<Mention>,
    waiting: &'a mut Vec<Waiting>,
}

impl Reader<'_> {
    fn enter(&mut self, module: Place) {
        let known = self.krate.modules.entry(module).or_default();
        known.file.clone_from(&self.file);
        known.test = self.test;
    }

    fn mention(&mut self, mut path: Vec<String>, glob: bool, line: usize) {
        if path.first().is_some_and(|first| first == self.name) {
            "crate".clone_into(&mut path[0]);
        }
        let (file, module) = (self.file.clone(), self.module.clone());
        let (test, passed_on) = (self.test, self.passed_on);
        self.mentions.push(Mention { file, line, module, path, glob, test, passed_on });
    }

    /// A `use` makes a name of this module; a renamed root, as in `use crate as root`, too.
    fn bring(&mut self, path: &[String], name: &str) {
        let ours = path.first().is_some_and(|first| {
            ["crate", "self", "super", self.name].contains(&first.as_str())
                || self.krate.modules[&self.module].children.contains(first)
        });
        if ours && name != "_" {
            let target = if self.krate.modules[&self.module].children.contains(&path[0]) {
                [&self.module[..], path].concat()
            } else {
                absolute(&self.module, path)
            };
            // A name may stand for a type, a value and a macro; a module is what is looked for.
            let known = self.krate.modules.get_mut(&self.module).expect("entered");
            known.names.entry(name.to_owned()).or_insert(target);
        }
    }

    fn tree(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        match tree {
            syn::UseTree::Path(tree) => {
                let prefix = [prefix, &[tree.ident.to_string()]].concat();
                self.tree(&tree.tree, &prefix);
            }
            syn::UseTree::Group(tree) => tree.items.iter().for_each(|item| self.tree(item, prefix)),
            syn::UseTree::Glob(tree) => {
                self.mention(prefix.to_vec(), true, tree.star_token.spans[0].start().line)
            }
            syn::UseTree::Name(tree) => self.leaf(prefix, &tree.ident, None),
            syn::UseTree::Rename(tree) => self.leaf(prefix, &tree.ident, Some(&tree.rename)),
        }
    }

    fn leaf(&mut self, prefix: &[String], ident: &syn::Ident, renamed: Option<&syn::Ident>) {
        // `{self}` is what the prefix says.
        let itself = ident == "self" && !prefix.is_empty();
        let path = if itself { prefix.to_vec() } else { [prefix, &[ident.to_string()]].concat() };
        let name = renamed.map_or_else(|| path[path.len() - 1].clone(), syn::Ident::to_string);
        self.bring(&path, &name);
        self.mention(path, false, ident.span().start().line);
    }

    /// Paths in tokens that are not parsed: from `crate`, `$crate`, `super` or the crate's name on, with what braces add.
    fn tokens(&mut self, tokens: TokenStream, literals: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Ident(ident) if is_root(&ident.to_string(), self.name) => {
                    let after = at >= 2 && is_colon(tokens.get(at - 2));
                    if !after {
                        at = self.path_in_tokens(&tokens, at - 1, &[]);
                    }
                }
                TokenTree::Group(group) => self.tokens(group.stream(), literals),
                TokenTree::Literal(literal) if literals => {
                    let text = literal.to_string();
                    let text = text.trim_matches('"');
                    let path: Vec<String> = text.split("::").map(str::to_owned).collect();
                    if path.len() > 1 && is_root(&path[0], self.name) {
                        self.mention(path, false, literal.span().start().line);
                    }
                }
                _ => {}
            }
        }
    }

    /// One path that begins at `at`, or one item of a group; where it ends.
    fn path_in_tokens(&mut self, tokens: &[TokenTree], mut at: usize, prefix: &[String]) -> usize {
        let (mut path, mut line) = (prefix.to_vec(), 0);
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(ident)) => {
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    let mut start = 0;
                    while start < inner.len() {
                        start = self.path_in_tokens(&inner, start, &path);
                        while start < inner.len() && !is_comma(&inner[start]) {
                            start += 1;
                        }
                        start += 1;
                    }
                    return at + 1;
                }
                Some(TokenTree::Punct(star)) if star.as_char() == '*' && line > 0 => {
                    self.mention(path, true, line);
                    return at + 1;
                }
                _ => return at,
            }
            at += 1;
            if !(is_colon(tokens.get(at)) && is_colon(tokens.get(at + 1))) {
                if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                    path.pop();
                }
                self.mention(path, false, line);
                return at;
            }
            at += 2;
        }
    }

    /// `visit`, as test code if the attributes say so.
    fn with(&mut self, attributes: &[syn::Attribute], visit: impl FnOnce(&mut Self)) {
        let before = self.test;
        self.test |= attributes.iter().any(is_for_tests);
        visit(self);
        self.test = before;
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_file(&mut self, file: &'ast syn::File) {
        self.test |= file.attrs.iter().any(is_for_tests);
        self.declare(&file.items);
        visit::visit_file(self, file);
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        self.with(attributes(item), |reader| visit::visit_item(reader, item));
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs[..],
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        self.with(attributes, |reader| visit::visit_impl_item(reader, item));
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.with(&field.attrs, |reader| visit::visit_field(reader, field));
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        self.with(&local.attrs, |reader| visit::visit_local(reader, local));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let module = [&self.module[..], std::slice::from_ref(&name)].concat();
        let Some((_, items)) = &item.content else {
            let file = format!("{}/{name}.rs", self.folder);
            let in_folder = format!("{}/{name}/mod.rs", self.folder);
            let (file, like_mod) = match path_attribute(&item.attrs) {
                Some(path) => (beside(&self.file, &path), true),
                None if self.files.contains_key(&in_folder) => (in_folder, true),
                None => (file, false),
            };
            self.waiting.push(Waiting { file, module, test: self.test, like_mod });
            return;
        };
        let outer = std::mem::replace(&mut self.module, module.clone());
        let inner = format!("{}/{name}", self.folder);
        let folder = std::mem::replace(&mut self.folder, inner);
        self.enter(module);
        self.declare(items);
        items.iter().for_each(|item| self.visit_item(item));
        self.module = outer;
        self.folder = folder;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.passed_on = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &[]);
        self.passed_on = false;
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.mention(parts, false, path.segments[0].ident.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        match &attribute.meta {
            syn::Meta::Path(path) => self.visit_path(path),
            // serde and others take paths as texts.
            syn::Meta::List(list) => {
                self.visit_path(&list.path);
                self.tokens(list.tokens.clone(), true);
            }
            syn::Meta::NameValue(_) => {}
        }
    }

    // Who may see something is no import.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

impl Reader<'_> {
    /// The children of the module, before any path in it is looked at.
    fn declare(&mut self, items: &[syn::Item]) {
        let children = items.iter().filter_map(|item| match item {
            syn::Item::Mod(item) => Some(item.ident.to_string()),
            _ => None,
        });
        self.krate.modules.get_mut(&self.module).expect("entered").children.extend(children);
    }
}

/// A path from the crate's root, when it is written from `module` on.
fn absolute(module: &[String], path: &[String]) -> Place {
    let mut place = module.to_vec();
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => place.clear(),
            "super" => drop(place.pop()),
            "self" => {}
            _ => break,
        }
        rest = after;
    }
    place.extend_from_slice(rest);
    place
}

fn is_root(ident: &str, name: &str) -> bool {
    ident == "crate" || ident == "super" || ident == name
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

fn is_comma(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')
}

fn parent(file: &str) -> &str {
    file.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

/// The file at `path`, as it is written in `file`.
fn beside(file: &str, path: &str) -> String {
    let mut parts: Vec<&str> = parent(file).split('/').collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("path")).find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
        Some(text.value())
    })
}

/// Whether this is a `#[cfg(…)]` that only a test build fulfils.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    fn needs_test(meta: &syn::Meta) -> bool {
        let parts = |list: &syn::MetaList| {
            let parse = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(parse).map(|parts| parts.into_iter().collect::<Vec<_>>()).unwrap_or_default()
        };
        match meta {
            syn::Meta::Path(path) => path.is_ident("test"),
            syn::Meta::List(list) if list.path.is_ident("all") => parts(list).iter().any(needs_test),
            syn::Meta::List(list) if list.path.is_ident("any") => {
                let parts = parts(list);
                !parts.is_empty() && parts.iter().all(needs_test)
            }
            _ => false,
        }
    }
    let syn::Meta::List(list) = &attribute.meta else { return false };
    list.path.is_ident("cfg") && list.parse_args::<syn::Meta>().is_ok_and(|meta| needs_test(&meta))
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::TraitAlias(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Every Rust file in this folder of the tree.
pub fn files(folder: &str) -> Files {
    fn collect(root: &std::path::Path, folder: &std::path::Path, files: &mut Files) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("node_modules") {
                continue;
            }
            if path.is_dir() {
                collect(root, &path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Files::new();
    collect(root, &root.join(folder), &mut files);
    files
}
