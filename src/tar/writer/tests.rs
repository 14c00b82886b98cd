use super::*;
use crate::tar::testing::{read, refused};

fn path(text: impl AsRef<[u8]>) -> EntryPath {
    EntryPath::parse(text).unwrap()
}

fn upsert(name: impl AsRef<[u8]>, node: Node) -> Entry {
    Entry { path: path(name), change: Change::Upsert { node, attributes: Attributes::implied() } }
}

fn with(name: impl AsRef<[u8]>, change: impl FnOnce(&mut Attributes)) -> Entry {
    let mut attributes = Attributes::implied();
    change(&mut attributes);
    Entry { path: path(name), change: Change::Upsert { node: Node::Directory, attributes } }
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        writer.entry(entry, Status::Added).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn every_kind_of_change_is_read_back() {
    let mut entries = vec![
        upsert("", Node::Directory),
        upsert("dir", Node::Directory),
        upsert("dir/link", Node::Symlink { target: b"../x y".to_vec() }),
        upsert("dir/hard", Node::Hardlink { target: path("dir/link") }),
        upsert("dir/char", Node::CharDevice { major: 4095, minor: 1_048_575 }),
        upsert("dir/block", Node::BlockDevice { major: 8, minor: 1 }),
        upsert("dir/fifo", Node::Fifo),
        upsert("dir/empty", Node::File { size: 0 }),
        Entry { path: path("dir/gone"), change: Change::Whiteout },
        Entry { path: path("gone"), change: Change::Whiteout },
        Entry { path: path("dir"), change: Change::Opaque },
        Entry { path: path(""), change: Change::Opaque },
    ];
    for Entry { change, .. } in &mut entries {
        if let Change::Upsert { attributes, .. } = change {
            *attributes = Attributes { mode: 0o7751, uid: 5, gid: 6, mtime: Timestamp::from_seconds(7), ..Attributes::implied() };
        }
    }
    let back: Vec<Entry> = read(&write(&entries)).unwrap().into_iter().map(|(entry, _)| entry).collect();
    assert_eq!(back, entries);
}
