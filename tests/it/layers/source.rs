//! Reads the sources of the library as tokens, and finds what each module names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path of modules from the top of the library.
pub(super) type ModulePath = Vec<String>;

/// What the modules of the library name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Each module with the absolute paths that it names; what is behind the module in
    /// such a path is cut off.
    pub modules: BTreeMap<ModulePath, BTreeSet<ModulePath>>,
    /// By the first segment of any other path, the modules that have it. Libraries are
    /// among them.
    pub roots: BTreeMap<String, BTreeSet<ModulePath>>,
}

/// A module whose tokens are being read.
#[derive(Debug, Clone)]
struct Module {
    path: ModulePath,
    /// Where its submodules are.
    directory: PathBuf,
}

impl Named {
    /// What the library below `src` names, code for tests aside.
    pub(super) fn of_library(src: &Path) -> Self {
        let mut named = Self::default();
        named.read_file(src, &src.join("lib.rs"), Vec::new());
        let known: BTreeSet<ModulePath> = named.modules.keys().cloned().collect();
        for found in named.modules.values_mut() {
            *found = std::mem::take(found)
                .into_iter()
                .filter_map(|path| module_of(path, &known))
                .collect();
        }
        named
    }

    /// What one text names that is the module with this path. It has no files below it,
    /// and the paths are whole.
    pub(super) fn of_text(path: &[&str], text: &str) -> Self {
        let mut named = Self::default();
        let module = Module {
            directory: PathBuf::new(),
            path: path.iter().map(|&name| name.to_owned()).collect(),
        };
        named.read(&module, text.parse().unwrap());
        named
    }

    /// By module at the top and other module at the top, the modules that name it.
    pub(super) fn at_the_top(&self) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
        let mut top: BTreeMap<_, BTreeMap<_, BTreeSet<String>>> = BTreeMap::new();
        for (owner, named) in self.modules.iter().filter(|(owner, _)| !owner.is_empty()) {
            for path in named.iter().filter(|path| path[0] != owner[0]) {
                let named = top.entry(owner[0].clone()).or_default();
                named
                    .entry(path[0].clone())
                    .or_default()
                    .insert(owner.join("::"));
            }
        }
        top
    }

    /// Modules within one module that name each other, however long the way around;
    /// each circle once.
    pub(super) fn circles(&self) -> Vec<String> {
        let levels: BTreeSet<&[String]> = self
            .modules
            .keys()
            .filter_map(|path| path.split_last())
            .map(|(_, above)| above)
            .collect();
        levels
            .into_iter()
            .flat_map(|above| self.circles_within(above))
            .collect()
    }

    fn circles_within(&self, above: &[String]) -> Vec<String> {
        let depth = above.len();
        let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (owner, named) in &self.modules {
            let inside = |path: &ModulePath| path.len() > depth && path.starts_with(above);
            for path in named.iter().filter(|path| inside(owner) && inside(path)) {
                let (from, to) = (owner[depth].as_str(), path[depth].as_str());
                if from != to {
                    reached.entry(from).or_default().insert(to);
                }
            }
        }
        // Whatever is reached by way of others: at most as many steps as modules.
        for _ in 0..reached.len() {
            let direct = reached.clone();
            for named in reached.values_mut() {
                let more = named.iter().filter_map(|name| direct.get(name)).flatten();
                *named = named
                    .iter()
                    .copied()
                    .chain(more.copied().collect::<Vec<_>>())
                    .collect();
            }
        }
        let in_circles = reached.iter().filter(|(name, named)| named.contains(*name));
        let circles = in_circles.map(|(name, named)| {
            let back = named.iter().filter(|other| {
                reached
                    .get(*other)
                    .is_some_and(|named| named.contains(name))
            });
            format!(
                "{}: {}",
                above.join("::"),
                back.copied().collect::<Vec<_>>().join(", ")
            )
        });
        circles.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn read_file(&mut self, src: &Path, file: &Path, path: Vec<String>) {
        let text = std::fs::read_to_string(file).unwrap();
        let tokens = text.parse::<TokenStream>();
        let tokens = tokens.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let module = Module {
            directory: src.join(path.join("/")),
            path,
        };
        self.modules.entry(module.path.clone()).or_default();
        for below in self.read(&module, tokens) {
            let mut path = module.path.clone();
            path.push(below.clone());
            let file = module.directory.join(format!("{below}.rs"));
            self.read_file(src, &file, path);
        }
    }

    /// Reads the tokens of a module; returns the modules that have files of their own.
    fn read(&mut self, module: &Module, tokens: TokenStream) -> Vec<String> {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut below = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if is_for_tests(&tokens[at..]) {
                at += length_of_item(&tokens[at..]);
                continue;
            }
            match &tokens[at] {
                TokenTree::Ident(word) if *word == "mod" && is_punct(tokens.get(at + 2), ';') => {
                    below.push(tokens[at + 1].to_string());
                }
                TokenTree::Ident(word) if *word == "mod" && is_brace(tokens.get(at + 2)) => {
                    let mut inner = module.clone();
                    inner.path.push(tokens[at + 1].to_string());
                    let TokenTree::Group(body) = &tokens[at + 2] else {
                        unreachable!("it is a brace")
                    };
                    self.read(&inner, body.stream());
                    at += 3;
                    continue;
                }
                TokenTree::Ident(_) if begins_path(&tokens, at) => self.note(module, &tokens[at..]),
                TokenTree::Group(group) => below.extend(self.read(module, group.stream())),
                _ => {}
            }
            at += 1;
        }
        below
    }

    /// Notes where the path leads that begins here.
    fn note(&mut self, module: &Module, path: &[TokenTree]) {
        for path in paths(path) {
            let climbed = path.iter().take_while(|name| *name == "super").count();
            let kept = module.path.len().checked_sub(climbed);
            let absolute = match (path[0].as_str(), kept) {
                ("crate", _) => Some(path[1..].to_vec()),
                ("super", Some(kept)) => {
                    let above = module.path[..kept].iter();
                    Some(above.chain(&path[climbed..]).cloned().collect())
                }
                _ => None,
            };
            match absolute {
                Some(absolute) => self
                    .modules
                    .entry(module.path.clone())
                    .or_default()
                    .insert(absolute),
                None => self
                    .roots
                    .entry(path[0].clone())
                    .or_default()
                    .insert(module.path.clone()),
            };
        }
    }
}

/// The paths that begin here: several, if a group is at their end.
fn paths(tokens: &[TokenTree]) -> Vec<ModulePath> {
    match tokens.first() {
        Some(TokenTree::Ident(name)) => {
            let name = name.to_string();
            let after = after_colons(&tokens[1..]).map(paths).unwrap_or_default();
            if after.is_empty() {
                return vec![vec![name]];
            }
            let whole = after
                .into_iter()
                .map(|path| [vec![name.clone()], path].concat());
            whole.collect()
        }
        Some(TokenTree::Group(group)) => {
            let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
            let parts = tokens.split(|token| is_punct(Some(token), ','));
            parts.flat_map(paths).collect()
        }
        _ => Vec::new(),
    }
}

/// The module that a path leads into: the longest beginning of it that is one.
fn module_of(mut path: ModulePath, known: &BTreeSet<ModulePath>) -> Option<ModulePath> {
    while !path.is_empty() && !known.contains(&path) {
        path.pop();
    }
    (!path.is_empty()).then_some(path)
}

/// Whether a path of more than one segment, or what a `use` imports, begins at this
/// identifier.
fn begins_path(tokens: &[TokenTree], at: usize) -> bool {
    let follows_colons = at >= 3 && after_colons(&tokens[at - 2..]).is_some();
    let is_segment_after = follows_colons
        && match &tokens[at - 3] {
            TokenTree::Ident(_) => true,
            other => is_punct(Some(other), '>'),
        };
    let is_imported = at >= 1 && tokens[at - 1].to_string() == "use";
    !is_segment_after && (is_imported || after_colons(&tokens[at + 1..]).is_some())
}

fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    let are_colons = is_punct(tokens.first(), ':') && is_punct(tokens.get(1), ':');
    are_colons.then(|| &tokens[2..])
}

/// Whether an attribute begins here that leaves the item to tests: `#[cfg(test)]`.
fn is_for_tests(tokens: &[TokenTree]) -> bool {
    let Some(TokenTree::Group(attribute)) = tokens.get(1) else {
        return false;
    };
    let text = attribute.stream().to_string().replace(' ', "");
    is_punct(tokens.first(), '#') && (text == "cfg(test)" || text.starts_with("cfg(all(test"))
}

/// How many tokens the item takes that begins here: to its semicolon or its braces.
fn length_of_item(tokens: &[TokenTree]) -> usize {
    let end = tokens
        .iter()
        .position(|token| is_punct(Some(token), ';') || is_brace(Some(token)));
    end.map_or(tokens.len(), |end| end + 1)
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_brace(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace)
}
