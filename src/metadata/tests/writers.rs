//! Many processes that write at once: turns come in the order of asking, checkpoints run at somebody's turn alone, and nothing that was
//! committed is lost.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::{Command, Stdio};

use super::*;

const WRITERS: i64 = 8;
const ROUNDS: i64 = 40;
const AT: &str = "PLYWOOD_TEST_WRITES_AT";

/// Large enough that the log grows beyond its limit again and again.
fn labels(round: i64) -> Labels {
    Labels::from([("round".to_owned(), round.to_string()), ("x".to_owned(), "y".repeat(60_000))])
}

/// What a checkpoint changes: the database, and the salts of the log.
fn copied(root: &Path) -> (i64, i64, u64, Vec<u8>) {
    let database = std::fs::metadata(root.join(DATABASE)).unwrap();
    let log = File::open(root.join(LOG)).unwrap();
    let mut head = vec![0; 32];
    let count = log.read_at(&mut head, 0).unwrap();
    head.truncate(count);
    (database.mtime(), database.mtime_nsec(), database.size(), head)
}

/// Run by the test below, as each of the processes.
#[test]
#[ignore = "the other half of eight_processes_take_turns_in_order_and_lose_nothing"]
fn writes_beside_others() {
    let Ok(text) = std::env::var(AT) else { return };
    let (root, writer) = text.rsplit_once('\n').unwrap();
    let (root, writer) = (Path::new(root), writer.parse::<i64>().unwrap());
    let mut order = File::options().append(true).open(root.join("order")).unwrap();
    let mut metadata = open(root).unwrap();
    assert!(metadata.is_made().unwrap());
    for round in 0..ROUNDS {
        if round % 10 == 9 {
            // Who closes runs no checkpoint.
            metadata = open(root).unwrap();
        }
        let survives = if round % 4 == 0 { Survives::PowerCut } else { Survives::Process };
        let transaction = metadata.write_to_survive(survives).unwrap();
        writeln!(order, "{} {writer} {round}", transaction.ticket()).unwrap();
        let before = copied(root);
        transaction.replace_labels(SnapshotId(writer), &labels(round)).unwrap();
        assert_eq!(copied(root), before, "somebody else ran a checkpoint");
        transaction.commit().unwrap();
        assert_eq!(metadata.read().unwrap().labels(SnapshotId(writer)).unwrap(), labels(round));
    }
}

#[test]
fn eight_processes_take_turns_in_order_and_lose_nothing() {
    let scratch = Scratch::new();
    let root = scratch.directory.path();
    for writer in 1..=WRITERS {
        assert_eq!(scratch.layer(&diff_id(&writer.to_string()), None).id, SnapshotId(writer));
    }
    File::create(root.join("order")).unwrap();
    let writers: Vec<_> = (1..=WRITERS)
        .map(|writer| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "metadata::tests::writers::writes_beside_others", "--ignored", "--nocapture"])
                .env(AT, format!("{}\n{writer}", root.display()))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for writer in writers {
        let output = writer.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // A ticket is one more than the last that was taken, and each process holds one at a time: who entered in the order of tickets has
    // waited for those who had one already, and for nobody else.
    let order = std::fs::read_to_string(root.join("order")).unwrap();
    let tickets: Vec<i64> = order.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(tickets.len(), usize::try_from(WRITERS * ROUNDS).unwrap());
    for pair in tickets.windows(2) {
        assert!(pair[1] == pair[0] + 1 || pair[1] == 1, "{pair:?} in {order}");
    }
    let reader = scratch.metadata.read().unwrap();
    for writer in 1..=WRITERS {
        assert_eq!(reader.labels(SnapshotId(writer)).unwrap(), labels(ROUNDS - 1));
    }
    let check: String = reader.connection().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
