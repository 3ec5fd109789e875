//! Regular expressions: each is compiled to a deterministic automaton, so that a comparison takes one step for each byte, and the steps of a request
//! are counted.

use std::cell::Cell;
use std::sync::OnceLock;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::{Anchored, util::start};
use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{Hir, Look};

use crate::limits::{MAX_REGEX_TEXT_BYTES, MOST_REGEX_BYTES};

/// What the lookup of one request may still cost, in steps: one for each byte that is compared with an expression.
#[derive(Debug)]
pub struct Work {
    left: Cell<usize>,
    is_exhausted: Cell<bool>,
}

impl Work {
    /// So many steps.
    pub const fn new(steps: usize) -> Self {
        Self { left: Cell::new(steps), is_exhausted: Cell::new(false) }
    }

    /// Takes `steps`; returns how many of them there are.
    pub fn take(&self, steps: usize) -> usize {
        let taken = steps.min(self.left.get());
        self.left.set(self.left.get() - taken);
        if taken < steps {
            self.exhaust();
        }
        taken
    }

    /// No more comparisons: what was compared until now decides nothing.
    pub fn exhaust(&self) {
        self.left.set(0);
        self.is_exhausted.set(true);
    }

    /// Whether the steps did not suffice. A comparison that found no match is not to be believed then.
    pub const fn is_exhausted(&self) -> bool {
        self.is_exhausted.get()
    }
}

/// A regular expression that must match the whole text, in linear time (no look-around, no back-references). `\w`, `\d`, `\s` and `\b` are about ASCII,
/// as in RE2. Reading it only checks the syntax, because compiling is expensive: the proxy compiles it before it matches, the controller within limits
/// before it accepts it.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    engine: OnceLock<Engine>,
}

#[derive(Debug, Clone)]
enum Engine {
    Automaton(Box<dense::DFA<Vec<u32>>>),
    /// For an expression that an older release accepted, whose automaton is too large.
    Slow(Box<Regex>),
}

/// Memory per thread for the states that the slow engine computes as it goes.
const LAZY_DFA_BYTES: usize = 64 * 1024;

/// Steps of the slow engine for each byte.
const SLOW_STEPS: usize = 64;

/// Memory for the states of an automaton while it is built, as a multiple of its own.
const BUILD_FACTOR: usize = 4;

impl Pattern {
    /// An expression with valid syntax.
    ///
    /// # Errors
    /// The expression is not valid or too long.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > MAX_REGEX_TEXT_BYTES {
            return Err(format!("the regular expression has {} bytes; at most {MAX_REGEX_TEXT_BYTES} are accepted", text.len()));
        }
        // The text is parsed without the group around it: a superfluous bracket would close that group.
        match ast::parse::Parser::new().parse(text) {
            Ok(_) => Ok(Self { text: text.to_owned(), engine: OnceLock::new() }),
            Err(error) => Err(invalid(text, &error.kind())),
        }
    }

    /// The expression as the author wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Compiles the expression in advance, so that matching does not have to.
    ///
    /// # Errors
    /// The expression is not valid, or larger than any limit allows.
    pub fn compile(&self) -> Result<(), String> {
        let engine = match self.automaton(MOST_REGEX_BYTES) {
            Ok(automaton) => Engine::Automaton(Box::new(automaton)),
            Err(_) => Engine::Slow(Box::new(self.slow()?)),
        };
        // Another thread may have set it first; both compiled the same text.
        drop(self.engine.set(engine));
        Ok(())
    }

    /// The size of the compiled expression in bytes.
    ///
    /// # Errors
    /// The size exceeds `limit`, or the expression is not valid.
    pub fn compiled_bytes(&self, limit: usize) -> Result<usize, String> {
        self.automaton(limit).map(|automaton| automaton.memory_usage())
    }

    fn automaton(&self, limit: usize) -> Result<dense::DFA<Vec<u32>>, String> {
        let nfa = thompson::Compiler::new()
            .configure(thompson::Config::new().utf8(false).nfa_size_limit(Some(limit)).which_captures(WhichCaptures::None))
            .build_from_hir(&self.anchored()?);
        let nfa: NFA = match nfa {
            Ok(nfa) => nfa,
            Err(error) if error.size_limit().is_some() => return Err(too_big(&self.text, limit)),
            Err(error) => return Err(invalid(&self.text, &std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))),
        };
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(limit))
            .determinize_size_limit(Some(limit.saturating_mul(BUILD_FACTOR)));
        dense::Builder::new().configure(config).build_from_nfa(&nfa).map_err(|error| match error.is_size_limit_exceeded() {
            true => too_big(&self.text, limit),
            false => invalid(&self.text, &error),
        })
    }

    fn slow(&self) -> Result<Regex, String> {
        // The engines that only help to find groups are left out: they take up to 1 MiB, which no limit counts.
        let config =
            Regex::config().nfa_size_limit(Some(MOST_REGEX_BYTES)).hybrid_cache_capacity(LAZY_DFA_BYTES).onepass(false).which_captures(WhichCaptures::Implicit);
        let built = Regex::builder().configure(config).build_from_hir(&self.anchored()?);
        built.map_err(|error| error.size_limit().map_or_else(|| invalid(&self.text, &error), |limit| too_big(&self.text, limit)))
    }

    /// The expression for a whole text.
    fn anchored(&self) -> Result<Hir, String> {
        let parsed = regex_syntax::ParserBuilder::new().utf8(false).build().parse(&in_ascii(&self.text)).map_err(|error| invalid(&self.text, &error))?;
        Ok(Hir::concat(vec![Hir::look(Look::Start), parsed, Hir::look(Look::End)]))
    }

    /// Whether the whole of `text` matches; `false` as well if there is not enough `work` left to know. Compiles the expression if that was not done; one
    /// that cannot be compiled matches nothing.
    pub fn is_match(&self, text: &str, work: &Work) -> bool {
        if self.engine.get().is_none() && self.compile().is_err() {
            return false;
        }
        match self.engine.get() {
            Some(Engine::Automaton(automaton)) => runs_to_match(automaton, text.as_bytes(), work),
            Some(Engine::Slow(regex)) => {
                let steps = text.len().saturating_mul(SLOW_STEPS);
                work.take(steps) == steps && regex.is_match(text)
            }
            None => false,
        }
    }

    /// Why no path can match, if that is evident.
    pub fn never_matches_path(&self) -> Option<String> {
        use regex_syntax::hir::literal::Extractor;
        let never = |why: String| Some(format!("the regular expression {:?} never matches: {why}", self.text));
        let hir = regex_syntax::parse(&self.text).ok()?;
        let firsts = Extractor::new().extract(&hir);
        let firsts = firsts.literals().filter(|all| all.iter().all(|first| !first.as_bytes().is_empty()))?;
        if !firsts.iter().any(|first| first.as_bytes().first() == Some(&b'/')) {
            return never("it is compared with the whole path, which begins with \"/\"".to_owned());
        }
        let whole = hir.properties().is_literal().then(|| firsts.first()).flatten().filter(|first| first.is_exact());
        let spelled = |first: &regex_syntax::hir::literal::Literal| crate::path::other_spelling(&String::from_utf8_lossy(first.as_bytes()), whole.is_some());
        let spellings: Vec<String> = firsts.iter().map_while(spelled).collect();
        match spellings.first() {
            Some(other) if spellings.len() == firsts.len() => never(other.clone()),
            _ => None,
        }
    }
}

/// Runs the automaton over a text, as far as the work goes.
fn runs_to_match(automaton: &dense::DFA<Vec<u32>>, text: &[u8], work: &Work) -> bool {
    let Ok(mut state) = automaton.start_state(&start::Config::new().anchored(Anchored::Yes)) else { return false };
    let within = text.get(..work.left.get().min(text.len())).unwrap_or_default();
    for (at, byte) in within.iter().enumerate() {
        state = automaton.next_state(state, *byte);
        if automaton.is_dead_state(state) {
            work.take(at + 1);
            return false;
        }
    }
    if work.take(text.len()) < text.len() {
        return false;
    }
    automaton.is_match_state(automaton.next_eoi_state(state))
}

/// The expression with the classes of ASCII in place of `\w`, `\d`, `\s` and `\b`, whose Unicode forms are a hundred times as large.
fn in_ascii(text: &str) -> String {
    let Ok(parsed) = ast::parse::Parser::new().parse(text) else { return text.to_owned() };
    let Ok(mut changes) = ast::visit(&parsed, Changes::default());
    changes.sort_by_key(|(start, ..)| std::cmp::Reverse(*start));
    let mut changed = text.to_owned();
    for (start, end, with) in changes {
        changed.replace_range(start..end, with);
    }
    changed
}

/// Collects what is to be replaced, as byte ranges of the text.
#[derive(Default)]
struct Changes(Vec<(usize, usize, &'static str)>);

impl Changes {
    fn class(&mut self, class: &ast::ClassPerl) {
        use ast::ClassPerlKind::{Digit, Space, Word};
        let with = match (&class.kind, class.negated) {
            (Digit, false) => "[0-9]",
            (Digit, true) => "[^0-9]",
            (Space, false) => r"[\t\n\v\f\r ]",
            (Space, true) => r"[^\t\n\v\f\r ]",
            (Word, false) => "[0-9A-Za-z_]",
            (Word, true) => "[^0-9A-Za-z_]",
        };
        self.0.push((class.span.start.offset, class.span.end.offset, with));
    }
}

impl ast::Visitor for Changes {
    type Output = Vec<(usize, usize, &'static str)>;
    type Err = std::convert::Infallible;

    fn finish(self) -> Result<Self::Output, Self::Err> {
        Ok(self.0)
    }

    fn visit_post(&mut self, part: &Ast) -> Result<(), Self::Err> {
        match part {
            Ast::ClassPerl(class) => self.class(class),
            Ast::Assertion(assertion) => {
                let with = match assertion.kind {
                    ast::AssertionKind::WordBoundary => r"(?-u:\b)",
                    ast::AssertionKind::NotWordBoundary => r"(?-u:\B)",
                    _ => return Ok(()),
                };
                self.0.push((assertion.span.start.offset, assertion.span.end.offset, with));
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_post(&mut self, item: &ast::ClassSetItem) -> Result<(), Self::Err> {
        if let ast::ClassSetItem::Perl(class) = item {
            self.class(class);
        }
        Ok(())
    }
}

fn too_big(text: &str, limit: usize) -> String {
    format!("the regular expression {text:?} compiles to more than {limit} bytes; make it smaller: repetition counts behind an open beginning are what grows")
}

fn invalid(text: &str, error: &dyn std::fmt::Display) -> String {
    let reason = error.to_string();
    let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("the regular expression {text:?} is not valid: {reason}; the syntax is that of RE2, without look-around and back-references")
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).unwrap().is_match(text, &Work::new(usize::MAX))
    }

    #[test]
    fn the_whole_text_must_match_and_classes_are_about_ascii() {
        for (pattern, text, wanted) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("a|ab", "ab", true),
            ("", "", true),
            (r"/v\d+/[\w-]+", "/v12/a_b-c", true),
            (r"/v\d+", "/v\u{661}", false),
            (r"\W+", "-é.", true),
            (r"[\s\W]+", " é", true),
            (r"\S\s\D", "a b", true),
            (r"a\b.*", "a b", true),
            (r"a\b.*", "ab", false),
            (r"^/a$", "/a", true),
            (r"(?i)/A", "/a", true),
            (r"(?x) / a  # why", "/a", true),
            ("h.llo", "h\u{e9}llo", true),
            ("[äö]", "ö", true),
            ("(?x) /a # (", "/a", true),
            ("(a", "(a", false),
        ] {
            assert_eq!(Pattern::new(pattern).is_ok() && matches(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn the_steps_of_a_request_are_counted_and_what_they_do_not_reach_is_not_decided() {
        let (pattern, work) = (Pattern::new("/.*x").unwrap(), Work::new(100));
        assert!(pattern.is_match("/aax", &work) && !work.is_exhausted());
        // What fails at once costs one step.
        let other = Pattern::new("/b").unwrap();
        (0..10).for_each(|_| assert!(!other.is_match(&"a".repeat(1_000), &work)));
        assert!(!work.is_exhausted() && work.take(86) == 86);
        assert!(!pattern.is_match("/x", &work) && work.is_exhausted());
    }

    #[test]
    fn an_expression_whose_automaton_explodes_is_refused_and_one_that_was_accepted_before_still_matches() {
        let pattern = Pattern::new("/[ab]*a[ab]{40}c").unwrap();
        assert!(pattern.compiled_bytes(256 * 1024).unwrap_err().contains("compiles to more than 262144 bytes"));
        assert!(matches("/[ab]*a[ab]{40}c", &format!("/ba{}c", "b".repeat(40))));
        assert!(Pattern::new(r"/users/\w{1,64}/orders/\d{1,10}").unwrap().compiled_bytes(256 * 1024).unwrap() < 64 * 1024);
    }
}
