//! One Rust file as the checks see it: its tokens without comments and test code, each with its line.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::spanned::Spanned as _;
use syn::visit_mut::{VisitMut, visit_file_mut, visit_item_impl_mut, visit_item_mod_mut};

/// A token. Literals keep their quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Ident(String),
    Literal(String),
    Punct(char),
    Open(char),
    Close(char),
}

impl Token {
    pub(super) fn is_ident(&self, name: &str) -> bool {
        matches!(self, Self::Ident(ident) if ident == name)
    }
}

/// A path such as `crate::api::Api`, from a `use` or from the code.
#[derive(Debug, Clone)]
pub(super) struct PathAt {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

/// A method of a trait that has a body of its own.
#[derive(Debug, Clone)]
pub(super) struct DefaultMethod {
    pub(super) name: String,
    pub(super) line: usize,
}

/// What was read of a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Parsed {
    pub(super) tokens: Vec<(Token, usize)>,
    pub(super) paths: Vec<PathAt>,
    pub(super) default_methods: Vec<DefaultMethod>,
    /// Modules that are declared here and are not tests.
    pub(super) modules: Vec<String>,
    /// Variants of enums, by the enum's name.
    pub(super) variants: Vec<(String, String, usize)>,
    /// Functions: name, first line, lines.
    pub(super) functions: Vec<(String, usize, usize)>,
    /// Lines that are neither comments nor test code.
    pub(super) lines: usize,
}

/// Takes test code out, wherever it stands, and notes the lines that it had.
#[derive(Default)]
struct WithoutTests {
    removed: Vec<(usize, usize)>,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg") && attribute.meta.to_token_stream().to_string().replace(' ', "") == "cfg(test)")
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(it) => &it.attrs,
        syn::Item::Enum(it) => &it.attrs,
        syn::Item::Fn(it) => &it.attrs,
        syn::Item::Impl(it) => &it.attrs,
        syn::Item::Macro(it) => &it.attrs,
        syn::Item::Mod(it) => &it.attrs,
        syn::Item::Static(it) => &it.attrs,
        syn::Item::Struct(it) => &it.attrs,
        syn::Item::Trait(it) => &it.attrs,
        syn::Item::Type(it) => &it.attrs,
        syn::Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

impl WithoutTests {
    fn items(&mut self, items: &mut Vec<syn::Item>) {
        items.retain(|item| {
            let test = is_test(attributes(item));
            if test {
                self.removed.push((item.span().start().line, item.span().end().line));
            }
            !test
        });
    }
}

impl VisitMut for WithoutTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        self.items(&mut file.items);
        visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            self.items(items);
        }
        visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| {
            let attributes = match item {
                syn::ImplItem::Fn(it) => &it.attrs[..],
                syn::ImplItem::Const(it) => &it.attrs[..],
                _ => &[],
            };
            let test = is_test(attributes);
            if test {
                self.removed.push((item.span().start().line, item.span().end().line));
            }
            !test
        });
        visit_item_impl_mut(self, block);
    }
}

/// Reads a file.
pub(super) fn parse(name: &str, text: &str) -> Parsed {
    let mut file = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut without = WithoutTests::default();
    without.visit_file_mut(&mut file);
    let mut tokens = Vec::new();
    for item in &file.items {
        flatten(item.to_token_stream(), &mut tokens);
    }
    let in_tests = |line: usize| without.removed.iter().any(|(first, last)| (*first..=*last).contains(&line));
    let is_code = |(at, line): &(usize, &str)| !in_tests(at + 1) && !line.trim_start().starts_with("//");
    let mut parsed = Parsed { paths: paths(&tokens), lines: text.lines().enumerate().filter(is_code).count(), tokens, ..Parsed::default() };
    declarations(&file.items, &mut parsed);
    parsed
}

fn declarations(items: &[syn::Item], parsed: &mut Parsed) {
    for item in items {
        match item {
            syn::Item::Mod(module) => match &module.content {
                Some((_, items)) => declarations(items, parsed),
                None => parsed.modules.push(module.ident.to_string()),
            },
            syn::Item::Enum(it) => {
                parsed.variants.extend(it.variants.iter().map(|variant| (it.ident.to_string(), variant.ident.to_string(), variant.span().start().line)));
            }
            syn::Item::Trait(it) => {
                for method in &it.items {
                    match method {
                        syn::TraitItem::Fn(method) if method.default.is_some() => {
                            parsed.default_methods.push(DefaultMethod { name: method.sig.ident.to_string(), line: method.span().start().line });
                        }
                        _ => {}
                    }
                }
            }
            syn::Item::Fn(it) => parsed.functions.push(function(&it.sig, &it.block)),
            syn::Item::Impl(it) => {
                for item in &it.items {
                    if let syn::ImplItem::Fn(method) = item {
                        parsed.functions.push(function(&method.sig, &method.block));
                    }
                }
            }
            _ => {}
        }
    }
}

fn function(signature: &syn::Signature, block: &syn::Block) -> (String, usize, usize) {
    let (first, last) = (signature.span().start().line, block.span().end().line);
    (signature.ident.to_string(), first, last - first + 1)
}

fn flatten(stream: TokenStream, tokens: &mut Vec<(Token, usize)>) {
    let mut rest = stream.into_iter().peekable();
    while let Some(tree) = rest.next() {
        let line = tree.span().start().line;
        match tree {
            // A doc comment is an attribute by now.
            TokenTree::Punct(punct) if punct.as_char() == '#' && rest.peek().is_some_and(is_doc) => drop(rest.next()),
            TokenTree::Punct(punct) => tokens.push((Token::Punct(punct.as_char()), line)),
            TokenTree::Ident(ident) => tokens.push((Token::Ident(ident.to_string()), line)),
            TokenTree::Literal(literal) => tokens.push((Token::Literal(literal.to_string()), line)),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ('(', ')'),
                    Delimiter::Brace => ('{', '}'),
                    Delimiter::Bracket => ('[', ']'),
                    Delimiter::None => (' ', ' '),
                };
                tokens.push((Token::Open(open), line));
                flatten(group.stream(), tokens);
                tokens.push((Token::Close(close), group.span_close().start().line));
            }
        }
    }
}

fn is_doc(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group) if group.stream().into_iter().next().is_some_and(|first| first.to_string() == "doc"))
}

/// Every path, those of `use` with their braces taken apart.
fn paths(tokens: &[(Token, usize)]) -> Vec<PathAt> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let after_path = at >= 1 && matches!(tokens[at - 1].0, Token::Punct('.' | ':'));
        if matches!(tokens[at].0, Token::Ident(_)) && !after_path {
            at = path(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads a path that begins at `at`, below `prefix`; returns where it ends.
fn path(tokens: &[(Token, usize)], mut at: usize, prefix: &[String], found: &mut Vec<PathAt>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens[at].1;
    while let Some((Token::Ident(ident), _)) = tokens.get(at) {
        segments.push(ident.clone());
        at += 1;
        if !matches!((tokens.get(at), tokens.get(at + 1)), (Some((Token::Punct(':'), _)), Some((Token::Punct(':'), _)))) {
            break;
        }
        at += 2;
        if matches!(tokens.get(at), Some((Token::Open('{'), _))) {
            at += 1;
            while !matches!(tokens.get(at), Some((Token::Close('}'), _)) | None) {
                at = if matches!(tokens[at].0, Token::Ident(_)) { path(tokens, at, &segments, found) } else { at + 1 };
                // A name of its own, as in `a as b`, is no path.
                if tokens.get(at).is_some_and(|(token, _)| token.is_ident("as")) {
                    at += 2;
                }
            }
            return at + 1;
        }
    }
    if segments.len() > 1 {
        found.push(PathAt { segments, line });
    }
    at
}
