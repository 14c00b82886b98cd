//! containerd's filter language: what is to be listed.
//!
//! A filter is selectors with commas between them, which all must hold: a field path, and perhaps an operator (`==`, `!=`, `~=` for a
//! regular expression) and a value. Fields are `name`, `parent`, `kind` and `labels.NAME`, where a name that is no word stands in double
//! quotes. A regular expression may stand between slashes or bars. Of several filters one must hold. Pure: no I/O.

use regex_lite::Regex;

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::Info;

/// Several filters, of which one must hold; without any, everything is taken.
#[derive(Debug)]
pub(super) struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters.
    ///
    /// # Errors
    /// `InvalidArgument`, with the place.
    pub(super) fn parse(filters: &[String]) -> Result<Self> {
        filters.iter().map(|filter| Reader { all: filter, rest: filter }.filter()).collect::<Result<_>>().map(Self)
    }

    /// Whether a snapshot is to be listed.
    pub(super) fn take(&self, info: &Info) -> bool {
        self.0.is_empty() || self.0.iter().any(|selectors| selectors.iter().all(|selector| selector.holds(info)))
    }
}

impl Selector {
    fn holds(&self, info: &Info) -> bool {
        let value = field(info, &self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_deref() == Some(wanted.as_str()),
            // What is not there is empty, and so differs from every value but that.
            Test::NotEqual(refused) => value.unwrap_or_default() != *refused,
            Test::Matches(expression) => expression.is_match(&value.unwrap_or_default()),
        }
    }
}

fn field(info: &Info, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "name" => Some(info.name.clone()),
        "parent" => Some(info.parent.clone().unwrap_or_default()),
        "kind" => Some(info.kind.as_str().to_owned()),
        "labels" => info.labels.get(&rest.join(".")).cloned(),
        _ => None,
    }
}

/// What is still to be read of a filter.
struct Reader<'a> {
    all: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn filter(mut self) -> Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        if self.all.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.skip_space();
            if self.rest.is_empty() {
                return Ok(selectors);
            }
            if !self.skip(",") {
                return Err(self.wrong("a comma is wanted"));
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.skip(".") {
            path.push(self.field()?);
        }
        self.skip_space();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(Selector { path, test: Test::Present });
        }
        let test = match self.take_while(|mark| matches!(mark, '=' | '!' | '~')) {
            "==" => Test::Equal(self.value(&['"'])?),
            "!=" => Test::NotEqual(self.value(&['"'])?),
            "~=" => {
                let expression = self.value(&['"', '/', '|'])?;
                let compiled = Regex::new(&expression);
                Test::Matches(compiled.map_err(|error| self.wrong("the regular expression is none").with_source(error))?)
            }
            _ => return Err(self.wrong("an operator is wanted: ==, != or ~=")),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        match self.take_while(|character| character == '_' || character.is_ascii_alphanumeric()) {
            "" => Err(self.wrong("a field is wanted")),
            field => Ok(field.to_owned()),
        }
    }

    fn value(&mut self, quotes: &[char]) -> Result<String> {
        self.skip_space();
        if self.rest.starts_with(quotes) {
            return self.quoted();
        }
        // What begins with another mark of the language is no plain value.
        if self.rest.starts_with(['/', '|', '.', '=', '!', '~']) {
            return Err(self.wrong("a value that begins like this stands in double quotes"));
        }
        match self.take_while(|character| character != ',' && !character.is_whitespace() && !character.is_control()) {
            "" => Err(self.wrong("a value is wanted")),
            value => Ok(value.to_owned()),
        }
    }

    /// A string as Go writes it, between two of the mark that comes next.
    fn quoted(&mut self) -> Result<String> {
        let mut characters = self.rest.chars();
        let quote = characters.next().unwrap_or_default();
        let mut bytes = Vec::new();
        loop {
            match characters.next() {
                None | Some('\n') => return Err(self.wrong("the quoted text does not end")),
                Some(mark) if mark == quote => break,
                Some('\\') => match escaped(&mut characters, quote) {
                    Some(meant) => bytes.extend(meant),
                    None => return Err(self.wrong("the quoted text has an escape that is none")),
                },
                Some(other) => bytes.extend(other.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        self.rest = characters.as_str();
        String::from_utf8(bytes).map_err(|_| self.wrong("the quoted text is not UTF-8"))
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn skip(&mut self, mark: &str) -> bool {
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|character| !belongs(character)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::new(ErrorKind::InvalidArgument, "read filter").at(self.all).because(format!(
            "{reason} ({} of {} bytes were read)",
            self.all.len().saturating_sub(self.rest.len()),
            self.all.len()
        ))
    }
}

/// What stands behind a backslash.
fn escaped(characters: &mut std::str::Chars<'_>, quote: char) -> Option<Vec<u8>> {
    let mark = characters.next()?;
    let byte = |byte: u8| Some(vec![byte]);
    match mark {
        'a' => byte(7),
        'b' => byte(8),
        'f' => byte(12),
        'n' => byte(b'\n'),
        'r' => byte(b'\r'),
        't' => byte(b'\t'),
        'v' => byte(11),
        '\\' => byte(b'\\'),
        '0'..='7' => byte(u8::try_from(number(mark.to_digit(8)?, characters, 2, 8)?).ok()?),
        'x' => byte(u8::try_from(number(0, characters, 2, 16)?).ok()?),
        'u' => char::from_u32(number(0, characters, 4, 16)?).map(|character| character.to_string().into_bytes()),
        'U' => char::from_u32(number(0, characters, 8, 16)?).map(|character| character.to_string().into_bytes()),
        mark if mark == quote => Some(mark.to_string().into_bytes()),
        _ => None,
    }
}

fn number(first: u32, characters: &mut std::str::Chars<'_>, digits: usize, radix: u32) -> Option<u32> {
    (0..digits).try_fold(first, |number, _| number.checked_mul(radix)?.checked_add(characters.next()?.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Timestamp;
    use crate::snapshot::Kind;

    fn info() -> Info {
        let labels = [("a", "x"), ("containerd.io/snapshot.ref", "sha256:1"), ("two words", ""), ("dotted.name", "y")];
        Info {
            name: "default/1/web".into(),
            kind: Kind::Committed,
            parent: Some("default/0/base".into()),
            diff_id: None,
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            created: Timestamp::from_seconds(0),
            updated: Timestamp::from_seconds(0),
        }
    }

    #[track_caller]
    fn takes(filters: &[&str]) -> bool {
        Filters::parse(&filters.iter().map(|&filter| filter.to_owned()).collect::<Vec<_>>()).unwrap().take(&info())
    }

    #[test]
    fn a_filter_holds_where_all_its_selectors_do() {
        for filter in [
            "",
            "name",
            "kind==committed",
            "name==default/1/web",
            "parent==\"default/0/base\",kind==committed",
            "labels.a",
            "labels.a==x",
            "labels.a!=y",
            "labels.dotted.name==y",
            "labels.\"containerd.io/snapshot.ref\"==sha256:1",
            "labels.\"two words\"",
            "labels.none!=x",
            "name~=^default/[0-9]+/",
            "name~=/^default\\\\/\\d/",
            "name~=|WEB$|,kind==view",
            "kind == committed , labels.a == x",
            "labels.\"\\x61\"==\"\\u0078\"",
        ] {
            let refused = matches!(filter, "name~=|WEB$|,kind==view");
            if filter.contains("\\d") {
                assert!(Filters::parse(&[filter.to_owned()]).is_err(), "Go has no such escape");
            } else {
                assert_eq!(takes(&[filter]), !refused, "{filter}");
            }
        }
    }

    #[test]
    fn a_filter_does_not_hold_where_a_selector_does_not() {
        for filter in ["kind==active", "name==web", "labels.none", "labels", "nothing", "labels.a==x,kind==view", "name~=^web"] {
            assert!(!takes(&[filter]), "{filter}");
        }
    }

    #[test]
    fn of_several_filters_one_must_hold_and_without_any_all_is_taken() {
        assert!(takes(&[]));
        assert!(takes(&["kind==view", "kind==committed"]));
        assert!(!takes(&["kind==view", "kind==active"]));
        assert!(takes(&["kind==view", ""]));
    }

    #[test]
    fn what_is_no_filter_is_an_invalid_argument() {
        for filter in [
            ",",
            "name==",
            "name=x",
            "name===x",
            "name==x,",
            "name==/x/",
            ".a",
            "a.",
            "a b",
            "\"a",
            "\"\\q\"==x",
            "\"\\xff\"",
            "name~=(",
        ] {
            let error = Filters::parse(&[filter.to_owned()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{filter}");
        }
    }
}
