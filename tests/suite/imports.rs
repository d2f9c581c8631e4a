//! What the modules of a crate import, read from their sources by `syn`: `use` trees, paths in expressions, types,
//! patterns and attributes, and what macros are given and made of.
//!
//! It reads; it does not compile. What only a compiler knows (names that a glob or another crate's macro brings) it
//! does not see. What it could misread is unclear instead: a renamed root, macros that leave their module, other files'
//! text.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::ext::IdentExt;
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

/// What cannot be read for sure, and can be written otherwise.
#[derive(Debug)]
pub struct Unclear {
    pub file: String,
    pub line: usize,
    pub from: Place,
    pub what: &'static str,
}

#[derive(Debug, Default)]
pub struct Module {
    pub file: String,
    pub test: bool,
    /// Names that `use` brings, and what they stand for.
    names: BTreeMap<String, BTreeSet<Place>>,
    children: BTreeSet<String>,
}

/// The modules below one root file.
#[derive(Debug, Default)]
pub struct Crate {
    pub modules: BTreeMap<Place, Module>,
    pub imports: Vec<Import>,
    pub unclear: Vec<Unclear>,
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

    /// The modules in which `place` is defined: re-exports are followed, to their end.
    pub fn homes(&self, place: &[String]) -> BTreeSet<Place> {
        let (mut homes, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut waiting = vec![(Place::new(), place.to_vec())];
        while let Some((module, rest)) = waiting.pop() {
            if rest.len() > MANY || !seen.insert((module.clone(), rest.clone())) {
                continue;
            }
            let (known, first) = (self.modules.get(&module), rest.first());
            match known.zip(first) {
                Some((known, first)) if known.children.contains(first) => {
                    waiting.push(([&module[..], &rest[..1]].concat(), rest[1..].to_vec()));
                }
                Some((known, first)) if known.names.contains_key(first) => {
                    let targets = known.names[first].iter();
                    waiting.extend(targets.map(|target| (Place::new(), [target, &rest[1..]].concat())));
                }
                _ => drop(homes.insert(module)),
            }
        }
        homes
    }

    /// What a path in a module may mean, as far as that is places of this crate.
    fn resolved(&self, mention: Mention) -> Vec<Import> {
        let Mention { file, line, module, path, glob, test, passed_on } = mention;
        let Some(first) = path.first() else { return Vec::new() };
        let known = &self.modules[&module];
        let meant = match first.as_str() {
            "crate" | "self" | "super" => vec![(absolute(&module, &path), false)],
            child if known.children.contains(child) => vec![([&module[..], &path].concat(), false)],
            name => {
                let targets = known.names.get(name).into_iter().flatten();
                targets.map(|target| ([target, &path[1..]].concat(), !target.is_empty())).collect()
            }
        };
        let import = |(to, by_name)| {
            let (file, from) = (file.clone(), module.clone());
            Import { file, line, from, to, glob, test, by_name, passed_on }
        };
        meant.into_iter().map(import).collect()
    }
}

/// More parts than a path has.
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

    fn unclear(&mut self, line: usize, what: &'static str) {
        let (file, from) = (self.file.clone(), self.module.clone());
        self.krate.unclear.push(Unclear { file, line, from, what });
    }

    fn mention(&mut self, mut path: Vec<String>, glob: bool, line: usize) {
        if path.first().is_some_and(|first| first == self.name) {
            "crate".clone_into(&mut path[0]);
        }
        let (file, module) = (self.file.clone(), self.module.clone());
        let (test, passed_on) = (self.test, self.passed_on);
        self.mentions.push(Mention { file, line, module, path, glob, test, passed_on });
    }

    /// A `use` makes a name of this module.
    fn bring(&mut self, path: &[String], name: &str) {
        let known = self.krate.modules.get_mut(&self.module).expect("entered");
        let target = if known.children.contains(&path[0]) {
            [&self.module[..], path].concat()
        } else if path[0] == self.name {
            path[1..].to_vec()
        } else if ["crate", "self", "super"].contains(&path[0].as_str()) {
            absolute(&self.module, path)
        } else {
            return;
        };
        // A name may stand for a type, a value and a macro, and in each function for another module.
        known.names.entry(name.to_owned()).or_default().insert(target);
    }

    fn tree(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        match tree {
            syn::UseTree::Path(tree) => {
                let prefix = [prefix, &[word(&tree.ident)]].concat();
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
        let path = if itself { prefix.to_vec() } else { [prefix, &[word(ident)]].concat() };
        let name = renamed.map_or_else(|| path[path.len() - 1].clone(), word);
        let line = ident.span().start().line;
        let all_roots = path.iter().all(|part| is_root(part, self.name));
        if all_roots && (path[0] == self.name || absolute(&self.module, &path).is_empty()) {
            self.unclear(line, "the root has a second name");
        }
        self.bring(&path, &name);
        self.mention(path, false, line);
    }

    /// Paths in tokens that are not parsed: from `crate`, `$crate`, `self`, `super` or the crate's name on, with what
    /// braces add.
    fn tokens(&mut self, tokens: TokenStream, literals: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Ident(ident) if is_root(&word(ident), self.name) => {
                    if !literals && ident != "self" && !is_punct(tokens.get(at), ':') {
                        self.unclear(ident.span().start().line, HANDED);
                    }
                    at = self.path_in_tokens(&tokens, at - 1, &[]);
                }
                TokenTree::Ident(ident) if ident == "macro_export" || ident == "macro_use" => {
                    self.unclear(ident.span().start().line, MACROS);
                }
                TokenTree::Ident(ident) if ident == "include" && is_punct(tokens.get(at), '!') => {
                    self.unclear(ident.span().start().line, INCLUDED);
                }
                TokenTree::Group(_) if is_visibility(&tokens[..at]) => {}
                TokenTree::Group(group) => self.tokens(group.stream(), literals),
                TokenTree::Literal(literal) if literals => {
                    if let syn::Lit::Str(text) = syn::Lit::new(literal.clone())
                        && let Ok(tokens) = text.parse()
                    {
                        self.tokens(tokens, true);
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
                    path.push(word(ident));
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    let mut start = 0;
                    while start < inner.len() {
                        start = self.path_in_tokens(&inner, start, &path);
                        while start < inner.len() && !is_punct(inner.get(start), ',') {
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
                Some(TokenTree::Punct(dollar)) if dollar.as_char() == '$' => {
                    let line = dollar.span().start().line;
                    if path.iter().all(|part| is_root(part, self.name)) {
                        self.unclear(line, HANDED);
                    }
                    self.mention(path, false, line);
                    return at + 1;
                }
                _ => return at,
            }
            at += 1;
            if !(is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')) {
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
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        let name = word(&item.ident);
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
        let parts = path.segments.iter().map(|part| word(&part.ident)).collect();
        self.mention(parts, false, path.segments[0].ident.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if is_root(&word(&item.ident), self.name) {
            self.unclear(item.ident.span().start().line, "the root has a second name");
        }
        visit::visit_item_extern_crate(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        if let Some(last) = item.path.segments.last().filter(|last| last.ident == "include") {
            self.unclear(last.ident.span().start().line, INCLUDED);
        }
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        if ["macro_export", "macro_use"].iter().any(|name| attribute.path().is_ident(name)) {
            self.unclear(attribute.pound_token.span.start().line, MACROS);
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
            syn::Item::Mod(item) => Some(word(&item.ident)),
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
    ["crate", "self", "super", name].contains(&ident)
}

fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

/// Whether they end in `pub(crate)` or the like: who may see something is no import.
fn is_visibility(tokens: &[TokenTree]) -> bool {
    let [.., TokenTree::Ident(public), TokenTree::Group(group)] = tokens else { return false };
    let within: Vec<TokenTree> = group.stream().into_iter().collect();
    public == "pub" && matches!(within[..], [TokenTree::Ident(_)])
}

/// What an identifier says, raw or not.
fn word(ident: &syn::Ident) -> String {
    ident.unraw().to_string()
}

const MACROS: &str = "a macro that leaves its module by more than its path";
const HANDED: &str = "a macro is told which room";
const INCLUDED: &str = "what is included is not read";

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
