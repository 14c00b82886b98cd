//! `check`: the exit status, a line for each finding, JSON.

use std::fs;

use plywood::compression::Compression;
use plywood::testing::Image;
use serde_json::Value;

use super::*;

as_everybody! {
    damage_is_a_line_with_its_path_and_status_3_until_it_is_mended {
        for backend in ["copy", "overlay"] {
            let store = Store::new(backend);
            Image::new().layer(base(), Compression::Gzip).write_layout(store.path("layout"), "app").unwrap();
            store.ok(&["import", "layout", "--ref", "app"]);
            let whole = store.ok(&["check", "--full"]);
            assert_eq!(whole.stdout, "");
            assert!(whole.stderr.contains("1 tree compared, 3 blobs hashed"), "{whole:?}");

            let mut motd = fs::read_dir(store.path("store/trees")).unwrap().map(|tree| tree.unwrap().path().join("fs/etc/motd"));
            let motd = motd.find(|path| path.exists()).unwrap();
            // As whoever owns the store inside the namespace.
            let spoil = format!("printf rot > '{}'", motd.display());
            assert_eq!(store.tool(&["unshare", "sh", "-c", &spoil]).run().status, 0);
            assert_eq!(store.ok(&["check"]).stdout, "", "a quick check does not read files");
            let found = store.tool(&["check", "--full"]).run();
            assert_eq!(found.status, 3, "{found:?}");
            let line = format!("{}: has 3 bytes, and should have 6 (hits image app)", motd.display());
            assert!(found.stdout.lines().any(|found| found == line), "{found:?}");
            assert!(found.stderr.contains("--repair"), "{found:?}");
            let refused = store.error(&["prepare", "box", "app"]);
            assert_eq!(refused["kind"], "Corrupt");
            assert!(refused["hint"].as_str().unwrap().contains("plywood check --full --repair"), "{refused}");

            let json = store.tool(&["check", "--full", "--json"]).run();
            assert_eq!((json.status, json.stderr.as_str()), (3, ""), "{json:?}");
            let json: Value = serde_json::from_str(&json.stdout).unwrap();
            let finding = json["findings"].as_array().unwrap().iter().find(|finding| finding["damage"]["fault"] == "size").unwrap();
            assert_eq!(finding["path"], motd.display().to_string());
            assert_eq!((&finding["damage"]["kind"], &finding["remedy"]), (&"tree".into(), &"stays".into()));

            let mended = store.ok(&["check", "--full", "--repair"]);
            assert!(mended.stdout.lines().all(|line| line.ends_with("; mended")), "{mended:?}");
            assert_eq!(store.ok(&["check", "--full"]).stdout, "");
            store.ok(&["prepare", "box", "app"]);
        }
    }
}
