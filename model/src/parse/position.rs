//! Where in the text of a value a field stands. Only used once something is wrong, so it favours simplicity.

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

/// Line and column of the value at `path` in valid JSON; with `key`, of the last segment's key itself.
pub(super) fn in_json(text: &str, path: &[String], key: bool) -> (usize, usize) {
    let mut scan = Scan { text, at: 0 };
    of_offset(text.as_bytes(), scan.find(path, key).unwrap_or(0))
}

/// The same for YAML: the last line on the way that names each segment in turn.
pub(super) fn in_yaml(text: &str, path: &[String], key: bool) -> (usize, usize) {
    let mut found = (1, 1);
    let mut lines = text.lines().enumerate().peekable();
    for segment in path.iter().filter(|segment| segment.parse::<usize>().is_err()) {
        for (number, line) in lines.by_ref() {
            let trimmed = line.trim_start_matches([' ', '-', '{', '"', '\'']);
            let named = trimmed.strip_prefix(segment.as_str()).map(|rest| rest.trim_start_matches(['"', '\'', ' ']));
            if let Some(rest) = named.and_then(|rest| rest.strip_prefix(':')) {
                let column = if key { line.len() - trimmed.len() } else { line.len() - rest.trim_start().len() };
                found = (number + 1, line.get(..column).unwrap_or(line).chars().count() + 1);
                break;
            }
        }
    }
    found
}

/// Walks over the tokens of JSON.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    /// The next token and where it begins; a string comes with its quotes.
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

    /// The offset of the value at `path`, seen from the value that comes next.
    fn find(&mut self, path: &[String], key: bool) -> Option<usize> {
        let (start, open) = self.token()?;
        let Some((segment, rest)) = path.split_first() else { return Some(start) };
        let mut index = 0usize;
        loop {
            if open == "[" {
                if index.to_string() == *segment {
                    return self.find(rest, key);
                }
                self.skip()?;
            } else {
                let (at, name) = self.token().filter(|(_, token)| token.starts_with('"'))?;
                self.token().filter(|(_, token)| *token == ":")?;
                if serde_json::from_str::<String>(name).ok()? == *segment {
                    return if key && rest.is_empty() { Some(at) } else { self.find(rest, key) };
                }
                self.skip()?;
            }
            index += 1;
            self.token().filter(|(_, token)| *token == ",")?;
        }
    }

    /// Passes over one value.
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
