//! Snapshots and layers through the command.

use super::*;
use crate::support::Disk;

as_everybody! {
    a_layer_is_imported_once_and_named_by_its_chain_id {
        let store = Store::new("auto");
        fs::write(store.path("base.tar"), base().tar()).unwrap();
        let first = store.ok(&["layer", "import", "base.tar"]);
        assert_eq!(first.last_word(), base().diff_id().to_string(), "the lowest layer's chain id is its diff id");
        let again = store.json(&["layer", "import", "base.tar"]);
        assert_eq!((&again["chain_id"], &again["existed"]), (&first.last_word().into(), &true.into()));
        let child = store.layer(&Layer::new().whiteout("etc/old"), Some(first.last_word()));
        assert_eq!(store.json(&["stat", &child])["parent"], first.last_word());
    }
    what_a_layer_may_not_say_is_reported_or_refused {
        let store = Store::new("auto");
        let layer = base().file("marked", "x").xattr("trusted.mark", "1");
        fs::write(store.path("layer.tar"), layer.tar()).unwrap();
        let strict = store.error(&["layer", "import", "layer.tar", "--strict"]);
        assert_eq!(strict["kind"], "Unsupported");
        let output = store.ok(&["layer", "import", "layer.tar"]);
        assert!(output.stderr.contains("marked") && output.stderr.contains("trusted.mark"), "{output:?}");
        assert_eq!(store.ok(&["layer", "import", "layer.tar", "-q"]).stderr, "");
        let another = layer.file("another", "");
        fs::write(store.path("another.tar"), another.tar()).unwrap();
        let document = store.json(&["layer", "import", "another.tar"]);
        assert_eq!(document["report"]["total"], 1, "{document}");
        assert_eq!(document["report"]["skipped"][0]["path"], "marked");
    }
    a_snapshot_lives_and_goes {
        let store = Store::new("auto");
        let chain = store.layer(&base(), None);
        assert_eq!(store.ok(&["prepare", "box", &chain]).stdout, "box\n");
        let said = store.ok(&["-v", "view", "look", &chain[..16]]);
        assert_eq!(said.stdout, "look\n");
        let view = said.stderr.lines().find(|line| line.starts_with("plywood: view: key=\"look\" parent=\"sha256:"));
        assert!(view.is_some_and(|line| line.contains(" duration=")), "{said:?}");
        assert_eq!(store.error(&["prepare", "box", &chain])["kind"], "AlreadyExists");
        assert_eq!(store.json(&["stat", "box"])["kind"], "active");
        assert!(store.json(&["usage", "box"])["inodes"].as_u64().is_some());
        let labelled = store.json(&["label", "box", "owner=ada", "stage=test"]);
        assert_eq!(labelled["labels"], serde_json::json!({ "owner": "ada", "stage": "test" }));
        assert_eq!(store.json(&["label", "box", "stage="])["labels"], serde_json::json!({ "owner": "ada" }));

        let tree = store.ok(&["snapshots"]).stdout;
        assert!(tree.contains("├─ box") && tree.contains("└─ look"), "{tree}");
        assert_eq!(store.json(&["snapshots"]).as_array().unwrap().len(), 3);
        assert_eq!(store.error(&["remove", &chain])["kind"], "InUse");
        assert_eq!(store.ok(&["commit", "kept", "box"]).stdout, "kept\n");
        store.ok(&["remove", "look", "kept"]);
        store.ok(&["gc"]);
        assert_eq!(store.json(&["snapshots"]), Value::Array(Vec::new()), "no image and no key reaches the layer");
    }
    a_layer_comes_in_over_what_was_committed_here {
        let store = Store::new("auto");
        store.ok(&["prepare", "box", &store.layer(&base(), None)]);
        store.ok(&["commit", "kept", "box"]);
        let top = store.layer(&Layer::new().file("top", ""), Some("kept"));
        let parent = store.json(&["stat", &top])["parent"].as_str().unwrap().to_owned();
        assert_eq!(store.json(&["stat", &parent])["diff_id"], store.json(&["stat", "kept"])["diff_id"]);
        assert_eq!(store.ok(&["changes", &top]).stdout, "A /top\n");
    }
    a_lease_keeps_a_layer_until_it_is_ended {
        let store = Store::new("auto");
        assert_eq!(store.ok(&["lease", "add", "build", "--expires", "2h"]).stdout, "build\n");
        fs::write(store.path("base.tar"), base().tar()).unwrap();
        let chain = store.ok(&["layer", "import", "base.tar", "--lease", "build"]).last_word().to_owned();
        let other = store.layer(&Layer::new().file("other", ""), None);
        let plan = store.ok(&["gc", "--dry-run"]).stdout;
        assert!(plan.contains(&other) && !plan.contains(&chain) && plan.contains("1 layer, "), "{plan}");
        let listed = store.json(&["lease", "ls"]);
        assert_eq!((&listed[0]["name"], &listed[0]["snapshots"][0]), (&"build".into(), &chain.as_str().into()));
        assert_eq!(store.json(&["gc", "--keep", &other])["snapshots"], Value::Array(Vec::new()));
        assert_eq!(store.json(&["gc"])["snapshots"][0], other);
        store.ok(&["lease", "add", "build", &chain, "--expires", "0s"]);
        assert_eq!(store.ok(&["lease", "ls"]).stdout, "NAME  EXPIRES  KEEPS\n");
        assert_eq!(store.error(&["lease", "rm", "build"])["kind"], "NotFound");
        assert_eq!(store.error(&["layer", "import", "base.tar", "--lease", "build"])["kind"], "NotFound");
        assert_eq!(store.json(&["gc"])["snapshots"][0], chain);
        assert_eq!(store.tool(&["lease", "add", "x", "--expires", "soon"]).run().status, 2);
    }
    what_is_removed_takes_its_space_until_it_is_collected {
        let store = Store::new("auto");
        for (key, now) in [("later", false), ("now", true)] {
            store.ok(&["prepare", key]);
            let trees = || store.left_in("trees").into_iter().filter(|name| name != "0").count();
            assert_eq!(trees(), 1);
            store.ok(if now { &["remove", "--now", "now"] } else { &["remove", "later"] });
            assert_eq!(trees(), usize::from(!now));
            store.ok(&["gc"]);
            assert_eq!(trees(), 0);
        }
    }
    names_are_found_by_the_beginning_of_a_chain_id {
        let store = Store::new("auto");
        let chain = store.layer(&base(), None);
        let digits = chain.strip_prefix("sha256:").unwrap();
        for prefix in [chain.as_str(), digits, &digits[..4], &chain[..20]] {
            assert_eq!(store.json(&["stat", prefix])["name"], chain.as_str(), "{prefix}");
        }
        for wrong in [&digits[..3], "zzzz", ""] {
            assert_ne!(store.tool(&["stat", wrong]).run().status, 0, "{wrong}");
        }
        // A key of that text comes first.
        store.ok(&["prepare", &digits[..8]]);
        assert_eq!(store.json(&["stat", &digits[..8]])["kind"], "active");
    }
    an_ambiguous_beginning_lists_the_candidates {
        let store = Store::new("auto");
        let mut seen = std::collections::BTreeMap::new();
        let layers = (0..).map(|number: u32| Layer::new().file("number", number.to_string()));
        let (one, two) = layers
            .map(|layer| (layer.diff_id().0.to_hex()[..4].to_owned(), layer))
            .find_map(|(digits, layer)| seen.insert(digits, layer.clone()).map(|other| (other, layer)))
            .unwrap();
        let (one, two) = (store.layer(&one, None), store.layer(&two, None));
        let digits = &one.strip_prefix("sha256:").unwrap()[..4];
        let error = store.error(&["stat", digits]);
        assert_eq!(error["kind"], "InvalidArgument");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&one) && message.contains(&two), "{message}");
    }
    a_change_is_listed_and_written_as_the_same_layer_again_and_again {
        let store = Store::new("auto");
        let chain = store.layer(&base(), None);
        store.ok(&["prepare", "box", &chain]);
        let changed = in_namespace(&store, "mkdir m; plywood mount box m; echo new > m/etc/motd; rm m/etc/old; mkdir m/dir; plywood umount m");
        assert_eq!(changed.status, 0, "{changed:?}");
        assert_eq!(store.ok(&["changes", "box"]).stdout, "C /\nA /dir\nC /etc\nD /etc/old\nC /etc/motd\n");
        store.ok(&["commit", "changed", "box"]);
        store.ok(&["diff", "changed", "-o", "one.tar"]);
        let dash = Tool::new("bash").args(["-c", "\"$PLYWOOD\" --root store diff changed -o - | cmp - one.tar"]);
        dash.env("PLYWOOD", plywood().program()).current_dir(store.path("")).ok();
        assert!(!store.path("-").exists());
        let piped = Tool::new("bash").args(["-c", "\"$PLYWOOD\" --root store diff changed > two.tar"]).env("PLYWOOD", plywood().program());
        piped.current_dir(store.path("")).ok();
        assert_eq!(fs::read(store.path("one.tar")).unwrap(), fs::read(store.path("two.tar")).unwrap());
        let document = store.json(&["diff", "changed", "--compression", "zstd", "-o", "three.tar.zst"]);
        assert_eq!(document["descriptor"]["size"], fs::metadata(store.path("three.tar.zst")).unwrap().len());
        assert_eq!(document["diff_id"], store.json(&["stat", "changed"])["diff_id"]);
        let clamped = store.tool(&["diff", "changed", "-o", "clamped.tar"]).env("SOURCE_DATE_EPOCH", "1000");
        clamped.ok();
        assert_ne!(fs::read(store.path("one.tar")).unwrap(), fs::read(store.path("clamped.tar")).unwrap());
        assert_eq!(store.tool(&["diff", "changed", "-o", "x"]).env("SOURCE_DATE_EPOCH", "soon").run().status, 1);

        let second = Store::new("auto");
        second.layer(&base(), None);
        fs::copy(store.path("three.tar.zst"), second.path("three.tar.zst")).unwrap();
        let name = second.ok(&["layer", "import", "three.tar.zst", "--parent", &chain]);
        second.ok(&["view", "look", name.last_word()]);
        let seen = in_namespace(&second, "mkdir m; plywood mount look m; cat m/etc/motd; ls m/etc m");
        assert_eq!(seen.stdout, "new\nm:\ndir\netc\nlink\n\nm/etc:\nmotd\n", "{seen:?}");
    }
}

/// xfs lists each ACL a second time, as an xattr of its own.
#[test]
fn acls_are_said_once_on_xfs() {
    if !require("cli::snapshots::acls_are_said_once_on_xfs", &["setfacl"]) {
        return;
    }
    Sandbox::root().disk(Disk::Xfs).run(|| {
        for backend in ["overlay", "copy"] {
            let store = Store::new(backend);
            store.ok(&["prepare", "box"]);
            let script = "mkdir m; plywood mount box m; mkdir m/d; setfacl -m u:5:rwx -d -m u:5:rwx m/d; : > m/f; setfacl -m g:7:r m/f; plywood umount m";
            let changed = in_namespace(&store, script);
            assert_eq!(changed.status, 0, "{changed:?}");
            store.ok(&["diff", "box", "-o", "layer.tar"]);
            let bytes = fs::read(store.path("layer.tar")).unwrap();
            let said = |name: &str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
            assert!(said("system.posix_acl_default") && said("system.posix_acl_access"), "{backend}");
            assert!(!said("SGI_ACL"), "{backend}");
            store.ok(&["layer", "import", "layer.tar", "--strict"]);
        }
    });
}
