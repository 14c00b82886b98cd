//! The house rules of DESIGN §2 and STYLE, read from the sources: tiers, `super::`, `unsafe`, `std::fs`, file lengths.
//!
//! The reader below is no Rust parser. It drops comments and literals, and looks at the words and marks that are left; the self-tests
//! at the end show that each rule catches what it forbids.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 600;

#[test]
fn the_house_keeps_its_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tiers = Tiers::read(&fs::read_to_string(root.join("src/lib.rs")).unwrap());
    assert!(tiers.of.len() > 10, "lib.rs lists its modules in tiers: {tiers:?}");
    let mut faults = Vec::new();
    for file in sources(root, "src") {
        faults.extend(check(&tiers, &file, &fs::read_to_string(root.join("src").join(&file)).unwrap()));
    }
    for folder in ["src", "tests", "examples", "benches", "fuzz/fuzz_targets"] {
        for file in sources(root, folder) {
            let lines = fs::read_to_string(root.join(folder).join(&file)).unwrap().lines().count();
            if lines > LONGEST_FILE {
                faults.push(format!("{folder}/{}: {lines} lines, {LONGEST_FILE} at most", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// All `.rs` files below `root/folder`, relative to it.
fn sources(root: &Path, folder: &str) -> Vec<PathBuf> {
    let base = root.join(folder);
    if !base.exists() {
        return Vec::new();
    }
    let files = walkdir::WalkDir::new(&base).sort_by_file_name().into_iter().map(|entry| entry.unwrap().into_path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.map(|path| path.strip_prefix(&base).unwrap().to_owned()).collect()
}

/// Which tier each module of `lib.rs` stands in, and which module each re-exported name comes from.
#[derive(Debug, Default)]
struct Tiers {
    of: BTreeMap<String, usize>,
    reexports: BTreeMap<String, String>,
}

impl Tiers {
    fn read(lib: &str) -> Self {
        let mut tiers = Self::default();
        let mut tier = 0;
        let mut in_tier = false;
        for line in lib.lines().map(str::trim) {
            let item = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            if let Some(module) = item.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                tiers.of.insert(module.to_owned(), tier);
                in_tier = true;
            } else if line.is_empty() && in_tier {
                tier += 1;
                in_tier = false;
            } else if let Some(path) = item.strip_prefix("use ") {
                let words = words(path);
                let module = words.first().cloned().unwrap_or_default();
                let names = words.iter().skip(1).filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
                tiers.reexports.extend(names.map(|name| (name.clone(), module.clone())));
            }
        }
        tiers
    }

    /// The module that `crate::name` leads to.
    fn module<'a>(&'a self, name: &'a str) -> &'a str {
        self.reexports.get(name).map_or(name, String::as_str)
    }
}

fn check(tiers: &Tiers, file: &Path, text: &str) -> Vec<String> {
    let components: Vec<String> = file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let top = components.first().cloned().unwrap_or_default();
    if matches!(top.as_str(), "lib" | "main") {
        return Vec::new();
    }
    let depth = components.iter().filter(|part| *part != "mod").count();
    let is_test_file = components.last().is_some_and(|last| last == "tests") || components.iter().any(|part| part == "tests");
    let Some(&tier) = tiers.of.get(&top) else {
        return vec![format!("{}: the module {top} is not in lib.rs", file.display())];
    };

    let words = words(text);
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{}: {what}", file.display()));
    let mut braces: Vec<Brace> = Vec::new();
    let mut test_follows = false;
    let mut index = 0;
    while index < words.len() {
        let in_test = is_test_file || braces.contains(&Brace::TestModule);
        match word(index) {
            "{" => {
                let is_module = index >= 2 && word(index - 2) == "mod";
                braces.push(match (is_module, test_follows) {
                    (true, true) => Brace::TestModule,
                    (true, false) => Brace::Module,
                    _ => Brace::Block,
                });
                test_follows = false;
            }
            "}" => drop(braces.pop()),
            ";" => test_follows = false,
            "cfg" if word(index + 1) == "(" && (word(index + 2) == "test" || word(index + 4) == "test") => test_follows = true,
            "unsafe" | "unsafe_code" if top != "sys" => fault("unsafe outside sys".to_owned()),
            "std" if word(index + 1) == "::" => {
                let mut names = heads(&words, index + 2);
                // The type `File` wraps a descriptor; those of its functions that take paths are clippy's to catch.
                names.retain(|name| name == "fs");
                let is_type = word(index + 3) == "::" && word(index + 4) == "File";
                let is_allowed = in_test || is_type || matches!(top.as_str(), "sys" | "cli" | "testing");
                if !names.is_empty() && !is_allowed {
                    fault("std::fs outside sys".to_owned());
                }
            }
            "super" if index < 2 || word(index - 1) != "::" || word(index - 2) != "super" => {
                let modules = braces.iter().filter(|brace| **brace != Brace::Block).count();
                let mut up = 1;
                while word(index + 2 * up - 1) == "::" && word(index + 2 * up) == "super" {
                    up += 1;
                }
                if depth + modules <= up {
                    fault("super:: leads out of its own directory".to_owned());
                }
            }
            "crate" if word(index + 1) == "::" && (index == 0 || word(index - 1) != "(") => {
                for name in heads(&words, index + 2) {
                    let module = tiers.module(&name);
                    match tiers.of.get(module) {
                        _ if module == top => {}
                        // The kit that tests are written with.
                        Some(_) if module == "testing" && in_test => {}
                        Some(&other) if other < tier => {}
                        Some(_) => fault(format!("{top} (tier {tier}) uses {module}, which is not of an earlier tier")),
                        None => fault(format!("crate::{name} is no module of lib.rs")),
                    }
                }
            }
            _ => {}
        }
        index += 1;
    }
    faults
}

#[derive(PartialEq, Eq)]
enum Brace {
    Block,
    Module,
    TestModule,
}

/// The first names of the path or group of paths that begins at `start`: `a` for `a::b`, `a` and `b` for `{a::c, b}`.
fn heads(words: &[String], start: usize) -> Vec<String> {
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    if word(start) != "{" {
        return vec![word(start).to_owned()];
    }
    let mut heads = Vec::new();
    let (mut depth, mut index) = (1, start + 1);
    let mut at_head = true;
    while depth > 0 && index < words.len() {
        match word(index) {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => at_head = true,
            name if depth == 1 && at_head => {
                heads.push(name.to_owned());
                at_head = false;
            }
            _ => {}
        }
        index += 1;
    }
    heads
}

/// Identifiers, `::`, and every other visible character on its own; comments, strings and characters are dropped.
fn words(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    let mut words = Vec::new();
    let mut index = 0;
    while index < bytes.len() {
        let rest = &text.as_bytes()[index..];
        if rest.starts_with(b"//") {
            index += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            let end = rest.windows(2).position(|pair| pair == b"*/").map_or(rest.len(), |end| end + 2);
            index += end;
        } else if let Some(length) = raw_string(rest) {
            index += length;
        } else if at(index) == b'"' {
            index += 1;
            while index < bytes.len() && at(index) != b'"' {
                index += if at(index) == b'\\' { 2 } else { 1 };
            }
            index += 1;
        } else if at(index) == b'\'' {
            // A character ends with a quote; a lifetime does not.
            index += match (at(index + 1), rest.iter().skip(2).position(|&byte| byte == b'\'')) {
                (b'\\', _) => 3 + rest.iter().skip(3).position(|&byte| byte == b'\'').unwrap_or(0) + 1,
                (first, Some(0)) if first != b'\'' => 3,
                (first, Some(end)) if first >= 0x80 && end < 4 => end + 3,
                _ => 1,
            };
        } else if is_word(at(index)) {
            let end = rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len());
            let word = String::from_utf8_lossy(&rest[..end]).into_owned();
            index += end;
            // The prefix of a string literal is no word.
            if !(matches!(word.as_str(), "b" | "c") && at(index) == b'"') {
                words.push(word);
            }
        } else if rest.starts_with(b"::") {
            words.push("::".to_owned());
            index += 2;
        } else {
            if at(index).is_ascii_graphic() {
                words.push(char::from(at(index)).to_string());
            }
            index += 1;
        }
    }
    words
}

/// Length of the raw string (`r"…"`, `br#"…"#`) that begins here.
fn raw_string(text: &[u8]) -> Option<usize> {
    let start = text.strip_prefix(b"br").or_else(|| text.strip_prefix(b"r"))?;
    let hashes = start.iter().take_while(|&&byte| byte == b'#').count();
    if start.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(hashes + 1, b'#');
    let body = start.get(hashes + 1..)?;
    let length = body.windows(end.len()).position(|window| window == end).map_or(body.len(), |at| at + end.len());
    Some(text.len() - body.len() + length)
}

mod self_tests {
    use super::*;

    const LIB: &str = "//! tour\n\npub mod error;\n\npub mod entry;\npub(crate) mod sys;\n\n#[cfg(feature = \"cli\")]\npub mod cli;\nmod store;\n\nmod testing;\n\npub use error::{Error, Result};\n";

    fn faults(file: &str, text: &str) -> Vec<String> {
        check(&Tiers::read(LIB), Path::new(file), text)
    }

    #[track_caller]
    fn fine(file: &str, text: &str) {
        assert_eq!(faults(file, text), Vec::<String>::new(), "{text}");
    }

    #[track_caller]
    fn caught(file: &str, text: &str, what: &str) {
        let faults = faults(file, text);
        assert!(faults.len() == 1 && faults[0].contains(what), "{text}: {faults:?}");
    }

    #[test]
    fn arrows_down_are_fine_and_arrows_up_or_sideways_are_caught() {
        fine("store/mod.rs", "use crate::error::Error;\nuse crate::{entry, sys::{Dir, mount}};\nuse crate::Result;");
        fine(
            "store/gc.rs",
            "use crate::store::Store;\n/// [`crate::cli`] in a comment\nfn f() { \"crate::cli\"; r#\"crate::cli\"#; }",
        );
        fine("entry.rs", "pub(crate) struct A<'a>(&'a str, char);\nconst Q: char = '\\''; const P: char = '\"'; // crate::cli");
        caught("entry.rs", "use crate::store::Store;", "entry (tier 1) uses store");
        caught("entry.rs", "fn f(dir: &crate::sys::Dir) {}", "entry (tier 1) uses sys");
        caught("entry.rs", "const P: char = '\"'; use crate::sys;", "entry (tier 1) uses sys");
        caught("store/gc.rs", "use crate::{error::{Error}, cli::{Args}};", "store (tier 2) uses cli");
        caught("error.rs", "use crate::{Result, entry};", "error (tier 0) uses entry");
        caught("error.rs", "#[cfg(test)] mod tests { use crate::sys; }", "error (tier 0) uses sys");
        fine("error.rs", "#[cfg(all(test, feature = \"testing\"))] mod tests { use crate::testing::Tree; }");
        fine("entry/tests.rs", "use crate::testing::Tree;");
        caught("error.rs", "use crate::testing::Tree;", "error (tier 0) uses testing");
        caught("nowhere.rs", "", "not in lib.rs");
    }

    #[test]
    fn super_may_not_lead_out_of_its_directory() {
        fine("entry.rs", "#[cfg(test)]\nmod tests { use super::*; fn f() { super::g() } }");
        fine("store/gc.rs", "use super::Store;\nmod tests { use super::super::Store; }");
        caught("entry.rs", "use super::sys::Dir;", "super::");
        caught("store/mod.rs", "fn f() { super::sys::f() }", "super::");
        caught("store/gc.rs", "use super::super::sys;", "super::");
    }

    #[test]
    fn unsafe_and_std_fs_live_in_sys() {
        fine("sys/dir.rs", "#![allow(unsafe_code)]\nuse std::fs;\nfn f() { unsafe { g() } }");
        fine("entry.rs", "use std::os::unix::fs::FileExt;\nuse std::fs::File;\n#[cfg(test)]\nmod tests { use std::fs; }");
        fine("cli/mod.rs", "use std::fs;");
        caught("entry.rs", "fn f() { unsafe { g() } }", "unsafe");
        caught("entry.rs", "#![allow(unsafe_code)]", "unsafe");
        caught("entry.rs", "use std::{io, fs::File};", "std::fs");
        caught("entry.rs", "fn f() { std::fs::read(p) }", "std::fs");
        caught("entry.rs", "use std::fs;\n#[cfg(test)]\nmod tests { use std::fs; }", "std::fs");
    }
}
