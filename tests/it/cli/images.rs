//! Images through the command: every source, references, export.

use plywood::compression::Compression;
use plywood::testing::Image;

use super::*;

fn image() -> Image {
    Image::new()
        .layer(base(), Compression::Gzip)
        .layer(Layer::new().whiteout("etc/old").file("etc/new", "new\n"), Compression::Zstd)
        .env("A=b")
        .cmd(["/bin/sh"])
}

as_everybody! {
    every_source_gives_the_same_image {
        let store = Store::new("auto");
        image().write_layout(store.path("layout"), "one").unwrap();
        fs::write(store.path("docker.tar"), image().docker_archive(&["two:latest"])).unwrap();
        Tool::new("tar").args(["-C"]).arg(store.path("layout")).args(["-cf"]).arg(store.path("oci.tar")).arg(".").ok();
        let chain = image().chain_id().unwrap().to_string();
        for source in ["layout", "oci:layout:one", "oci.tar", "docker.tar"] {
            assert_eq!(store.ok(&["import", source]).last_word(), chain, "{source}");
        }
        let piped = store.tool(&["import", "-", "--ref", "piped"]).input(fs::read(store.path("docker.tar")).unwrap());
        assert_eq!(piped.ok().last_word(), chain);
        let references: Vec<Value> = store.json(&["images"]).as_array().unwrap().iter().map(|image| image["reference"].clone()).collect();
        assert!(references.contains(&"one".into()) && references.contains(&"piped".into()), "{references:?}");
        assert_eq!(store.error(&["import", "layout", "--platform", "plan9/mips"])["kind"], "NotFound");
    }
    references_come_and_go {
        let store = Store::new("auto");
        image().write_layout(store.path("layout"), "one").unwrap();
        let document = store.json(&["import", "layout"]);
        assert_eq!((&document["references"][0], &document["unpacked"]), (&"one".into(), &2.into()));
        assert_eq!(store.ok(&["image", "tag", "one", "two"]).stdout, "two\n");
        let inspected = store.json(&["image", "inspect", "two"]);
        assert_eq!(inspected["config"]["config"]["Cmd"], serde_json::json!(["/bin/sh"]));
        assert_eq!(inspected["layers"].as_array().unwrap().len(), 2);
        assert!(store.ok(&["image", "inspect", "one"]).stdout.contains("A=b"));
        // A reference stands where a parent is asked for.
        store.ok(&["prepare", "box", "two"]);
        store.ok(&["remove", "box"]);
        store.ok(&["image", "rm", "one"]);
        store.ok(&["rmi", "two"]);
        assert_eq!(store.error(&["rmi", "two"])["kind"], "NotFound");
        store.ok(&["gc"]);
        assert_eq!(store.json(&["snapshots"]), Value::Array(Vec::new()));
    }
    an_exported_snapshot_is_an_image_with_one_more_layer {
        let store = Store::new("auto");
        image().write_layout(store.path("layout"), "one").unwrap();
        store.ok(&["import", "layout"]);
        store.ok(&["prepare", "box", "one"]);
        store.ok(&["commit", "changed", "box"]);
        let export = |reference: &str| {
            let tool = store.tool(&["export", "changed", "out", "--ref", reference, "--json"]).env("SOURCE_DATE_EPOCH", "1700000000");
            serde_json::from_str::<Value>(&tool.ok().stdout).unwrap()
        };
        let (first, second) = (export("v1"), export("v2"));
        assert_eq!(first["manifest"]["digest"], second["manifest"]["digest"], "the same snapshot gives the same bytes");
        assert_eq!(first["layers"].as_array().unwrap().len(), 3);
        assert_eq!(first["base"], "one");
        store.ok(&["prepare", "alone"]);
        store.ok(&["commit", "scratch", "alone"]);
        let scratch = store.ok(&["export", "scratch", "out"]);
        assert!(scratch.stderr.contains("no environment"), "what the config lacks is said: {scratch:?}");
        store.ok(&["export", "one", "out"]);
        let index: Value = serde_json::from_slice(&fs::read(store.path("out/index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 4);
        let again = Store::new("auto");
        let layout = format!("oci:{}:v1", store.path("out").display());
        again.ok(&["import", &layout]);
        let config = again.json(&["image", "inspect", "v1"])["config"].clone();
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["config"]["Env"], serde_json::json!(["A=b"]));
        assert_eq!(store.error(&["export", "nobody", "out"])["kind"], "NotFound");
    }
}
