//! The conformance kit for the programs of others: `benches/peers/conformance` runs it.
//!
//!     kit dump DIR                  each case as DIR/NUMBER/layout (image `latest`), all listed in DIR/cases, their digest in DIR/digest
//!     kit compare NUMBER ROOT       whether the tree at ROOT is what the case expects, and where it is not

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a program, not the library

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use plywood::compression::Compression;
use plywood::digest::{Algorithm, Hasher};
use plywood::entry::Timestamp;
use plywood::testing::conformance::{Case, Expected, cases};
use plywood::testing::tree::Kind;
use plywood::testing::{Image, Tree};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["dump", directory] => dump(Path::new(directory)),
        ["compare", number, root] => compare(&cases()[number.parse::<usize>().unwrap()], Path::new(root)),
        _ => {
            eprintln!("usage: kit dump DIR | kit compare NUMBER ROOT");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn dump(directory: &Path) {
    let (mut list, mut stacks) = (String::new(), Hasher::new(Algorithm::Sha256));
    for (number, case) in cases().iter().enumerate() {
        let image = case.layers.iter().fold(Image::new(), |image, layer| image.layer(layer.clone(), Compression::Gzip));
        image.write_layout(directory.join(format!("{number}/layout")), "latest").unwrap();
        let kind = match case.expected {
            Expected::Tree(_) => "tree",
            _ => "invalid",
        };
        let diff_ids: Vec<String> = case.layers.iter().map(|layer| layer.diff_id().to_string()).collect();
        stacks.update(format!("{}\t{}\t{}\n{:?}\n", case.rule, case.name, diff_ids.join(" "), case.expected).as_bytes());
        list += &format!("{number}\t{}\t{kind}\t{}\n", case.rule, case.name);
    }
    fs::write(directory.join("cases"), list).unwrap();
    fs::write(directory.join("digest"), format!("{}\n", stacks.finish())).unwrap();
}

/// Prints `exact`, `but times` or `wrong`, and then what differs.
fn compare(case: &Case, root: &Path) {
    let Expected::Tree(expected) = &case.expected else {
        println!("wrong\naccepted, and must be refused");
        return;
    };
    let lines = match Tree::read(root) {
        Ok(found) => expected.difference(&found),
        Err(error) => vec![format!("cannot be read: {error}").replace(&root.display().to_string(), "")],
    };
    let verdict = match lines.iter().all(|line| is_unpacking_time(expected, line)) {
        _ if lines.is_empty() => "exact",
        true => "but times",
        false => "wrong",
    };
    println!("{verdict}\n{}", lines.join("\n"));
}

/// Whether a difference is nothing but the time of unpacking, in the mtime of a directory that no layer has an entry for; of a root
/// without an entry, every attribute is the unpacker's.
fn is_unpacking_time(expected: &Tree, line: &str) -> bool {
    let implied = |mtime: Timestamp| mtime == Timestamp::from_seconds(0);
    expected.paths().any(|path| {
        let directory =
            expected.get(path.as_bytes()).is_some_and(|inode| inode.kind == Kind::Directory && implied(inode.attributes.mtime));
        let (name, only) = (format!("{path}: "), line.ends_with(", expected 0") && !line.contains("; "));
        directory && (line.starts_with(&format!("{name}mtime ")) && only || path.is_root() && line.starts_with(&name))
    })
}
