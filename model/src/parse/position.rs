//! The position of a field in the text of a value. Used only for values with a problem, so simplicity comes before speed.

/// Line and column, from 1, of the byte at `offset`; columns count characters.
pub(super) fn of_offset(text: &[u8], offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = String::from_utf8_lossy(before.get(line_start..).unwrap_or_default()).chars().count() + 1;
    (line, column)
}

/// The offset of the first bracket that is nested deeper than `limit`.
pub(super) fn too_deep(text: &str, limit: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut scan = Scan { text, at: 0 };
    while let Some((start, token)) = scan.token() {
        match token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            return Some(start);
        }
    }
    None
}

/// Line and column of the value at `path` in valid JSON. With `key`, those of the last segment's key, at its last occurrence if there are
/// several.
pub(super) fn in_json(text: &str, path: &[String], key: bool) -> (usize, usize) {
    let mut scan = Scan { text, at: 0 };
    of_offset(text.as_bytes(), scan.find(path, key).unwrap_or(0))
}

/// The same for YAML in block style: it searches the line of each segment in turn, from the line of the segment before.
pub(super) fn in_yaml(text: &str, path: &[String], key: bool) -> (usize, usize) {
    let lines: Vec<&str> = text.lines().collect();
    let (mut from, mut found) = (0, (1, 1));
    for segment in path {
        let next = match segment.parse::<usize>() {
            Ok(index) => yaml_item(&lines, from, index).map(|(line, column)| (line, line, column)),
            Err(_) => yaml_field(&lines, from, segment, key).map(|(line, column)| (line + 1, line, column)),
        };
        if let Some((next, line, column)) = next {
            (from, found) = (next, (line + 1, column));
        }
    }
    found
}

/// Line and column of item number `index` of the list that begins at or after line `from`.
fn yaml_item(lines: &[&str], from: usize, index: usize) -> Option<(usize, usize)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_item = |line: &str| line.trim_start().starts_with("- ") || line.trim() == "-";
    let rest = lines.get(from..)?;
    let first = rest.iter().find(|line| is_item(line)).map(|line| indent(line))?;
    let mut items = rest.iter().enumerate().filter(|(_, line)| is_item(line) && indent(line) == first);
    items.nth(index).map(|(at, _)| (from + at, first + 3))
}

/// Line and column of the field `name`, or of its value, at or after line `from`.
fn yaml_field(lines: &[&str], from: usize, name: &str, key: bool) -> Option<(usize, usize)> {
    lines.iter().enumerate().skip(from).find_map(|(number, line)| {
        let trimmed = line.trim_start_matches([' ', '-', '{', '"', '\'']);
        let rest = trimmed.strip_prefix(name)?.trim_start_matches(['"', '\'', ' ']).strip_prefix(':')?;
        let offset = if key { line.len() - trimmed.len() } else { line.len() - rest.trim_start().len() };
        Some((number, line.get(..offset).unwrap_or(line).chars().count() + 1))
    })
}

/// A scanner over the tokens of JSON.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    /// The next token and its offset; a string includes its quotes.
    fn token(&mut self) -> Option<(usize, &'a str)> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        let start = self.at;
        match *bytes.get(start)? {
            b'"' => {
                self.at += 1;
                while let Some(byte) = bytes.get(self.at) {
                    self.at += if *byte == b'\\' { 2 } else { 1 };
                    if *byte == b'"' {
                        break;
                    }
                }
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => self.at += 1,
            _ => {
                while bytes.get(self.at).is_some_and(|b| !b.is_ascii_whitespace() && !b"{}[],:\"".contains(b)) {
                    self.at += 1;
                }
            }
        }
        self.at = self.at.min(bytes.len());
        Some((start, self.text.get(start..self.at).unwrap_or_default()))
    }

    /// The offset of the value at `path` inside the value that begins at the next token.
    fn find(&mut self, path: &[String], key: bool) -> Option<usize> {
        let (start, open) = self.token()?;
        let Some((segment, rest)) = path.split_first() else { return Some(start) };
        if open == "[" { self.find_item(segment, rest, key) } else { self.find_field(segment, rest, key) }
    }

    fn find_item(&mut self, segment: &str, rest: &[String], key: bool) -> Option<usize> {
        for _ in 0..segment.parse::<usize>().ok()? {
            self.skip()?;
            self.token().filter(|(_, token)| *token == ",")?;
        }
        self.find(rest, key)
    }

    fn find_field(&mut self, segment: &str, rest: &[String], key: bool) -> Option<usize> {
        let mut last = None;
        loop {
            let Some((at, name)) = self.token().filter(|(_, token)| token.starts_with('"')) else { return last };
            self.token().filter(|(_, token)| *token == ":")?;
            if serde_json::from_str::<String>(name).ok()? == *segment {
                if !(key && rest.is_empty()) {
                    return self.find(rest, key);
                }
                last = Some(at);
            }
            if self.skip().is_none() || self.token().is_none_or(|(_, token)| token != ",") {
                return last;
            }
        }
    }

    /// Skips one value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.token()?.1 {
                "{" | "[" => depth += 1,
                "}" | "]" => depth = depth.checked_sub(1)?,
                _ => {}
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}
