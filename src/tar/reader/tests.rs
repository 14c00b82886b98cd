use super::*;
use crate::entry::{Change, Node};
use crate::tar::testing::{Block, archive, invalid, one, padded, pax, read, read_with, refused};

#[test]
fn nothing_at_all_is_an_empty_layer() {
    assert!(read(b"").unwrap().is_empty());
    assert!(read(&[0; 512]).unwrap().is_empty());
    assert!(read(&[0; 1024]).unwrap().is_empty());
    assert!(read(&[0; 10_240]).unwrap().is_empty());
}

#[test]
fn a_file_is_read_with_its_content() {
    let entries = read(&archive(&[Block::ustar("a/b", b'0').body(b"hello")])).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].0.path.as_bytes(), b"a/b");
    assert_eq!(entries[0].1, b"hello");
    assert!(matches!(entries[0].0.change, Change::Upsert { node: Node::File { size: 5 }, .. }));
}
