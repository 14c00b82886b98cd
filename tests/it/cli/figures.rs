//! `stats` and `du`.

use plywood::compression::Compression;
use plywood::testing::Image;

use super::*;

as_everybody! {
    what_there_is_is_told_as_text_as_json_and_for_prometheus {
        let store = Store::new("auto");
        let chain = store.layer(&base(), None);
        store.ok(&["prepare", "box", &chain]);
        let text = store.ok(&["stats"]).stdout;
        assert!(text.lines().any(|line| line.split_whitespace().eq(["active", "snapshots", "1"])), "{text}");
        let document = store.json(&["stats"]);
        assert_eq!((&document["snapshots"]["active"], &document["layers"], &document["measured"]), (&1.into(), &1.into(), &Value::Null));
        assert!(store.json(&["stats", "--measure"])["measured"]["writable"]["inodes"].as_u64().is_some());

        let printed = store.ok(&["stats", "--prometheus"]).stdout;
        let sample = format!("plywood_snapshots{{store=\"{}\",kind=\"active\"}} 1\n", store.path("store").display());
        assert!(printed.contains(&sample), "{printed}");
        fs::write(store.path("plywood.prom"), "what was there before\n").unwrap();
        assert_eq!(store.ok(&["stats", "--prometheus", "-o", "plywood.prom"]).stdout, "");
        assert_eq!(fs::read_to_string(store.path("plywood.prom")).unwrap(), printed);
        assert_eq!(fs::read_dir(store.directory.path()).unwrap().count(), 2, "the store and the file, nothing half done");
        for wrong in [&["stats", "-o", "x"][..], &["stats", "--prometheus", "--json"]] {
            assert_eq!(store.tool(wrong).run().status, 2, "{wrong:?}");
        }
    }
    what_images_take_is_told_alone_and_together {
        let store = Store::new("auto");
        for name in ["one", "two"] {
            let image = Image::new().layer(base(), Compression::Gzip).layer(Layer::new().file("own", name), Compression::Gzip);
            image.write_layout(store.path(name), name).unwrap();
            store.ok(&["import", name]);
        }
        let text = store.ok(&["du"]).stdout;
        let first: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(first, ["IMAGE", "one", "two", "(images)", "(keys,", "(nobody)", "(all)"], "{text}");
        let document = store.json(&["du"]);
        let bytes = |held: &Value| held["trees"].as_u64().unwrap() + held["blobs"].as_u64().unwrap();
        let unique: u64 = document["images"].as_array().unwrap().iter().map(|image| bytes(&image["unique"])).sum();
        assert_eq!(unique, bytes(&document["exclusive"]));
        assert_eq!(unique + bytes(&document["shared"]), bytes(&document["total"]));
        assert!(bytes(&document["shared"]) > 0);
    }
}
